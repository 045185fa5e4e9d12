//! The merge: `W[o, j] = sum_i s[i, o, j] W_i[o, j]` with scales `s` in broadcast form, and its
//! gradient with respect to `s`.
//!
//! ```text
//! s:  sources x R x C, R is 1 or the rows of W, C is 1 or its columns
//!     1 x C: a scale per column     R x 1: per row     1 x 1: per weight     R x C: per element
//! ds[i, r, c] = sum of dW[o, j] W_i[o, j] over the elements that s[i, r, c] scales
//! ```
//!
//! The sources are frozen, so no gradients are computed for them. On the CPU they are read from
//! memory-mapped files in their own dtype, row by row; the forward and backward pass run at memory
//! speed. Source: arXiv 2410.08371, section 3, with one scale per column.

mod composed;
mod fused;
mod on_device;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};

use super::{Real, with_elements};
use crate::checkpoint::{Values, View};
use crate::error::{Error, Result};
use crate::vectorised::vectorised;
use fused::Fused;

/// One weight of every source, for a sum with scales.
///
/// A weight of shape `out x in` has `in` columns; a norm of `in` features is one row; a bias of
/// `out` features is one column of `out` rows.
pub struct ScaledSum {
    operands: Operands,
    shape: Vec<usize>,
    columns: usize,
    /// Weights on a device while [`ScaledSum::hold`] keeps them.
    held: Mutex<Vec<Tensor>>,
}

/// The form of the scales of one source: the numbers of rows and columns, each 1 or the weight's
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// `R`
    pub rows: usize,
    /// `C`
    pub columns: usize,
}

enum Operands {
    /// Memory-mapped, for the CPU.
    Mapped(Vec<View>),
    /// On another device, in their own dtype.
    OnDevice(Vec<DeviceWeight>),
}

/// Returns one source's weight on its device: a copy that stays there, or one made for this use.
pub(crate) type DeviceWeight = Box<dyn Fn() -> Result<Tensor> + Send + Sync>;

fn misfit<T>(message: String) -> Result<T> {
    Err(candle_core::Error::Msg(message).into())
}

impl ScaledSum {
    /// Prepares the sum of memory-mapped `views` (equal shapes), on the CPU. `columns` is the last
    /// dimension, or 1 for a bias.
    ///
    /// # Errors
    /// No views.
    pub fn mapped(views: Vec<View>, columns: usize) -> Result<Self> {
        let shape = views.first().map(|v| v.shape.clone()).unwrap_or_default();
        Self::of(Operands::Mapped(views), shape, columns)
    }

    /// Prepares the sum of tensors (equal shapes) on their device, with its kernel where there is
    /// one, else in candle's own operations.
    ///
    /// # Errors
    /// No tensors.
    pub fn resident(tensors: Vec<Tensor>, columns: usize) -> Result<Self> {
        let shape = tensors.first().map(|t| t.dims().to_vec()).unwrap_or_default();
        let held = |tensor: Tensor| -> DeviceWeight { Box::new(move || Ok(tensor.clone())) };
        Self::on_device(tensors.into_iter().map(held).collect(), shape, columns)
    }

    /// Like [`ScaledSum::resident`], for weights of `shape` that are requested for each use.
    ///
    /// # Errors
    /// No weights.
    pub(crate) fn on_device(
        weights: Vec<DeviceWeight>,
        shape: Vec<usize>,
        columns: usize,
    ) -> Result<Self> {
        Self::of(Operands::OnDevice(weights), shape, columns)
    }

    fn of(operands: Operands, shape: Vec<usize>, columns: usize) -> Result<Self> {
        let sum = Self { operands, shape, columns, held: Mutex::default() };
        if sum.sources() == 0 || columns == 0 {
            return Err(Error::Sources { what: "nothing to merge".into(), hint: "load a source" });
        }
        Ok(sum)
    }

    /// Keeps the weights on the device until [`ScaledSum::release`], so that weights without a
    /// copy there are copied once for several uses.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(crate) fn hold(&self) -> Result<()> {
        if let Operands::OnDevice(weights) = &self.operands {
            *self.held() = weights.iter().map(|weight| weight()).collect::<Result<_>>()?;
        }
        Ok(())
    }

    /// Ends [`ScaledSum::hold`].
    pub(crate) fn release(&self) {
        self.held().clear();
    }

    fn held(&self) -> MutexGuard<'_, Vec<Tensor>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of sources.
    pub fn sources(&self) -> usize {
        match &self.operands {
            Operands::Mapped(views) => views.len(),
            Operands::OnDevice(weights) => weights.len(),
        }
    }

    fn rows(&self) -> usize {
        self.shape.iter().product::<usize>() / self.columns
    }

    /// Returns the merged weight for `scales` (sources x R x C, f32 or f64), in their dtype. It is
    /// a variable, so a loss has a gradient with respect to it; [`ScaledSum::backward`] maps that
    /// to the scales.
    ///
    /// # Errors
    /// Scales of another shape or dtype.
    pub fn forward(&self, scales: &Tensor) -> Result<Var> {
        self.form(scales)?;
        match &self.operands {
            Operands::OnDevice(weights) => {
                self.on_device_in(&self.as_rows(weights)?, scales, scales.dtype())
            }
            Operands::Mapped(_) => {
                let merged = Var::zeros(self.shape.as_slice(), scales.dtype(), &Device::Cpu)?;
                self.forward_into(scales, &merged)?;
                Ok(merged)
            }
        }
    }

    /// Returns the sum of `tensors` (rows x columns) in `dtype`, on their device.
    fn on_device_in(&self, tensors: &[Tensor], scales: &Tensor, dtype: DType) -> Result<Var> {
        let shape = self.shape.as_slice();
        if on_device::has_kernel(tensors, scales, dtype) {
            let merged = Var::zeros(shape, dtype, scales.device())?;
            on_device::forward_into(tensors, scales, &merged)?;
            return Ok(merged);
        }
        let merged = on_device::forward(tensors, scales)?.reshape(shape)?;
        Ok(Var::from_tensor(&merged.to_dtype(dtype)?)?)
    }

    /// Like [`ScaledSum::forward`], into `merged`, an earlier result. On the CPU nothing is
    /// allocated: mapping the pages of fresh memory would cost more than the merge.
    ///
    /// # Errors
    /// As for `forward`; a `merged` of another shape, or on the CPU of another dtype.
    pub fn forward_into(&self, scales: &Tensor, merged: &Var) -> Result<()> {
        let form = self.form(scales)?;
        let on_device = matches!(self.operands, Operands::OnDevice(_));
        if merged.dims() != self.shape || (merged.dtype() != scales.dtype() && !on_device) {
            return misfit(format!("no weight of shape {:?} to merge into", self.shape));
        }
        match &self.operands {
            Operands::OnDevice(weights) => {
                Ok(on_device::forward_into(&self.as_rows(weights)?, scales, merged)?)
            }
            Operands::Mapped(views) => {
                let fused = Fused { views, columns: self.columns, form };
                Ok(merged.inplace_op1(&Overwrite { fused, scales })?)
            }
        }
    }

    /// Like [`ScaledSum::forward`] in `dtype`: into `kept` if that has the right shape, dtype and
    /// device, else into new memory.
    ///
    /// # Errors
    /// As for `forward`.
    pub fn forward_in(&self, scales: &Tensor, dtype: DType, kept: Option<&Var>) -> Result<Var> {
        let fits = |v: &&Var| {
            v.dims() == self.shape && v.dtype() == dtype && v.device().same_device(scales.device())
        };
        if let Some(kept) = kept.filter(fits) {
            self.forward_into(scales, kept)?;
            return Ok(kept.clone());
        }
        if let Operands::OnDevice(weights) = &self.operands {
            self.form(scales)?;
            return self.on_device_in(&self.as_rows(weights)?, scales, dtype);
        }
        let merged = self.forward(scales)?;
        Ok(if dtype == merged.dtype() {
            merged
        } else {
            Var::from_tensor(&merged.to_dtype(dtype)?)?
        })
    }

    /// Returns the merge of the rows `ids` (u32): ids x columns, in the scales' dtype.
    ///
    /// # Errors
    /// As for `forward`; ids out of range.
    pub fn forward_rows(&self, scales: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let form = self.form(scales)?;
        match &self.operands {
            Operands::OnDevice(weights) => {
                let scales =
                    if form.rows == 1 { scales.clone() } else { scales.index_select(ids, 1)? };
                Ok(on_device::forward(&self.selected(weights, ids)?, &scales)?)
            }
            Operands::Mapped(views) => {
                let (ids, fused) =
                    (self.checked(ids)?, Fused { views, columns: self.columns, form });
                Ok(match scales.dtype() {
                    DType::F64 => self.rows_cpu::<f64>(&fused, scales, &ids)?,
                    _ => self.rows_cpu::<f32>(&fused, scales, &ids)?,
                })
            }
        }
    }

    fn rows_cpu<T: Real>(
        &self,
        fused: &Fused<'_>,
        scales: &Tensor,
        ids: &[u32],
    ) -> candle_core::Result<Tensor> {
        with_elements([scales], |[scales]: [&[T]; 1]| {
            let mut rows = vec![T::zero(); ids.len() * self.columns];
            fused.forward(scales, &mut rows, |row| ids[row] as usize);
            Tensor::from_vec(rows, (ids.len(), self.columns), &Device::Cpu)
        })
    }

    /// Returns the merged weight for `scales` (sources x R x C, f32) in pieces: a function that
    /// fills a slice with consecutive elements, on any thread, so that a merge can be written
    /// without being held in memory.
    ///
    /// # Errors
    /// As for `forward`.
    pub(crate) fn values(&self, scales: &Tensor) -> Result<Values<'_>> {
        let form = self.form(scales)?;
        match &self.operands {
            Operands::OnDevice(weights) => {
                // Weights are written in parallel; the device has room for one of them at a time.
                // Nothing here may wait for the pool of threads, whose workers wait for this lock.
                static ONE: Mutex<()> = Mutex::new(());
                let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
                let merged = on_device::forward(&self.as_rows(weights)?, scales)?;
                let merged: Vec<f32> = merged.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
                drop(one);
                Ok(Box::new(move |start, out| {
                    out.copy_from_slice(&merged[start..start + out.len()])
                }))
            }
            Operands::Mapped(views) => {
                views.iter().for_each(View::prefetch);
                let (fused, scales) = (
                    Fused { views, columns: self.columns, form },
                    scales.flatten_all()?.to_vec1::<f32>()?,
                );
                Ok(Box::new(move |start, out| {
                    vectorised(
                        #[inline(always)]
                        || fused.piece(&scales, start, out),
                    )
                }))
            }
        }
    }

    /// Maps the gradient of the merged weight to the gradient of the scales in `form` (sources x R
    /// x C).
    ///
    /// # Errors
    /// A gradient of another shape or dtype, or a form that does not match the weight.
    pub fn backward(&self, gradient: &Tensor, form: Form) -> Result<Tensor> {
        if gradient.dims() != self.shape {
            return misfit(format!(
                "a gradient of shape {:?}, not {:?}",
                gradient.dims(),
                self.shape
            ));
        }
        self.backward_of(gradient, None, form)
    }

    /// The backward pass of [`ScaledSum::forward_rows`], for the gradient of those rows.
    ///
    /// # Errors
    /// As for `backward`; ids out of range.
    pub fn backward_rows(&self, gradient: &Tensor, ids: &Tensor, form: Form) -> Result<Tensor> {
        if gradient.dims() != [ids.dim(0)?, self.columns] {
            return misfit(format!(
                "a gradient of shape {:?} of {:?} rows",
                gradient.dims(),
                ids.dims()
            ));
        }
        self.backward_of(gradient, Some(ids), form)
    }

    fn backward_of(&self, gradient: &Tensor, ids: Option<&Tensor>, form: Form) -> Result<Tensor> {
        self.fits(form)?;
        match &self.operands {
            Operands::OnDevice(weights) => {
                let gradient = gradient.reshape(((), self.columns))?;
                let Some(ids) = ids else {
                    return Ok(on_device::backward(&self.as_rows(weights)?, &gradient, form)?);
                };
                let selected = self.selected(weights, ids)?;
                if form.rows == 1 {
                    return Ok(on_device::backward(&selected, &gradient, form)?);
                }
                let each =
                    on_device::backward(&selected, &gradient, Form { rows: ids.dim(0)?, ..form })?;
                let none = Tensor::zeros(
                    (self.sources(), form.rows, form.columns),
                    each.dtype(),
                    each.device(),
                )?;
                Ok(none.index_add(ids, &each, 1)?)
            }
            Operands::Mapped(views) => {
                let (ids, fused) = (
                    ids.map(|ids| self.checked(ids)).transpose()?,
                    Fused { views, columns: self.columns, form },
                );
                let shape = (views.len(), form.rows, form.columns);
                let given = |values| Tensor::from_vec(values, shape, &Device::Cpu);
                Ok(match gradient.dtype() {
                    DType::F64 => with_elements([gradient], |[g]: [&[f64]; 1]| {
                        Tensor::from_vec(fused.backward(g, ids.as_deref()), shape, &Device::Cpu)
                    })?,
                    _ => with_elements([gradient], |[g]: [&[f32]; 1]| {
                        given(fused.backward(g, ids.as_deref()))
                    })?,
                })
            }
        }
    }

    /// Returns `weights` as rows x columns.
    fn as_rows(&self, weights: &[DeviceWeight]) -> Result<Vec<Tensor>> {
        let held = self.held().clone();
        let rows = |tensor: Tensor| Ok(tensor.reshape(((), self.columns))?);
        if held.is_empty() {
            weights.iter().map(|weight| rows(weight()?)).collect()
        } else {
            held.into_iter().map(rows).collect()
        }
    }

    fn selected(&self, weights: &[DeviceWeight], ids: &Tensor) -> Result<Vec<Tensor>> {
        let rows = |weight: &DeviceWeight| {
            Ok(weight()?.reshape(((), self.columns))?.index_select(ids, 0)?)
        };
        weights.iter().map(rows).collect()
    }

    /// Returns `ids`, checked to be rows.
    fn checked(&self, ids: &Tensor) -> candle_core::Result<Vec<u32>> {
        let (ids, rows) = (ids.to_vec1::<u32>()?, self.rows());
        match ids.iter().find(|id| **id as usize >= rows) {
            Some(id) => candle_core::bail!("row {id} of a weight of {rows}"),
            None => Ok(ids),
        }
    }

    /// Returns the form of `scales`, checked against the weight.
    fn form(&self, scales: &Tensor) -> Result<Form> {
        let (sources, rows, columns) = scales.dims3()?;
        if sources != self.sources() || !matches!(scales.dtype(), DType::F32 | DType::F64) {
            return misfit(format!(
                "scales {:?} of {:?} for {} sources",
                scales.dims(),
                scales.dtype(),
                self.sources()
            ));
        }
        let form = Form { rows, columns };
        self.fits(form)?;
        Ok(form)
    }

    fn fits(&self, form: Form) -> Result<()> {
        let (rows, columns) = (self.rows(), self.columns);
        if [1, rows].contains(&form.rows) && [1, columns].contains(&form.columns) {
            Ok(())
        } else {
            misfit(format!(
                "{} x {} scales for {rows} x {columns} elements",
                form.rows, form.columns
            ))
        }
    }
}

/// Overwrites a merged weight in place.
struct Overwrite<'a> {
    fused: Fused<'a>,
    scales: &'a Tensor,
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "scaled-sum"
    }

    fn cpu_fwd(&self, merged: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a merged weight is contiguous")
        };
        let Self { fused, scales } = self;
        match merged {
            CpuStorage::F32(out) => with_elements([scales], |[s]: [&[f32]; 1]| {
                fused.forward(s, &mut out[start..end], |row| row);
                Ok(())
            }),
            CpuStorage::F64(out) => with_elements([scales], |[s]: [&[f64]; 1]| {
                fused.forward(s, &mut out[start..end], |row| row);
                Ok(())
            }),
            _ => candle_core::bail!("a merged weight is f32 or f64"),
        }
    }
}

/// Returns the rows `ids` of `view` as f32: ids x columns.
///
/// # Errors
/// Ids out of range.
pub(crate) fn decode_rows(view: &View, ids: &Tensor) -> Result<Tensor> {
    let alone = ScaledSum::mapped(vec![view.clone()], view.columns())?;
    alone.forward_rows(&Tensor::ones((1, 1, 1), DType::F32, &Device::Cpu)?, ids)
}

#[cfg(test)]
mod tests;
