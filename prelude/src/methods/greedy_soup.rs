//! Greedy soup: sources in the order of how well they do alone; each is averaged in with those before it if the
//! held-out score does not drop.
//!
//! Wortsman et al. (Model Soups), arXiv 2203.05482, recipe 1.

use crate::error::Result;

/// What a greedy soup is called; it is no [`Method`](super::Method) of its own but a choice of sources.
pub const GREEDY_SOUP: &str = "greedy_soup";

/// Which of `count` sources to average, in their order. `score` says how well the average of some of them does,
/// the higher the better.
///
/// ```
/// // The second is best; the third spoils it, the first does no harm.
/// let score = |chosen: &[usize]| Ok(if chosen.contains(&2) { 0.1 } else if chosen.contains(&1) { 0.9 } else { 0.5 });
/// assert_eq!(dam_prelude::methods::greedy_soup(3, score)?, [0, 1]);
/// // One that has no score is left out.
/// let score = |chosen: &[usize]| Ok(if chosen.contains(&0) { f64::NAN } else { 0.5 });
/// assert_eq!(dam_prelude::methods::greedy_soup(3, score)?, [1, 2]);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
///
/// # Errors
/// Those of `score`.
pub fn greedy_soup(count: usize, mut score: impl FnMut(&[usize]) -> Result<f64>) -> Result<Vec<usize>> {
    // What has no score does worst.
    let mut score = |chosen: &[usize]| -> Result<f64> {
        let score = score(chosen)?;
        Ok(if score.is_nan() { f64::NEG_INFINITY } else { score })
    };
    let mut alone = (0..count).map(|i| Ok((i, score(&[i])?))).collect::<Result<Vec<_>>>()?;
    // Equals stay in the order of loading.
    alone.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let (mut chosen, mut best) = (Vec::new(), f64::NEG_INFINITY);
    for (i, own) in alone {
        let mut with: Vec<usize> = chosen.iter().copied().chain([i]).collect();
        with.sort_unstable();
        let reached = if chosen.is_empty() { own } else { score(&with)? };
        if reached >= best {
            (chosen, best) = (with, reached);
        }
    }
    Ok(chosen)
}
