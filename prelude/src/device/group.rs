//! Several GPUs: each runs a share of the layers. The embedding, the last norm, the output layer
//! and the losses stay on the first, so that only hidden states cross from one to the next.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Device;

/// The devices that share layers, in order; with fewer than two, nothing is shared.
static GROUP: Mutex<Vec<Device>> = Mutex::new(Vec::new());

fn group() -> MutexGuard<'static, Vec<Device>> {
    GROUP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes `devices` share the layers of all models that run on the first of them.
pub(crate) fn set_group(devices: &[Device]) {
    *group() = devices.to_vec();
}

/// The devices that a model on `device` runs on.
pub(crate) fn members(device: &Device) -> Vec<Device> {
    let group = group();
    if group.iter().any(|member| member.same_device(device)) {
        group.clone()
    } else {
        vec![device.clone()]
    }
}

/// The device of layer `layer` of `layers` for a model on `device`; of what is outside the layers
/// with `None`.
pub(crate) fn of_layer(device: &Device, layer: Option<usize>, layers: usize) -> Device {
    let group = group();
    if group.iter().any(|member| member.same_device(device)) {
        group[share(layer, layers, group.len())].clone()
    } else {
        device.clone()
    }
}

/// The index of the device of `layer`: equal shares of consecutive layers.
fn share(layer: Option<usize>, layers: usize, devices: usize) -> usize {
    layer.map_or(0, |layer| (layer * devices / layers.max(1)).min(devices - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_equal_shares_of_consecutive_layers() {
        let of = |layers: usize, devices| -> Vec<usize> {
            (0..layers).map(|layer| share(Some(layer), layers, devices)).collect()
        };
        assert_eq!(of(4, 2), [0, 0, 1, 1]);
        assert_eq!(of(5, 2), [0, 0, 0, 1, 1]);
        assert_eq!(of(3, 8), [0, 2, 5]);
        assert_eq!(of(6, 1), [0; 6]);
        assert_eq!(share(None, 6, 3), 0);
        // More layers than the architecture says are on the last.
        assert_eq!(share(Some(9), 6, 3), 2);
    }

    #[test]
    fn without_a_group_everything_is_on_its_own_device() {
        assert!(of_layer(&Device::Cpu, Some(3), 4).is_cpu());
        assert_eq!(members(&Device::Cpu).len(), 1);
    }
}
