//! The result of a write: its path, copied files, and what an adapter retains.

use std::fmt;
use std::path::PathBuf;

/// The result of a write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The absolute path.
    pub path: PathBuf,
    /// The number of files.
    pub files: usize,
    /// Their total size in bytes.
    pub bytes: u64,
    /// Side files that were copied from sources.
    pub copied: Vec<String>,
    /// Side files that were not copied, with reasons.
    pub left_out: Vec<String>,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// For an adapter, what it retains of the merge.
    pub retained: Option<RetainedShare>,
}

/// How much an adapter of limited rank retains of the difference between a merge and its base.
/// Shares are of the Frobenius norm, `sqrt(1 - |D - BA|^2 / |D|^2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedShare {
    /// The largest rank of its factors.
    pub rank: usize,
    /// The share over all tensors, including those stored in full.
    pub share: f64,
    /// Tensors with factors: name, rank and share.
    pub tensors: Vec<(String, usize, f64)>,
}

impl RetainedShare {
    /// The tensor with the lowest share, and that share.
    pub fn lowest(&self) -> Option<(&str, f64)> {
        let least = self.tensors.iter().min_by(|a, b| a.2.total_cmp(&b.2));
        least.map(|(name, _, share)| (name.as_str(), *share))
    }
}

impl fmt::Display for RetainedShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded down: only an exact result is shown as 100%.
        let percent = |share: f64| {
            if share > 1.0 - 1e-8 {
                "100%".to_owned()
            } else {
                format!("{:.2}%", (share * 1e4).floor() / 100.0)
            }
        };
        write!(
            f,
            "rank {} retains {} of the norm of the difference between merge and base",
            self.rank,
            percent(self.share)
        )?;
        match self.lowest().filter(|(_, share)| percent(*share) != percent(self.share)) {
            Some((name, share)) => write!(f, "; lowest at `{name}`, {}", percent(share)),
            None => Ok(()),
        }
    }
}
