//! One example: tokens, and where the answer begins.

/// A token sequence and the position where its answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The number of tokens before the answer; 0 if all of it is text to learn.
    pub prompt: usize,
}
