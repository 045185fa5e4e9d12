//! Approximate inverses for conjugate gradients over the parameters of a scheme.

use candle_core::{DType, Device, Tensor};
use nalgebra::DMatrix;

use super::basis;
use super::block::Block;
use crate::coefficients::Merge;
use crate::error::Result;
use crate::ops::Form;

/// Approximate inverses, variable by variable. A variable in the form of the scales of one tensor
/// has one N x N matrix per cell, which for columns and rows is exact apart from couplings between
/// cells; another with one entry per source has their mean; any other has a number.
pub(super) struct Preconditioner(Vec<Part>);

struct Part {
    /// The number of entries per source: N, or 1.
    lead: usize,
    size: usize,
    /// One matrix for all, or one per column of the variable as lead x rest.
    matrices: Vec<Vec<f64>>,
    inverses: Vec<Vec<f64>>,
}

impl Preconditioner {
    /// Prepares inverses for the `variables` of `blocks`, each with its form and its ridge.
    pub fn new(
        merge: &Merge,
        variables: &[usize],
        blocks: &[(&Block<'_>, &(Form, Vec<f64>))],
    ) -> Result<Self> {
        let n = merge.sources();
        let mut parts = Vec::new();
        for i in variables {
            let value = &merge.variables[*i].value;
            let (size, by_source) = (value.elem_count(), value.dims().first() == Some(&n));
            let count = if by_source { size / n } else { size };
            let mut mean = vec![0.0; n * n];
            let mut cells = None;
            let mut uses = 0;
            for (block, (form, ridge)) in blocks {
                if !block.tensor.variables.contains(i) {
                    continue;
                }
                uses += 1;
                let number = form.rows * form.columns;
                let direct = by_source && count == number && (form.rows == 1 || form.columns == 1);
                let mut each = vec![0.0; if direct { number * n * n } else { 0 }];
                block.for_pairs(*form, |a, b, pair| {
                    let pair = pair.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
                    let pair = pair.flatten_all()?.to_vec1::<f64>()?;
                    let sum = pair.iter().sum::<f64>() + number as f64 * ridge[a * n + b];
                    mean[a * n + b] += sum;
                    if a != b {
                        mean[b * n + a] += sum;
                    }
                    for (matrix, value) in each.chunks_mut(n * n).zip(pair) {
                        matrix[a * n + b] = value + ridge[a * n + b];
                        matrix[b * n + a] = value + ridge[a * n + b];
                    }
                    Ok(())
                })?;
                cells = direct.then_some(each);
            }
            let matrices = match cells.filter(|_| uses == 1) {
                Some(cells) => cells,
                None => mean.iter().map(|x| x / count.max(1) as f64).collect(),
            };
            let lead = if by_source { n } else { 1 };
            let both = matrices.chunks(n * n).map(|matrix| with_inverse(matrix, n, by_source));
            let (matrices, inverses) = both.unzip();
            parts.push(Part { lead, size, matrices, inverses });
        }
        Ok(Preconditioner(parts))
    }

    /// Applies the inverses to `x`.
    pub fn divide(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, |part| &part.inverses)
    }

    /// Applies the approximation of the system itself to `x`.
    pub fn times(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, |part| &part.matrices)
    }

    fn apply(&self, x: &Tensor, matrices: impl Fn(&Part) -> &[Vec<f64>]) -> Result<Tensor> {
        let (values, mut start) = (x.to_vec1::<f64>()?, 0);
        let mut applied = vec![0.0; values.len()];
        for part in &self.0 {
            let Part { lead, size, .. } = part;
            let matrices = matrices(part);
            let from = &values[start..start + size];
            let to = &mut applied[start..start + size];
            let rest = size / lead;
            for j in 0..rest {
                let matrix = &matrices[if matrices.len() == 1 { 0 } else { j }];
                for i in 0..*lead {
                    let sum = (0..*lead).map(|k| matrix[i * lead + k] * from[k * rest + j]);
                    to[i * rest + j] = sum.sum();
                }
            }
            start += size;
        }
        Ok(Tensor::from_vec(applied, x.dims(), &Device::Cpu)?)
    }
}

/// Returns a symmetric matrix in the basis and its inverse, mapped to sources; without `by_source`,
/// one number of its size and its inverse.
fn with_inverse(matrix: &[f64], n: usize, by_source: bool) -> (Vec<f64>, Vec<f64>) {
    let mut matrix = DMatrix::from_row_slice(n, n, matrix);
    // Only the speed of convergence depends on this.
    let trace = matrix.trace().max(f64::MIN_POSITIVE);
    (0..n).for_each(|a| matrix[(a, a)] += 1e-9 * trace);
    let forward = DMatrix::from_row_slice(n, n, &basis::forward(n));
    let matrix = forward.transpose() * matrix * forward;
    let inverse = matrix.clone().try_inverse().unwrap_or_else(|| DMatrix::identity(n, n));
    if by_source {
        return (matrix.as_slice().to_vec(), inverse.as_slice().to_vec());
    }
    let mean = inverse.trace() / n as f64;
    (vec![mean.recip()], vec![mean])
}
