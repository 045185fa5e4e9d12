//! The NVIDIA driver's library, loaded when a GPU is first asked for.
//!
//! candle's bindings link it, so that a program would not start on a machine without the driver
//! ([candle issue 3900](https://github.com/huggingface/candle/issues/3900)). Here, each function
//! that the bindings call is a jump through a table. The linker then needs nothing of the library
//! and leaves it out, and [`load`] fills the table.

use std::arch::naked_asm;
use std::error::Error;
use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, Ordering};

use libloading::Library;

/// The library of the driver, under the name that does not need a CUDA toolkit.
const LIBRARY: &str = "libcuda.so.1";

/// Defines `NAMES`, `TABLE` and a jump through the table for each name.
macro_rules! jumps {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// The addresses of the functions, in the order of `NAMES`.
        static TABLE: [AtomicPtr<()>; NAMES.len()] =
            [const { AtomicPtr::new(absent as *mut ()) }; NAMES.len()];

        #[allow(non_camel_case_types)]
        enum Index { $($name),* }

        $(
            /// Has any signature: arguments and result stay where they are.
            #[allow(non_snake_case)]
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name() {
                #[cfg(target_arch = "x86_64")]
                naked_asm!(
                    "jmp qword ptr [rip + {table} + {at}]",
                    table = sym TABLE,
                    at = const size_of::<usize>() * Index::$name as usize,
                );
                #[cfg(target_arch = "aarch64")]
                naked_asm!(
                    "adrp x16, {table} + {at}",
                    "ldr x16, [x16, :lo12:{table} + {at}]",
                    "br x16",
                    table = sym TABLE,
                    at = const size_of::<usize>() * Index::$name as usize,
                );
            }
        )*
    };
}

// What cudarc 0.19 calls. One that is not here is linked as before.
jumps! {
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent
    cuCtxGetLimit cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent
    cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize cuDestroyExternalMemory cuDeviceGet
    cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetMemPool
    cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2
    cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2 cuEventCreate
    cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery cuEventRecord
    cuEventSynchronize cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute
    cuFuncSetCacheConfig cuGetErrorName cuGetErrorString cuGraphDestroy cuGraphExecDestroy
    cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload cuImportExternalMemory cuInit
    cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel cuMemAdvise_v2 cuMemAllocAsync
    cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost
    cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy
    cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPrefetchAsync_v2
    cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2 cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2
    cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async cuMemsetD8_v2
    cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
    cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2
    cuStreamEndCapture cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

/// Stands for a function that the driver lacks, or for all before [`load`].
extern "C" fn absent() -> c_int {
    const CUDA_ERROR_NOT_FOUND: c_int = 500;
    CUDA_ERROR_NOT_FOUND
}

/// Loads the library of the driver. It stays loaded.
///
/// # Errors
/// It is not installed.
pub(super) fn load() -> Result<(), String> {
    // SAFETY: the library may be loaded at any time: its initialisers need nothing.
    let driver = unsafe { Library::new(LIBRARY) }
        .map_err(|error| format!("cannot load the NVIDIA driver: {}", cause(&error)))?;
    for (name, function) in NAMES.iter().zip(&TABLE) {
        // SAFETY: only the address is read; a caller gives it the signature.
        if let Ok(found) = unsafe { driver.get::<unsafe extern "C" fn()>(*name) } {
            function.store(*found as *mut (), Ordering::Relaxed);
        }
    }
    std::mem::forget(driver);
    Ok(())
}

/// What the system says about `error`.
fn cause(error: &dyn Error) -> String {
    error.source().unwrap_or(error).to_string()
}
