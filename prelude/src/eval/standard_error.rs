//! The mean of values, their deviation, and the standard error of the mean.

/// Returns the mean of `values`.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the standard deviation of a sample.
pub(crate) fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (squares / (values.len() as f64 - 1.0)).sqrt()
}

/// Returns the standard error of a mean: the deviation of the sample over the root of its size.
/// None for fewer than two values.
///
/// ```
/// use dam_prelude::eval::mean_error;
///
/// let error = mean_error(&[1.0, 0.0, 1.0, 0.0, 1.0]).unwrap();
/// assert!((error - 0.06f64.sqrt()).abs() < 1e-12);
/// assert_eq!(mean_error(&[1.0]), None);
/// ```
pub fn mean_error(values: &[f64]) -> Option<f64> {
    (values.len() > 1).then(|| deviation(values) / (values.len() as f64).sqrt())
}
