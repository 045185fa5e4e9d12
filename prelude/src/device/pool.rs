//! The driver's pool, from which memory of a CUDA GPU is allocated.

use std::ffi::c_void;
use std::ptr::from_mut;

use candle_core::cuda_backend::cudarc::driver::CudaContext;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::{CUmemPool_attribute, CUmemoryPool};
use candle_core::{Error, Result};

/// Returns the pool of the GPU; `None` if it has none.
fn pool(context: &CudaContext) -> Result<Option<CUmemoryPool>> {
    if !context.has_async_alloc() {
        return Ok(None);
    }
    context.bind_to_thread().map_err(Error::wrap)?;
    // SAFETY: the device is that of an open context.
    unsafe { device::get_default_mem_pool(context.cu_device()) }.map(Some).map_err(Error::wrap)
}

/// Makes the pool keep freed memory. By default it gives all of it back whenever a stream is waited
/// for, and maps it again for the next layer.
///
/// # Errors
/// A driver that does not answer.
pub(super) fn keep_freed(context: &CudaContext) -> Result<()> {
    let Some(pool) = pool(context)? else { return Ok(()) };
    let mut all = u64::MAX;
    let value = from_mut(&mut all).cast::<c_void>();
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's, and the threshold is a u64.
    unsafe { mem_pool::set_attribute(pool, threshold, value) }.map_err(Error::wrap)
}

/// Returns the bytes that the pool keeps and that nothing uses.
///
/// # Errors
/// A driver that does not answer.
pub(super) fn unused(context: &CudaContext) -> Result<u64> {
    let Some(pool) = pool(context)? else { return Ok(0) };
    let get = |attribute| {
        let mut bytes = 0u64;
        let value = from_mut(&mut bytes).cast::<c_void>();
        // SAFETY: the pool is the device's, and both attributes below are u64.
        unsafe { mem_pool::get_attribute(pool, attribute, value) }.map_err(Error::wrap)?;
        Ok::<_, Error>(bytes)
    };
    let reserved = get(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Ok(reserved.saturating_sub(get(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
}
