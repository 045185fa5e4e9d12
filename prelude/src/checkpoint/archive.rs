//! The tensors of a checkpoint: one safetensors file or many with an index, checked before use and
//! read in place. Format: <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::{Dtype, SafeTensorError, SafeTensors};

use super::files::{Bytes, Files, WEIGHTS};
use super::view::{Stored, View};
use crate::error::{Error, Result};
use crate::work::Work;

const SINGLE: &str = WEIGHTS[0];
const INDEX: &str = WEIGHTS[1];

/// A stored tensor of another dtype: a buffer of whole numbers or truth values that no merge changes.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    bytes: Bytes,
    range: Range<usize>,
}

impl Buffer {
    /// The bytes as they are stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// All tensors of a checkpoint by name.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    pub tensors: BTreeMap<String, View>,
    /// Those of other dtypes.
    pub buffers: BTreeMap<String, Buffer>,
    /// The file that holds the tensors, or the index of many.
    pub file: PathBuf,
}

impl Archive {
    /// Opens `model.safetensors`, the files its index names, or a GGUF file.
    pub fn open(files: &Files) -> Result<Self> {
        if let Files::Gguf(gguf) = files {
            return Ok(Self { tensors: gguf.tensors()?, file: gguf.path.clone(), ..Self::default() });
        }
        if let Some(bytes) = files.get(SINGLE)? {
            let file = files.path().join(SINGLE);
            return Ok(Self { file: file.clone(), ..read(&file, bytes)? });
        }
        let Some(index) = files.get(INDEX)? else {
            return Err(Error::MissingFile { directory: files.path().into(), file: SINGLE.into() });
        };
        let file = files.path().join(INDEX);
        let json = |reason: String| Error::Json { file: file.clone(), reason };
        let index: Index = serde_json::from_slice(&index).map_err(|e| json(e.to_string()))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let mut all = Self { file, ..Self::default() };
        for shard in shards {
            let plain = Path::new(shard).components().count() == 1 && !shard.contains(['/', '\\']) && shard != "..";
            if !plain {
                return Err(Error::OutsideDirectory { index: all.file, entry: shard.clone() });
            }
            let path = files.path().join(shard);
            // A tensor counts where the index says it is, as in transformers.
            let counts = |name: &String| index.weight_map.get(name) == Some(shard);
            let found = read(&path, files.require(shard)?)?;
            all.tensors.extend(found.tensors.into_iter().filter(|(name, _)| counts(name)));
            all.buffers.extend(found.buffers.into_iter().filter(|(name, _)| counts(name)));
        }
        let known = |name: &String| all.tensors.contains_key(name) || all.buffers.contains_key(name);
        if let Some(tensor) = index.weight_map.keys().find(|name| !known(name)) {
            return Err(Error::MissingTensor { file: files.path().join(&index.weight_map[tensor]), tensor: tensor.clone() });
        }
        Ok(all)
    }

    /// The tensor `name` of `shape`, finite throughout; `work` is told of its bytes.
    pub fn checked(&self, name: &str, shape: &[usize], work: &Work) -> Result<View> {
        let view = self.tensors.get(name);
        let view = view.ok_or_else(|| Error::MissingTensor { file: self.file.clone(), tensor: name.into() })?;
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

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Every tensor and buffer of one file. The safetensors crate checks the header's length, and that offsets
/// lie within the file without overlap or gap.
pub(super) fn read(file: &Path, bytes: Bytes) -> Result<Archive> {
    let invalid = |reason: String| Error::Safetensors { file: file.into(), reason };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| invalid(explain(&e, &bytes)))?;
    let start = 8 + header;
    let mut found = Archive::default();
    for (name, info) in metadata.tensors() {
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        if range.end > bytes.len() {
            return Err(invalid(format!("tensor `{name}` ends at byte {}, the file at {}", range.end, bytes.len())));
        }
        let (shape, bytes) = (info.shape.clone(), bytes.clone());
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            // Buffers that no layer uses (masks, position ids) may be of any dtype.
            dtype if !name.ends_with(".weight") && !name.ends_with(".bias") => {
                found.buffers.insert(name, Buffer { dtype, shape, bytes, range });
                continue;
            }
            other => return Err(Error::DType { file: file.into(), tensor: name, found: format!("{other:?}") }),
        };
        let (file, stored) = (file.into(), Stored::Plain);
        found.tensors.insert(name, View { dtype, shape, file, bytes, range, stored, deltas: Vec::new() });
    }
    Ok(found)
}

fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    let header = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    match error {
        SafeTensorError::HeaderTooSmall => format!("it has only {} bytes", bytes.len()),
        SafeTensorError::HeaderTooLarge => format!("its header claims {header} bytes, more than any real one"),
        SafeTensorError::InvalidHeaderLength => format!("its header claims {header} bytes, the file has {}", bytes.len()),
        SafeTensorError::InvalidHeader(e) => format!("its header is not text: {e}"),
        SafeTensorError::InvalidHeaderDeserialization(e) => format!("its header is not JSON: {e}"),
        SafeTensorError::InvalidOffset(tensor) => format!("the offsets of tensor `{tensor}` overlap or leave a gap"),
        SafeTensorError::TensorInvalidInfo => "a tensor's size does not fit its shape and dtype".into(),
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("it has {} bytes, its header describes another length", bytes.len())
        }
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".into(),
        other => other.to_string(),
    }
}
