//! Devices: each is opened once, and has one of two paths for its operations.
//!
//! On the CPU, operations are fused and sources stay memory-mapped. On any other device, operations
//! are composed of candle's own, and sources are copied to it once. The environment variable
//! `DAM_DEVICE_PATH` takes the second path on the CPU as well, so that it is tested without a GPU.

#[cfg(all(feature = "cuda", target_os = "linux"))]
mod driver;
mod group;
mod main_memory;
mod memory;
#[cfg(feature = "cuda")]
mod pool;
mod transfer;

pub(crate) use group::{members, of_layer, set_group};
pub use main_memory::available_bytes;
pub(crate) use memory::free_bytes;
pub(crate) use transfer::{to_host, upload};

use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{Device, Result};

use crate::error::first_line;

/// Whether operations on `device` are composed, with sources resident on it.
pub(crate) fn is_composed(device: &Device) -> bool {
    static FORCED: OnceLock<bool> = OnceLock::new();
    !device.is_cpu() || *FORCED.get_or_init(|| std::env::var_os("DAM_DEVICE_PATH").is_some())
}

/// A kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gpu {
    Cuda,
    Metal,
}

impl Gpu {
    /// Returns the kinds that this build supports.
    fn supported() -> impl Iterator<Item = Self> {
        let all = [(Self::Cuda, cfg!(feature = "cuda")), (Self::Metal, cfg!(feature = "metal"))];
        all.into_iter().filter_map(|(gpu, is_supported)| is_supported.then_some(gpu))
    }

    /// Returns GPU `ordinal` of this kind, from 0. It is opened once: opened again, it would count
    /// as another device, and everything would be copied to it again.
    ///
    /// # Errors
    /// There is none, its driver is not installed, or this build does not support it.
    pub fn open(self, ordinal: usize) -> Result<Device> {
        static OPEN: Mutex<Vec<((Gpu, usize), Device)>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = open.iter().find(|(gpu, _)| *gpu == (self, ordinal)) {
            return Ok(device.clone());
        }
        self.probe()?;
        let device = match self {
            // One stream for all threads: the default of one per thread would not order what
            // several threads compute.
            Self::Cuda => {
                let device = Device::new_cuda_with_stream(ordinal)?;
                #[cfg(feature = "cuda")]
                prepare_cuda(&device)?;
                device
            }
            Self::Metal => Device::new_metal(ordinal)?,
        };
        open.push(((self, ordinal), device.clone()));
        Ok(device)
    }

    /// Checks what candle takes for granted when it opens the GPU.
    fn probe(self) -> Result<()> {
        match self {
            Self::Cuda if !cfg!(feature = "cuda") => {
                candle_core::bail!("this build does not support CUDA")
            }
            Self::Metal if !cfg!(feature = "metal") => {
                candle_core::bail!("this build does not support Metal")
            }
            #[cfg(all(feature = "cuda", target_os = "linux"))]
            Self::Cuda => driver::load().map_err(candle_core::Error::msg),
            #[cfg(feature = "metal")]
            Self::Metal if candle_metal_kernels::metal::Device::all().is_empty() => {
                candle_core::bail!("this Mac has no GPU that supports Metal")
            }
            _ => Ok(()),
        }
    }
}

/// Checks that the kernels run on a CUDA GPU, and makes it keep freed memory.
#[cfg(feature = "cuda")]
fn prepare_cuda(device: &Device) -> Result<()> {
    /// Of `kernels.ptx`; candle's own kernels for bf16 need it too.
    const LEAST: (i32, i32) = (8, 0);
    let context = device.as_cuda_device()?.cuda_stream().context().clone();
    let (major, minor) = context.compute_capability().map_err(candle_core::Error::wrap)?;
    if (major, minor) < LEAST {
        candle_core::bail!(
            "this GPU has compute capability {major}.{minor}; 8.0 or later is needed (Ampere and newer)"
        )
    }
    pool::keep_freed(&context)
}

/// Returns why there is no GPU, if this build supports one and its driver cannot be loaded. No GPU
/// is opened.
pub(crate) fn missing_driver() -> Option<String> {
    let mut reason = None;
    for gpu in Gpu::supported() {
        reason = Some(first_line(&gpu.probe().err()?));
    }
    reason
}

/// Returns the first GPU that this build supports, or else the CPU and the reason why there is no
/// GPU, if the build supports one.
pub(crate) fn auto() -> (Device, Option<String>) {
    let mut reason = None;
    for gpu in Gpu::supported() {
        match gpu.open(0) {
            Ok(device) => return (device, None),
            Err(error) => reason = Some(first_line(&error)),
        }
    }
    (Device::Cpu, reason)
}
