//! The merge: `W[:, j] = sum_i c[i, j] * W_i[:, j]`, and its gradient `dc[i, j] = sum_o dW[o, j] * W_i[o, j]`.
//!
//! The sources are frozen, so nothing is spent on their gradients. On the CPU they are read where
//! they are mapped, in their own dtype, row by row; both directions run at memory speed.
//! Source: arXiv 2410.08371, section 3.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;

use super::{Real, for_rows, with_elements};
use crate::checkpoint::{TILE, Values, View};
use crate::error::{Error, Result};

/// One weight of every source, to be merged by columns.
///
/// A weight of shape `out x in` has `in` columns; a norm of `in` features is one row of them; a bias
/// of `out` features is one column of `out` rows.
pub struct ColumnMerge {
    operands: Operands,
    shape: Vec<usize>,
    columns: usize,
}

enum Operands {
    /// Memory-mapped, for the CPU.
    Mapped(Vec<View>),
    /// Copied to another device once, in their own dtype.
    Resident(Vec<Tensor>),
}

/// Rows that one task sums before partial sums are added up, in order, so that the result does not
/// depend on the number of threads.
const BLOCK: usize = 64;

impl ColumnMerge {
    /// Merges `views` (equal shapes) on `device`. `columns` is the last dimension, or 1 for a bias.
    ///
    /// # Errors
    /// A device that has no room for them.
    pub fn new(views: Vec<View>, columns: usize, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => {
                let shape = views.first().map(|v| v.shape.clone()).unwrap_or_default();
                Ok(Self { operands: Operands::Mapped(views), shape, columns })
            }
            _ => Ok(Self::resident(views.iter().map(|v| v.to_tensor(device)).collect::<Result<_>>()?, columns)),
        }
    }

    /// Merges tensors where they are, in candle's own operations.
    fn resident(tensors: Vec<Tensor>, columns: usize) -> Self {
        let shape = tensors.first().map(|t| t.dims().to_vec()).unwrap_or_default();
        Self { operands: Operands::Resident(tensors), shape, columns }
    }

    /// The number of sources.
    pub fn sources(&self) -> usize {
        match &self.operands {
            Operands::Mapped(views) => views.len(),
            Operands::Resident(tensors) => tensors.len(),
        }
    }

    /// The merged weight for `coefficients` (sources x columns, f32 or f64), in their dtype. It is a
    /// variable, so that a loss has a gradient by it; [`ColumnMerge::backward`] takes that further.
    ///
    /// # Errors
    /// Coefficients of another shape or dtype.
    pub fn forward(&self, coefficients: &Tensor) -> Result<Var> {
        self.check(coefficients)?;
        match &self.operands {
            Operands::Resident(tensors) => {
                let merged = self.composed(tensors, coefficients)?.reshape(self.shape.as_slice())?;
                Ok(Var::from_tensor(&merged)?)
            }
            Operands::Mapped(_) => {
                let merged = Var::zeros(self.shape.as_slice(), coefficients.dtype(), &Device::Cpu)?;
                self.forward_into(coefficients, &merged)?;
                Ok(merged)
            }
        }
    }

    /// [`ColumnMerge::forward`] into `merged`, what it gave before. On the CPU nothing is allocated:
    /// fresh memory costs more than the merge, since every page of it must be mapped first.
    ///
    /// # Errors
    /// As for `forward`; a `merged` of another shape, or on the CPU of another dtype.
    pub fn forward_into(&self, coefficients: &Tensor, merged: &Var) -> Result<()> {
        self.check(coefficients)?;
        let resident = matches!(self.operands, Operands::Resident(_));
        if merged.dims() != self.shape || (merged.dtype() != coefficients.dtype() && !resident) {
            return Err(candle_core::Error::Msg(format!("no weight of shape {:?} to merge into", self.shape)).into());
        }
        match &self.operands {
            Operands::Resident(tensors) => {
                let new = self.composed(tensors, coefficients)?.reshape(self.shape.as_slice())?;
                Ok(merged.set(&new.to_dtype(merged.dtype())?)?)
            }
            Operands::Mapped(views) => Ok(merged.inplace_op1(&Overwrite { merge: self, views, coefficients })?),
        }
    }

    /// [`ColumnMerge::forward`] in `dtype`: in `kept`, where that is a weight of this shape, dtype and place,
    /// or else in memory of its own.
    ///
    /// # Errors
    /// As for `forward`.
    pub fn forward_in(&self, coefficients: &Tensor, dtype: DType, kept: Option<&Var>) -> Result<Var> {
        let fits = |v: &&Var| v.dims() == self.shape && v.dtype() == dtype && v.device().same_device(coefficients.device());
        if let Some(kept) = kept.filter(fits) {
            self.forward_into(coefficients, kept)?;
            return Ok(kept.clone());
        }
        let merged = self.forward(coefficients)?;
        Ok(if dtype == merged.dtype() { merged } else { Var::from_tensor(&merged.to_dtype(dtype)?)? })
    }

    /// The merge of the rows `ids` (u32) alone: ids x columns, in the coefficients' dtype.
    ///
    /// # Errors
    /// As for `forward`; a row that is not there.
    pub fn forward_rows(&self, coefficients: &Tensor, ids: &Tensor) -> Result<Tensor> {
        self.check(coefficients)?;
        match &self.operands {
            Operands::Resident(tensors) => self.composed(&self.selected(tensors, ids)?, coefficients),
            Operands::Mapped(views) => {
                let ids = self.checked(ids)?;
                Ok(match coefficients.dtype() {
                    DType::F64 => self.rows_cpu::<f64>(views, coefficients, &ids)?,
                    _ => self.rows_cpu::<f32>(views, coefficients, &ids)?,
                })
            }
        }
    }

    fn rows_cpu<T: Real>(&self, views: &[View], coefficients: &Tensor, ids: &[u32]) -> candle_core::Result<Tensor> {
        with_elements([coefficients], |[c]: [&[T]; 1]| {
            let mut rows = vec![T::zero(); ids.len() * self.columns];
            self.forward_cpu(views, c, &mut rows, |row| ids[row] as usize);
            Tensor::from_vec(rows, (ids.len(), self.columns), &Device::Cpu)
        })
    }

    /// The merged weight for `coefficients` (sources x columns, f32), in pieces: what is given fills a slice
    /// with the elements from one on, on any thread, so that a merge can be written without being held.
    ///
    /// # Errors
    /// As for `forward`.
    pub(crate) fn values(&self, coefficients: &Tensor) -> Result<Values<'_>> {
        self.check(coefficients)?;
        match &self.operands {
            Operands::Resident(tensors) => {
                let merged: Vec<f32> = self.composed(tensors, coefficients)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
                Ok(Box::new(move |start, out| out.copy_from_slice(&merged[start..start + out.len()])))
            }
            Operands::Mapped(views) => {
                let coefficients: Vec<f32> = coefficients.flatten_all()?.to_vec1()?;
                Ok(Box::new(move |start, out| pulp::Arch::new().dispatch(|| self.piece(views, &coefficients, start, out))))
            }
        }
    }

    /// Elements from `start` on, which need not begin or end with a row.
    #[inline(always)]
    fn piece(&self, views: &[View], coefficients: &[f32], start: usize, out: &mut [f32]) {
        let (n, mut buffer, mut done) = (self.columns, [0f32; TILE], 0);
        while done < out.len() {
            let column = (start + done) % n;
            let length = TILE.min(n - column).min(out.len() - done);
            let out = &mut out[done..done + length];
            for (i, (view, c)) in views.iter().zip(coefficients.chunks(n)).enumerate() {
                let w = &mut buffer[..length];
                view.read(start + done, w);
                let terms = out.iter_mut().zip(c[column..column + length].iter().zip(w.iter()).map(|(c, w)| c * w));
                if i == 0 { terms.for_each(|(out, x)| *out = x) } else { terms.for_each(|(out, x)| *out += x) }
            }
            done += length;
        }
    }

    /// The merge in candle's own operations, as rows.
    fn composed(&self, tensors: &[Tensor], coefficients: &Tensor) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for (i, tensor) in tensors.iter().enumerate() {
            let scaled = self.as_rows(tensor)?.to_dtype(coefficients.dtype())?.broadcast_mul(&coefficients.get(i)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + scaled)?,
                None => scaled,
            });
        }
        sum.ok_or_else(|| Error::Sources { what: "nothing to merge".into(), hint: "load a source" })
    }

    fn selected(&self, tensors: &[Tensor], ids: &Tensor) -> Result<Vec<Tensor>> {
        tensors.iter().map(|t| Ok(self.as_rows(t)?.index_select(ids, 0)?)).collect()
    }

    /// `ids`, each of them a row.
    fn checked(&self, ids: &Tensor) -> candle_core::Result<Vec<u32>> {
        let (ids, rows) = (ids.to_vec1::<u32>()?, self.shape.iter().product::<usize>() / self.columns.max(1));
        match ids.iter().find(|id| **id as usize >= rows) {
            Some(id) => candle_core::bail!("row {id} of a weight of {rows}"),
            None => Ok(ids),
        }
    }

    /// The gradient of the coefficients (sources x columns) for that of the merged weight.
    ///
    /// # Errors
    /// A gradient of another shape or dtype.
    pub fn backward(&self, gradient: &Tensor) -> Result<Tensor> {
        if gradient.dims() != self.shape {
            return Err(
                candle_core::Error::Msg(format!("a gradient of shape {:?}, not {:?}", gradient.dims(), self.shape)).into()
            );
        }
        self.backward_of(gradient, None)
    }

    /// [`ColumnMerge::backward`] of [`ColumnMerge::forward_rows`], for the gradient of those rows.
    ///
    /// # Errors
    /// As for `backward`; a row that is not there.
    pub fn backward_rows(&self, gradient: &Tensor, ids: &Tensor) -> Result<Tensor> {
        if gradient.dims() != [ids.dim(0)?, self.columns] {
            return Err(
                candle_core::Error::Msg(format!("a gradient of shape {:?} of {:?} rows", gradient.dims(), ids.dims())).into()
            );
        }
        self.backward_of(gradient, Some(ids))
    }

    fn backward_of(&self, gradient: &Tensor, ids: Option<&Tensor>) -> Result<Tensor> {
        match &self.operands {
            Operands::Resident(tensors) => {
                let gradient = self.as_rows(gradient)?;
                let tensors = ids.map_or_else(|| Ok(tensors.clone()), |ids| self.selected(tensors, ids))?;
                let rows = tensors
                    .iter()
                    .map(|t| Ok((&gradient * self.as_rows(t)?.to_dtype(gradient.dtype())?)?.sum(0)?))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Tensor::stack(&rows, 0)?)
            }
            Operands::Mapped(views) => {
                let ids = ids.map(|ids| self.checked(ids)).transpose()?;
                let row = |row: usize| ids.as_ref().map_or(row, |ids| ids[row] as usize);
                Ok(match gradient.dtype() {
                    DType::F64 => with_elements([gradient], |[g]: [&[f64]; 1]| self.backward_cpu(views, g, row))?,
                    _ => with_elements([gradient], |[g]: [&[f32]; 1]| self.backward_cpu(views, g, row))?,
                })
            }
        }
    }

    fn as_rows(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(tensor.reshape(((), self.columns))?)
    }

    fn check(&self, coefficients: &Tensor) -> candle_core::Result<()> {
        let expected = [self.sources(), self.columns];
        if coefficients.dims() != expected {
            candle_core::bail!("coefficients have shape {:?}, expected {expected:?}", coefficients.dims())
        }
        if !matches!(coefficients.dtype(), DType::F32 | DType::F64) {
            candle_core::bail!("coefficients have dtype {:?}, expected f32 or f64", coefficients.dtype())
        }
        Ok(())
    }

    /// Merges row `source_row(i)` of every view into row i of `merged`.
    fn forward_cpu<T: Real>(
        &self,
        views: &[View],
        coefficients: &[T],
        merged: &mut [T],
        source_row: impl Fn(usize) -> usize + Sync,
    ) {
        let n = self.columns;
        for_rows(merged, n, |row, out| {
            let mut buffer = [0f32; TILE];
            let row = source_row(row);
            for (i, (view, c)) in views.iter().zip(coefficients.chunks(n)).enumerate() {
                for start in (0..n).step_by(TILE) {
                    let end = n.min(start + TILE);
                    let w = view.decode(row * n + start, &mut buffer[..end - start]);
                    let terms = c[start..end].iter().zip(w).map(|(c, w)| *c * T::from_f64(f64::from(*w)));
                    let out = out[start..end].iter_mut().zip(terms);
                    if i == 0 { out.for_each(|(out, x)| *out = x) } else { out.for_each(|(out, x)| *out += x) }
                }
            }
        });
    }

    fn backward_cpu<T: Real>(
        &self,
        views: &[View],
        gradient: &[T],
        source_row: impl Fn(usize) -> usize + Sync,
    ) -> candle_core::Result<Tensor> {
        let (n, sources) = (self.columns, views.len());
        let arch = pulp::Arch::new();
        let partial: Vec<Vec<T>> = gradient
            .par_chunks(n * BLOCK)
            .enumerate()
            .map(|(block, gradient)| {
                let mut sums = vec![T::zero(); sources * n];
                arch.dispatch(|| {
                    let mut buffer = [0f32; TILE];
                    for (i, gradient) in gradient.chunks(n).enumerate() {
                        let row = source_row(block * BLOCK + i);
                        for (view, sums) in views.iter().zip(sums.chunks_mut(n)) {
                            for start in (0..n).step_by(TILE) {
                                let end = n.min(start + TILE);
                                let w = view.decode(row * n + start, &mut buffer[..end - start]);
                                for ((sum, g), w) in sums[start..end].iter_mut().zip(&gradient[start..end]).zip(w) {
                                    *sum += *g * T::from_f64(f64::from(*w));
                                }
                            }
                        }
                    }
                });
                sums
            })
            .collect();
        let mut total = vec![T::zero(); sources * n];
        for sums in &partial {
            total.iter_mut().zip(sums).for_each(|(t, s)| *t += *s);
        }
        Tensor::from_vec(total, (sources, n), &Device::Cpu)
    }
}

/// Overwrites a merged weight in place.
struct Overwrite<'a> {
    merge: &'a ColumnMerge,
    views: &'a [View],
    coefficients: &'a Tensor,
}

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "column-merge"
    }

    fn cpu_fwd(&self, merged: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("a merged weight is contiguous") };
        let Self { merge, views, coefficients } = self;
        match merged {
            CpuStorage::F32(out) => with_elements([coefficients], |[c]: [&[f32]; 1]| {
                merge.forward_cpu(views, c, &mut out[start..end], |row| row);
                Ok(())
            }),
            CpuStorage::F64(out) => with_elements([coefficients], |[c]: [&[f64]; 1]| {
                merge.forward_cpu(views, c, &mut out[start..end], |row| row);
                Ok(())
            }),
            _ => candle_core::bail!("a merged weight is f32 or f64"),
        }
    }
}

/// The rows `ids` of `view` as f32: ids x columns.
///
/// # Errors
/// A row that is not there.
pub(crate) fn decode_rows(view: &View, ids: &Tensor) -> Result<Tensor> {
    let columns = view.columns();
    let merge = ColumnMerge::new(vec![view.clone()], columns, &Device::Cpu)?;
    merge.forward_rows(&Tensor::ones((1, columns), DType::F32, &Device::Cpu)?, ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::encoded;
    use crate::ops::check::{agrees, random, values};

    /// Two sources of `shape` in `dtype`, merged by both implementations.
    fn both(shape: &[usize], columns: usize, dtype: DType) -> [ColumnMerge; 2] {
        let tensors: Vec<Tensor> = (0..2).map(|i| random(shape, 10 + i).to_dtype(dtype).unwrap()).collect();
        let view = |t: &Tensor| {
            let values: Vec<f32> = values(t).into_iter().map(|x| x as f32).collect();
            View::of(encoded(&values, dtype), dtype, shape)
        };
        let views = tensors.iter().map(view).collect();
        [ColumnMerge::new(views, columns, &Device::Cpu).unwrap(), ColumnMerge::resident(tensors, columns)]
    }

    /// A weight of more columns than a tile and more rows than a block, a norm, a bias.
    const CASES: [(&[usize], usize); 4] = [(&[150, 700], 700), (&[3, 5], 5), (&[7], 7), (&[6], 1)];

    #[test]
    fn kernels_agree_with_candle_in_every_dtype() {
        for (shape, columns) in CASES {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let [fused, composed] = both(shape, columns, dtype);
                let c = random(&[2, columns], 1);
                let merged = composed.forward(&c).unwrap();
                agrees(fused.forward(&c).unwrap().as_tensor(), merged.as_tensor());
                for merge in [&fused, &composed] {
                    let into = merge.forward(&random(&[2, columns], 5)).unwrap();
                    merge.forward_into(&c, &into).unwrap();
                    agrees(into.as_tensor(), merged.as_tensor());
                }
                // In pieces that begin and end within rows, as in one.
                let narrow = c.to_dtype(DType::F32).unwrap();
                for merge in [&fused, &composed] {
                    let whole: Vec<f32> = merge.forward(&narrow).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                    let mut pieces = vec![0.0; whole.len()];
                    let piece = merge.values(&narrow).unwrap();
                    pieces.chunks_mut(997).enumerate().for_each(|(i, out)| piece(i * 997, out));
                    assert_eq!(pieces, whole);
                }
                let rows = shape.iter().product::<usize>() / columns;
                let ids = Tensor::new(&[rows as u32 - 1, 0, rows as u32 - 1], &Device::Cpu).unwrap();
                let selected = merged.as_tensor().reshape((rows, columns)).unwrap().index_select(&ids, 0).unwrap();
                let g = random(&[3, columns], 3);
                for merge in [&fused, &composed] {
                    agrees(&merge.forward_rows(&c, &ids).unwrap(), &selected);
                    agrees(&merge.backward_rows(&g, &ids).unwrap(), &fused.backward_rows(&g, &ids).unwrap());
                }
                // A row's gradient counts as often as it was asked for.
                let mut whole = vec![0f64; rows * columns];
                for (id, g) in [rows - 1, 0, rows - 1].into_iter().zip(values(&g).chunks(columns)) {
                    whole[id * columns..].iter_mut().zip(g).for_each(|(w, g)| *w += g);
                }
                let whole = Tensor::from_vec(whole, shape, &Device::Cpu).unwrap();
                agrees(&fused.backward_rows(&g, &ids).unwrap(), &fused.backward(&whole).unwrap());
                let g = random(shape, 2);
                agrees(&fused.backward(&g).unwrap(), &composed.backward(&g).unwrap());
                // In f32 to its precision.
                let narrow = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
                let difference = (narrow(&fused.backward(&g).unwrap()) - fused.backward(&narrow(&g)).unwrap()).unwrap();
                assert!(values(&difference).iter().all(|d| d.abs() < 1e-4));
            }
        }
    }

    #[test]
    fn gradients_pass_finite_differences() {
        for (shape, columns) in [(&[4, 6][..], 6), (&[5], 5), (&[5], 1)] {
            for merge in both(shape, columns, DType::F32) {
                let (c, g) = (random(&[2, columns], 1), random(shape, 2));
                let loss = |c: &[f64]| -> f64 {
                    let c = Tensor::from_slice(c, (2, columns), &Device::Cpu).unwrap();
                    values(&(merge.forward(&c).unwrap().as_tensor() * &g).unwrap()).iter().sum()
                };
                let gradient = values(&merge.backward(&g).unwrap());
                for (i, analytic) in gradient.into_iter().enumerate() {
                    let at = |h: f64| {
                        let mut c = values(&c);
                        c[i] += h;
                        loss(&c)
                    };
                    let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!((analytic - numeric).abs() < 1e-6 * (1.0 + numeric.abs()), "{analytic} and {numeric}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let [fused, _] = both(&[3, 5], 5, DType::F32);
        assert!(fused.forward(&random(&[2, 4], 1)).is_err());
        assert!(fused.forward(&random(&[3, 5], 1)).is_err());
        assert!(fused.forward(&random(&[2, 5], 1).to_dtype(DType::BF16).unwrap()).is_err());
        assert!(fused.backward(&random(&[3, 4], 1)).is_err());
        let beyond = Tensor::new(&[3u32], &Device::Cpu).unwrap();
        assert!(fused.forward_rows(&random(&[2, 5], 1), &beyond).is_err());
        assert!(fused.backward_rows(&random(&[1, 5], 1), &beyond).is_err());
        assert!(fused.backward_rows(&random(&[2, 5], 1), &beyond).is_err());
        let c = random(&[2, 5], 1);
        for (shape, dtype) in [(&[3, 4], DType::F64), (&[3, 5], DType::F32)] {
            assert!(fused.forward_into(&c, &Var::zeros(shape, dtype, &Device::Cpu).unwrap()).is_err());
        }
    }
}
