//! The tensors of a checkpoint: one safetensors file or many with an index, checked before use and
//! read in place. Format: <https://huggingface.co/docs/safetensors>.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use safetensors::{SafeTensorError, SafeTensors};

use super::files::{Bytes, Files, WEIGHTS};
use crate::error::{Error, Result};

const SINGLE: &str = WEIGHTS[0];
const INDEX: &str = WEIGHTS[1];

/// One stored tensor: `shape`, `dtype` (f32, f16 or bf16) and its bytes, which stay where they are.
#[derive(Clone)]
pub struct View {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    file: PathBuf,
    bytes: Bytes,
    range: Range<usize>,
}

impl View {
    /// A view of bytes in memory.
    #[cfg(test)]
    pub(crate) fn of(bytes: Vec<u8>, dtype: DType, shape: &[usize]) -> Self {
        let range = 0..bytes.len();
        Self { dtype, shape: shape.to_vec(), file: PathBuf::new(), bytes: Bytes::Static(bytes.leak()), range }
    }

    /// The little-endian bytes, row by row.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// A copy on `device` in the stored dtype.
    pub(crate) fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_raw_buffer(self.bytes(), self.dtype, &self.shape, device)?)
    }

    /// An error for the first NaN or infinity.
    fn check_finite(&self, tensor: &str) -> Result<()> {
        const BLOCK: usize = 1 << 20;
        let width = self.dtype.size_in_bytes();
        let bad = self.bytes().par_chunks(BLOCK).enumerate().find_map_first(|(block, bytes)| {
            let at = match self.dtype {
                DType::F32 => position(bytes, |b: [u8; 4]| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
                DType::F16 => position(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
                _ => position(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
            };
            at.map(|at| block * BLOCK / width + at)
        });
        let Some(position) = bad else { return Ok(()) };
        let value = self.to_tensor(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F32)?.get(position)?.to_scalar()?;
        Err(Error::NonFinite { file: self.file.clone(), tensor: tensor.into(), position, value })
    }
}

/// Where the first element with `test` is. Tests a block without a branch, then looks closer.
fn position<const W: usize>(bytes: &[u8], test: impl Fn([u8; W]) -> bool) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<W>();
    let any = elements.iter().fold(false, |found, e| found | test(*e));
    if any { elements.iter().position(|e| test(*e)) } else { None }
}

/// All tensors of a checkpoint by name.
#[derive(Clone)]
pub(crate) struct Archive {
    pub tensors: BTreeMap<String, View>,
    /// The file that holds the tensors, or the index of many.
    pub file: PathBuf,
}

impl Archive {
    /// Opens `model.safetensors`, or the files its index names.
    pub fn open(files: &Files) -> Result<Self> {
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
                file: view.file.clone(),
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
fn read(file: &Path, bytes: Bytes) -> Result<BTreeMap<String, View>> {
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
        let view = View { dtype, shape: info.shape.clone(), file: file.into(), bytes: bytes.clone(), range };
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
