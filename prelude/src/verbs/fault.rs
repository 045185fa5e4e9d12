//! What is wrong with an argument, and whether it may go away as more is typed.

use crate::error::Error;

/// What is wrong with an argument.
pub struct Fault {
    pub error: Box<Error>,
    /// The part that is wrong.
    typed: String,
    /// What that part could be the start of.
    known: Vec<String>,
}

impl Fault {
    pub fn new(error: Error, typed: &str) -> Self {
        Self { error: Box::new(error), typed: typed.into(), known: Vec::new() }
    }

    /// The same, of a part that may become one of `known`.
    pub fn before(mut self, known: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.known.extend(known.into_iter().map(Into::into));
        self
    }

    /// The fault of a value that may become one of `words`, or a number, as `1e` becomes `1e-3`.
    pub fn number(error: Error, typed: &str, words: &[&str]) -> Self {
        let is_number = typed.chars().all(|c| c.is_ascii_digit() || "+-.eE,".contains(c));
        Self::new(error, typed).before(words.iter().copied().chain(is_number.then_some(typed)))
    }

    /// Whether it may go away as more is typed.
    pub fn may_pass(&self) -> bool {
        self.known.iter().any(|known| known.starts_with(&self.typed))
    }
}
