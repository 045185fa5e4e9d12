//! What each source says of its own data, computed once an example and kept small: final hidden
//! states in the source's dtype, to which its output layer is applied again at every step, or the
//! top-k logits of every token.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{D, DType, Device, DeviceLocation, Tensor, Var};

use super::forecast::{Forecast, available_bytes};
use crate::checkpoint::Source;
use crate::data::{Batch, Dataset};
use crate::error::{Error, Result};
use crate::model::{Decoder, SourceWeights, capped};
use crate::objective::TeacherLogits;
use crate::ops::{ScaledSum, linear};

/// Kept teachers' answers. Those made under other settings are dropped.
#[derive(Default)]
pub struct Teachers {
    kept: BTreeMap<(String, usize), Kept>,
    /// Tokens at which examples are cut, logits kept per token, and what they ran on and in.
    key: Option<(usize, usize, DeviceLocation, DType)>,
    /// Memory for a teacher's output layer, in which they take turns.
    output: Option<Var>,
    /// Tokens run.
    ran: u64,
}

#[derive(Clone)]
enum Kept {
    Hidden(Tensor),
    TopK { values: Tensor, indices: Tensor },
}

/// A teacher's answers on the tokens of some examples.
pub struct Answers {
    /// tokens x hidden, or tokens x k; where the lesson runs.
    kept: Kept,
}

/// What a teacher is run with.
pub struct Lesson<'a> {
    /// The teacher.
    pub source: &'a Source,
    /// Its data.
    pub data: &'a Dataset,
    /// Tokens at which an example is cut.
    pub max_length: usize,
    /// Logits kept per token; 0: hidden states instead.
    pub top_k: usize,
    /// Where it runs; what is kept is in main memory.
    pub device: &'a Device,
    /// What it runs in.
    pub dtype: DType,
}

impl Lesson<'_> {
    /// The tokens of an example, cut.
    pub fn tokens(&self, example: usize) -> &[u32] {
        let ids = &self.data.examples[example].ids;
        &ids[..ids.len().min(self.max_length)]
    }

    /// `logits` (tokens x vocabulary) without those of tokens that the teacher lacks: where it has no opinion,
    /// nothing is compared. Both sides are given the same logit there, which is as good as none.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn shared(&self, logits: Tensor) -> Result<Tensor> {
        const NONE: f32 = -1e4;
        let Some(numbering) = self.source.numbering().filter(|n| !n.missing_rows.is_empty()) else { return Ok(logits) };
        let mut lacks = vec![0u8; logits.dim(D::Minus1)?];
        for id in &numbering.missing_rows {
            lacks[*id as usize] = 1;
        }
        let lacks = Tensor::new(lacks, logits.device())?.broadcast_as(logits.shape())?;
        let none = Tensor::new(NONE, logits.device())?.to_dtype(logits.dtype())?.broadcast_as(logits.shape())?;
        Ok(lacks.where_cond(&none, &logits)?)
    }

    fn weights(&self) -> SourceWeights<'_> {
        SourceWeights { source: self.source, device: self.device, dtype: self.dtype }
    }
}

impl Teachers {
    /// Forgets what was kept for `name`, whose data changed.
    pub fn forget(&mut self, name: &str) {
        self.kept.retain(|(kept, _), _| kept != name);
    }

    /// Tokens run so far, of all teachers.
    pub fn ran(&self) -> u64 {
        self.ran
    }

    /// The bytes kept.
    pub fn bytes(&self) -> usize {
        self.kept.values().map(Kept::bytes).sum()
    }

    /// The teacher's answers on `examples`; those not met before are run, and kept while there is room.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn answers(&mut self, lesson: &Lesson<'_>, examples: &[usize]) -> Result<Answers> {
        let key = (lesson.max_length, lesson.top_k, lesson.device.location(), lesson.dtype);
        if self.key != Some(key) {
            self.kept.clear();
            self.key = Some(key);
        }
        let name = lesson.source.name();
        let mut new: Vec<usize> = examples.iter().copied().filter(|e| !self.kept.contains_key(&(name.into(), *e))).collect();
        new.sort_unstable();
        new.dedup();
        let mut passing = BTreeMap::new();
        if !new.is_empty() {
            let mut room = Forecast::teachers(available_bytes()).saturating_sub(self.bytes());
            let answers = run(lesson, &new)?;
            self.ran += new.iter().map(|e| lesson.tokens(*e).len() as u64).sum::<u64>();
            for (example, kept) in new.iter().zip(answers) {
                let bytes = kept.bytes();
                if bytes <= room {
                    room -= bytes;
                    self.kept.insert((name.into(), *example), kept);
                } else {
                    passing.insert(*example, kept);
                }
            }
        }
        let kept: Vec<&Kept> =
            examples.iter().filter_map(|e| passing.get(e).or_else(|| self.kept.get(&(name.into(), *e)))).collect();
        let joined = |part: fn(&Kept) -> Option<&Tensor>| -> Result<Tensor> {
            let parts: Vec<&Tensor> = kept.iter().filter_map(|k| part(k)).collect();
            Ok(Tensor::cat(&parts, 0)?.to_device(lesson.device)?)
        };
        let kept = if lesson.top_k > 0 {
            Kept::TopK {
                values: joined(|k| if let Kept::TopK { values, .. } = k { Some(values) } else { None })?
                    .to_dtype(lesson.dtype)?,
                indices: joined(|k| if let Kept::TopK { indices, .. } = k { Some(indices) } else { None })?,
            }
        } else {
            Kept::Hidden(joined(|k| if let Kept::Hidden(hidden) = k { Some(hidden) } else { None })?.to_dtype(lesson.dtype)?)
        };
        Ok(Answers { kept })
    }

    /// The weight of the lesson's output layer, in memory that the next teacher's takes over; none where
    /// answers are logits already.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn output(&mut self, lesson: &Lesson<'_>) -> Result<Option<Tensor>> {
        if lesson.top_k > 0 {
            return Ok(None);
        }
        let view = lesson.source.view(lesson.source.architecture()?.output())?.clone();
        let columns = view.columns();
        let one = Tensor::ones((1, 1, 1), DType::F32, lesson.device)?;
        let alone = ScaledSum::new(vec![view], columns, lesson.device)?;
        let weight = alone.forward_in(&one, lesson.dtype, self.output.as_ref())?;
        self.output = Some(weight.clone());
        Ok(Some(weight.as_tensor().detach()))
    }
}

impl Answers {
    /// The teacher's logits on the tokens `rows`, through the weight that [`Teachers::output`] gave.
    ///
    /// # Errors
    /// Rows beyond the last.
    pub fn logits(&self, lesson: &Lesson<'_>, rows: Range<usize>, output: Option<&Tensor>) -> Result<TeacherLogits> {
        let run = |t: &Tensor| t.narrow(0, rows.start, rows.len())?.contiguous();
        Ok(match (&self.kept, output) {
            (Kept::Hidden(hidden), Some(output)) => {
                let logits = capped(lesson.source.architecture()?, linear(&run(hidden)?, output)?)?;
                TeacherLogits::Whole(lesson.shared(logits)?)
            }
            (Kept::TopK { values, indices }, _) => TeacherLogits::TopK { values: run(values)?, indices: run(indices)? },
            (Kept::Hidden(_), None) => return Err(Error::NoMatch { pattern: "lm_head.weight".into() }),
        })
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        match self {
            Kept::Hidden(hidden) => size(hidden),
            Kept::TopK { values, indices } => size(values) + size(indices),
        }
    }
}

/// Runs the source on each of `examples` by itself: what is kept must not depend on which examples came
/// together, or a session opened again would go on differently in the last digits.
fn run(lesson: &Lesson<'_>, examples: &[usize]) -> Result<Vec<Kept>> {
    let weights = lesson.weights();
    let decoder = Decoder::new(lesson.source.architecture()?, &weights);
    let batch = |example: &usize| Batch::new([lesson.tokens(*example)], lesson.device);
    let hidden = decoder.hidden_each(&examples.iter().map(batch).collect::<Result<Vec<_>>>()?)?;
    if lesson.top_k == 0 {
        let keep = |rows: Tensor| Ok(Kept::Hidden(rows.to_dtype(lesson.source.dtype())?.to_device(&Device::Cpu)?));
        return hidden.into_iter().map(keep).collect();
    }
    let keep = |rows: Tensor| {
        let logits = lesson.shared(decoder.logits(&rows)?)?;
        let k = lesson.top_k.min(logits.dim(D::Minus1)?);
        let (sorted, order) = logits.to_device(&Device::Cpu)?.sort_last_dim(false)?;
        let first = |t: Tensor| t.narrow(D::Minus1, 0, k)?.contiguous();
        Ok(Kept::TopK { values: first(sorted)?.to_dtype(DType::F32)?, indices: first(order)? })
    };
    hidden.into_iter().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was computed in f32 is not what is computed in bf16.
    #[test]
    fn answers_are_kept_for_one_dtype() {
        let source = Source::open("builtin:math").unwrap();
        let data = Dataset::read("builtin:math", &source).unwrap();
        let lesson = |dtype| Lesson { source: &source, data: &data, max_length: 64, top_k: 8, device: &Device::Cpu, dtype };
        let (mut teachers, tokens) = (Teachers::default(), lesson(DType::F32).tokens(0).len() as u64);
        for (dtype, times) in [(DType::F32, 1), (DType::F32, 1), (DType::BF16, 2), (DType::F32, 3)] {
            teachers.answers(&lesson(dtype), &[0]).unwrap();
            assert_eq!(teachers.ran(), times * tokens, "{dtype:?}");
        }
    }
}
