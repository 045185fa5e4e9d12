//! The device and the dtype that settings choose.

use candle_core::{DType, Device};

use super::Settings;
use crate::checkpoint::Source;
use crate::device::{Gpu, auto, is_composed, missing_driver, set_group};
use crate::error::{Error, Result, first_line};

impl Settings {
    /// Opens the device of the computation; of several GPUs, all, which then share the layers of
    /// models, and returns the first.
    ///
    /// # Errors
    /// A device that is not available in this build or on this machine.
    pub fn open_device(&self) -> Result<Device> {
        let open = |gpu: Gpu, ordinal| {
            let missing = |reason: String| Error::Device { device: self.device.clone(), reason };
            gpu.open(ordinal).map_err(|error| missing(first_line(&error)))
        };
        let devices = match self.device.as_str() {
            "cpu" => vec![Device::Cpu],
            "cuda" => vec![open(Gpu::Cuda, 0)?],
            "metal" => vec![open(Gpu::Metal, 0)?],
            "auto" => vec![auto().0],
            numbered => {
                let numbers = ordinals(numbered).unwrap_or_default().into_iter();
                numbers.map(|ordinal| open(Gpu::Cuda, ordinal)).collect::<Result<_>>()?
            }
        };
        set_group(&devices);
        Ok(devices.into_iter().next().unwrap_or(Device::Cpu))
    }

    /// Returns the device and the dtype of the computation for `sources`.
    ///
    /// # Errors
    /// As for [`Settings::open_device`], or a dtype that the device does not support.
    pub fn device_and_dtype(&self, sources: &[Source]) -> Result<(Device, DType)> {
        let device = self.open_device()?;
        let dtype = match self.dtype.as_str() {
            "bf16" => DType::BF16,
            "auto" if !device.is_cpu() && sources.iter().any(|s| s.dtype() != DType::F32) => {
                DType::BF16
            }
            _ => DType::F32,
        };
        if !is_composed(&device) && dtype != DType::F32 {
            return Err(Error::bad_value("dtype", &self.dtype, "f32 on the CPU; bf16 needs a GPU"));
        }
        Ok((device, dtype))
    }

    /// Returns why `device=auto` is the CPU in a build that supports a GPU.
    pub(crate) fn device_note(&self) -> Option<String> {
        let (_, reason) = (self.device == "auto").then(auto)?;
        reason.map(|reason| format!("this runs on the CPU, without a GPU: {reason}"))
    }

    /// Returns the same for a merge that needs no device until it is scored: its note opens none.
    pub(crate) fn driver_note(&self) -> Option<String> {
        let reason = (self.device == "auto").then(missing_driver)?;
        reason.map(|reason| format!("scores are computed on the CPU, without a GPU: {reason}"))
    }
}

/// Reads the numbers of GPUs in `cuda:0,1`, each once.
pub(super) fn ordinals(device: &str) -> Option<Vec<usize>> {
    let numbers = device.strip_prefix("cuda:")?.split(',');
    let numbers: Vec<usize> = numbers.map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let is_repeated = |(i, n): (usize, &usize)| numbers[..i].contains(n);
    (!numbers.iter().enumerate().any(is_repeated)).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_named_by_number() {
        let mut settings = Settings::default();
        for (device, numbers) in [("cuda:0", vec![0]), ("cuda:2,0", vec![2, 0])] {
            settings.set("device", device).unwrap();
            assert_eq!(ordinals(&settings.device), Some(numbers));
        }
        for device in ["cuda:", "cuda:0,", "cuda:a", "cuda:0,0", "cuda:-1", "cuda0", "metal:0"] {
            assert!(settings.set("device", device).is_err(), "{device}");
        }
    }

    #[test]
    fn the_cpu_is_explained_only_where_a_gpu_was_possible() {
        let mut settings = Settings::default();
        let (device, _) = settings.device_and_dtype(&[]).unwrap();
        let is_supported = cfg!(any(feature = "cuda", feature = "metal"));
        assert_eq!(settings.device_note().is_some(), is_supported && device.is_cpu());
        settings.set("device", "cpu").unwrap();
        assert_eq!(settings.device_note(), None);
    }
}
