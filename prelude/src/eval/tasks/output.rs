//! What a task asks of the model.

/// What a task asks of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    MultipleChoice,
    Generate,
    Likelihood,
    Rolling,
}

impl Output {
    /// All, by their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("multiple_choice", Self::MultipleChoice),
        ("generate_until", Self::Generate),
        ("loglikelihood", Self::Likelihood),
        ("loglikelihood_rolling", Self::Rolling),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, own)| *own == self).map_or("", |(name, _)| name)
    }
}
