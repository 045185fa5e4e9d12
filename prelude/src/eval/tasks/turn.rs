//! A turn of the conversation that a context is made of.

/// What one side says.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    pub text: String,
    /// What follows in plain text.
    pub delimiter: String,
}

impl Turn {
    pub fn new(role: &'static str, text: impl Into<String>, delimiter: impl Into<String>) -> Self {
        Self { role, text: text.into(), delimiter: delimiter.into() }
    }
}
