//! Splits tokens into chunks when the logits of all of them would not fit into memory.

use std::ops::Range;

use candle_core::Device;

use crate::device::is_composed;

/// The size of the logits held in memory at once, in bytes, on the CPU and on other devices. Larger
/// chunks make the product with the output layer faster but need more memory.
const LOGITS_BYTES: [usize; 2] = [52 << 20, 256 << 20];

/// With fewer tokens per chunk, the product with the output layer is slow.
const FEWEST: usize = 64;

/// Splits `tokens` tokens into chunks of similar length whose logits over `vocabulary` are compared
/// one after the other on `device`.
pub fn chunks(
    tokens: usize,
    vocabulary: usize,
    device: &Device,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let bytes = LOGITS_BYTES[usize::from(is_composed(device))];
    let most = (bytes / (4 * vocabulary.max(1))).max(FEWEST);
    let count = tokens.div_ceil(most).max(1);
    (0..count)
        .map(move |i| i * tokens / count..(i + 1) * tokens / count)
        .filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_tokens_once_and_have_similar_lengths() {
        for (tokens, vocabulary) in
            [(1, 10), (256, 49152), (257, 49152), (70, 262_144), (4096, 151_936)]
        {
            let all: Vec<_> = chunks(tokens, vocabulary, &Device::Cpu).collect();
            assert_eq!(all.first().map(|r| r.start), Some(0));
            assert_eq!(all.last().map(|r| r.end), Some(tokens));
            assert!(
                all.windows(2)
                    .all(|w| w[0].end == w[1].start && w[0].len().abs_diff(w[1].len()) <= 1)
            );
        }
    }
}
