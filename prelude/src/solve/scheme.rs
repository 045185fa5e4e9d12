//! Solves for the coefficients of a scheme: units whose tensors share variables together, every
//! other unit alone.

use std::collections::BTreeSet;

use super::basis;
use super::block::{Block, Unit};
use super::cholesky::not_finite;
use super::columns;
use super::gauss_newton::{Problem, deviation};
use crate::coefficients::{Merge, MergedTensor, Nonlinearity};
use crate::error::{Error, Result};
use crate::interrupt;

/// Sets the variables of `units` to their solution. Returns what is left of each unit's
/// disagreement.
///
/// # Errors
/// A system is not positive definite, the scheme fails, or [`Error::Interrupted`].
pub(super) fn solve(merge: &Merge, units: &[Unit<'_>], ridge: f64) -> Result<Vec<f64>> {
    let mut left = vec![0.0; units.len()];
    for group in groups(units) {
        interrupt::check()?;
        let blocks = |i: &usize| Ok((*i, units[*i].blocks(merge)?));
        let blocks = group.iter().map(blocks).collect::<Result<Vec<_>>>()?;
        let done = match blocks.as_slice() {
            [(i, blocks)] => columns::solve(merge, &units[*i], blocks, ridge)?,
            _ => false,
        };
        if !done {
            blocks.iter().flat_map(|(_, all)| all).try_for_each(|block| average(merge, block))?;
        }
        let blocks: Vec<_> = blocks.into_iter().map(|(i, blocks)| (&units[i], blocks)).collect();
        let blocks = if done { blocks } else { Problem::new(merge, blocks, ridge)?.solve()? };
        for (i, (unit, blocks)) in group.iter().zip(&blocks) {
            let dtype = unit.quadratic.right.dtype();
            let x = blocks.iter().map(|b| basis::deviations(&b.current_scales(merge)?, dtype));
            let d = deviation(blocks, &x.collect::<Result<Vec<_>>>()?)?;
            left[*i] = unit.quadratic.value(&d)?;
            if !left[*i].is_finite() {
                return Err(not_finite(unit.name()));
            }
            left[*i] = left[*i].max(0.0);
        }
    }
    Ok(left)
}

/// Sets coefficients of one's own to those of the average if a function of them is not it at the
/// start.
fn average(merge: &Merge, block: &Block<'_>) -> Result<()> {
    let f = merge.wrap.options.f;
    if f == Nonlinearity::None || !block.is_direct(merge)? {
        return Ok(());
    }
    let c = merge.coefficients(block.tensor)?.detach();
    let share = f.inverse(1.0 / merge.sources() as f64);
    match merge.set_coefficients(block.tensor, &c.affine(0.0, share)?) {
        Err(Error::ComputedCoefficients { .. }) => Ok(()),
        other => other,
    }
}

/// Returns the indices of units that depend on each other's variables, group by group.
fn groups(units: &[Unit<'_>]) -> Vec<Vec<usize>> {
    let mut groups: Vec<(BTreeSet<usize>, Vec<usize>)> = Vec::new();
    for (i, unit) in units.iter().enumerate() {
        let of = unit.tensors.iter().flat_map(|t| t.variables.iter().copied());
        let mut group = (of.collect::<BTreeSet<usize>>(), vec![i]);
        let (joined, others) =
            groups.into_iter().partition(|(used, _)| !used.is_disjoint(&group.0));
        groups = others;
        for (used, units) in Vec::<(BTreeSet<usize>, Vec<usize>)>::into_iter(joined) {
            group.0.extend(used);
            group.1.splice(0..0, units);
        }
        groups.push(group);
    }
    groups.into_iter().map(|(_, units)| units).collect()
}

/// Returns an error if trained tensors of different layers share a variable: the sweep goes layer
/// by layer.
///
/// # Errors
/// [`Error::Refused`], with the scheme, the parameter and both tensors.
pub(super) fn check(merge: &Merge) -> Result<()> {
    let place = |tensor: &MergedTensor| (tensor.spec.layer(), tensor.spec.name.contains("embed"));
    for (i, variable) in merge.variables.iter().enumerate() {
        let mut users = merge.tensors.iter().filter(|t| t.trains && t.variables.contains(&i));
        let Some(first) = users.next() else { continue };
        if let Some(other) = users.find(|other| place(other) != place(first)) {
            return Err(Error::Refused {
                message: format!(
                    "the scheme `{}` cannot be solved layer by layer: `{}` and `{}` share the parameter `{}`",
                    merge.wrap.scheme.name(),
                    first.spec.name,
                    other.spec.name,
                    variable.key
                ),
                hint:
                    "learn its coefficients with train, or give every layer parameters of its own"
                        .into(),
            });
        }
    }
    Ok(())
}
