//! Reads PyTorch files, `pytorch_model.bin`: a pickle that describes the tensors, and their bytes,
//! which are memory-mapped. The pickle is never executed.
//!
//! There are two layouts: a zip archive of uncompressed entries (`torch.save` since 1.6), and a
//! sequence of pickles followed by the bytes (before). Sources: PyTorch's `torch/serialization.py`
//! and `torch/_utils.py`.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::DType;
use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Pickle, Value};
use crate::checkpoint::storage::{Bytes, Stored, View};
use crate::checkpoint::tensors::Archive;
use crate::error::{Error, Result};

type Read<T> = std::result::Result<T, String>;

/// The magic number of files from before 1.6, in pickled form.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e";

/// Keys under which training programs store a state dictionary.
const WRAPPERS: [&str; 5] = ["state_dict", "model_state_dict", "model", "module", "net"];

/// The maximum number of dimensions of a tensor.
const MAX_DIMENSIONS: usize = 8;

/// Reads every tensor and buffer of one file.
///
/// # Errors
/// A corrupt or unsupported file; the hint says how to convert it.
pub(crate) fn read_torch(file: &Path, bytes: Bytes) -> Result<Archive> {
    let failed = |reason: String| Error::Torch { file: file.into(), reason };
    let found =
        if bytes.starts_with(MAGIC) { read_legacy(file, &bytes) } else { read_zip(file, &bytes) };
    found.map_err(failed)
}

/// The byte ranges of the storages by key.
type Storages<'a> = HashMap<&'a str, Range<usize>>;

/// Reads the legacy layout: magic number, version, system, the object, the keys of its storages;
/// then each storage as its number of elements and its bytes.
fn read_legacy(file: &Path, bytes: &Bytes) -> Read<Archive> {
    let mut at = MAGIC.len();
    let mut next = || -> Read<Pickle<'_>> {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok(pickle)
    };
    next()?;
    let system = next()?;
    let mut system_entries = system.dict(system.root).into_iter().flatten();
    let little = system_entries.find(|(key, _)| system.text(*key) == Some("little_endian"));
    if !little.is_some_and(|(_, value)| matches!(system.get(*value), Value::Bool(true))) {
        return Err("it was written on a big-endian machine".into());
    }
    let (object, keys) = (next()?, next()?);
    let widths = widths(&object);
    let mut storages = Storages::new();
    for key in keys.list(keys.root).ok_or("its list of storages is missing")? {
        let key = keys.text(*key).ok_or("a storage has no name")?;
        let count = bytes
            .get(at..at + 8)
            .and_then(|b| b.first_chunk::<8>())
            .map(|b| u64::from_le_bytes(*b));
        let width = widths.get(key).ok_or_else(|| format!("no tensor uses the storage `{key}`"))?;
        let length =
            count.and_then(|n| usize::try_from(n).ok()).and_then(|n| n.checked_mul(*width));
        let end = length.and_then(|n| (at + 8).checked_add(n)).filter(|end| *end <= bytes.len());
        let end = end.ok_or_else(|| {
            format!("the storage `{key}` ends beyond the file's {} bytes", bytes.len())
        })?;
        storages.insert(key, at + 8..end);
        at = end;
    }
    State { file, bytes, pickle: &object }.archive(&storages)
}

/// Bytes per element by storage, according to the tensors.
fn widths<'a>(pickle: &Pickle<'a>) -> HashMap<&'a str, usize> {
    let mut widths = HashMap::new();
    for (key, element, _) in pickle.all().filter_map(|id| storage(pickle, id)) {
        widths.insert(key, element.width());
    }
    widths
}

/// Reads a zip archive: `NAME/data.pkl`, and one storage per `NAME/data/KEY`.
fn read_zip(file: &Path, bytes: &Bytes) -> Read<Archive> {
    if !bytes.starts_with(b"PK") {
        let what = match bytes.get(..2) {
            None => "it is empty",
            Some(b"\x80\x02" | b"\x80\x03" | b"\x80\x04" | b"\x80\x05") => {
                "it is a plain pickle, not a file written by torch.save"
            }
            Some(_) => "it is not a zip archive",
        };
        return Err(what.into());
    }
    let mut zip = ZipArchive::new(Cursor::new(&**bytes))
        .map_err(|e| format!("its zip archive is corrupt: {e}"))?;
    let mut entries: BTreeMap<String, Range<usize>> = BTreeMap::new();
    for index in 0..zip.len() {
        let entry =
            zip.by_index_raw(index).map_err(|e| format!("its zip archive is corrupt: {e}"))?;
        let name =
            entry.name().map_err(|e| format!("its zip archive is corrupt: {e}"))?.into_owned();
        let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
        let end = start
            .zip(usize::try_from(entry.compressed_size()).ok())
            .and_then(|(start, length)| start.checked_add(length));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= bytes.len())) else {
            return Err(format!("the entry `{name}` ends beyond the file's {} bytes", bytes.len()));
        };
        if entry.encrypted() || entry.compression() != CompressionMethod::Stored {
            return Err(format!(
                "the entry `{name}` is compressed or encrypted, which torch.save never does"
            ));
        }
        entries.insert(name, start..end);
    }
    let Some((name, pickle)) =
        entries.iter().find(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"))
    else {
        return Err("its zip archive has no data.pkl".into());
    };
    let folder = &name[..name.len() - "data.pkl".len()];
    let entry =
        |name: &str| entries.get(&format!("{folder}{name}")).map(|range| &bytes[range.clone()]);
    if entry("byteorder").is_some_and(|order| order != b"little") {
        return Err("it was written on a big-endian machine".into());
    }
    if entry("constants.pkl").is_some() {
        return Err("it is a TorchScript program, not a state dictionary".into());
    }
    let pickle = Pickle::read(&bytes[pickle.clone()])?;
    let data = format!("{folder}data/");
    let storages = entries
        .iter()
        .filter_map(|(name, range)| Some((name.strip_prefix(data.as_str())?, range.clone())));
    State { file, bytes, pickle: &pickle }.archive(&storages.collect())
}

/// The element type of a storage.
#[derive(Clone, Copy)]
enum Element {
    Of(Dtype),
    /// Bytes whose type the tensor gives.
    Untyped,
}

impl Element {
    fn width(self) -> usize {
        if let Element::Of(dtype) = self { dtype.bitsize() / 8 } else { 1 }
    }
}

/// The storage at `id` if its elements are supported: key, element type and number of elements.
fn storage<'a>(pickle: &Pickle<'a>, id: Id) -> Option<(&'a str, Element, i64)> {
    let Value::Stored(id) = pickle.get(id) else { return None };
    let [kind, class, key, _, count, rest @ ..] = pickle.list(*id)? else { return None };
    // Before 1.6, a storage could be a view of another.
    let is_part = rest.first().is_some_and(|view| pickle.list(*view).is_some());
    if pickle.text(*kind)? != "storage" || is_part {
        return None;
    }
    let element = match pickle.global(*class)?.1 {
        "DoubleStorage" => Element::Of(Dtype::F64),
        "FloatStorage" => Element::Of(Dtype::F32),
        "HalfStorage" => Element::Of(Dtype::F16),
        "BFloat16Storage" => Element::Of(Dtype::BF16),
        "LongStorage" => Element::Of(Dtype::I64),
        "IntStorage" => Element::Of(Dtype::I32),
        "ShortStorage" => Element::Of(Dtype::I16),
        "CharStorage" => Element::Of(Dtype::I8),
        "ByteStorage" => Element::Of(Dtype::U8),
        "BoolStorage" => Element::Of(Dtype::BOOL),
        "UntypedStorage" => Element::Untyped,
        _ => return None,
    };
    Some((pickle.text(*key)?, element, pickle.int(*count)?))
}

/// The dtype that PyTorch calls `torch.NAME`.
fn named(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::BOOL,
        _ => return None,
    })
}

/// A tensor as described by the pickle.
struct StoredTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// The bytes from its first element to the end of its storage.
    range: Range<usize>,
}

/// Reads a state dictionary.
struct State<'a, 'b> {
    file: &'a Path,
    bytes: &'a Bytes,
    pickle: &'a Pickle<'b>,
}

impl State<'_, '_> {
    fn archive(&self, storages: &Storages<'_>) -> Read<Archive> {
        let (mut found, mut wrapper) = (self.dictionary(self.pickle.root)?, None);
        if found.is_empty() {
            for key in WRAPPERS {
                let Some(inside) = self.entry(key) else { continue };
                found = self.dictionary(inside)?;
                wrapper = Some(key);
                if !found.is_empty() {
                    break;
                }
            }
        }
        if found.is_empty() {
            return Err("it has no named tensors: it is not a state dictionary".into());
        }
        let mut archive = Archive { file: self.file.into(), ..Archive::default() };
        archive.notes.extend(wrapper.map(|key| {
            format!("the tensors of `{}` were read from the key `{key}`", self.file.display())
        }));
        for (name, id) in found {
            let tensor = |reason: String| format!("tensor `{name}` {reason}");
            let stored_tensor = self.tensor(id, storages).map_err(tensor)?;
            self.put(&mut archive, &name, stored_tensor).map_err(tensor)?;
        }
        Ok(archive)
    }

    /// The value of `key` in the outermost dictionary.
    fn entry(&self, key: &str) -> Option<Id> {
        let pairs = self.pickle.dict(self.pickle.root)?;
        pairs.iter().find(|(k, _)| self.pickle.text(*k) == Some(key)).map(|(_, value)| *value)
    }

    /// The tensors of a dictionary by name; other entries are ignored.
    fn dictionary(&self, id: Id) -> Read<BTreeMap<String, Id>> {
        if let Some(((module, name), _)) = self.pickle.call(id) {
            return Err(format!("it is an object of `{module}.{name}`, not a state dictionary"));
        }
        let pairs = self.pickle.dict(id).into_iter().flatten();
        let tensor = |(key, value): &(Id, Id)| Some((self.pickle.text(*key)?.to_owned(), *value));
        Ok(pairs.filter(|(_, value)| self.is_tensor(*value)).filter_map(tensor).collect())
    }

    /// Whether a value is created by one of PyTorch's functions for tensors.
    fn is_tensor(&self, id: Id) -> bool {
        let rebuilt =
            |(module, name): (&str, &str)| module.starts_with("torch") && name.contains("rebuild");
        self.pickle.call(id).is_some_and(|(function, _)| rebuilt(function))
    }

    fn tensor(&self, mut id: Id, storages: &Storages<'_>) -> Read<StoredTensor> {
        let pickle = self.pickle;
        // A parameter, or a tensor with attributes, wraps the tensor itself.
        for _ in 0..4 {
            let ((_, name), arguments) = pickle.call(id).ok_or("is created in an unknown way")?;
            let list = pickle.list(arguments).ok_or("is created without arguments")?;
            match (name, list) {
                ("_rebuild_parameter" | "_rebuild_parameter_with_state", [tensor, ..]) => {
                    id = *tensor
                }
                ("_rebuild_from_type_v2" | "_rebuild_from_type", [function, _, arguments, ..]) => {
                    let (module, name) =
                        pickle.global(*function).ok_or("is created in an unknown way")?;
                    return self.rebuilt(
                        module,
                        name,
                        pickle.list(*arguments).unwrap_or(&[]),
                        storages,
                    );
                }
                (name, list) => return self.rebuilt("torch._utils", name, list, storages),
            }
        }
        Err("is wrapped too many times".into())
    }

    /// The tensor that `torch._utils.NAME` creates from `storage, offset, size, stride, ...`.
    fn rebuilt(
        &self,
        module: &str,
        name: &str,
        arguments: &[Id],
        storages: &Storages<'_>,
    ) -> Read<StoredTensor> {
        let pickle = self.pickle;
        let (
            &[stored, offset, size, stride, ref rest @ ..],
            "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3",
        ) = (arguments, name)
        else {
            return Err(format!(
                "is created by `{module}.{name}`: quantized, sparse and other special tensors are not supported"
            ));
        };
        let (key, element, count) =
            storage(pickle, stored).ok_or("has an unsupported type of storage")?;
        let dtype = match (element, rest) {
            (Element::Of(dtype), _) => dtype,
            (Element::Untyped, [_, _, dtype, ..]) => {
                let name = pickle.global(*dtype).map_or("unnamed", |(_, name)| name);
                named(name).ok_or_else(|| format!("has the unsupported dtype `{name}`"))?
            }
            (Element::Untyped, _) => return Err("has no dtype".into()),
        };
        let sizes = |id: Id| -> Read<Vec<usize>> {
            let whole = |id: &Id| pickle.int(*id).and_then(|n| usize::try_from(n).ok());
            let all: Option<Vec<usize>> =
                pickle.list(id).and_then(|list| list.iter().map(whole).collect());
            all.filter(|all| all.len() <= MAX_DIMENSIONS)
                .ok_or_else(|| "has an invalid shape".into())
        };
        let (shape, strides) = (sizes(size)?, sizes(stride)?);
        let range = storages
            .get(key)
            .ok_or_else(|| format!("uses the storage `{key}`, which is missing"))?;
        let width = dtype.bitsize() / 8;
        let held = range.len() / width;
        let claimed = usize::try_from(count).ok().map(|n| n / (width / element.width()).max(1));
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let offset = pickle.int(offset).and_then(|n| usize::try_from(n).ok());
        let last = shape.iter().zip(&strides).try_fold(offset.unwrap_or(0), |last, (d, stride)| {
            last.checked_add(d.saturating_sub(1).checked_mul(*stride)?)
        });
        let (Some(elements), Some(offset), Some(last), true) =
            (elements, offset, last, shape.len() == strides.len())
        else {
            return Err("has an invalid shape".into());
        };
        if claimed.is_none_or(|n| n > held) || (elements > 0 && last >= held) {
            return Err(format!(
                "needs element {last} of the storage `{key}`, which has {held} elements"
            ));
        }
        // One element repeated many times would be written as many.
        if elements > held {
            return Err(format!(
                "repeats elements of its storage: it has {elements} elements and the storage {held}"
            ));
        }
        let start = if elements == 0 { range.end } else { range.start + offset * width };
        Ok(StoredTensor { dtype, shape, strides, range: start..range.end })
    }

    fn put(&self, archive: &mut Archive, name: &str, stored_tensor: StoredTensor) -> Read<()> {
        let StoredTensor { dtype, shape, strides, range } = stored_tensor;
        let mut expected = 1;
        let in_order = shape.iter().zip(&strides).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            expected = size.saturating_mul(expected);
            fits
        });
        let elements: usize = shape.iter().product();
        if in_order || elements == 0 {
            let end = range.start + elements * dtype.bitsize() / 8;
            archive.put(name.to_owned(), dtype, shape, self.bytes.clone(), range.start..end);
            return Ok(());
        }
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(format!("is a non-contiguous view of {other:?}")),
        };
        let (file, bytes, stored) =
            (self.file.into(), self.bytes.clone(), Stored::Strided(Arc::from(strides)));
        archive.tensors.insert(
            name.to_owned(),
            View { dtype, shape, file, bytes, range, stored, deltas: Vec::new() },
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, safetensors};

    use super::*;

    fn bytes(name: &str) -> Vec<u8> {
        std::fs::read(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/formats").join(name),
        )
        .unwrap()
    }

    fn read(bytes: Vec<u8>) -> Result<Archive> {
        read_torch(Path::new("weights.bin"), Bytes::Owned(Arc::new(bytes)))
    }

    fn values(view: &View) -> Vec<f32> {
        let tensor = view.to_tensor(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The files and the numbers were made by `tests/data/formats/make.py`.
    #[test]
    fn tensors_of_every_kind_match_torch() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/formats/kinds.safetensors");
        let expected = safetensors::load(path, &Device::Cpu).unwrap();
        for name in ["kinds.bin", "legacy.bin", "wrapped.bin"] {
            let archive = read(bytes(name)).unwrap();
            assert_eq!(archive.tensors.len(), expected.len(), "{name}");
            for (tensor, expected) in &expected {
                let view = &archive.tensors[tensor];
                assert_eq!(view.shape, expected.dims(), "{name} {tensor}");
                let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
                assert_eq!(values(view), expected, "{name} {tensor}");
                // Pieces with arbitrary boundaries.
                if expected.len() > 3 {
                    let mut piece = vec![0.0; expected.len() - 3];
                    view.read(2, &mut piece);
                    assert_eq!(piece, expected[2..expected.len() - 1], "{name} {tensor}");
                }
            }
            let buffers: Vec<(&str, Dtype, usize)> = archive
                .buffers
                .iter()
                .map(|(name, b)| (name.as_str(), b.dtype, b.bytes().len()))
                .collect();
            assert_eq!(buffers, [("mask", Dtype::BOOL, 4), ("position_ids", Dtype::I64, 96)]);
            assert_eq!(archive.notes.len(), usize::from(name == "wrapped.bin"));
        }
        // Contiguous tensors are read in place, and shared storage stays shared.
        let archive = read(bytes("kinds.bin")).unwrap();
        let (whole, part) = (&archive.tensors["f32.weight"], &archive.tensors["part.weight"]);
        assert!(whole.is_plain() && part.is_plain() && part.range.start == whole.range.start + 80);
    }

    #[test]
    fn anything_but_a_state_dictionary_of_plain_tensors_is_an_error() {
        let expected = [
            ("repeated.bin", "tensor `x.weight` repeats elements of its storage"),
            ("quantised.bin", "_rebuild_qtensor"),
            ("module.bin", "not a state dictionary"),
            ("list.bin", "not a state dictionary"),
            ("kinds.safetensors", "not a zip archive"),
        ];
        for (name, expected) in expected {
            let error = read(bytes(name)).err().unwrap();
            assert!(
                error.to_string().contains(expected) && error.hint().is_some(),
                "{name}: {error:?}"
            );
        }
    }

    /// Corrupt files are errors, or archives whose tensors can be read; they never panic.
    #[test]
    fn corrupt_files_never_panic() {
        let look = |bytes: Vec<u8>| {
            let Ok(archive) = read(bytes) else { return };
            archive.tensors.values().for_each(|view| drop(values(view)));
        };
        for name in ["kinds.bin", "legacy.bin"] {
            let whole = bytes(name);
            for length in 0..whole.len() {
                look(whole[..length].to_vec());
            }
            for at in 0..whole.len() {
                for change in [1 << (at % 8), 0x80, 0xff] {
                    let mut damaged = whole.clone();
                    damaged[at] ^= change;
                    look(damaged);
                }
            }
        }
    }
}
