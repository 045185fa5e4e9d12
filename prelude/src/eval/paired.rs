//! The paired comparison of two models on the same questions.
//!
//! Two accuracies with their standard errors may overlap although one model is better on most of
//! the questions where they differ. On the same questions, only those count: of `n` questions that
//! one of the models answers better, either is the better one on `n/2` by chance. The two-sided p
//! value is that of the exact sign test, which is McNemar's exact test for right and wrong answers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::standard_error::{mean, mean_error};

/// The number of bootstrap samples.
const SAMPLES: usize = 10_000;

/// The seed of the bootstrap samples.
const SEED: u64 = 1234;

/// The result of [`paired`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// The number of questions.
    pub questions: usize,
    /// The number of questions that the first model answers better.
    pub first: usize,
    /// The number of questions that the second model answers better.
    pub second: usize,
    /// The mean of `first - second`.
    pub difference: f64,
    /// The standard error of the difference, from the differences of the questions; `None` for
    /// fewer than two.
    pub stderr: Option<f64>,
    /// The middle 95% of the difference in 10000 bootstrap samples of the questions.
    pub interval: (f64, f64),
    /// The probability of counts at least as unequal, if either model were the better one by
    /// chance.
    pub p_value: f64,
}

/// Compares the values of two models on the same questions, in the same order: 1 for right and 0
/// for wrong, or any numbers of which the higher is better. `None` without questions, or if the
/// numbers of values differ.
///
/// ```
/// use dam_prelude::eval::paired;
///
/// let right = |n: usize| (0..20).map(|i| if i < n { 1.0 } else { 0.0 }).collect::<Vec<f64>>();
/// let found = paired(&right(18), &right(12)).unwrap();
/// assert_eq!((found.first, found.second, found.difference), (6, 0, 0.3));
/// assert!((found.p_value - 2.0 / 64.0).abs() < 1e-12);
/// ```
pub fn paired(first: &[f64], second: &[f64]) -> Option<Paired> {
    if first.is_empty() || first.len() != second.len() {
        return None;
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let better = differences.iter().filter(|d| **d > 0.0).count();
    let worse = differences.iter().filter(|d| **d < 0.0).count();
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut sample = || {
        let count = differences.len();
        let draws = (0..count).map(|_| differences[random.random_range(0..count)]);
        draws.sum::<f64>() / count as f64
    };
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((share * SAMPLES as f64) as usize).min(SAMPLES - 1)];
    Some(Paired {
        questions: first.len(),
        first: better,
        second: worse,
        difference: mean(&differences),
        stderr: mean_error(&differences),
        interval: (at(0.025), at(0.975)),
        p_value: sign_test(better, worse),
    })
}

/// The two-sided p value of counts of `a` and `b` where both are equally likely.
fn sign_test(a: usize, b: usize) -> f64 {
    let n = a + b;
    // The logarithm of n over k, times 2^-n, from k = 0.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=a.min(b) {
        tail += log.exp();
        log += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.binomtest(k, n).pvalue`, and statsmodels' `mcnemar(exact=True)`.
    #[test]
    fn p_values_are_those_of_the_exact_test() {
        for (a, b, p) in [
            (9, 3, 0.145_996_093_75),
            (3, 9, 0.145_996_093_75),
            (0, 0, 1.0),
            (5, 5, 1.0),
            (12, 121, 7.805_904_320_346_072e-24),
            (1000, 1100, 0.030_720_707_864_242_49),
        ] {
            let found = sign_test(a, b);
            assert!((found - p).abs() <= 1e-9 * p, "{a} {b} {found}");
        }
    }

    #[test]
    fn only_questions_answered_differently_count() {
        let found = paired(&[1.0, 1.0, 0.0, 0.5], &[1.0, 0.0, 1.0, 0.25]).unwrap();
        assert_eq!((found.questions, found.first, found.second), (4, 2, 1));
        assert_eq!(found.difference, 0.0625);
        let (low, high) = found.interval;
        assert!(low < 0.0 && high > 0.0 && low >= -1.0 && high <= 1.0);
        assert_eq!(paired(&[1.0], &[]), None);
        assert_eq!(paired(&[1.0; 9], &[1.0; 9]).unwrap().interval, (0.0, 0.0));
    }
}
