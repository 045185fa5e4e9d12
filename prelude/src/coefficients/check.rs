//! Checks a scheme: shapes, initial values, and gradients against finite differences, parameter by
//! parameter.
//!
//! For every tensor, with random weights `w` and `L = sum(w * c(p))`, near the start and in f32,
//! compares `dL/dp` with `(L(p + h) - L(p - h)) / 2h` at a few values of each parameter.

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::variables::variables;
use super::{Scheme, Site};
use crate::checkpoint::Architecture;
use crate::error::{Error, Result};
use crate::seed::seed_of;

/// The extent of a successful check.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SchemeReport {
    /// The name of the scheme.
    pub scheme: String,
    /// The number of tensors.
    pub tensors: usize,
    /// The number of values of all parameters.
    pub parameters: usize,
    /// The number of gradients compared with finite differences.
    pub gradients: usize,
}

/// Values compared per parameter and tensor.
const PROBES: usize = 4;

/// The half step in f32.
const H: f32 = 1e-2;

/// The offset from the start at which gradients are compared, because a parameter at 0 may hide
/// another's gradient.
const BESIDE: f32 = 0.05;

/// Checks `scheme` on every tensor of a merge of `sources` models of `architecture`; `base` is the
/// index of the base model. The time grows with the number of coefficients.
///
/// # Errors
/// The first problem found, with the tensor and the parameter: a scheme that fails, coefficients of
/// the wrong shape, an invalid initial value, a parameter without a gradient, a gradient that
/// disagrees with finite differences, or a tensor whose gradients are all 0.
pub fn check(
    scheme: &dyn Scheme,
    architecture: &Architecture,
    sources: usize,
    base: Option<usize>,
) -> Result<SchemeReport> {
    let options = scheme.options();
    let specs = architecture.tensors();
    let sites: Vec<Site<'_>> = specs
        .iter()
        .map(|spec| Site { spec, architecture, sources, base, options: &options })
        .collect();
    let (variables, uses) = variables(scheme, &sites)?;
    let mut checked = SchemeReport {
        scheme: scheme.name(),
        tensors: sites.len(),
        parameters: variables.iter().map(|v| v.value.elem_count()).sum(),
        gradients: 0,
    };
    for (site, used) in sites.iter().zip(&uses) {
        let keys: Vec<&str> = used.iter().map(|i| variables[*i].key.as_str()).collect();
        let start = used
            .iter()
            .map(|i| variables[*i].value.as_tensor().copy())
            .collect::<candle_core::Result<_>>()?;
        checked.gradients += Check { scheme, site, keys, start }.run()?;
    }
    Ok(checked)
}

/// One tensor and its parameters.
struct Check<'a> {
    scheme: &'a dyn Scheme,
    site: &'a Site<'a>,
    keys: Vec<&'a str>,
    start: Vec<Tensor>,
}

impl Check<'_> {
    /// Returns the number of gradients that agree.
    fn run(&self) -> Result<usize> {
        let c = flat(&self.compute(&self.start)?)?;
        if let Some(value) = c.iter().find(|x| !x.is_finite()) {
            return Err(self.failed(format!("its coefficients start at `{value}`")));
        }
        if flat(&self.compute(&self.start)?)? != c {
            return Err(self.failed("its coefficients change from call to call".into()));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed_of(0, self.site.name()));
        let weights: Vec<f32> = c.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
        let at_start = self.gradients(&self.start, &weights)?;
        if at_start.iter().flatten().all(|g| *g == 0.0) {
            return Err(
                self.failed("every gradient is 0 at the start, so nothing would train".into())
            );
        }

        let mut beside = Vec::new();
        for values in &self.start {
            let moved: Vec<f32> =
                flat(values)?.into_iter().map(|x| x + rng.random_range(-BESIDE..BESIDE)).collect();
            beside.push(Tensor::from_vec(moved, values.dims(), &Device::Cpu)?);
        }
        let gradients = self.gradients(&beside, &weights)?;
        // The tolerance for accumulated rounding errors.
        let largest = c.iter().fold(1f32, |most, x| most.max(x.abs()));
        let floor = 1e-4 * f64::from(largest) * (c.len() as f64).sqrt();
        let mut count = 0;
        for (which, gradient) in gradients.iter().enumerate() {
            for position in
                (0..PROBES.min(gradient.len())).map(|_| rng.random_range(0..gradient.len()))
            {
                let at = |h: f32| -> Result<f64> {
                    let mut values = flat(&beside[which])?;
                    values[position] += h;
                    let mut parameters = beside.clone();
                    parameters[which] =
                        Tensor::from_vec(values, beside[which].dims(), &Device::Cpu)?;
                    let c = flat(&self.compute(&parameters)?)?;
                    Ok(c.iter().zip(&weights).map(|(c, w)| f64::from(*c) * f64::from(*w)).sum())
                };
                let found = f64::from(gradient[position]);
                let expected = (at(H)? - at(-H)?) / f64::from(2.0 * H);
                if (found - expected).abs() > floor + 1e-2 * expected.abs() || !found.is_finite() {
                    let scheme = self.scheme.name();
                    let tensor = self.site.name().to_owned();
                    let parameter = self.keys[which].to_owned();
                    return Err(Error::SchemeGradient {
                        scheme,
                        tensor,
                        parameter,
                        position,
                        found,
                        expected,
                    });
                }
                count += 1;
            }
        }
        Ok(count)
    }

    fn compute(&self, parameters: &[Tensor]) -> Result<Tensor> {
        self.site.coefficients(self.scheme, parameters)
    }

    /// Returns the gradient of `sum(weights * c)` with respect to every parameter, at `values`.
    fn gradients(&self, values: &[Tensor], weights: &[f32]) -> Result<Vec<Vec<f32>>> {
        let vars = values.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let parameters: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let c = self.compute(&parameters)?;
        let weights = Tensor::from_slice(weights, c.dims(), &Device::Cpu)?;
        let gradients = (c * weights)?.sum_all()?.backward()?;
        let of = |(parameter, key): (&Tensor, &&str)| match gradients.get(parameter) {
            Some(gradient) => flat(gradient),
            None => Err(Error::NoGradient {
                parameter: (*key).to_owned(),
                tensor: self.site.name().into(),
                count: 1,
            }),
        };
        parameters.iter().zip(&self.keys).map(of).collect()
    }

    fn failed(&self, reason: String) -> Error {
        Error::SchemeFailed { scheme: self.scheme.name(), tensor: self.site.name().into(), reason }
    }
}

fn flat(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.flatten_all()?.to_vec1()?)
}
