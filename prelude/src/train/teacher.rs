//! Teachers: runs each source on its own data, once per example, and caches compact outputs: final
//! hidden states in the source's dtype, from which every step computes logits with the output
//! layer, or the top-k logits of every token.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, DType, Device, DeviceLocation, Tensor, Var};

use super::forecast::Forecast;
use crate::checkpoint::Source;
use crate::data::{Batch, Dataset};
use crate::device::{available_bytes, is_composed};
use crate::error::{Error, Result};
use crate::model::{Decoder, SourceWeights, Weights, capped, chunks};
use crate::objective::TeacherLogits;
use crate::ops::{ScaledSum, linear};

/// Cached outputs of all teachers. Outputs made with other settings are dropped.
#[derive(Default)]
pub struct Teachers {
    cached: BTreeMap<(String, usize), Cached>,
    /// The settings of the cache: maximum length, top-k, device and dtype.
    key: Option<(usize, usize, DeviceLocation, DType)>,
    /// Memory for the output layer of one teacher at a time.
    output: Option<Var>,
    /// The number of tokens run.
    tokens_run: u64,
}

#[derive(Clone)]
enum Cached {
    Hidden(Tensor),
    TopK { values: Tensor, indices: Tensor },
}

/// A teacher's outputs on the tokens of some examples.
pub struct Outputs {
    /// tokens x hidden, or tokens x k; on the device of the run.
    cached: Cached,
}

/// The settings of a teacher's run.
pub struct TeacherRun<'a> {
    /// The teacher.
    pub source: &'a Source,
    /// The teacher's data.
    pub data: &'a Dataset,
    /// The maximum number of tokens of an example.
    pub max_length: usize,
    /// Logits kept per token; 0: keep hidden states instead.
    pub top_k: usize,
    /// The device of the run; the cache is in main memory.
    pub device: &'a Device,
    /// The dtype of the run.
    pub dtype: DType,
}

impl TeacherRun<'_> {
    /// Returns the tokens of an example, truncated.
    pub fn tokens(&self, example: usize) -> &[u32] {
        let ids = &self.data.examples[example].ids;
        &ids[..ids.len().min(self.max_length)]
    }

    /// Masks `logits` (tokens x vocabulary) at tokens missing from the teacher's vocabulary, where
    /// nothing is compared: teacher and student both get the same very low logit.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn shared(&self, logits: Tensor) -> Result<Tensor> {
        const NONE: f32 = -1e4;
        let Some(numbering) = self.source.numbering().filter(|n| !n.missing_rows.is_empty()) else {
            return Ok(logits);
        };
        let mut lacks = vec![0u8; logits.dim(D::Minus1)?];
        for id in &numbering.missing_rows {
            lacks[*id as usize] = 1;
        }
        let lacks = Tensor::new(lacks, logits.device())?.broadcast_as(logits.shape())?;
        let none = Tensor::new(NONE, logits.device())?
            .to_dtype(logits.dtype())?
            .broadcast_as(logits.shape())?;
        Ok(lacks.where_cond(&none, &logits)?)
    }

    fn weights(&self) -> SourceWeights<'_> {
        SourceWeights { source: self.source, device: self.device, dtype: self.dtype }
    }
}

impl Teachers {
    /// Drops the cache of `name`, whose data changed.
    pub fn forget(&mut self, name: &str) {
        self.cached.retain(|(cached, _), _| cached != name);
    }

    /// Returns the number of tokens run by all teachers so far.
    pub fn tokens_run(&self) -> u64 {
        self.tokens_run
    }

    /// Returns the size of the cache in bytes.
    pub fn bytes(&self) -> usize {
        self.cached.values().map(Cached::bytes).sum()
    }

    /// Returns the teacher's outputs on `examples`. Missing ones are computed, and cached if there
    /// is room.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn outputs(&mut self, run: &TeacherRun<'_>, examples: &[usize]) -> Result<Outputs> {
        let key = (run.max_length, run.top_k, run.device.location(), run.dtype);
        if self.key != Some(key) {
            self.cached.clear();
            self.key = Some(key);
        }
        let name = run.source.name();
        let mut new: Vec<usize> = examples
            .iter()
            .copied()
            .filter(|e| !self.cached.contains_key(&(name.into(), *e)))
            .collect();
        new.sort_unstable();
        new.dedup();
        let mut passing = BTreeMap::new();
        if !new.is_empty() {
            let mut room = Forecast::teachers(available_bytes()).saturating_sub(self.bytes());
            let outputs = compute(run, &new)?;
            self.tokens_run += new.iter().map(|e| run.tokens(*e).len() as u64).sum::<u64>();
            for (example, cached) in new.iter().zip(outputs) {
                let bytes = cached.bytes();
                if bytes <= room {
                    room -= bytes;
                    self.cached.insert((name.into(), *example), cached);
                } else {
                    passing.insert(*example, cached);
                }
            }
        }
        let mut hidden = Vec::new();
        let mut values = Vec::new();
        let mut indices = Vec::new();
        for example in examples {
            match passing.get(example).or_else(|| self.cached.get(&(name.into(), *example))) {
                Some(Cached::Hidden(rows)) => hidden.push(rows),
                Some(Cached::TopK { values: largest, indices: places }) => {
                    values.push(largest);
                    indices.push(places);
                }
                None => {}
            }
        }
        let joined = |parts: &[&Tensor]| Tensor::cat(parts, 0)?.to_device(run.device);
        let cached = if run.top_k > 0 {
            Cached::TopK {
                values: joined(&values)?.to_dtype(run.dtype)?,
                indices: joined(&indices)?,
            }
        } else {
            Cached::Hidden(joined(&hidden)?.to_dtype(run.dtype)?)
        };
        Ok(Outputs { cached })
    }

    /// Returns the weight of the teacher's output layer, in memory shared with the next teacher;
    /// `None` if logits are cached.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn output_layer(&mut self, run: &TeacherRun<'_>) -> Result<Option<Tensor>> {
        if run.top_k > 0 {
            return Ok(None);
        }
        let name = run.source.architecture()?.output();
        if is_composed(run.device) {
            let of = SourceWeights { source: run.source, device: run.device, dtype: run.dtype };
            return Ok(Some(of.weight(name)?));
        }
        let view = run.source.view(name)?.clone();
        let columns = view.columns();
        let one = Tensor::ones((1, 1, 1), DType::F32, run.device)?;
        let alone = ScaledSum::mapped(vec![view], columns)?;
        let weight = alone.forward_in(&one, run.dtype, self.output.as_ref())?;
        self.output = Some(weight.clone());
        Ok(Some(weight.as_tensor().detach()))
    }
}

impl Outputs {
    /// Returns the teacher's logits on the tokens `rows`, computed with the weight from
    /// [`Teachers::output_layer`].
    ///
    /// # Errors
    /// Rows out of range.
    pub fn logits(
        &self,
        run: &TeacherRun<'_>,
        rows: Range<usize>,
        output: Option<&Tensor>,
    ) -> Result<TeacherLogits> {
        let chunk = |t: &Tensor| t.narrow(0, rows.start, rows.len())?.contiguous();
        Ok(match (&self.cached, output) {
            (Cached::Hidden(hidden), Some(output)) => {
                let logits = capped(run.source.architecture()?, linear(&chunk(hidden)?, output)?)?;
                TeacherLogits::Whole(run.shared(logits)?)
            }
            (Cached::TopK { values, indices }, _) => {
                TeacherLogits::TopK { values: chunk(values)?, indices: chunk(indices)? }
            }
            (Cached::Hidden(_), None) => {
                return Err(Error::NoMatch { pattern: "lm_head.weight".into() });
            }
        })
    }
}

impl Cached {
    fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        match self {
            Cached::Hidden(hidden) => size(hidden),
            Cached::TopK { values, indices } => size(values) + size(indices),
        }
    }
}

/// Runs the teacher on each example separately: cached outputs must not depend on the batch, or a
/// reopened session would differ in the last digits.
fn compute(run: &TeacherRun<'_>, examples: &[usize]) -> Result<Vec<Cached>> {
    let weights = run.weights();
    let decoder = Decoder::new(run.source.architecture()?, &weights);
    let batch = |example: &usize| Batch::new([run.tokens(*example)], run.device);
    let hidden = decoder.hidden_each(&examples.iter().map(batch).collect::<Result<Vec<_>>>()?)?;
    if run.top_k == 0 {
        let keep = |rows: Tensor| {
            Ok(Cached::Hidden(rows.to_dtype(run.source.dtype())?.to_device(&Device::Cpu)?))
        };
        return hidden.into_iter().map(keep).collect();
    }
    let vocabulary = run.source.architecture()?.vocabulary;
    let largest = |rows: Tensor| {
        let logits = run.shared(decoder.logits(&rows)?)?;
        let k = run.top_k.min(logits.dim(D::Minus1)?);
        let (sorted, order) = logits.to_device(&Device::Cpu)?.sort_last_dim(false)?;
        let first = |t: Tensor| t.narrow(D::Minus1, 0, k)?.contiguous();
        Ok((first(sorted)?.to_dtype(DType::F32)?, first(order)?))
    };
    let keep = |rows: Tensor| {
        let chunks = chunks(rows.dim(0)?, vocabulary, run.device);
        let parts = chunks.map(|chunk| largest(rows.narrow(0, chunk.start, chunk.len())?));
        let (values, indices): (Vec<_>, Vec<_>) =
            parts.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Cached::TopK { values: Tensor::cat(&values, 0)?, indices: Tensor::cat(&indices, 0)? })
    };
    hidden.into_iter().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outputs in f32 differ from those in bf16.
    #[test]
    fn outputs_are_cached_per_dtype() {
        let source = Source::open("builtin:math").unwrap();
        let data = Dataset::read("builtin:math", &source).unwrap();
        let run = |dtype| TeacherRun {
            source: &source,
            data: &data,
            max_length: 64,
            top_k: 8,
            device: &Device::Cpu,
            dtype,
        };
        let mut teachers = Teachers::default();
        let tokens = run(DType::F32).tokens(0).len() as u64;
        for (dtype, times) in [(DType::F32, 1), (DType::F32, 1), (DType::BF16, 2), (DType::F32, 3)]
        {
            teachers.outputs(&run(dtype), &[0]).unwrap();
            assert_eq!(teachers.tokens_run(), times * tokens, "{dtype:?}");
        }
    }
}
