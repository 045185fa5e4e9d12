//! What a write produced: where it is, what was copied beside it, and what an adapter keeps.

use std::fmt;
use std::path::PathBuf;

/// What a write produced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// How many files.
    pub files: usize,
    /// Their size together.
    pub bytes: u64,
    /// Files beside the weights that were copied from sources, of a checkpoint.
    pub copied: Vec<String>,
    /// Files of sources that were not copied, each with why.
    pub left_out: Vec<String>,
    /// What a reader should know of it.
    pub notes: Vec<String>,
    /// What it keeps of the merge, where it is an adapter.
    pub kept: Option<Kept>,
}

/// What an adapter of limited rank keeps of a merge's difference to its base. Shares are of the Frobenius norm,
/// `sqrt(1 - |D - BA|^2 / |D|^2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The largest rank of its factors.
    pub rank: usize,
    /// The share over all tensors, those that are kept whole included.
    pub share: f64,
    /// Tensors with factors: name, rank and share.
    pub tensors: Vec<(String, usize, f64)>,
}

impl Kept {
    /// The tensor that keeps least of its difference, and its share.
    pub fn least(&self) -> Option<(&str, f64)> {
        let least = self.tensors.iter().min_by(|a, b| a.2.total_cmp(&b.2));
        least.map(|(name, _, share)| (name.as_str(), *share))
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not rounded up: only what is exact is 100%.
        let percent = |share: f64| match share > 1.0 - 1e-8 {
            true => "100%".to_owned(),
            false => format!("{:.2}%", (share * 1e4).floor() / 100.0),
        };
        write!(f, "rank {} keeps {} of the norm of the merge's difference to its base", self.rank, percent(self.share))?;
        match self.least().filter(|(_, share)| percent(*share) != percent(self.share)) {
            Some((name, share)) => write!(f, "; least at `{name}`, {}", percent(share)),
            None => Ok(()),
        }
    }
}
