//! The data of a sweep: batches of examples with the hidden states of the merge so far and of the
//! source that they belong to.
//!
//! In memory are, per token and for each of both, the residual stream and the input of the current
//! step; everything within a layer is in memory for one batch at a time.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::checkpoint::{Architecture, Source};
use crate::data::{Batch, Dataset};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Decoder, Positions, SourceWeights, Weights};

use super::settings::SolveSettings;

/// The tokens of a batch: enough for fast products, few enough for the activations of a layer.
pub(super) const BATCH_TOKENS: usize = 4096;

/// Some examples of one source.
pub(super) struct Stream {
    /// The index of the source.
    pub source: usize,
    /// `1 / sqrt(n)`, with the tokens `n` of all examples of the source.
    pub weight: f64,
    /// The number of examples.
    pub examples: usize,
    /// The tokens, u32.
    pub ids: Tensor,
    pub positions: Positions,
    /// In the merge so far.
    pub merged: State,
    /// In the source.
    pub own: State,
}

/// Hidden states, tokens x width.
#[derive(Clone)]
pub(super) struct State {
    /// The residual stream.
    pub x: Tensor,
    /// The input of the current step.
    pub input: Tensor,
}

/// Returns the streams of the first examples of every source's data.
///
/// # Errors
/// A source other than the base has no data.
pub(super) fn streams(
    sources: &[Source],
    data: impl Fn(&str) -> Option<(usize, Vec<Vec<u32>>)>,
    a: &Architecture,
    device: &Device,
    optional: &str,
) -> Result<Vec<Stream>> {
    let mut streams = Vec::new();
    for (source, opened) in sources.iter().enumerate() {
        let Some((tokens, examples)) = data(opened.name()) else {
            if opened.name() == optional {
                continue;
            }
            return Err(Error::NoData { source_name: opened.name().into() });
        };
        let mut rest = examples.as_slice();
        while !rest.is_empty() {
            let mut sum = 0;
            let count = rest.iter().take_while(|ids| {
                sum += ids.len();
                sum <= BATCH_TOKENS
            });
            let (now, later) = rest.split_at(count.count().max(1));
            rest = later;
            let batch = Batch::new(now.iter().map(Vec::as_slice), device)?;
            let none = State { x: batch.ids.clone(), input: batch.ids.clone() };
            streams.push(Stream {
                source,
                weight: (tokens as f64).sqrt().recip(),
                examples: batch.lengths.len(),
                positions: Positions::new(a, &batch),
                ids: batch.ids,
                merged: none.clone(),
                own: none,
            });
        }
    }
    Ok(streams)
}

/// Returns the tokens of the first examples of `data`, and their number.
pub(super) fn first(
    data: &Dataset,
    settings: &SolveSettings,
    max_length: usize,
) -> (usize, Vec<Vec<u32>>) {
    let cut = |ids: &[u32]| ids[..ids.len().min(max_length)].to_vec();
    let examples = data.examples.iter().take(settings.examples).map(|e| cut(&e.ids));
    let examples: Vec<Vec<u32>> = examples.filter(|ids| !ids.is_empty()).collect();
    (examples.iter().map(Vec::len).sum(), examples)
}

/// Applies `step` to the states of every source in its own weights `names`, if `own`, and to those
/// of the merge in `weights`.
///
/// # Errors
/// A missing weight, or [`Error::Interrupted`].
pub(super) fn advance(
    streams: &mut [Stream],
    a: &Architecture,
    names: &[String],
    own: Option<(&[Source], &Device, DType)>,
    merged: Option<&BTreeMap<String, Tensor>>,
    step: impl Fn(&Decoder<'_, BTreeMap<String, Tensor>>, &Stream, &State) -> Result<State>,
) -> Result<()> {
    if let Some((sources, device, dtype)) = own {
        let has_data = |(i, _): &(usize, &Source)| streams.iter().any(|s| s.source == *i);
        let sources: Vec<(usize, &Source)> = sources.iter().enumerate().filter(has_data).collect();
        for (i, source) in sources {
            let of = SourceWeights { source, device, dtype };
            let weights = names.iter().map(|name| Ok((name.clone(), of.weight(name)?)));
            let weights = weights.collect::<Result<BTreeMap<_, _>>>()?;
            let decoder = Decoder::new(a, &weights);
            for stream in streams.iter_mut().filter(|stream| stream.source == i) {
                interrupt::check()?;
                stream.own = step(&decoder, stream, &stream.own)?;
            }
        }
    }
    if let Some(weights) = merged {
        let decoder = Decoder::new(a, weights);
        for stream in streams.iter_mut() {
            interrupt::check()?;
            stream.merged = step(&decoder, stream, &stream.merged)?;
        }
    }
    Ok(())
}
