//! A weight to solve for, with its bias, and its sources as mean and differences.

use candle_core::{DType, Device, Tensor};

use super::basis;
use super::quadratic::{Gram, Quadratic, dot};
use crate::coefficients::{Merge, MergedTensor};
use crate::error::Result;
use crate::ops::Form;

/// A weight, its bias if it has one, and their objective. The columns of weight and bias lie side
/// by side: a bias is the weight of an input that is always 1.
pub(super) struct Unit<'a> {
    /// The weight, then its bias.
    pub tensors: Vec<&'a MergedTensor>,
    /// The rows that occur in the data, of an embedding.
    pub ids: Option<Tensor>,
    /// The objective.
    pub quadratic: Quadratic,
}

impl<'a> Unit<'a> {
    /// Returns the name of the weight.
    pub fn name(&self) -> &'a str {
        &self.tensors[0].spec.name
    }

    /// Returns its tensors with their sources.
    pub fn blocks(&self, merge: &Merge) -> Result<Vec<Block<'a>>> {
        let mut start = 0;
        let block = |tensor: &&'a MergedTensor| {
            let dtype = self.quadratic.right.dtype();
            let of = |a| {
                let weights = basis::weights(merge.sources(), a);
                merge.combination(tensor, &weights, self.ids.as_ref(), dtype)
            };
            let basis = (0..merge.sources()).map(of).collect::<Result<Vec<_>>>()?;
            let columns = basis[0].dim(1)?;
            let gram = self.quadratic.gram.narrow(start, columns)?;
            start += columns;
            Ok(Block { tensor, basis, gram, columns, ids: self.ids.clone() })
        };
        self.tensors.iter().map(block).collect()
    }
}

/// One tensor with its sources in the basis: `D = sum_a x_a V_a`.
pub(super) struct Block<'a> {
    pub tensor: &'a MergedTensor,
    /// `V_a`, each rows x columns.
    pub basis: Vec<Tensor>,
    /// The part of `G` of its columns.
    pub gram: Gram,
    pub columns: usize,
    ids: Option<Tensor>,
}

impl Block<'_> {
    /// Returns its scales `f(c)` for the values `parameters` of its variables: N x R x C, f32.
    pub fn scales(&self, merge: &Merge, parameters: &[Tensor]) -> Result<Tensor> {
        let scales = merge.scales_at(self.tensor, parameters)?;
        Ok(match &self.ids {
            Some(ids) if scales.dim(1)? > 1 => scales.index_select(ids, 1)?,
            _ => scales,
        })
    }

    /// Returns the scales at the current values of its variables.
    pub fn current_scales(&self, merge: &Merge) -> Result<Tensor> {
        let values = self.tensor.variables.iter().map(|i| merge.variables[*i].value.detach());
        self.scales(merge, &values.collect::<Vec<_>>())
    }

    /// Returns `D` for `x` (N x R x C).
    pub fn deviation(&self, x: &Tensor) -> Result<Tensor> {
        let part = |(a, v): (usize, &Tensor)| Ok(v.broadcast_mul(&x.get(a)?)?);
        let first: Result<Tensor> = part((0, &self.basis[0]));
        let rest = self.basis.iter().enumerate().skip(1);
        rest.map(part).try_fold(first?, |sum, part| Ok((sum + part?)?))
    }

    /// Maps a gradient with respect to `D` to one with respect to `x` in `form`.
    pub fn pull_back(&self, gradient: &Tensor, form: Form) -> Result<Tensor> {
        let one = |v: &Tensor| reduced(&(v * gradient)?, form);
        let parts = self.basis.iter().map(one).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::stack(&parts, 0)?)
    }

    /// Calls `f` with the second derivatives by the scales of one cell in `form`, for every pair
    /// `a >= b` of the basis: R x C.
    pub fn for_pairs(
        &self,
        form: Form,
        mut f: impl FnMut(usize, usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let diagonal = self.gram.diagonal()?;
        for (a, v) in self.basis.iter().enumerate() {
            // A scale of one column meets the diagonal of G only.
            let left = if form.columns == self.columns {
                v.broadcast_mul(&diagonal)?
            } else {
                self.gram.times(v)?
            };
            for (b, w) in self.basis.iter().enumerate().take(a + 1) {
                f(a, b, reduced(&(&left * w)?, form)?)?;
            }
        }
        Ok(())
    }

    /// Returns the ridge matrix of every cell in `form`: N x N, row by row.
    ///
    /// It is `ridge` times the mean over cells of the second derivatives, for the mean of the
    /// sources and for their differences apart. The differences are one block, so that the ridge
    /// does not depend on which differences are taken.
    pub fn ridge(&self, form: Form, ridge: f64) -> Result<Vec<f64>> {
        /// Keeps differences of 0 solvable; their coefficients become equal.
        const FLOOR: f64 = 1e-6;
        let n = self.basis.len();
        let (mut matrix, cells) = (vec![0.0; n * n], (form.rows * form.columns) as f64);
        self.for_pairs(form, |a, b, pair| {
            if (a == 0) == (b == 0) {
                let sum = pair.sum_keepdim(1)?.flatten_all()?.to_device(&Device::Cpu)?;
                let sum: f64 = sum.to_dtype(DType::F64)?.sum_all()?.to_scalar()?;
                (matrix[a * n + b], matrix[b * n + a]) = (ridge * sum / cells, ridge * sum / cells);
            }
            Ok(())
        })?;
        let trace: f64 = (1..n).map(|a| matrix[a * n + a]).sum();
        let least = |x: f64| if x > 0.0 || ridge == 0.0 { x } else { 1.0 };
        matrix[0] = least(matrix[0]);
        for a in 1..n {
            matrix[a * n + a] += least(FLOOR * trace / (n - 1) as f64);
        }
        Ok(matrix)
    }

    /// Whether its coefficients are the values of a variable of its own, one by one.
    pub fn is_direct(&self, merge: &Merge) -> Result<bool> {
        let [variable] = self.tensor.variables.as_slice() else { return Ok(false) };
        let value = merge.variables[*variable].value.flatten_all()?;
        let c = merge.coefficients(self.tensor)?.flatten_all()?;
        Ok(value.elem_count() == c.elem_count() && value.to_vec1::<f32>()? == c.to_vec1::<f32>()?)
    }
}

/// Sums `x` (rows x columns) to `form`.
fn reduced(x: &Tensor, form: Form) -> Result<Tensor> {
    let x = if form.rows == 1 { x.sum_keepdim(0)? } else { x.clone() };
    Ok(if form.columns == 1 { x.sum_keepdim(1)? } else { x })
}

/// Returns `<x, P x>` summed over the cells of `x` (N x R x C).
pub(super) fn penalty(matrix: &[f64], x: &Tensor) -> Result<f64> {
    dot(&x.flatten_from(1)?, &basis::times(matrix, x, false)?.flatten_from(1)?)
}

/// Returns the form of scales (N x R x C).
pub(super) fn form(scales: &Tensor) -> Result<Form> {
    let (_, rows, columns) = scales.dims3()?;
    Ok(Form { rows, columns })
}
