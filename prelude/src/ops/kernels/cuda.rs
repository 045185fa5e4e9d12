//! The kernels on CUDA, launched on candle's stream.

use candle_core::backend::BackendDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorageSlice, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Layout, Result, Shape, Storage, Tensor};

use super::launch::{Argument, Launch, Queue};

/// The name under which candle keeps the compiled module.
const MODULE: &str = "dam-kernels";

/// A device, and what its kernels read and write.
pub(super) struct Cuda<'a> {
    pub(super) device: &'a CudaDevice,
}

/// Elements of f32, bf16 or u32 on a device, from a position on.
pub(super) enum Buffer<'a> {
    Own(CudaStorage),
    Read(&'a CudaStorage, usize),
    Write(&'a mut CudaStorage, usize),
}

/// Calls `$body` with the slice of a storage.
macro_rules! with_slice {
    ($slice:expr, $s:ident => $body:expr) => {
        match $slice {
            CudaStorageSlice::F32($s) => Ok($body),
            CudaStorageSlice::BF16($s) => Ok($body),
            CudaStorageSlice::F16($s) => Ok($body),
            CudaStorageSlice::U32($s) => Ok($body),
            _ => candle_core::bail!("kernels take f32, bf16, f16 and u32"),
        }
    };
}

/// Returns the bytes of an element.
fn width<T>(_: &CudaSlice<T>) -> u64 {
    size_of::<T>() as u64
}

impl<'a> Buffer<'a> {
    /// Returns a contiguous operand of an operation.
    ///
    /// # Errors
    /// One that is not contiguous.
    pub(super) fn of(storage: &'a CudaStorage, layout: &Layout) -> Result<Self> {
        Ok(Self::Read(storage, start_of(layout)?))
    }

    /// Returns a contiguous operand of an operation in place.
    ///
    /// # Errors
    /// One that is not contiguous.
    pub(super) fn of_mut(storage: &'a mut CudaStorage, layout: &Layout) -> Result<Self> {
        Ok(Self::Write(storage, start_of(layout)?))
    }

    /// Returns a buffer that a kernel has written.
    ///
    /// # Errors
    /// A borrowed one.
    pub(super) fn into_storage(self) -> Result<CudaStorage> {
        match self {
            Self::Own(storage) => Ok(storage),
            _ => candle_core::bail!("the storage of a tensor"),
        }
    }

    /// Returns a buffer that a kernel has written as a tensor.
    ///
    /// # Errors
    /// A borrowed one.
    pub(super) fn into_tensor(self, shape: impl Into<Shape>) -> Result<Tensor> {
        let storage = Storage::Cuda(self.into_storage()?);
        Ok(Tensor::from_storage(storage, shape, BackpropOp::none(), false))
    }

    /// Returns the address, once `stream` waits for those who write there. Others wait until the
    /// guard is dropped.
    fn address<'b>(&'b self, stream: &'b CudaStream) -> Result<(u64, SyncOnDrop<'b>)> {
        let (storage, start) = match self {
            Self::Own(storage) => (storage, 0),
            Self::Read(storage, start) => (*storage, *start),
            Self::Write(storage, start) => (&**storage, *start),
        };
        with_slice!(&storage.slice, slice => {
            let (address, guard) = slice.device_ptr(stream);
            (address + start as u64 * width(slice), guard)
        })
    }

    /// Like `address`, to write there.
    fn address_mut<'b>(&'b mut self, stream: &'b CudaStream) -> Result<(u64, SyncOnDrop<'b>)> {
        let (storage, start) = match self {
            Self::Own(storage) => (storage, 0),
            Self::Write(storage, start) => (&mut **storage, *start),
            Self::Read(..) => candle_core::bail!("a kernel may not write to an operand"),
        };
        with_slice!(&mut storage.slice, slice => {
            let size = width(slice);
            let (address, guard) = slice.device_ptr_mut(stream);
            (address + start as u64 * size, guard)
        })
    }
}

fn start_of(layout: &Layout) -> Result<usize> {
    match layout.contiguous_offsets() {
        Some((start, _)) => Ok(start),
        None => candle_core::bail!("kernels take contiguous operands"),
    }
}

/// An argument as the driver takes it.
enum Value {
    U64(u64),
    U32(u32),
    F32(f32),
}

impl<'a> Queue for Cuda<'a> {
    type Buffer = Buffer<'a>;

    fn allocate(&self, dtype: DType, elements: usize) -> Result<Buffer<'a>> {
        // SAFETY: a kernel writes every element before one is read.
        Ok(Buffer::Own(unsafe { self.device.alloc_uninit(&Shape::from(elements), dtype)? }))
    }

    fn launch(&self, launch: Launch<'_, Buffer<'a>>) -> Result<()> {
        let Launch { kernel, mut arguments, groups, lanes } = launch;
        let Ok(groups) = i32::try_from(groups) else {
            candle_core::bail!("{kernel}: {groups} work groups are more than a launch may have")
        };
        let function = self.device.get_or_load_custom_func(&kernel, MODULE, super::PTX)?;
        let stream = self.device.cuda_stream();
        let (mut values, mut guards) = (Vec::new(), Vec::new());
        for argument in &mut arguments {
            let (address, guard) = match argument {
                Argument::In(buffer) => buffer.address(&stream)?,
                Argument::Out(buffer) => buffer.address_mut(&stream)?,
                Argument::U64(x) => {
                    values.push(Value::U64(*x));
                    continue;
                }
                Argument::U32(x) => {
                    values.push(Value::U32(*x));
                    continue;
                }
                Argument::F32(x) => {
                    values.push(Value::F32(*x));
                    continue;
                }
            };
            values.push(Value::U64(address));
            guards.push(guard);
        }
        let mut builder = function.builder();
        for value in &values {
            match value {
                Value::U64(x) => builder.arg(x),
                Value::U32(x) => builder.arg(x),
                Value::F32(x) => builder.arg(x),
            };
        }
        let config = LaunchConfig {
            grid_dim: (groups as u32, 1, 1),
            block_dim: (lanes as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of the kernel and stay inside its buffers, as the tests
        // of the same launches on OpenCL check; the guards order it after those who write.
        unsafe { builder.launch(config) }.w()?;
        drop(guards);
        Ok(())
    }
}
