//! Reads safetensors files, validated before use and memory-mapped. Format:
//! <https://huggingface.co/docs/safetensors>.

use std::path::Path;

use safetensors::{SafeTensorError, SafeTensors};

use crate::checkpoint::storage::Bytes;
use crate::checkpoint::tensors::Archive;
use crate::error::{Error, Result};

/// Reads every tensor and buffer of one safetensors file. The safetensors crate checks the header
/// length, and that offsets lie within the file without overlaps or gaps.
pub(crate) fn read_safetensors(file: &Path, bytes: Bytes) -> Result<Archive> {
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
