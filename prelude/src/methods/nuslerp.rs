//! NuSLERP: SLERP at `t = w_1 / (w_0 + w_1)` between two sources, or between their task vectors if
//! a base is named, over whole tensors or for each row or column. Only exactly parallel vectors are
//! interpolated linearly.
//!
//! mergekit's `nuslerp`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::{Value, json};

use super::combination::Combination;
use super::gram::{Gram, Grams, Groups};
use super::parameters::{self, BASE, Key, WEIGHT};
use super::slerp::{arc, line};
use super::{Base, Blend, Method, MethodEntry, Operands, Origin, ParameterValues};
use crate::error::Result;

pub(super) const ENTRY: MethodEntry = MethodEntry {
    name: "nuslerp",
    about: "SLERP of two sources or their task vectors (base=on) by weights; whole tensors, rows or columns",
    keys: &[
        WEIGHT,
        Key::whole("nuslerp_flatten", "on"),
        Key::whole("nuslerp_row_wise", "off"),
        BASE,
    ],
    origin: Origin::Optional,
    grid: &[("weight", &["2,1", "3,2", "1,1", "2,3", "1,2"])],
    make,
};

/// SLERP with weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NuSlerp {
    /// One weight for each of the two sources; empty: 1 each.
    pub weights: Vec<f64>,
    /// The vectors that are interpolated.
    pub across: Across,
    /// Whether to merge task vectors instead of sources.
    pub from_base: bool,
}

/// The partition of a tensor into vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Across {
    /// The whole tensor.
    #[default]
    Whole,
    /// Each row: `nuslerp_flatten=off`.
    Rows,
    /// Each column: `nuslerp_flatten=off nuslerp_row_wise=on`, in mergekit's terms.
    Columns,
}

fn make(given: &ParameterValues) -> Result<Arc<dyn Method>> {
    let flatten = given.switch("nuslerp_flatten")?;
    let row_wise = given.switch("nuslerp_row_wise")?;
    let across = if flatten {
        Across::Whole
    } else if row_wise {
        Across::Columns
    } else {
        Across::Rows
    };
    Ok(Arc::new(NuSlerp {
        weights: given.numbers("weight")?,
        across,
        from_base: given.switch("base")?,
    }))
}

impl Method for NuSlerp {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn parameters(&self) -> Value {
        let weights: Vec<f64> = (0..2).map(|i| parameters::of(&self.weights, i)).collect();
        json!({
            "weight": weights,
            "nuslerp_flatten": self.across == Across::Whole,
            "nuslerp_row_wise": self.across == Across::Columns,
        })
    }

    fn counts(&self) -> RangeInclusive<usize> {
        2..=2
    }

    fn base(&self) -> Base {
        if self.from_base { Base::Origin } else { Base::Apart }
    }

    fn check(&self, sources: usize) -> Result<()> {
        parameters::check_weights(&self.weights, sources)
    }

    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>> {
        let shape = &tensor.spec().shape;
        let groups = match self.across {
            Across::Whole => Groups::whole(),
            Across::Rows => Groups::rows(shape),
            Across::Columns => Groups::columns(shape),
        };
        let first = parameters::of(&self.weights, 0);
        let second = parameters::of(&self.weights, 1);
        let sum = first + second;
        let t = if sum.abs() < 1e-6 { 0.5 } else { second / sum };
        let shares = |gram: Gram<'_>| {
            let cosine = gram.product(0, 1) / (gram.norm(0).max(1e-7) * gram.norm(1).max(1e-7));
            let theta = cosine.clamp(-1.0, 1.0).acos();
            if theta.sin().abs() < 1e-8 { line(t).to_vec() } else { arc(t, theta).to_vec() }
        };
        let coefficients: Vec<Vec<f64>> = Grams::new(tensor, groups).iter().map(shares).collect();
        Ok(Box::new(Combination::for_tensor(tensor, groups, &coefficients)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::stream::tests::{merged, operands};

    fn close(found: Vec<f32>, expected: &[f32]) {
        assert!(
            found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?} and {expected:?}"
        );
    }

    #[test]
    fn rows_and_columns_have_their_own_angles() {
        // Rows: orthogonal, and parallel. Columns: (1, 1) and (0, 3); (0, 1) and (1, 3).
        let tensor = operands(&[2, 2], &[&[1.0, 0.0, 1.0, 1.0], &[0.0, 1.0, 3.0, 3.0]], None);
        let half = 0.5f32.sqrt();
        close(
            merged(&NuSlerp { across: Across::Rows, ..NuSlerp::default() }, &tensor),
            &[half, half, 2.0, 2.0],
        );
        // The first column is at 45 degrees: sin(22.5) / sin(45) for each.
        let c = (22.5f32.to_radians()).sin() / half;
        let found = merged(&NuSlerp { across: Across::Columns, ..NuSlerp::default() }, &tensor);
        close(vec![found[0], found[2]], &[c, 4.0 * c]);
    }

    #[test]
    fn interpolates_task_vectors_with_a_base() {
        let tensor = operands(&[2], &[&[3.0, 1.0], &[1.0, 3.0]], Some(&[1.0, 1.0]));
        let root = 2f32.sqrt();
        close(
            merged(&NuSlerp { from_base: true, ..NuSlerp::default() }, &tensor),
            &[1.0 + root, 1.0 + root],
        );
    }
}
