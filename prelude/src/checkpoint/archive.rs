//! The tensors of a checkpoint: one safetensors file or many with an index, checked before use and
//! read in place. Format: <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::{SafeTensorError, SafeTensors};

use super::files::{Bytes, Files, WEIGHTS};
use super::view::{Stored, View};
use crate::error::{Error, Result};

const SINGLE: &str = WEIGHTS[0];
const INDEX: &str = WEIGHTS[1];

/// All tensors of a checkpoint by name.
#[derive(Clone)]
pub(crate) struct Archive {
    pub tensors: BTreeMap<String, View>,
    /// The file that holds the tensors, or the index of many.
    pub file: PathBuf,
}

impl Archive {
    /// Opens `model.safetensors`, the files its index names, or a GGUF file.
    pub fn open(files: &Files) -> Result<Self> {
        if let Files::Gguf(gguf) = files {
            return Ok(Self { tensors: gguf.tensors()?, file: gguf.path.clone() });
        }
        if let Some(bytes) = files.get(SINGLE)? {
            let file = files.path().join(SINGLE);
            return Ok(Self { tensors: read(&file, bytes)?, file });
        }
        let Some(index) = files.get(INDEX)? else {
            return Err(Error::MissingFile { directory: files.path().into(), file: SINGLE.into() });
        };
        let file = files.path().join(INDEX);
        let json = |reason: String| Error::Json { file: file.clone(), reason };
        let index: Index = serde_json::from_slice(&index).map_err(|e| json(e.to_string()))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let mut tensors = BTreeMap::new();
        for shard in shards {
            let plain = Path::new(shard).components().count() == 1 && !shard.contains(['/', '\\']) && shard != "..";
            if !plain {
                return Err(Error::OutsideDirectory { index: file, entry: shard.clone() });
            }
            let path = files.path().join(shard);
            for (name, view) in read(&path, files.require(shard)?)? {
                // A tensor counts where the index says it is, as in transformers.
                if index.weight_map.get(&name) == Some(shard) {
                    tensors.insert(name, view);
                }
            }
        }
        if let Some(tensor) = index.weight_map.keys().find(|name| !tensors.contains_key(*name)) {
            return Err(Error::MissingTensor { file: files.path().join(&index.weight_map[tensor]), tensor: tensor.clone() });
        }
        Ok(Self { tensors, file })
    }

    /// The tensor `name` of `shape`, finite throughout.
    pub fn checked(&self, name: &str, shape: &[usize]) -> Result<View> {
        let view = self.tensors.get(name);
        let view = view.ok_or_else(|| Error::MissingTensor { file: self.file.clone(), tensor: name.into() })?;
        if view.shape != shape {
            return Err(Error::Shape {
                file: view.file().into(),
                tensor: name.into(),
                expected: shape.to_vec(),
                found: view.shape.clone(),
            });
        }
        view.check_finite(name)?;
        Ok(view.clone())
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Every tensor of one file. The safetensors crate checks the header's length, and that offsets
/// lie within the file without overlap or gap.
pub(super) fn read(file: &Path, bytes: Bytes) -> Result<BTreeMap<String, View>> {
    let invalid = |reason: String| Error::Safetensors { file: file.into(), reason };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| invalid(explain(&e, &bytes)))?;
    let start = 8 + header;
    let mut tensors = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => {
                // Buffers that no layer uses (masks, position ids) may be of any dtype.
                if !name.ends_with(".weight") && !name.ends_with(".bias") {
                    continue;
                }
                return Err(Error::DType { file: file.into(), tensor: name, found: format!("{other:?}") });
            }
        };
        let range = start + info.data_offsets.0..start + info.data_offsets.1;
        if range.end > bytes.len() {
            return Err(invalid(format!("tensor `{name}` ends at byte {}, the file at {}", range.end, bytes.len())));
        }
        let (shape, bytes, stored) = (info.shape.clone(), bytes.clone(), Stored::Plain);
        let view = View { dtype, shape, file: file.into(), bytes, range, stored, deltas: Vec::new() };
        tensors.insert(name, view);
    }
    Ok(tensors)
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
