//! Greedy generation with a key-value cache, token by token.

use candle_core::{D, DType, Device, Tensor};

use crate::checkpoint::Architecture;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Cache, Decoder, Weights};
use crate::ops::HIDDEN;

/// Runs `work` on a thread of rayon's pool if it computes on the CPU. The hundreds of small
/// operations of a token are then begun there, where each wakes the other threads only, and not the
/// caller too.
pub(super) fn in_pool<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    if device.is_cpu() { rayon::scope(|_| work()) } else { work() }
}

/// Greedy decoding after a prompt, one token at a time. Ends at an end token (not returned), at the
/// model's last position, or at an interrupt.
///
/// ```
/// use dam_prelude::candle_core::{DType, Device};
/// use dam_prelude::{checkpoint::Source, eval::Generation, model::SourceWeights};
///
/// let source = Source::open("builtin:math")?;
/// let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 };
/// let text = "<|user|>What is 12 plus 7?<|end|><|assistant|>";
/// let prompt = source.tokenizer().unwrap().encode(text, false).unwrap();
/// let generation = Generation::new(source.architecture()?, &weights, prompt.get_ids(), &Device::Cpu);
/// let answer = generation.take(64).collect::<dam_prelude::Result<Vec<u32>>>()?;
/// assert_eq!(source.tokenizer().unwrap().decode(&answer, true).unwrap(), "12 + 7 = 19");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
pub struct Generation<'a, W: Weights + Sync + ?Sized> {
    architecture: &'a Architecture,
    decoder: Decoder<'a, W>,
    device: &'a Device,
    cache: Cache,
    /// Tokens to run next; empty when generation has ended.
    next: Option<Vec<u32>>,
    /// The number of tokens so far, prompt included.
    length: usize,
    /// Added to logits: minus infinity for excluded tokens.
    mask: Option<Tensor>,
}

impl<'a, W: Weights + Sync + ?Sized> Generation<'a, W> {
    /// Starts after `prompt`, which has at least one token.
    pub fn new(
        architecture: &'a Architecture,
        weights: &'a W,
        prompt: &[u32],
        device: &'a Device,
    ) -> Self {
        let decoder = Decoder::new(architecture, weights);
        Self {
            architecture,
            decoder,
            device,
            cache: Cache::default(),
            next: Some(prompt.to_vec()),
            length: prompt.len(),
            mask: None,
        }
    }

    /// Excludes the tokens `lacking`, which the source does not have.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn without(mut self, lacking: &[u32]) -> Result<Self> {
        if !lacking.is_empty() {
            let mut mask = vec![0f32; self.architecture.vocabulary];
            for id in lacking {
                if let Some(place) = mask.get_mut(*id as usize) {
                    *place = HIDDEN;
                }
            }
            self.mask = Some(Tensor::new(mask, self.device)?.unsqueeze(0)?);
        }
        Ok(self)
    }

    /// Runs `ids` after the cached tokens and returns the most likely next token.
    fn likeliest(&mut self, ids: Vec<u32>) -> Result<u32> {
        let count = [ids.len()];
        let cache = std::slice::from_mut(&mut self.cache);
        let hidden = self.decoder.hidden_cached(&Tensor::new(ids, self.device)?, &count, cache)?;
        let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
        let mut logits = self.decoder.logits(&last)?;
        if let Some(mask) = &self.mask {
            logits = (logits.to_dtype(DType::F32)? + mask)?;
        }
        Ok(logits.argmax(D::Minus1)?.flatten_all()?.to_vec1::<u32>()?[0])
    }
}

impl<W: Weights + Sync + ?Sized> Iterator for Generation<'_, W> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        let ids = self
            .next
            .take()
            .filter(|_| !interrupt::requested() && self.length < self.architecture.max_positions)?;
        let device = self.device;
        let token = match in_pool(device, || self.likeliest(ids)) {
            Ok(token) => token,
            // An interrupted token is discarded.
            Err(Error::Interrupted) => return None,
            Err(error) => return Some(Err(error)),
        };
        if self.architecture.eos.contains(&token) {
            return None;
        }
        self.next = Some(vec![token]);
        self.length += 1;
        Some(Ok(token))
    }
}

/// Generates greedily after `prompt`, up to `limit` tokens or an end token, which is not returned.
/// If interrupted, returns the tokens so far.
///
/// # Errors
/// An empty prompt, or ids outside the vocabulary.
pub fn generate<W: Weights + Sync + ?Sized>(
    architecture: &Architecture,
    weights: &W,
    prompt: &[u32],
    limit: usize,
    device: &Device,
) -> Result<Vec<u32>> {
    Generation::new(architecture, weights, prompt, device).take(limit).collect()
}
