//! The memory of a device.

use candle_core::{Device, Result};

use super::main_memory::available_bytes;

/// Returns the bytes free on `device`: of its own memory, or of main memory where it has none.
///
/// # Errors
/// A driver that does not answer.
pub(crate) fn free_bytes(device: &Device) -> Result<u64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        let context = device.as_cuda_device()?.cuda_stream().context().clone();
        let (free, _) = context.mem_get_info().map_err(candle_core::Error::wrap)?;
        return Ok(free as u64 + super::pool::unused(&context)?);
    }
    let _ = device;
    Ok(available_bytes())
}
