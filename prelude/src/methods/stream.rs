//! What a method sees of one tensor, decoded block by block from where the sources are mapped.

use pulp::Arch;

use super::{Blend, Method};
use crate::checkpoint::{Content, TILE, TensorSpec, View};
use crate::error::Result;

/// One tensor of every source, and of the base where the method needs it.
pub struct Operands {
    spec: TensorSpec,
    sources: Vec<View>,
    base: Option<View>,
}

impl Operands {
    /// The tensor `spec` of `sources` and `base`, all of its shape.
    pub(crate) fn new(spec: TensorSpec, sources: Vec<View>, base: Option<View>) -> Self {
        Self { spec, sources, base }
    }

    /// Its name, kind and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    /// The number of sources, without the base.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.spec.shape.iter().product()
    }

    /// Calls `f` with every block of the tensor, in order.
    pub fn for_blocks(&self, mut f: impl FnMut(&Block<'_>)) {
        let mut values = self.room();
        for start in (0..self.elements()).step_by(TILE) {
            f(&self.block(start, TILE.min(self.elements() - start), &mut values));
        }
    }

    /// Merges `out.len()` elements from `start` on.
    fn merge(&self, blend: &dyn Blend, start: usize, out: &mut [f32]) {
        let mut values = self.room();
        for (i, out) in out.chunks_mut(TILE).enumerate() {
            blend.blend(&self.block(start + i * TILE, out.len(), &mut values), out);
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
}

impl Drop for Operands {
    /// A merge reads every byte once: what it has read need not stay in memory.
    fn drop(&mut self) {
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
    values: &'a [f32],
}

impl Block<'_> {
    /// The first element's place in the tensor, row by row.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The elements of source `i`.
    pub fn source(&self, i: usize) -> &[f32] {
        &self.values[i * TILE..][..self.length]
    }

    /// The elements of the base model, where the method needs it.
    pub fn base(&self) -> Option<&[f32]> {
        self.has_base.then(|| self.source(self.sources))
    }
}

/// What a checkpoint's tensor is made of where `method` merges `operands`.
///
/// # Errors
/// A tensor that the method cannot merge.
pub(crate) fn content(method: &dyn Method, operands: Operands) -> Result<Content<'_>> {
    let blend = method.prepare(&operands)?;
    Ok(Content::Values(Box::new(move |start, out| operands.merge(&*blend, start, out))))
}
