//! The tensors of a checkpoint: one file or shards with an index, in safetensors or PyTorch format,
//! validated before use and memory-mapped. Format: <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use crate::checkpoint::source::{Bytes, Files, WEIGHTS, is_index};
use crate::checkpoint::storage::{Stored, View};
use crate::checkpoint::torch::read_torch;
use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::work::Work;

/// A stored tensor that is not a plain float: integers, booleans, or floats that need a scale.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub(in crate::checkpoint) bytes: Bytes,
    pub(in crate::checkpoint) range: Range<usize>,
}

impl Buffer {
    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// All tensors of a checkpoint, by name.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    pub tensors: BTreeMap<String, View>,
    /// Tensors of other dtypes.
    pub buffers: BTreeMap<String, Buffer>,
    /// The file with the tensors, or the index of the shards.
    pub file: PathBuf,
    /// Notes for the user on how it was read.
    pub notes: Vec<String>,
}

impl Archive {
    /// Opens the weights: safetensors before `.bin`, a single file before an index; or a GGUF file.
    pub fn open(files: &Files) -> Result<Self> {
        if let Files::Gguf(gguf) = files {
            return Ok(Self {
                tensors: gguf.tensors()?,
                file: gguf.path.clone(),
                ..Self::default()
            });
        }
        for name in WEIGHTS {
            let Some(bytes) = files.get(name)? else { continue };
            let file = files.path().join(name);
            let mut archive = match is_index(name) {
                true => Self::indexed(files, file.clone(), &bytes)?,
                false => read_any(&file, bytes)?,
            };
            archive.file = file;
            archive.notes.dedup();
            return Ok(archive);
        }
        Err(missing(files.path()))
    }

    /// Opens the shards that the index `file` names.
    fn indexed(files: &Files, file: PathBuf, index: &[u8]) -> Result<Self> {
        let json = |reason: String| Error::Json { file: file.clone(), reason };
        let index: Index = serde_json::from_slice(index).map_err(|e| json(e.to_string()))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let mut all = Self { file, ..Self::default() };
        for shard in shards {
            let plain = Path::new(shard).components().count() == 1
                && !shard.contains(['/', '\\'])
                && shard != "..";
            if !plain {
                return Err(Error::OutsideDirectory { index: all.file, entry: shard.clone() });
            }
            let path = files.path().join(shard);
            // A tensor counts only in the shard that the index assigns it to, as in transformers.
            let counts = |name: &String| index.weight_map.get(name) == Some(shard);
            let found = read_any(&path, files.require(shard)?)?;
            all.notes.extend(found.notes);
            all.tensors.extend(found.tensors.into_iter().filter(|(name, _)| counts(name)));
            all.buffers.extend(found.buffers.into_iter().filter(|(name, _)| counts(name)));
        }
        let known =
            |name: &String| all.tensors.contains_key(name) || all.buffers.contains_key(name);
        if let Some(tensor) = index.weight_map.keys().find(|name| !known(name)) {
            return Err(Error::MissingTensor {
                file: files.path().join(&index.weight_map[tensor]),
                tensor: tensor.clone(),
            });
        }
        Ok(all)
    }

    /// Adds a contiguous tensor: a float as a view, anything else as a buffer.
    pub(in crate::checkpoint) fn put(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Bytes,
        range: Range<usize>,
    ) {
        let (dtype, stored) = match dtype {
            Dtype::F32 => (DType::F32, Stored::Plain),
            Dtype::F16 => (DType::F16, Stored::Plain),
            Dtype::BF16 => (DType::BF16, Stored::Plain),
            Dtype::F64 => (DType::F32, Stored::Double),
            dtype => {
                self.buffers.insert(name, Buffer { dtype, shape, bytes, range });
                return;
            }
        };
        let file = self.file.clone();
        self.tensors
            .insert(name, View { dtype, shape, file, bytes, range, stored, deltas: Vec::new() });
    }

    /// Returns the tensor `name` after checking that it has `shape` and only finite values; reports
    /// progress to `work`.
    pub fn checked(&self, name: &str, shape: &[usize], work: &Work) -> Result<View> {
        let view = self.tensors.get(name);
        let view = view
            .ok_or_else(|| Error::MissingTensor { file: self.file.clone(), tensor: name.into() })?;
        if view.shape != shape {
            return Err(Error::Shape {
                file: view.file.clone(),
                tensor: name.into(),
                expected: shape.to_vec(),
                found: view.shape.clone(),
            });
        }
        view.check_finite_in(name, work)?;
        Ok(view.clone())
    }
}

/// The error for a directory without weights; it names weights in other formats.
fn missing(directory: &Path) -> Error {
    const ENDS: [&str; 9] =
        [".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".onnx", ".npz", ".gguf"];
    let names = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let is_other = |name: &String| {
        ENDS.iter().any(|end| name.ends_with(end))
            && !name.starts_with('.')
            && !name.starts_with("training_args")
    };
    match names.filter(is_other).min() {
        None => Error::MissingFile { directory: directory.into(), file: WEIGHTS[0].into() },
        Some(name) => Error::Sources {
            what: format!(
                "`{}` has neither `{}` nor `{}` nor an index, only `{name}`",
                directory.display(),
                WEIGHTS[0],
                WEIGHTS[2]
            ),
            hint: "shards need their index in the same directory; for a GGUF file, name the file itself; save other formats again with transformers' save_pretrained",
        },
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads every tensor and buffer of one file in either format.
///
/// # Errors
/// A corrupt or unsupported file.
pub(crate) fn read_any(file: &Path, bytes: Bytes) -> Result<Archive> {
    // Some files named `.bin` are safetensors: a header length below the file size, followed by
    // JSON.
    let length = bytes.first_chunk::<8>().map_or(u64::MAX, |length| u64::from_le_bytes(*length));
    let is_safetensors = length < bytes.len() as u64 && bytes.get(8) == Some(&b'{');
    if is_safetensors || file.extension().is_some_and(|end| end == "safetensors") {
        read(file, bytes)
    } else {
        let failed = |reason: String| Error::Torch { file: file.into(), reason };
        guarded(|| Ok(read_torch(file, bytes))).map_err(failed)?
    }
}

/// Reads every tensor and buffer of one safetensors file. The safetensors crate checks the header
/// length, and that offsets lie within the file without overlaps or gaps.
pub(crate) fn read(file: &Path, bytes: Bytes) -> Result<Archive> {
    let invalid = |reason: String| Error::Safetensors { file: file.into(), reason };
    let (header, metadata) =
        SafeTensors::read_metadata(&bytes).map_err(|e| invalid(explain(&e, &bytes)))?;
    let start = 8 + header;
    let mut found = Archive { file: file.into(), ..Archive::default() };
    for (name, info) in metadata.tensors() {
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        if range.end > bytes.len() {
            return Err(invalid(format!(
                "tensor `{name}` ends at byte {} but the file at byte {}",
                range.end,
                bytes.len()
            )));
        }
        found.put(name, info.dtype, info.shape.clone(), bytes.clone(), range);
    }
    Ok(found)
}

fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let header = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    match error {
        SafeTensorError::HeaderTooSmall => format!("it has only {} bytes", bytes.len()),
        SafeTensorError::HeaderTooLarge => {
            format!("its header claims {header} bytes, more than any real header")
        }
        SafeTensorError::InvalidHeaderLength => {
            format!("its header claims {header} bytes but the file has {}", bytes.len())
        }
        SafeTensorError::InvalidHeader(e) => format!("its header is not text: {e}"),
        SafeTensorError::InvalidHeaderDeserialization(e) => format!("its header is not JSON: {e}"),
        SafeTensorError::InvalidOffset(tensor) => {
            format!("the offsets of tensor `{tensor}` overlap or leave a gap")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's size does not fit its shape and dtype".into()
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("it has {} bytes but its header describes a different length", bytes.len())
        }
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".into(),
        other => other.to_string(),
    }
}
