//! The measured speed of a device, for forecasts.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

use crate::device::upload;
use crate::ops::{Matrix, new_product};

/// How often a measurement is repeated; the best counts.
const REPEATS: usize = 4;

/// Returns the floating-point operations per second of the processor on all threads, for a matrix
/// product typical of training. Measured once.
pub(super) fn processor() -> f64 {
    const ROWS: usize = 512;
    const WIDTH: usize = 768;
    static SPEED: OnceLock<f64> = OnceLock::new();
    *SPEED.get_or_init(|| {
        let x = vec![0f32; ROWS * WIDTH];
        let w = vec![0f32; WIDTH * WIDTH];
        let w = Matrix::new(&w, WIDTH, WIDTH, WIDTH);
        let product = || {
            black_box(new_product(Matrix::new(&x, ROWS, WIDTH, WIDTH), w));
            Ok(())
        };
        let seconds = fastest(product).unwrap_or(f64::INFINITY);
        (2 * ROWS * WIDTH * WIDTH) as f64 / seconds
    })
}

/// The speed of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GpuSpeed {
    /// Floating-point operations per second of a large matrix product.
    pub operations: f64,
    /// Bytes per second of a copy from main memory.
    pub copied: f64,
}

/// Returns the speed of `gpu` in `dtype`, measured once for each; `None` if the measurement fails,
/// as where other programs use the GPU's memory.
pub(super) fn gpu(gpu: &Device, dtype: DType) -> Option<GpuSpeed> {
    static SPEEDS: Mutex<BTreeMap<String, GpuSpeed>> = Mutex::new(BTreeMap::new());
    let key = format!("{:?} {dtype:?}", gpu.location());
    let mut speeds = SPEEDS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(speed) = speeds.get(&key) {
        return Some(*speed);
    }
    let speed = measure(gpu, dtype, 4096).ok()?;
    speeds.insert(key, speed);
    Some(speed)
}

/// Measures the product of two square matrices of `width` columns on `device`, and the copy of one.
fn measure(device: &Device, dtype: DType, width: usize) -> Result<GpuSpeed> {
    let shape = [width, width];
    let bytes = vec![0u8; width * width * dtype.size_in_bytes()];
    let x = Tensor::zeros(&shape, dtype, device)?;
    let product = fastest(|| {
        x.matmul(&x)?;
        device.synchronize()
    })?;
    let copy = fastest(|| {
        upload(&bytes, dtype, &shape, device)?;
        device.synchronize()
    })?;
    Ok(GpuSpeed {
        operations: 2.0 * (width as f64).powi(3) / product,
        copied: bytes.len() as f64 / copy,
    })
}

/// Returns the seconds that `run` takes, at best; the first run only prepares.
fn fastest(run: impl Fn() -> Result<()>) -> Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_finite_and_above_zero() {
        let speed = measure(&Device::Cpu, DType::F32, 64).unwrap();
        for value in [processor(), speed.operations, speed.copied] {
            assert!(value.is_finite() && value > 0.0, "{value}");
        }
    }
}
