//! The operands of a method for one tensor, decoded block by block from the memory-mapped sources.

use candle_core::DType;
use rayon::prelude::*;

use super::Blend;
pub(crate) use crate::checkpoint::TILE;
use crate::checkpoint::{TensorSpec, View, common_dtype};
use crate::interrupt;
use crate::vectorised::vectorised;

/// One tensor of every source, and of the base if the method uses task vectors.
pub struct Operands {
    spec: TensorSpec,
    names: Vec<String>,
    sources: Vec<View>,
    base: Option<View>,
}

/// Elements per task if the result is small.
const CHUNK: usize = 1 << 16;

impl Operands {
    /// Creates the operands: the tensor `spec` of the sources `names` and of `base`, all of the
    /// same shape.
    pub(crate) fn new(
        spec: TensorSpec,
        names: Vec<String>,
        sources: Vec<View>,
        base: Option<View>,
    ) -> Self {
        Self { spec, names, sources, base }
    }

    /// Returns the name, kind and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// Returns the names of the sources, without the base.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the number of sources, without the base.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Whether there is a base for task vectors.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> usize {
        self.spec.shape.iter().product()
    }

    /// Returns the dtype of the sources; f32 if they differ.
    pub(crate) fn dtype(&self) -> DType {
        common_dtype(&self.sources)
    }

    /// Returns the number of elements per row; a one-dimensional tensor is one row.
    pub fn columns(&self) -> usize {
        self.spec.shape.last().copied().unwrap_or(1).max(1)
    }

    /// Reads the tensor on all threads, in chunks, and returns the result of each chunk in order,
    /// so that the total does not depend on the number of threads. After a stop request, the
    /// remaining chunks are skipped: callers check for it afterwards and discard the result.
    pub fn chunks<T: Send>(
        &self,
        make: impl Fn() -> T + Sync,
        look: impl Fn(&mut T, &mut Block<'_>) + Sync,
    ) -> Vec<T> {
        self.chunks_of(CHUNK, make, look)
    }

    /// Like [`Operands::chunks`], with chunks of `length` elements.
    pub fn chunks_of<T: Send>(
        &self,
        length: usize,
        make: impl Fn() -> T + Sync,
        look: impl Fn(&mut T, &mut Block<'_>) + Sync,
    ) -> Vec<T> {
        let count = self.elements().div_ceil(length.max(1));
        let stretch = |i: usize| {
            let mut found = make();
            if interrupt::requested() {
                return found;
            }
            self.for_blocks(i * length, length.min(self.elements() - i * length), |block| {
                look(&mut found, block)
            });
            found
        };
        (0..count).into_par_iter().map(stretch).collect()
    }

    /// Reads the tensor on all threads, for results that do not depend on order, such as counts.
    pub fn tally<T: Send>(
        &self,
        make: impl Fn() -> T + Sync + Send,
        look: impl Fn(&mut T, &mut Block<'_>) + Sync,
        join: impl Fn(&mut T, T) + Sync + Send,
    ) -> T {
        let stretch = |mut found: T, i: usize| {
            if interrupt::requested() {
                return found;
            }
            self.for_blocks(i * CHUNK, CHUNK.min(self.elements() - i * CHUNK), |block| {
                look(&mut found, block)
            });
            found
        };
        let both = |mut a: T, b: T| {
            join(&mut a, b);
            a
        };
        (0..self.elements().div_ceil(CHUNK))
            .into_par_iter()
            .fold(&make, stretch)
            .reduce(&make, both)
    }

    /// Calls `f` with every block of `length` elements from `start` on, in order.
    pub fn for_blocks(&self, start: usize, length: usize, mut f: impl FnMut(&mut Block<'_>)) {
        let mut values = self.room();
        for at in (0..length).step_by(TILE) {
            f(&mut self.block(start + at, TILE.min(length - at), &mut values));
        }
    }

    /// Merges `out.len()` elements from `start` on.
    pub(crate) fn merge(&self, blend: &dyn Blend, start: usize, out: &mut [f32]) {
        let mut values = self.room();
        for (i, out) in out.chunks_mut(TILE).enumerate() {
            blend.blend(&mut self.block(start + i * TILE, out.len(), &mut values), out);
        }
    }

    /// Allocates memory for one block.
    fn room(&self) -> Vec<f32> {
        vec![0.0; (self.sources.len() + 1) * TILE]
    }

    fn block<'a>(&self, start: usize, length: usize, values: &'a mut [f32]) -> Block<'a> {
        let views = self.sources.iter().chain(&self.base);
        vectorised(
            #[inline(always)]
            || {
                for (view, values) in views.clone().zip(values.chunks_mut(TILE)) {
                    view.read(start, &mut values[..length]);
                }
            },
        );
        Block { start, length, sources: self.sources.len(), has_base: self.base.is_some(), values }
    }

    /// Begins to read the tensor of every source from its file.
    pub(crate) fn prefetch(&self) {
        self.sources.iter().chain(&self.base).for_each(View::prefetch);
    }

    /// Releases mapped memory: a merge reads every byte once, in order.
    pub(crate) fn release(&self) {
        self.sources.iter().chain(&self.base).for_each(View::release);
    }
}

/// Consecutive elements of every source, as f32.
pub struct Block<'a> {
    start: usize,
    length: usize,
    sources: usize,
    has_base: bool,
    /// [`TILE`] elements for each source, then for the base.
    values: &'a mut [f32],
}

impl Block<'_> {
    /// Returns the position of the first element in the tensor, in row-major order.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Returns the number of elements.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Returns the number of sources, without the base.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Returns the elements of source `i`.
    pub fn source(&self, i: usize) -> &[f32] {
        &self.values[i * TILE..][..self.length]
    }

    /// Returns the elements of source `i` for overwriting.
    pub fn source_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.values[i * TILE..][..self.length]
    }

    /// Returns the elements of the base model, if the method uses task vectors.
    pub fn base(&self) -> Option<&[f32]> {
        self.has_base.then(|| self.source(self.sources))
    }

    /// Replaces every source by its task vector, `W_i - base`; without a base, does nothing.
    pub fn subtract_base(&mut self) {
        if !self.has_base {
            return;
        }
        let (sources, base) = self.values.split_at_mut(self.sources * TILE);
        vectorised(
            #[inline(always)]
            || {
                for source in sources.chunks_mut(TILE) {
                    source[..self.length]
                        .iter_mut()
                        .zip(&base[..self.length])
                        .for_each(|(x, base)| *x -= base);
                }
            },
        );
    }
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::DType;

    use super::*;
    use crate::checkpoint::Kind;

    /// Returns a tensor of `shape` with the values of each source and of the base.
    pub(in crate::methods) fn operands(
        shape: &[usize],
        sources: &[&[f32]],
        base: Option<&[f32]>,
    ) -> Operands {
        let view = |values: &[f32]| {
            View::of(values.iter().flat_map(|x| x.to_le_bytes()).collect(), DType::F32, shape)
        };
        let spec = TensorSpec { name: "w".into(), kind: Kind::Linear, shape: shape.to_vec() };
        let names = (0..sources.len()).map(|i| format!("s{i}")).collect();
        Operands::new(spec, names, sources.iter().map(|v| view(v)).collect(), base.map(view))
    }

    /// Returns the merge of `tensor` by `method`.
    pub(in crate::methods) fn merged(
        method: &dyn super::super::Method,
        tensor: &Operands,
    ) -> Vec<f32> {
        let mut out = vec![0.0; tensor.elements()];
        tensor.merge(&*method.prepare(tensor).unwrap(), 0, &mut out);
        out
    }
}
