//! Tokens in runs, where the logits of all of them would be too many to have at once.

use std::ops::Range;

/// Logits of a run of tokens that are in memory at once, in bytes: products with the output layer are faster the more
/// tokens there are, and memory is what they take.
const LOGITS_BYTES: usize = 52 << 20;

/// Fewer tokens than this make the product with the output layer slow.
const FEWEST: usize = 64;

/// The runs of `tokens` tokens whose logits over `vocabulary` are compared at a time, of like length.
pub fn runs(tokens: usize, vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
    let most = (LOGITS_BYTES / (4 * vocabulary.max(1))).max(FEWEST);
    let count = tokens.div_ceil(most).max(1);
    (0..count).map(move |i| i * tokens / count..(i + 1) * tokens / count).filter(|run| !run.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_tokens_once_and_are_of_like_length() {
        for (tokens, vocabulary) in [(1, 10), (256, 49152), (257, 49152), (70, 262_144), (4096, 151_936)] {
            let all: Vec<_> = runs(tokens, vocabulary).collect();
            assert_eq!(all.first().map(|r| r.start), Some(0));
            assert_eq!(all.last().map(|r| r.end), Some(tokens));
            assert!(all.windows(2).all(|w| w[0].end == w[1].start && w[0].len().abs_diff(w[1].len()) <= 1));
        }
    }
}
