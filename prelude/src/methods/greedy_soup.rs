//! Greedy soup: tries sources in the order of their own scores, and adds each to the average if the
//! score does not drop.
//!
//! Wortsman et al. (Model Soups), arXiv 2203.05482, recipe 1.

use crate::error::Result;

/// The name of the greedy soup. It is not a [`Method`](super::Method) but a choice of sources.
pub const GREEDY_SOUP: &str = "greedy_soup";

/// Selects which of `count` sources to average and returns their indices in order. `score` rates
/// the average of some of them; higher is better.
///
/// ```
/// // The second is best; the third lowers the score, and the first does not.
/// let score = |chosen: &[usize]| Ok(if chosen.contains(&2) { 0.1 } else if chosen.contains(&1) { 0.9 } else { 0.5 });
/// assert_eq!(dam_prelude::methods::greedy_soup(3, score)?, [0, 1]);
/// // A source whose score is NaN is left out.
/// let score = |chosen: &[usize]| Ok(if chosen.contains(&0) { f64::NAN } else { 0.5 });
/// assert_eq!(dam_prelude::methods::greedy_soup(3, score)?, [1, 2]);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
///
/// # Errors
/// An error of `score`.
pub fn greedy_soup(
    count: usize,
    mut score: impl FnMut(&[usize]) -> Result<f64>,
) -> Result<Vec<usize>> {
    // NaN counts as the worst score.
    let mut score = |chosen: &[usize]| -> Result<f64> {
        let score = score(chosen)?;
        Ok(if score.is_nan() { f64::NEG_INFINITY } else { score })
    };
    let mut alone = (0..count).map(|i| Ok((i, score(&[i])?))).collect::<Result<Vec<_>>>()?;
    // Ties stay in load order.
    alone.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut chosen = Vec::new();
    let mut best = f64::NEG_INFINITY;
    for (i, own) in alone {
        let mut with: Vec<usize> = chosen.iter().copied().chain([i]).collect();
        with.sort_unstable();
        let reached = if chosen.is_empty() { own } else { score(&with)? };
        if reached >= best {
            chosen = with;
            best = reached;
        }
    }
    Ok(chosen)
}
