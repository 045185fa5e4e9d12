//! The kernels as OpenCL C, for tests on a machine without a GPU.
//!
//! Without OpenCL, tests of kernels say so and pass; with `DAM_OPENCL=required` they fail. Any
//! other value of `DAM_OPENCL` names the platform, for example `Oclgrind`.

use std::sync::OnceLock;

use candle_core::{DType, Device, Error, Result, Tensor};
use opencl3::command_queue::CommandQueue;
use opencl3::context::Context;
use opencl3::device::{CL_DEVICE_TYPE_ALL, Device as ClDevice};
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer as ClBuffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::platform::get_platforms;
use opencl3::program::Program;
use opencl3::types::CL_BLOCKING;

use super::launch::{Argument, Launch, Queue};

/// The text: what is common, then the kernels for each dtype. `.ci/check-gpu` joins the same files.
pub(super) const TEXT: &str = {
    macro_rules! kernels {
        () => {
            concat!(
                include_str!("text/merge.h"),
                include_str!("text/norm.h"),
                include_str!("text/gate.h"),
                include_str!("text/loss.h"),
                include_str!("text/softmax.h"),
            )
        };
    }
    concat!(
        include_str!("text/language.h"),
        include_str!("text/group.h"),
        include_str!("text/f32.h"),
        kernels!(),
        include_str!("text/bf16.h"),
        kernels!(),
    )
};

pub(super) struct OpenCl {
    context: Context,
    queue: CommandQueue,
    program: Program,
    /// Whether it interprets kernels, so that only small shapes are bearable.
    pub(super) slow: bool,
}

/// The elements of a tensor on the device.
pub(super) struct Buffer {
    bytes: ClBuffer<u8>,
    dtype: DType,
    elements: usize,
}

fn failed(what: impl std::fmt::Display) -> Error {
    Error::Msg(format!("OpenCL: {what}"))
}

impl OpenCl {
    /// Returns the device, opened once, or `None` where there is none and none is required.
    pub(super) fn get() -> Option<&'static Self> {
        static OPEN: OnceLock<std::result::Result<OpenCl, String>> = OnceLock::new();
        match OPEN.get_or_init(Self::open) {
            Ok(device) => Some(device),
            Err(why) if std::env::var_os("DAM_OPENCL").is_some() => panic!("{why}"),
            Err(why) => {
                println!("not tested: {why}");
                None
            }
        }
    }

    fn open() -> std::result::Result<Self, String> {
        let named = std::env::var("DAM_OPENCL").ok().filter(|name| name != "required");
        let platforms = get_platforms().map_err(|e| format!("no OpenCL: {e}"))?;
        let wanted = |name: &str| match &named {
            Some(wanted) => name == wanted,
            None => name != "Oclgrind",
        };
        for platform in platforms {
            let name = platform.name().map_err(|e| e.to_string())?;
            let devices = platform.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default();
            if let Some(id) = devices.first().filter(|_| wanted(&name)) {
                let slow = name == "Oclgrind";
                let context =
                    Context::from_device(&ClDevice::new(*id)).map_err(|e| e.to_string())?;
                let queue = CommandQueue::create_default_with_properties(&context, 0, 0)
                    .map_err(|e| e.to_string())?;
                let program = Program::create_and_build_from_source(&context, TEXT, "")?;
                return Ok(Self { context, queue, program, slow });
            }
        }
        Err(format!("no OpenCL platform {}", named.as_deref().unwrap_or("with a device")))
    }

    fn buffer(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        let size = elements * dtype.size_in_bytes();
        // SAFETY: no memory of the host is passed.
        let bytes = unsafe {
            ClBuffer::create(&self.context, CL_MEM_READ_WRITE, size, std::ptr::null_mut())
        };
        Ok(Buffer { bytes: bytes.map_err(failed)?, dtype, elements })
    }

    /// Copies `x` (f32, bf16 or u32) to the device.
    pub(super) fn upload(&self, x: &Tensor) -> Buffer {
        let x = x.flatten_all().unwrap();
        let bytes: Vec<u8> = match x.dtype() {
            DType::F32 => {
                x.to_vec1::<f32>().unwrap().iter().flat_map(|x| x.to_ne_bytes()).collect()
            }
            DType::U32 => {
                x.to_vec1::<u32>().unwrap().iter().flat_map(|x| x.to_ne_bytes()).collect()
            }
            DType::BF16 => {
                let values = x.to_vec1::<half::bf16>().unwrap();
                values.iter().flat_map(|x| x.to_ne_bytes()).collect()
            }
            DType::F16 => {
                let values = x.to_vec1::<half::f16>().unwrap();
                values.iter().flat_map(|x| x.to_ne_bytes()).collect()
            }
            other => panic!("{other:?}"),
        };
        let mut buffer = self.buffer(x.dtype(), x.elem_count()).unwrap();
        // SAFETY: the buffer has room for the bytes, which live until the blocking call returns.
        unsafe {
            self.queue
                .enqueue_write_buffer(&mut buffer.bytes, CL_BLOCKING, 0, &bytes, &[])
                .unwrap();
        }
        buffer
    }

    /// Returns the elements of a buffer of f32 or bf16 as f64.
    pub(super) fn download(&self, buffer: &Buffer) -> Vec<f64> {
        let mut bytes = vec![0u8; buffer.elements * buffer.dtype.size_in_bytes()];
        // SAFETY: as many bytes as the buffer has are read, before the blocking call returns.
        unsafe {
            self.queue.enqueue_read_buffer(&buffer.bytes, CL_BLOCKING, 0, &mut bytes, &[]).unwrap();
        }
        let x = Tensor::from_raw_buffer(&bytes, buffer.dtype, &[buffer.elements], &Device::Cpu);
        crate::ops::check::values(&x.unwrap())
    }
}

impl Queue for OpenCl {
    type Buffer = Buffer;

    /// NaN, so that an element that no kernel writes is seen.
    fn allocate(&self, dtype: DType, elements: usize) -> Result<Buffer> {
        Ok(self.upload(&Tensor::full(f32::NAN, elements, &Device::Cpu)?.to_dtype(dtype)?))
    }

    fn launch(&self, launch: Launch<'_, Buffer>) -> Result<()> {
        let Launch { kernel: name, arguments, groups, lanes } = launch;
        let kernel =
            Kernel::create(&self.program, &name).map_err(|e| failed(format!("{name}: {e}")))?;
        assert_eq!(kernel.num_args().map_err(failed)? as usize, arguments.len(), "{name}");
        for (i, argument) in arguments.iter().enumerate() {
            // SAFETY: OpenCL refuses values of another size; tests would show other mistakes.
            let set = unsafe {
                match argument {
                    Argument::In(buffer) => kernel.set_arg(i as u32, &buffer.bytes.get()),
                    Argument::Out(buffer) => kernel.set_arg(i as u32, &buffer.bytes.get()),
                    Argument::U64(x) => kernel.set_arg(i as u32, x),
                    Argument::U32(x) => kernel.set_arg(i as u32, x),
                    Argument::F32(x) => kernel.set_arg(i as u32, x),
                }
            };
            set.map_err(|e| failed(format!("{name}, argument {i}: {e}")))?;
        }
        let (all, group) = ([groups * lanes], [lanes]);
        // SAFETY: the sizes outlive the call, and the buffers outlive the kernel, which has ended
        // when this returns.
        unsafe {
            self.queue
                .enqueue_nd_range_kernel(
                    kernel.get(),
                    1,
                    std::ptr::null(),
                    all.as_ptr(),
                    group.as_ptr(),
                    &[],
                )
                .map_err(|e| failed(format!("{name}: {e}")))?;
        }
        self.queue.finish().map_err(failed)
    }
}
