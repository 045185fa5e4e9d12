//! A hash that detects accidental changes, not forgery.

/// The bytes of a tensor that are hashed together: a fingerprint is made of hashes of such blocks.
pub(crate) const HASHED_BYTES: usize = 1 << 20;

/// One step of a hash that detects accidental changes, not forgery.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// A hash that detects accidental changes, not forgery.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = rest.iter().fold(bytes.len() as u64, |h, b| mix(h, u64::from(*b)));
    words.iter().fold(start, |h, word| mix(h, u64::from_le_bytes(*word)))
}
