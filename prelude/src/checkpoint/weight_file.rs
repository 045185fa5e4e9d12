//! One file of weights, in safetensors or PyTorch format.

use std::path::Path;

use super::safetensors::read_safetensors;
use super::storage::Bytes;
use super::tensors::Archive;
use super::torch::read_torch;
use crate::error::{Error, Result};
use crate::guard::guarded;

/// Reads every tensor and buffer of one file in either format.
///
/// # Errors
/// A corrupt or unsupported file.
pub(crate) fn read_weight_file(file: &Path, bytes: Bytes) -> Result<Archive> {
    // Some files named `.bin` are safetensors: a header length below the file size, followed by
    // JSON.
    let length = bytes.first_chunk::<8>().map_or(u64::MAX, |length| u64::from_le_bytes(*length));
    let is_safetensors = length < bytes.len() as u64 && bytes.get(8) == Some(&b'{');
    if is_safetensors || file.extension().is_some_and(|end| end == "safetensors") {
        read_safetensors(file, bytes)
    } else {
        let failed = |reason: String| Error::Torch { file: file.into(), reason };
        guarded(|| Ok(read_torch(file, bytes))).map_err(failed)?
    }
}
