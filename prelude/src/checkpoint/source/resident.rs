//! Weights that were copied to a device: once for all that read them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::Source;
use crate::error::Result;

/// The copies of a source's weights on a device, by name. Another device replaces them.
#[derive(Default)]
pub(in crate::checkpoint) struct Resident(Mutex<BTreeMap<String, Tensor>>);

impl Source {
    /// The tensor `name` on `device`, in its own dtype. All clones of this source share the copy.
    ///
    /// # Errors
    /// A missing tensor, or out of memory on the device.
    pub(crate) fn resident(&self, name: &str, device: &Device) -> Result<Tensor> {
        let view = self.view(name)?;
        let mut copies = self.0.resident.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = copies.get(name) {
            if copy.device().same_device(device) {
                return Ok(copy.clone());
            }
            copies.clear();
        }
        let copy = view.to_tensor(device)?;
        copies.insert(name.to_owned(), copy.clone());
        Ok(copy)
    }
}
