//! One pass of the merge and of every source over the same tokens, in step, layer by layer: the
//! weights of one layer of one model are in memory at a time.

use candle_core::Tensor;

use super::drift::Drift;
use super::halves::half_layer;
use super::subject::{Question, Subject, with_layer};
use crate::error::Result;
use crate::model::{Decoder, Half, Weights};

/// What one pass of every model showed. Boundary `2 l` of the residual stream is before layer `l`,
/// boundary `2 l + 1` between its attention and its MLP.
pub(super) struct Observed {
    /// The merge's residual stream at every boundary, tokens x hidden.
    pub merge: Vec<Tensor>,
    /// The same of the source to patch from.
    pub like: Vec<Tensor>,
    /// For the merge, then for each source: the stream of the last token at every boundary,
    /// (2 layers + 1) x hidden.
    pub last: Vec<Tensor>,
    /// The drift of the merge from each source.
    pub drifts: Vec<Drift>,
}

/// Runs the merge and its sources over the tokens of `question`. `after` is called with the index
/// of each layer.
///
/// # Errors
/// A missing weight, or [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn observe<W: Weights + ?Sized>(
    subject: &Subject<'_, W>,
    question: &Question<'_>,
    after: &mut dyn FnMut(usize),
) -> Result<Observed> {
    let a = subject.architecture;
    let (batch, positions) = subject.batch(question.ids, 1)?;
    let sources = 0..subject.sources.len();
    let mut now = vec![Decoder::new(a, subject.merge).embed(&batch.ids)?];
    for i in sources.clone() {
        now.push(
            Decoder::new(subject.sources[i].architecture()?, &subject.source(i))
                .embed(&batch.ids)?,
        );
    }
    let mut seen = Seen::new(question.like, &now)?;
    for layer in 0..a.layers {
        let mut halves: Vec<[Tensor; 2]> = Vec::with_capacity(now.len());
        let mut run = |x: &Tensor, held: &_| -> Result<()> {
            let decoder = Decoder::new(a, held);
            let middle = half_layer(&decoder, Half::Attention, layer, x, &positions)?;
            let end = half_layer(&decoder, Half::Mlp, layer, &middle, &positions)?;
            halves.push([middle, end]);
            Ok(())
        };
        with_layer(subject.merge, a, layer, |held| run(&now[0], held))?;
        for i in sources.clone() {
            with_layer(&subject.source(i), a, layer, |held| run(&now[i + 1], held))?;
        }
        let (middles, ends): (Vec<_>, Vec<_>) = halves.into_iter().map(<(_, _)>::from).unzip();
        seen.take(&middles)?;
        seen.take(&ends)?;
        seen.compare(&ends)?;
        now = ends;
        after(layer);
    }
    seen.finish(subject)
}

/// What was seen so far. Streams are given of all models, the merge first.
struct Seen {
    like: usize,
    kept: [Vec<Tensor>; 2],
    last: Vec<Vec<Tensor>>,
    drifts: Vec<Drift>,
}

impl Seen {
    fn new(like: usize, streams: &[Tensor]) -> Result<Self> {
        let mut seen = Self {
            like,
            kept: Default::default(),
            last: vec![Vec::new(); streams.len()],
            drifts: vec![Drift::default(); streams.len() - 1],
        };
        seen.take(streams)?;
        seen.compare(streams)?;
        Ok(seen)
    }

    /// Takes the streams at the next boundary.
    fn take(&mut self, streams: &[Tensor]) -> Result<()> {
        for (stream, last) in streams.iter().zip(&mut self.last) {
            last.push(stream.narrow(0, stream.dim(0)? - 1, 1)?.copy()?);
        }
        for (kept, at) in self.kept.iter_mut().zip([0, self.like + 1]) {
            kept.extend(streams.get(at).cloned());
        }
        Ok(())
    }

    /// Compares the streams at the next place.
    fn compare(&mut self, streams: &[Tensor]) -> Result<()> {
        let Some((merge, sources)) = streams.split_first() else { return Ok(()) };
        self.drifts.iter_mut().zip(sources).try_for_each(|(drift, own)| drift.push(merge, own))
    }

    fn finish<W: ?Sized>(self, subject: &Subject<'_, W>) -> Result<Observed> {
        let together = |rows: Vec<Tensor>| -> Result<Tensor> {
            let rows = rows.iter().map(|row| row.to_device(subject.device));
            Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
        };
        let last = self.last.into_iter().map(together).collect::<Result<_>>()?;
        let [merge, like] = self.kept;
        Ok(Observed { merge, like, last, drifts: self.drifts })
    }
}
