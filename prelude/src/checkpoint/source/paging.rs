//! Which layers of the sources stay in main memory, where all of them do not fit.
//!
//! The sources are mapped, so the kernel would decide. Training reads all layers up and down again;
//! a cache of the pages that were used last would give up the first layers just before the next
//! step reads them, and look for pages to give up while layers are computed. So it is decided here:
//! some layers stay, the same in every pass and evenly spread, so that the disk has as much to do
//! at any time; the others are read before and released after their use. That reads as little
//! as any choice would, `2 (sources - memory)` bytes per step. What is outside the layers stays.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Source;
use crate::checkpoint::config::TensorSpec;
use crate::checkpoint::storage::{View, read_ahead};

/// The layers that are read before the layer in use, so that the disk has the next one to read when
/// it is done with one.
pub(crate) const LAYERS_AHEAD: usize = 2;

/// The layers of a source on their way through main memory.
#[derive(Default)]
pub(in crate::checkpoint) struct Paging(Mutex<Plan>);

#[derive(Default)]
struct Plan {
    /// The layers that are released after use.
    passing: BTreeSet<usize>,
    /// The layers that were read ahead and stay: they are not asked for again.
    read: BTreeSet<usize>,
}

impl Source {
    fn paging(&self) -> MutexGuard<'_, Plan> {
        self.0.paging.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to read the weights of `layer` from their files, on a thread of its own; those
    /// outside the layers, of which the output layer comes last, count as the layer after the last.
    /// Returns before they are read; a layer that the model does not have is not an error.
    pub(crate) fn read_ahead(&self, layer: usize) {
        {
            let mut plan = self.paging();
            // While everything stays, one reading is enough.
            if plan.passing.is_empty() && !plan.read.insert(layer) {
                return;
            }
        }
        let views: Vec<View> = self.views_of(layer).cloned().collect();
        if views.iter().any(|view| view.mapped_bytes() > 0) {
            read_ahead(views);
        }
    }

    /// Lets go of the memory that holds the weights of `layer`, unless it stays.
    pub(crate) fn let_go(&self, layer: usize) {
        if self.paging().passing.contains(&layer) {
            self.views_of(layer).for_each(View::forget);
        }
    }

    fn views_of(&self, layer: usize) -> impl Iterator<Item = &View> {
        let layers = self.architecture().map_or(0, |architecture| architecture.layers);
        let layer = Some(layer).filter(|layer| *layer != layers);
        let own = move |spec: &&TensorSpec| spec.layer() == layer;
        self.tensors().iter().filter(own).filter_map(|spec| self.view(&spec.name).ok())
    }

    /// The bytes of mapped files that hold the weights outside the layers, and of each layer.
    fn mapped_bytes(&self, layers: usize) -> (u64, Vec<u64>) {
        let (mut outside, mut each) = (0, vec![0; layers]);
        for spec in self.tensors() {
            let bytes = self.view(&spec.name).map_or(0, View::mapped_bytes);
            match spec.layer().and_then(|layer| each.get_mut(layer)) {
                Some(layer) => *layer += bytes,
                None => outside += bytes,
            }
        }
        (outside, each)
    }
}

/// Decides which layers of `sources` (of one architecture) stay in main memory, of which `free`
/// bytes are free for them. Returns the bytes that do not stay, which every pass through the layers
/// reads from the disk.
pub(crate) fn keep_in_memory(sources: &[Source], free: u64) -> u64 {
    let (passing, bytes) = passing(sources, free);
    for source in sources {
        *source.paging() = Plan { passing: passing.clone(), read: BTreeSet::new() };
    }
    bytes
}

/// The bytes that [`keep_in_memory`] would return, without its effect.
pub(crate) fn passing_bytes(sources: &[Source], free: u64) -> u64 {
    passing(sources, free).1
}

/// The layers of `sources` that do not fit into `free` bytes beside those being read, and their
/// bytes.
fn passing(sources: &[Source], free: u64) -> (BTreeSet<usize>, u64) {
    let layers = sources.iter().filter_map(|source| source.architecture().ok());
    let layers = layers.map(|architecture| architecture.layers).max().unwrap_or(0);
    let (mut outside, mut each) = (0, vec![0u64; layers]);
    for (out, own) in sources.iter().map(|source| source.mapped_bytes(layers)) {
        outside += out;
        each.iter_mut().zip(own).for_each(|(sum, bytes)| *sum += bytes);
    }
    passing_layers(outside, &each, free)
}

/// [`passing`] for sources with so many bytes outside the layers, and in each layer.
fn passing_layers(outside: u64, each: &[u64], free: u64) -> (BTreeSet<usize>, u64) {
    if outside + each.iter().sum::<u64>() <= free {
        return (BTreeSet::new(), 0);
    }
    let (layers, largest) = (each.len(), each.iter().copied().max().unwrap_or(0).max(1));
    let in_use = (1 + LAYERS_AHEAD as u64) * largest;
    let stay = (free.saturating_sub(outside + in_use) / largest) as usize;
    let passing: BTreeSet<usize> = (0..layers).filter(|i| !stays(*i, stay, layers)).collect();
    let bytes = passing.iter().map(|i| each[*i]).sum();
    (passing, bytes)
}

/// Whether layer `i` is one of `stay` of `layers` that are evenly spread.
fn stays(i: usize, stay: usize, layers: usize) -> bool {
    (i + 1) * stay / layers > i * stay / layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_stay_are_evenly_spread() {
        let of = |stay, layers| -> Vec<usize> {
            (0..layers).filter(|i| stays(*i, stay, layers)).collect()
        };
        assert!(of(0, 4).is_empty());
        assert_eq!(of(2, 6), [2, 5]);
        assert_eq!(of(3, 8), [2, 5, 7]);
        assert_eq!(of(4, 4), [0, 1, 2, 3]);
        for (stay, layers) in [(1, 32), (7, 32), (31, 32), (5, 11)] {
            assert_eq!(of(stay, layers).len(), stay);
        }
    }

    #[test]
    fn layers_stay_as_far_as_they_fit_beside_those_in_use() {
        let of = |free| passing_layers(10, &[5; 8], free);
        assert_eq!(of(50), (BTreeSet::new(), 0));
        // Outside the layers, three layers in use, and two more.
        assert_eq!(of(10 + 15 + 10), (BTreeSet::from([0, 1, 2, 4, 5, 6]), 30));
        assert_eq!(of(10 + 15 + 9).1, 35);
        assert_eq!(of(49).1, 20);
        assert_eq!(of(0).1, 40);
    }

    /// A model on disk, which is mapped, and its bytes: outside the layers, and per layer.
    fn on_disk() -> (Source, u64, u64) {
        let source = Source::open(concat!(env!("CARGO_MANIFEST_DIR"), "/builtin/math")).unwrap();
        let layers = source.architecture().unwrap().layers;
        let of = |layer: Option<usize>| -> u64 {
            let own = source.tensors().iter().filter(|spec| spec.layer() == layer);
            own.map(|spec| source.view(&spec.name).unwrap().bytes().len() as u64).sum()
        };
        let (outside, each) = (of(None), of(Some(0)));
        assert!(layers >= 4 && each > 0);
        assert_eq!(outside + layers as u64 * each, source.bytes() as u64);
        (source, outside, each)
    }

    #[test]
    fn what_does_not_fit_is_let_go_of_and_read_again() {
        let (source, outside, each) = on_disk();
        let layers = source.architecture().unwrap().layers as u64;
        let sources = [source.clone(), source.clone()];
        let all = 2 * (outside + layers * each);
        assert_eq!(keep_in_memory(&sources, all), 0);
        assert!(source.paging().passing.is_empty());
        assert_eq!(passing_bytes(&sources, all - 1), 2 * layers * each);
        assert_eq!(keep_in_memory(&sources, 0), 2 * layers * each);
        let name = "model.layers.1.mlp.up_proj.weight";
        let view = source.view(name).unwrap();
        let values = || {
            let mut values = vec![0f32; view.shape.iter().product()];
            view.read(0, &mut values);
            values
        };
        let before = values();
        source.let_go(1);
        assert_eq!(values(), before);
        source.let_go(1);
        source.read_ahead(1);
        source.read_ahead(layers as usize);
        source.let_go(layers as usize);
        assert_eq!(values(), before);
    }
}
