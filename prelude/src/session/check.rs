//! check_scheme: verifies a custom scheme before it is trained.

use super::models::Models;
use crate::checkpoint::BASE;
use crate::coefficients::{Scheme, SchemeReport, check};
use crate::error::Result;

/// Checks `scheme` on every tensor of a merge of `models`: the shape of its coefficients, the
/// initial values of its parameters, and its gradients against finite differences. The weights of
/// the sources are not read.
///
/// ```
/// use dam_prelude::{Parameter, Scheme, Site, Tensor, candle_core, check_scheme, load};
///
/// struct Cut;
///
/// impl Scheme for Cut {
///     fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
///         vec![site.parameter(site.name(), 1, 1)]
///     }
///     fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
///         Ok(parameters[0].detach()) // blocks the gradient
///     }
/// }
///
/// let error = check_scheme(&Cut, &load(["builtin:japanese", "builtin:math"])?).unwrap_err();
/// assert!(error.to_string().contains("received no gradient"));
/// # Ok::<(), dam_prelude::Error>(())
/// ```
///
/// # Errors
/// The first problem found, with the tensor and the parameter, as for [`check`]; fewer than two
/// sources, or no base model if the scheme needs one.
pub fn check_scheme(scheme: &dyn Scheme, models: &Models) -> Result<SchemeReport> {
    let sources = models.merged_by(scheme, scheme.options().with_base)?;
    let base = sources.iter().position(|s| s.name() == BASE);
    check(scheme, sources[0].architecture()?, sources.len(), base)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use crate::coefficients::find;
    use crate::session::{Dam, load};
    use crate::{Nonlinearity, Options, Wrap};

    /// The objective after element `position` of variable `which` has changed by `h`.
    fn total(dam: &Dam, which: usize, position: usize, h: f32) -> f64 {
        let mut session = dam.session();
        let variable = &session.merge.variables[which].value;
        let before = variable.as_tensor().copy().unwrap();
        let shape = variable.dims().to_vec();
        let mut values: Vec<f32> = before.flatten_all().unwrap().to_vec1().unwrap();
        values[position] += h;
        variable.set(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
        let total = session.objective(false).unwrap().0.iter().map(|(_, x)| x).sum();
        session.merge.variables[which].value.set(&before).unwrap();
        total
    }

    /// The gradient that the optimiser receives, from data and penalties, is the gradient of the
    /// loss.
    #[test]
    fn the_gradient_of_a_step_passes_finite_differences() {
        let mut models = load(["builtin:japanese", "builtin:math"]).unwrap();
        models.settings.weights.cosine = 0.1;
        models.settings.weights.l2 = 1e-3;
        for (name, f) in [
            ("columns", Nonlinearity::Tanh),
            ("softmax", Nonlinearity::None),
            ("low_rank", Nonlinearity::Sigmoid),
            ("layer", Nonlinearity::None),
        ] {
            let scheme = (find(name).unwrap().build)(&[]).unwrap();
            let dam =
                models.wrap(Wrap { scheme, options: Options { f, ..Options::default() } }).unwrap();
            dam.train(2).unwrap();
            let (_, gradients) = dam.session().objective(true).unwrap();
            for (which, gradient) in gradients.iter().enumerate().step_by(5) {
                let gradient = gradient.as_ref().unwrap();
                let largest = |(i, g): (usize, &f32)| (g.abs(), i, f64::from(*g));
                let most = gradient
                    .iter()
                    .enumerate()
                    .map(largest)
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .unwrap();
                let (_, position, analytic) = most;
                let h = 4e-3;
                let numeric = (total(&dam, which, position, h) - total(&dam, which, position, -h))
                    / f64::from(2.0 * h);
                assert!(
                    (analytic - numeric).abs() < 2e-2 * numeric.abs() + 5e-4,
                    "{name} {which}: {analytic} and {numeric}"
                );
            }
        }
    }
}
