//! Transfers between main memory and a device.

use candle_core::{DType, Device, Result, Tensor};

use super::is_composed;

/// Copies the little-endian elements `bytes` to `device`. On a CUDA GPU the copy has a stream of
/// its own, so that a thread can copy while others compute there.
///
/// # Errors
/// Bytes that do not fit the shape, or out of memory on the device.
pub(crate) fn upload(
    bytes: &[u8],
    dtype: DType,
    shape: &[usize],
    device: &Device,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        match dtype {
            DType::BF16 => return cuda::upload::<half::bf16>(bytes, shape, gpu),
            DType::F16 => return cuda::upload::<half::f16>(bytes, shape, gpu),
            DType::F32 => return cuda::upload::<f32>(bytes, shape, gpu),
            _ => {}
        }
    }
    Tensor::from_raw_buffer(bytes, dtype, shape, device)
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr};
    use candle_core::cuda_backend::{CudaDType, WrapErr};
    use candle_core::op::BackpropOp;
    use candle_core::{CudaDevice, CudaStorage, Result, Storage, Tensor};

    /// The stream of copies to `gpu`.
    fn stream(gpu: &CudaDevice) -> Result<Arc<CudaStream>> {
        static STREAMS: Mutex<BTreeMap<usize, Arc<CudaStream>>> = Mutex::new(BTreeMap::new());
        let context = gpu.cuda_stream().context().clone();
        let mut streams = STREAMS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = streams.get(&context.ordinal()) {
            return Ok(stream.clone());
        }
        let stream = context.new_stream().w()?;
        streams.insert(context.ordinal(), stream.clone());
        Ok(stream)
    }

    pub fn upload<T: CudaDType + DeviceRepr + bytemuck::AnyBitPattern>(
        bytes: &[u8],
        shape: &[usize],
        gpu: &CudaDevice,
    ) -> Result<Tensor> {
        let elements: usize = shape.iter().product();
        if bytes.len() != elements * size_of::<T>() {
            candle_core::bail!("{} bytes do not fit the shape {shape:?}", bytes.len());
        }
        let stream = stream(gpu)?;
        let slice = match bytemuck::try_cast_slice::<u8, T>(bytes) {
            Ok(values) => stream.clone_htod(values).w()?,
            // A file may store a tensor at an odd place.
            Err(_) => {
                let values = bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned);
                stream.clone_htod(&values.collect::<Vec<T>>()).w()?
            }
        };
        // The copy is complete before any other stream reads it.
        stream.synchronize().w()?;
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, gpu.clone()));
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }
}

/// Brings `tensors` to main memory: consecutive ones of one device and dtype in one transfer, as
/// each transfer waits for the device.
///
/// # Errors
/// A device that fails.
pub(crate) fn to_host(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    let mut on_host = Vec::new();
    for run in tensors.chunk_by(|a, b| a.device().same_device(b.device()) && a.dtype() == b.dtype())
    {
        if !is_composed(run[0].device()) {
            on_host.extend_from_slice(run);
            continue;
        }
        let flat = run.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
        let all = Tensor::cat(&flat, 0)?.to_device(&Device::Cpu)?;
        let mut start = 0;
        for tensor in run {
            let elements = tensor.elem_count();
            on_host.push(all.narrow(0, start, elements)?.reshape(tensor.dims())?);
            start += elements;
        }
    }
    Ok(on_host)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn what_is_brought_to_main_memory_keeps_its_order_shape_and_dtype() {
        let count = |n: u32, shape: &[usize], dtype| {
            Tensor::arange(0, n, &Device::Cpu).unwrap().to_dtype(dtype).unwrap().reshape(shape)
        };
        let tensors = [
            count(6, &[2, 3], DType::F32).unwrap(),
            count(1, &[], DType::F32).unwrap(),
            count(4, &[4, 1, 1], DType::F64).unwrap(),
            count(2, &[2], DType::F32).unwrap(),
        ];
        let found = to_host(&tensors).unwrap();
        assert_eq!(found.len(), tensors.len());
        for (found, tensor) in found.iter().zip(&tensors) {
            assert_eq!((found.dims(), found.dtype()), (tensor.dims(), tensor.dtype()));
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F32).unwrap();
            let values = |t: &Tensor| flat(t).to_vec1::<f32>().unwrap();
            assert_eq!(values(found), values(tensor));
        }
        assert!(to_host(&[]).unwrap().is_empty());
    }
}
