//! Solves for the parameters of any scheme through its own derivative.
//!
//! The objective is quadratic in the scales, `E(s)`, and the scheme makes the scales from its
//! parameters, `s(p)`, with derivative `J`. Each round solves
//!
//! ```text
//! (J^T (H + ridge) J + damping) d = - J^T (dE/ds + ridge)      p <- p + d
//! ```
//!
//! by conjugate gradients, without forming any matrix: `J^T` is the scheme's backward pass, and `J
//! d = (s(p + h d) - s(p - h d)) / 2h`, which is exact for every scheme that is at most quadratic
//! in its parameters. For a linear scheme the first round is the solution up to the damping, whose
//! effect the next ones remove; for others the rounds converge to a stationary point.
//!
//! The damping (Levenberg's) is [`DAMPING`] times the preconditioner's matrix. Parameters may have
//! directions that change no scale, such as more in every row and less in every column; without it,
//! rounding would carry them away along these.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor, Var};

use super::basis;
use super::block::{Block, Unit, form, penalty};
use super::cholesky::{MOST, not_finite};
use super::conjugate::{Stop, conjugate};
use super::preconditioner::Preconditioner;
use crate::coefficients::Merge;
use crate::error::{Error, Result};
use crate::ops::{Form, inject_gradient};

/// The largest change of a parameter in a difference quotient; and for a scheme that is linear,
/// whose quotient is exact at every distance, so that rounding counts least.
const STEP: f64 = 1.0 / 32.0;
const LINEAR_STEP: f64 = 1.0;

/// The maximum number of rounds.
const ROUNDS: usize = 12;

/// How far a problem is solved.
#[derive(Clone, Copy)]
struct Effort {
    /// When to stop within a round. Later rounds correct what is left.
    stop: Stop,
    /// A round that gains less than this share of what was gained before is the last.
    enough: f64,
}

/// Of a small problem that is linear: exactly.
const EXACT: Effort =
    Effort { stop: Stop { tolerance: 1e-4, products: 100, gain: 0.0 }, enough: 1e-6 };

/// Of any other: until more products hardly lower the objective. A product costs as much as a
/// forward pass of the weight with as many tokens as it has columns.
const THRIFTY: Effort =
    Effort { stop: Stop { tolerance: 1e-3, products: 50, gain: 1e-3 }, enough: 1e-3 };

/// Scales are f32, so the objective is not known better than this; near the solution, a step need
/// not decrease it.
const ROUNDING: f64 = 1e-6;

/// The damping relative to the system. Gradients are computed in f32: rounding, relative to them,
/// stays 100 times smaller.
const DAMPING: f64 = 1e-5;

/// Halvings of a step that would increase the objective.
const HALVINGS: usize = 6;

/// Units whose coefficients depend on the same variables.
pub(super) struct Problem<'a> {
    merge: &'a Merge,
    units: Vec<(&'a Unit<'a>, Vec<Block<'a>>)>,
    /// The indices of the variables.
    variables: Vec<usize>,
    /// The form and the ridge of the scales of each block, unit by unit.
    penalties: Vec<Vec<(Form, Vec<f64>)>>,
}

/// The state at some parameters: the scales of each block in the graph of the parameters, and half
/// the gradient with respect to the weight of each unit.
struct Point {
    parameters: Vec<Tensor>,
    scales: Vec<Vec<Tensor>>,
    slopes: Vec<Tensor>,
    value: f64,
}

impl<'a> Problem<'a> {
    /// Prepares the solution for `units` with their `blocks`.
    pub fn new(
        merge: &'a Merge,
        units: Vec<(&'a Unit<'a>, Vec<Block<'a>>)>,
        ridge: f64,
    ) -> Result<Self> {
        let used = units.iter().flat_map(|(_, blocks)| blocks);
        let used: BTreeSet<usize> = used.flat_map(|b| b.tensor.variables.iter().copied()).collect();
        let penalty = |block: &Block<'_>| {
            let form = form(&block.current_scales(merge)?)?;
            Ok((form, block.ridge(form, ridge)?))
        };
        let penalties = units.iter().map(|(_, blocks)| blocks.iter().map(penalty).collect());
        let penalties = penalties.collect::<Result<_>>()?;
        Ok(Self { merge, variables: used.into_iter().collect(), penalties, units })
    }

    /// Sets the variables to the solution. Returns the units with their blocks.
    ///
    /// # Errors
    /// The scheme fails, a variable has no gradient, or [`Error::Interrupted`].
    pub fn solve(self) -> Result<Vec<(&'a Unit<'a>, Vec<Block<'a>>)>> {
        let start = self.variables.iter().map(|i| self.merge.variables[*i].value.flatten_all());
        let start = Tensor::cat(&start.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let mut values = start.to_dtype(DType::F64)?;
        let is_linear = self.is_linear(&values)?;
        let step = if is_linear { LINEAR_STEP } else { STEP };
        let effort = if is_linear && values.elem_count() <= MOST { EXACT } else { THRIFTY };
        let mut point = self.point(&values)?;
        if !point.value.is_finite() {
            return Err(not_finite(self.units[0].0.name()));
        }
        let (precondition, first) = (self.preconditioner()?, point.value);
        for _ in 0..ROUNDS {
            let right = self.gradient(&point)?.neg()?;
            let mut moved = conjugate(
                &right,
                effort.stop,
                |x| {
                    let damping = (precondition.times(x)? * DAMPING)?;
                    Ok((self.product(&values, &point, x, step)? + damping)?)
                },
                |x| precondition.divide(x),
            )?;
            let mut next = self.point(&(&values + &moved)?)?;
            let enough = point.value + ROUNDING * point.value.abs();
            for _ in 0..HALVINGS {
                if next.value <= enough {
                    break;
                }
                moved = (moved * 0.5)?;
                next = self.point(&(&values + &moved)?)?;
            }
            // Not a number is no gain either.
            if next.value > enough || next.value.is_nan() {
                break;
            }
            let gained = point.value - next.value;
            (values, point) = ((values + moved)?, next);
            if gained <= effort.enough * (first - point.value) {
                break;
            }
        }
        for (i, value) in self.variables.iter().zip(self.split(&values)?) {
            self.merge.variables[*i].value.set(&value)?;
        }
        Ok(self.units)
    }

    /// Returns the norm of half the gradient at the current values of the variables.
    #[cfg(test)]
    pub fn gradient_norm(&self) -> Result<f64> {
        let values = self.variables.iter().map(|i| self.merge.variables[*i].value.flatten_all());
        let values = Tensor::cat(&values.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let gradient = self.gradient(&self.point(&values.to_dtype(DType::F64)?)?)?;
        Ok(gradient.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
    }

    /// Returns the values of each variable, f32.
    fn split(&self, values: &Tensor) -> Result<Vec<Tensor>> {
        let mut start = 0;
        let one = |i: &usize| {
            let value = &self.merge.variables[*i].value;
            let part = values.narrow(0, start, value.elem_count())?;
            start += value.elem_count();
            Ok(part.reshape(value.dims())?.to_dtype(DType::F32)?)
        };
        self.variables.iter().map(one).collect()
    }

    /// Returns the parameters of a block.
    fn parameters(&self, block: &Block<'_>, all: &[Tensor]) -> Vec<Tensor> {
        let of = |i: &usize| self.variables.iter().position(|other| other == i);
        block.tensor.variables.iter().filter_map(of).map(|at| all[at].clone()).collect()
    }

    /// Returns the scales of every block for the parameters `all`.
    fn scales(&self, all: &[Tensor]) -> Result<Vec<Vec<Tensor>>> {
        let of = |block: &Block<'_>| block.scales(self.merge, &self.parameters(block, all));
        self.units.iter().map(|(_, blocks)| blocks.iter().map(of).collect()).collect()
    }

    fn point(&self, values: &Tensor) -> Result<Point> {
        let tracked = |value: Tensor| Ok(Var::from_tensor(&value)?.into_inner());
        let parameters =
            self.split(values)?.into_iter().map(tracked).collect::<Result<Vec<_>>>()?;
        let scales = self.scales(&parameters)?;
        let (mut slopes, mut value) = (Vec::new(), 0.0);
        for (((unit, blocks), scales), penalties) in
            self.units.iter().zip(&scales).zip(&self.penalties)
        {
            let dtype = unit.quadratic.right.dtype();
            let x =
                scales.iter().map(|s| basis::deviations(s, dtype)).collect::<Result<Vec<_>>>()?;
            let d = deviation(blocks, &x)?;
            for ((_, matrix), x) in penalties.iter().zip(&x) {
                value += penalty(matrix, x)?;
            }
            value += unit.quadratic.value(&d)?;
            slopes.push(unit.quadratic.slope(&d)?);
        }
        Ok(Point { parameters, scales, slopes, value })
    }

    fn preconditioner(&self) -> Result<Preconditioner> {
        let mut blocks = Vec::new();
        for ((_, of_unit), penalties) in self.units.iter().zip(&self.penalties) {
            blocks.extend(of_unit.iter().zip(penalties));
        }
        Preconditioner::new(self.merge, &self.variables, &blocks)
    }

    /// Whether the scales are linear in the parameters around `values`, up to rounding.
    fn is_linear(&self, values: &Tensor) -> Result<bool> {
        const ROUNDING: f64 = 4e-6;
        let signs = (0..values.elem_count()).map(|i| if i * i % 7 < 3 { 1.0 } else { -1.0 });
        let signs = Tensor::from_vec(signs.collect::<Vec<f64>>(), values.dims(), &Device::Cpu)?;
        let at = |h: f64| self.scales(&self.split(&(values + (&signs * h)?)?)?);
        let all = at(1.0)?.into_iter().zip(at(-1.0)?).zip(at(0.0)?);
        for ((after, before), middle) in all {
            for ((after, before), middle) in after.iter().zip(&before).zip(&middle) {
                let bend = ((after + before)? - (middle * 2.0)?)?.to_device(&Device::Cpu)?;
                if largest(&bend.to_dtype(DType::F64)?)? > ROUNDING {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Returns half the gradient with respect to the parameters.
    fn gradient(&self, point: &Point) -> Result<Tensor> {
        let x = |scales: &Vec<Tensor>, unit: &Unit<'_>| {
            let dtype = unit.quadratic.right.dtype();
            scales.iter().map(|s| basis::deviations(s, dtype)).collect::<Result<Vec<_>>>()
        };
        let mut x_of = Vec::new();
        for (scales, (unit, _)) in point.scales.iter().zip(&self.units) {
            x_of.push(x(scales, unit)?);
        }
        self.pull_back(point, &point.slopes, &x_of)
    }

    /// Maps gradients with respect to the weights, and the ridge at the scales `x`, to the
    /// parameters.
    fn pull_back(&self, point: &Point, slopes: &[Tensor], x: &[Vec<Tensor>]) -> Result<Tensor> {
        let n = self.merge.sources();
        let mut total: Option<Tensor> = None;
        for ((((_, blocks), scales), slope), (penalties, x)) in
            self.units.iter().zip(&point.scales).zip(slopes).zip(self.penalties.iter().zip(x))
        {
            let mut start = 0;
            for (((block, scales), (form, matrix)), x) in
                blocks.iter().zip(scales).zip(penalties).zip(x)
            {
                let part = slope.narrow(1, start, block.columns)?.contiguous()?;
                start += block.columns;
                let by_x = (block.pull_back(&part, *form)? + basis::times(matrix, x, false)?)?;
                let by_scales = basis::times(&basis::forward(n), &by_x, true)?;
                let sent = inject_gradient(scales, &by_scales.to_dtype(DType::F32)?)?;
                total = Some(match total {
                    Some(total) => (total + sent)?,
                    None => sent,
                });
            }
        }
        let Some(total) = total else { return Err(Error::NothingToTrain) };
        let mut found = total.backward()?;
        let of = |(i, parameter): (&usize, &Tensor)| {
            let variable = &self.merge.variables[*i];
            let gradient = found.remove(parameter).ok_or_else(|| Error::NoGradient {
                parameter: variable.key.clone(),
                tensor: variable.tensor.clone(),
                count: 1,
            })?;
            Ok(gradient.detach().flatten_all()?.to_dtype(DType::F64)?)
        };
        let parts = self.variables.iter().zip(&point.parameters).map(of);
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// Returns the product of the system at `point`, where the parameters are `values`, with
    /// `direction`.
    fn product(
        &self,
        values: &Tensor,
        point: &Point,
        direction: &Tensor,
        step: f64,
    ) -> Result<Tensor> {
        let n = self.merge.sources();
        let h = step / largest(direction)?.max(f64::MIN_POSITIVE);
        let at = |h: f64| self.scales(&self.split(&(values + (direction * h)?)?)?);
        let (after, before) = (at(h)?, at(-h)?);
        let (mut slopes, mut moved) = (Vec::new(), Vec::new());
        for (((unit, blocks), after), before) in self.units.iter().zip(after).zip(before) {
            let dtype = unit.quadratic.right.dtype();
            let change = |(after, before): (Tensor, Tensor)| {
                let change = (after.to_dtype(dtype)? - before.to_dtype(dtype)?)?;
                basis::times(&basis::forward(n), &(change / (2.0 * h))?, false)
            };
            let x = after.into_iter().zip(before).map(change).collect::<Result<Vec<_>>>()?;
            slopes.push(unit.quadratic.gram.times(&deviation(blocks, &x)?)?);
            moved.push(x);
        }
        self.pull_back(point, &slopes, &moved)
    }
}

/// Returns the deviation of a unit's weight for the scales `x` of its blocks.
pub(super) fn deviation(blocks: &[Block<'_>], x: &[Tensor]) -> Result<Tensor> {
    let parts = blocks.iter().zip(x).map(|(block, x)| block.deviation(x));
    let parts = parts.collect::<Result<Vec<_>>>()?;
    Ok(if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 1)? })
}

/// Returns the largest magnitude.
fn largest(x: &Tensor) -> Result<f64> {
    Ok(x.abs()?.max_all()?.to_scalar()?)
}
