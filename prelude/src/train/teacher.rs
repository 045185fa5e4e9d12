//! What each source says of its own data, computed once an example and kept small: final hidden
//! states in the source's dtype, to which its output layer is applied again at every step, or the
//! top-k logits of every token.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Tensor};

use crate::checkpoint::Source;
use crate::data::{Batch, Dataset};
use crate::error::Result;
use crate::model::{Decoder, SourceWeights};
use crate::objective::TeacherLogits;
use crate::ops::linear;

/// Kept teachers' answers. Those made under other settings are dropped.
#[derive(Default)]
pub struct Teachers {
    kept: BTreeMap<(String, usize), Kept>,
    key: Option<(usize, usize)>,
}

enum Kept {
    Hidden(Tensor),
    TopK { values: Tensor, indices: Tensor },
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
    fn cut(&self, example: usize) -> &[u32] {
        let ids = &self.data.examples[example].ids;
        &ids[..ids.len().min(self.max_length)]
    }

    /// The batch of `examples`.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn batch(&self, examples: &[usize]) -> Result<Batch> {
        let sequences: Vec<&[u32]> = examples.iter().map(|e| self.cut(*e)).collect();
        Batch::new(&sequences, self.device)
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

    /// The bytes kept.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.kept
            .values()
            .map(|kept| match kept {
                Kept::Hidden(hidden) => size(hidden),
                Kept::TopK { values, indices } => size(values) + size(indices),
            })
            .sum()
    }

    /// The teacher's logits on the unmasked tokens of `examples`; examples not met before are run.
    ///
    /// # Errors
    /// A device that has no room.
    pub fn logits(&mut self, lesson: &Lesson<'_>, examples: &[usize]) -> Result<TeacherLogits> {
        let key = (lesson.max_length, lesson.top_k);
        if self.key != Some(key) {
            self.kept.clear();
            self.key = Some(key);
        }
        let name = lesson.source.name();
        let mut new: Vec<usize> = examples.iter().copied().filter(|e| !self.kept.contains_key(&(name.into(), *e))).collect();
        new.sort_unstable();
        new.dedup();
        if !new.is_empty() {
            for (example, kept) in new.iter().zip(run(lesson, &new)?) {
                self.kept.insert((name.into(), *example), kept);
            }
        }
        let kept: Vec<&Kept> = examples.iter().filter_map(|e| self.kept.get(&(name.into(), *e))).collect();
        let joined = |part: fn(&Kept) -> Option<&Tensor>| -> Result<Tensor> {
            let parts: Vec<&Tensor> = kept.iter().filter_map(|k| part(k)).collect();
            Ok(Tensor::cat(&parts, 0)?.to_device(lesson.device)?)
        };
        if lesson.top_k > 0 {
            let values = joined(|k| if let Kept::TopK { values, .. } = k { Some(values) } else { None })?;
            let indices = joined(|k| if let Kept::TopK { indices, .. } = k { Some(indices) } else { None })?;
            return Ok(TeacherLogits::TopK { values: values.to_dtype(lesson.dtype)?, indices });
        }
        let hidden = joined(|k| if let Kept::Hidden(hidden) = k { Some(hidden) } else { None })?;
        let weights = lesson.weights();
        let logits = Decoder::new(lesson.source.architecture()?, &weights).logits(&hidden.to_dtype(lesson.dtype)?)?;
        Ok(TeacherLogits::Whole(logits))
    }
}

/// Runs the source on each of `examples` by itself: what is kept must not depend on which examples came
/// together, or a session opened again would go on differently in the last digits.
fn run(lesson: &Lesson<'_>, examples: &[usize]) -> Result<Vec<Kept>> {
    let weights = lesson.weights();
    let decoder = Decoder::new(lesson.source.architecture()?, &weights);
    let ids = |example: &usize| Ok(Tensor::new(lesson.cut(*example), lesson.device)?.unsqueeze(0)?);
    let hidden = decoder.hidden_each(&examples.iter().map(ids).collect::<Result<Vec<_>>>()?)?;
    let hidden = hidden.into_iter().map(|h| Ok(h.squeeze(0)?)).collect::<Result<Vec<Tensor>>>()?;
    if lesson.top_k == 0 {
        let keep = |rows: Tensor| Ok(Kept::Hidden(rows.to_dtype(lesson.source.dtype())?.to_device(&Device::Cpu)?));
        return hidden.into_iter().map(keep).collect();
    }
    let output = decoder.output()?;
    let keep = |rows: Tensor| {
        let logits = linear(&rows, &output)?;
        let k = lesson.top_k.min(logits.dim(D::Minus1)?);
        let (sorted, order) = logits.to_device(&Device::Cpu)?.sort_last_dim(false)?;
        let first = |t: Tensor| t.narrow(D::Minus1, 0, k)?.contiguous();
        Ok(Kept::TopK { values: first(sorted)?.to_dtype(DType::F32)?, indices: first(order)? })
    };
    hidden.into_iter().map(keep).collect()
}
