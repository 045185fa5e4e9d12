//! The variables of a merge: each parameter of a scheme once, however many tensors share it.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::{Merge, MergedTensor, Parameter, Scheme, Site};
use crate::error::{Error, Result};

/// A variable that coefficients are computed from.
pub struct Variable {
    /// Its key, also in saved sessions.
    pub key: String,
    /// f32, on the CPU.
    pub value: Var,
    /// Whether the optimiser updates it.
    pub trains: bool,
    /// The first tensor that uses it.
    pub tensor: String,
}

/// Creates the variables of `sites` with their initial values, and lists the variables of each
/// site. A tensor that is not trained shares none with trained ones, so it keeps its initial
/// values.
pub(super) fn variables(
    scheme: &dyn Scheme,
    sites: &[Site<'_>],
) -> Result<(Vec<Variable>, Vec<Vec<usize>>)> {
    let all: Vec<(bool, Vec<Parameter>)> = sites
        .iter()
        .map(|site| (site.options.trains(site.kind()), scheme.parameters(site)))
        .collect();
    let mut variables = Vec::<Variable>::new();
    let mut places = BTreeMap::<(bool, &str), (usize, &Parameter)>::new();
    let mut uses = Vec::new();
    for (site, (trains, parameters)) in sites.iter().zip(&all) {
        let mut used = Vec::new();
        for parameter in parameters {
            let key = parameter.key.as_str();
            if let Some((i, first)) = places.get(&(*trains, key)) {
                if *first != parameter {
                    let other = &variables[*i];
                    let problem = format!(
                        "its shape or initial values differ from those at `{}`, which has the same key",
                        other.tensor
                    );
                    return Err(wrong(scheme, site, parameter, problem));
                }
                used.push(*i);
                continue;
            }
            usable(scheme, site, parameter)?;
            let value =
                Tensor::from_slice(&parameter.start, parameter.shape.as_slice(), &Device::Cpu)?;
            let value = Var::from_tensor(&value)?;
            let tensor = site.name().to_owned();
            let shared = !trains
                && all
                    .iter()
                    .any(|(trains, others)| *trains && others.iter().any(|p| p.key == key));
            let name = if shared { format!("{key} at its start") } else { key.to_owned() };
            places.insert((*trains, key), (variables.len(), parameter));
            used.push(variables.len());
            variables.push(Variable { key: name, value, trains: *trains, tensor });
        }
        uses.push(used);
    }
    Ok((variables, uses))
}

fn wrong(scheme: &dyn Scheme, site: &Site<'_>, parameter: &Parameter, problem: String) -> Error {
    let scheme = scheme.name();
    let tensor = site.name().to_owned();
    Error::SchemeParameter { scheme, tensor, parameter: parameter.key.clone(), problem }
}

/// Returns an error if `parameter` is invalid.
fn usable(scheme: &dyn Scheme, site: &Site<'_>, parameter: &Parameter) -> Result<()> {
    let Parameter { shape, start, .. } = parameter;
    let problem = match (shape.iter().product::<usize>(), start.iter().find(|x| !x.is_finite())) {
        (0, _) => "it has no values".into(),
        (count, _) if count != start.len() => {
            format!("it has `{}` initial values for the shape `{shape:?}`", start.len())
        }
        (_, Some(value)) => format!("its initial value is `{value}`"),
        _ => return Ok(()),
    };
    Err(wrong(scheme, site, parameter, problem))
}

impl Site<'_> {
    /// Computes and checks the coefficients of `scheme` for `parameters`: sources x R x C, f32.
    pub(super) fn coefficients(
        &self,
        scheme: &dyn Scheme,
        parameters: &[Tensor],
    ) -> Result<Tensor> {
        let (rows, columns) = (self.rows(), self.columns());
        let c = scheme.coefficients(self, parameters).map_err(|reason| Error::SchemeFailed {
            scheme: scheme.name(),
            tensor: self.name().into(),
            reason: crate::error::first_line(&reason),
        })?;
        let fits = |dims: &[usize]| match dims {
            [n, r, c] => *n == self.sources && [1, rows].contains(r) && [1, columns].contains(c),
            _ => false,
        };
        if fits(c.dims()) && c.dtype() == DType::F32 {
            return Ok(c);
        }
        let scheme = scheme.name();
        let tensor = self.name().into();
        Err(Error::SchemeShape {
            scheme,
            tensor,
            found: c.dims().to_vec(),
            dtype: c.dtype().as_str(),
            sources: self.sources,
            rows,
            columns,
        })
    }
}

impl Merge {
    /// Sets the coefficients of `tensor` to `values` (sources x R x C, f32), if they are a
    /// parameter of their own.
    ///
    /// # Errors
    /// Another shape, or a scheme that computes its coefficients from other parameters.
    pub fn set_coefficients(&self, tensor: &MergedTensor, values: &Tensor) -> Result<()> {
        let shape = self.coefficients(tensor)?.dims().to_vec();
        if values.dims() != shape {
            let expected = format!("coefficients of shape {shape:?}");
            return Err(Error::bad_value(
                &tensor.spec.name,
                &format!("{:?}", values.dims()),
                expected,
            ));
        }
        let made = || {
            let keys: Vec<&str> =
                tensor.variables.iter().map(|i| self.variables[*i].key.as_str()).collect();
            Error::ComputedCoefficients {
                scheme: self.wrap.scheme.name(),
                tensor: tensor.spec.name.clone(),
                parameters: keys.join("`, `"),
            }
        };
        let [i] = tensor.variables.as_slice() else { return Err(made()) };
        let variable = &self.variables[*i].value;
        if variable.elem_count() != values.elem_count() {
            return Err(made());
        }
        let bits = |x: &Tensor| -> Result<Vec<u32>> {
            Ok(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        let wanted = bits(values)?;
        let before = variable.as_tensor().copy()?;
        variable.set(&values.reshape(variable.dims())?.to_device(&Device::Cpu)?)?;
        if bits(&self.coefficients(tensor)?)? != wanted {
            variable.set(&before)?;
            return Err(made());
        }
        Ok(())
    }
}
