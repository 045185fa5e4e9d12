//! The sweep through the parts of a model in the order of computation.

use std::collections::BTreeSet;
use std::vec::IntoIter;

use candle_core::DType;

use super::pass::{FullWeights, Pass};
use super::scheme;
use super::settings::{Inputs, SolveSettings};
use super::solved::SolvedPart;
use super::steps::Part;
use super::streams::{self, Stream};
use crate::checkpoint::{BASE, Source};
use crate::coefficients::Merge;
use crate::data::Dataset;
use crate::error::{Error, Result};

/// A sweep between two parts.
pub(crate) struct Sweep {
    settings: SolveSettings,
    dtype: DType,
    streams: Vec<Stream>,
    parts: IntoIter<Part>,
}

impl Sweep {
    /// Prepares a sweep of `merge`, computed in `dtype` (f32, or on the CPU f64). `data` returns
    /// the data of a source; only the base may have none.
    ///
    /// # Errors
    /// Invalid settings, a source without data, or a scheme whose parameters belong to several
    /// layers.
    pub fn new<'d>(
        merge: &Merge,
        sources: &[Source],
        settings: SolveSettings,
        dtype: DType,
        max_length: usize,
        data: impl Fn(&str) -> Option<&'d Dataset>,
    ) -> Result<Self> {
        settings.check()?;
        scheme::check(merge)?;
        let examples = |name: &str| {
            let found = data(name).map(|data| streams::first(data, &settings, max_length));
            found.filter(|(tokens, _)| *tokens > 0)
        };
        let a = &merge.architecture;
        let streams = match settings.inputs {
            Inputs::Tasks => Vec::new(),
            _ => streams::streams(sources, examples, a, &merge.device, BASE)?,
        };
        let mut parts = Part::all(a);
        if settings.inputs == Inputs::Tasks {
            parts.retain(|part| matches!(part, Part::Layer(_)));
        }
        if let Some(layers) = settings.layers {
            if layers > a.layers {
                let expected = format!("an integer from 1 to {}", a.layers);
                return Err(Error::bad_value("layers", &layers.to_string(), &expected));
            }
            parts.retain(|part| match part {
                Part::Embedding => true,
                Part::Layer(layer) => *layer < layers,
                Part::Output => false,
            });
        }
        Ok(Self { settings, dtype, streams, parts: parts.into_iter() })
    }

    /// Returns the number of examples, of all sources.
    pub fn examples(&self) -> usize {
        self.streams.iter().map(|stream| stream.examples).sum()
    }

    /// Returns the tokens of all examples.
    pub fn tokens(&self) -> usize {
        self.streams.iter().map(|stream| stream.ids.elem_count()).sum()
    }

    /// Returns the number of parts left, as progress counts them.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Solves the next part that has something to solve; `None` after the last. `base` is the
    /// origin of task vectors. With `whole`, the best weights without a scheme are put there.
    ///
    /// # Errors
    /// A system is not positive definite, the scheme fails, out of memory on the device, or
    /// [`Error::Interrupted`]. The variables of the part are then unchanged.
    pub fn next(
        &mut self,
        merge: &Merge,
        sources: &[Source],
        base: Option<&Source>,
        mut whole: Option<&mut FullWeights>,
    ) -> Result<Option<SolvedPart>> {
        for part in self.parts.by_ref() {
            let before = merge.variables.iter().map(|v| v.value.as_tensor().copy());
            let before = before.collect::<candle_core::Result<Vec<_>>>()?;
            let mut pass = Pass {
                settings: &self.settings,
                dtype: self.dtype,
                streams: &mut self.streams,
                merge,
                sources,
                base,
                whole: whole.as_deref_mut(),
                joint: BTreeSet::new(),
                survey: None,
                solved: Vec::new(),
            };
            if let Err(error) = pass.run(part) {
                for (variable, value) in merge.variables.iter().zip(before) {
                    variable.value.set(&value)?;
                }
                return Err(error);
            }
            if !pass.solved.is_empty() {
                let layer = if let Part::Layer(layer) = part { Some(layer) } else { None };
                return Ok(Some(SolvedPart { layer, tensors: pass.solved }));
            }
        }
        Ok(None)
    }
}
