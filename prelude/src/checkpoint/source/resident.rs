//! Copies of weights on a device: kept for all that read them while there is room, and made for
//! each use when there is none, so that sources may be larger than the device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use candle_core::{Device, Tensor};

use super::Source;
use crate::device::{free_bytes, members};
use crate::error::Result;

/// The bytes that copies leave free on a device for what is computed there, until a plan says how
/// many that needs.
pub(crate) const DEFAULT_RESERVE: u64 = 2 << 30;

/// The copies of a source's weights on devices, each on one. Another device replaces it.
#[derive(Default)]
pub(in crate::checkpoint) struct Resident(Mutex<Copies>);

struct Copies {
    by_name: BTreeMap<String, Tensor>,
    /// The bytes that they leave free.
    reserve: u64,
    /// Copies being made for their next use.
    ahead: Option<Ahead>,
    /// Copies that were made ahead and are not kept, until their use.
    passing: BTreeMap<String, Tensor>,
}

/// Copies of the tensors `names` that a thread makes.
struct Ahead {
    names: Vec<String>,
    thread: JoinHandle<Result<Vec<Tensor>>>,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            reserve: DEFAULT_RESERVE,
            ahead: None,
            passing: BTreeMap::new(),
        }
    }
}

impl Source {
    fn copies(&self) -> MutexGuard<'_, Copies> {
        self.0.resident.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tensor `name` on `device`, in its own dtype. All clones of this source share a copy that
    /// is kept.
    ///
    /// # Errors
    /// A missing tensor, or out of memory on the device.
    pub(crate) fn on_device(&self, name: &str, device: &Device) -> Result<Tensor> {
        let view = self.view(name)?;
        let mut copies = self.copies();
        if let Some(copy) = copies.by_name.get(name) {
            if copy.device().same_device(device) {
                return Ok(copy.clone());
            }
            copies.by_name.remove(name);
        }
        copies.finish(name)?;
        let made = copies.passing.remove(name).filter(|made| made.device().same_device(device));
        let copy = match made {
            Some(made) => made,
            None => view.to_tensor(device)?,
        };
        if free_bytes(device)? >= copies.reserve {
            copies.by_name.insert(name.to_owned(), copy.clone());
        }
        Ok(copy)
    }

    /// Begins to copy the tensors `names` to `device` on a thread of its own, except those that
    /// have a copy there, so that the copies are made while others are computed with. Copies made
    /// ahead earlier and not used are dropped. Errors are those of their use.
    pub(crate) fn copy_ahead(&self, mut names: Vec<String>, device: &Device) {
        let mut copies = self.copies();
        names.retain(|name| {
            let copy = copies.by_name.get(name);
            !copy.is_some_and(|copy| copy.device().same_device(device))
        });
        copies.drop_ahead();
        if names.is_empty() {
            return;
        }
        let (source, device, wanted) = (self.clone(), device.clone(), names.clone());
        let thread = std::thread::spawn(move || {
            wanted.iter().map(|name| source.view(name)?.to_tensor(&device)).collect()
        });
        copies.ahead = Some(Ahead { names, thread });
    }

    /// The bytes of copies of all its weights on a device, where packed weights are unpacked.
    pub(crate) fn copied_bytes(&self) -> u64 {
        (self.parameters() * self.dtype().size_in_bytes()) as u64
    }

    /// The bytes of its copies on `device`.
    pub(crate) fn resident_bytes(&self, device: &Device) -> u64 {
        let own = |copy: &&Tensor| copy.device().same_device(device);
        self.copies().by_name.values().filter(own).map(bytes).sum()
    }

    /// Whether `other` is a clone of this source, with the same copies.
    pub(crate) fn shares_copies(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Drops all copies, made and being made.
    pub(crate) fn drop_all_copies(&self) {
        let mut copies = self.copies();
        copies.drop_ahead();
        copies.by_name.clear();
    }

    /// Drops copies on `device` of at least `excess` bytes, or all, and keeps new ones only while
    /// `reserve` bytes stay free. Returns the bytes dropped.
    fn drop_copies(&self, device: &Device, excess: u64, reserve: u64) -> u64 {
        let (mut copies, mut dropped) = (self.copies(), 0);
        copies.reserve = reserve;
        copies.by_name.retain(|_, copy| {
            let stays = dropped >= excess || !copy.device().same_device(device);
            dropped += if stays { 0 } else { bytes(copy) };
            stays
        });
        dropped
    }
}

impl Copies {
    /// Drops what is or was copied ahead. A thread that is still copying is waited for: it holds
    /// memory of the device.
    fn drop_ahead(&mut self) {
        if let Some(before) = self.ahead.take() {
            let _ = before.thread.join();
        }
        self.passing.clear();
    }

    /// Waits for the copies made ahead, if `name` is among them.
    fn finish(&mut self, name: &str) -> Result<()> {
        let Some(ahead) = self.ahead.take_if(|ahead| ahead.names.iter().any(|n| n == name)) else {
            return Ok(());
        };
        // After a panic, the copies are made when they are used.
        if let Ok(made) = ahead.thread.join() {
            self.passing.extend(ahead.names.into_iter().zip(made?));
        }
        Ok(())
    }
}

fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

/// Returns the bytes that would be free without the copies of `sources` on `device`, or on that of
/// the devices sharing its layers which has the least.
///
/// # Errors
/// A device that fails.
pub(crate) fn capacity(sources: &[Source], device: &Device) -> Result<u64> {
    let of_one = |device: &Device| {
        // What was dropped is free once the device is done with it.
        device.synchronize()?;
        let resident: u64 = sources.iter().map(|source| source.resident_bytes(device)).sum();
        Ok(free_bytes(device)? + resident)
    };
    let all = members(device).iter().map(of_one).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().min().unwrap_or(0))
}

/// Makes `needed` bytes free on `device`, and on those sharing its layers, for what is computed
/// from `sources`: drops as many of their copies as necessary, and keeps no new ones in that room.
///
/// # Errors
/// A device that fails.
pub(crate) fn make_room(sources: &[Source], device: &Device, needed: u64) -> Result<()> {
    for device in members(device) {
        device.synchronize()?;
        let mut excess = needed.saturating_sub(free_bytes(&device)?);
        for source in sources.iter().rev() {
            excess = excess.saturating_sub(source.drop_copies(&device, excess, needed));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_kept_only_while_there_is_room() {
        let source = Source::open("builtin:math").unwrap();
        let name = "model.norm.weight";
        let [kept, again] = [(), ()].map(|()| source.on_device(name, &Device::Cpu).unwrap());
        let size = bytes(&kept);
        assert_eq!(kept.id(), again.id());
        assert_eq!(source.clone().resident_bytes(&Device::Cpu), size);
        let sources = [source];
        make_room(&sources, &Device::Cpu, u64::MAX).unwrap();
        let [source] = &sources;
        assert_eq!(source.resident_bytes(&Device::Cpu), 0);
        let passing = source.on_device(name, &Device::Cpu).unwrap();
        assert_eq!(source.resident_bytes(&Device::Cpu), 0);
        let values = |t: &Tensor| t.to_dtype(candle_core::DType::F32).unwrap().to_vec1::<f32>();
        assert_eq!(values(&passing).unwrap(), values(&kept).unwrap());
        // The same for copies made ahead.
        source.copy_ahead(vec![name.into()], &Device::Cpu);
        let passing = source.on_device(name, &Device::Cpu).unwrap();
        assert_eq!(source.resident_bytes(&Device::Cpu), 0);
        assert_eq!(values(&passing).unwrap(), values(&kept).unwrap());
        source.copy_ahead(vec!["missing".into()], &Device::Cpu);
        assert!(source.on_device("missing", &Device::Cpu).is_err());
        make_room(&sources, &Device::Cpu, 0).unwrap();
        source.on_device(name, &Device::Cpu).unwrap();
        assert_eq!(source.resident_bytes(&Device::Cpu), size);
        assert!(capacity(&sources, &Device::Cpu).unwrap() > size);
        let [source] = &sources;
        assert!(source.shares_copies(&source.clone()));
        assert!(!source.shares_copies(&Source::open("builtin:math").unwrap()));
        source.drop_all_copies();
        assert_eq!(source.resident_bytes(&Device::Cpu), 0);
    }
}
