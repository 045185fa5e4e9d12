//! What a method sees of one tensor, decoded block by block from where the sources are mapped.

use candle_core::DType;
use pulp::Arch;
use rayon::prelude::*;

use super::Blend;
pub(crate) use crate::checkpoint::TILE;
use crate::checkpoint::{TensorSpec, View, common_dtype};
use crate::interrupt;

/// One tensor of every source, and of the base where the method measures from it.
pub struct Operands {
    spec: TensorSpec,
    names: Vec<String>,
    sources: Vec<View>,
    base: Option<View>,
}

/// Elements that one task looks at, where what it finds is small.
const CHUNK: usize = 1 << 16;

impl Operands {
    /// The tensor `spec` of the sources `names` and of `base`, all of its shape.
    pub(crate) fn new(spec: TensorSpec, names: Vec<String>, sources: Vec<View>, base: Option<View>) -> Self {
        Self { spec, names, sources, base }
    }

    /// Its name, kind and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// The names of the sources, without the base.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of sources, without the base.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// Whether the base is there to measure from.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.spec.shape.iter().product()
    }

    /// How the sources store it; f32 where they differ.
    pub(crate) fn dtype(&self) -> DType {
        common_dtype(&self.sources)
    }

    /// Elements of a row; a vector is one row.
    pub fn columns(&self) -> usize {
        self.spec.shape.last().copied().unwrap_or(1).max(1)
    }

    /// Looks at all of it, on all threads, a stretch at a time; gives what was found of each stretch, in
    /// order, so that what is made of it does not depend on the number of threads. Where a stop is asked for the rest
    /// is not looked at: whoever prepares a merge asks afterwards, and makes nothing of it.
    pub fn stretches<T: Send>(&self, make: impl Fn() -> T + Sync, look: impl Fn(&mut T, &mut Block<'_>) + Sync) -> Vec<T> {
        self.stretches_of(CHUNK, make, look)
    }

    /// [`Operands::stretches`] of `length` elements.
    pub fn stretches_of<T: Send>(
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
            self.for_blocks(i * length, length.min(self.elements() - i * length), |block| look(&mut found, block));
            found
        };
        (0..count).into_par_iter().map(stretch).collect()
    }

    /// Looks at all of it, on all threads, for what does not depend on order, such as counts.
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
            self.for_blocks(i * CHUNK, CHUNK.min(self.elements() - i * CHUNK), |block| look(&mut found, block));
            found
        };
        let both = |mut a: T, b: T| {
            join(&mut a, b);
            a
        };
        (0..self.elements().div_ceil(CHUNK)).into_par_iter().fold(&make, stretch).reduce(&make, both)
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

    /// Memory for one block.
    fn room(&self) -> Vec<f32> {
        vec![0.0; (self.sources.len() + 1) * TILE]
    }

    fn block<'a>(&self, start: usize, length: usize, values: &'a mut [f32]) -> Block<'a> {
        let views = self.sources.iter().chain(&self.base);
        Arch::new().dispatch(|| {
            for (view, values) in views.zip(values.chunks_mut(TILE)) {
                view.read(start, &mut values[..length]);
            }
        });
        Block { start, length, sources: self.sources.len(), has_base: self.base.is_some(), values }
    }

    /// A merge reads every byte in turn: what it has read need not stay in memory.
    pub(crate) fn release(&self) {
        self.sources.iter().chain(&self.base).for_each(View::release);
    }
}

/// Elements that follow each other, of every source, as f32.
pub struct Block<'a> {
    start: usize,
    length: usize,
    sources: usize,
    has_base: bool,
    /// A stretch of [`TILE`] for each source, then one for the base.
    values: &'a mut [f32],
}

impl Block<'_> {
    /// The first element's place in the tensor, row by row.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The number of elements.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The number of sources, without the base.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// The elements of source `i`.
    pub fn source(&self, i: usize) -> &[f32] {
        &self.values[i * TILE..][..self.length]
    }

    /// The elements of source `i`, to be written over.
    pub fn source_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.values[i * TILE..][..self.length]
    }

    /// The elements of the base model, where the method measures from it.
    pub fn base(&self) -> Option<&[f32]> {
        self.has_base.then(|| self.source(self.sources))
    }

    /// Turns every source into its task vector, `W_i - base`; without a base they stay.
    pub fn subtract_base(&mut self) {
        if !self.has_base {
            return;
        }
        let (sources, base) = self.values.split_at_mut(self.sources * TILE);
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for source in sources.chunks_mut(TILE) {
                    source[..self.length].iter_mut().zip(&base[..self.length]).for_each(|(x, base)| *x -= base);
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

    /// A tensor of `shape` with the values of each source and of the base.
    pub(in crate::methods) fn operands(shape: &[usize], sources: &[&[f32]], base: Option<&[f32]>) -> Operands {
        let view = |values: &[f32]| View::of(values.iter().flat_map(|x| x.to_le_bytes()).collect(), DType::F32, shape);
        let spec = TensorSpec { name: "w".into(), kind: Kind::Linear, shape: shape.to_vec() };
        let names = (0..sources.len()).map(|i| format!("s{i}")).collect();
        Operands::new(spec, names, sources.iter().map(|v| view(v)).collect(), base.map(view))
    }

    /// All that `method` makes of `tensor`.
    pub(in crate::methods) fn merged(method: &dyn super::super::Method, tensor: &Operands) -> Vec<f32> {
        let mut out = vec![0.0; tensor.elements()];
        tensor.merge(&*method.prepare(tensor).unwrap(), 0, &mut out);
        out
    }
}
