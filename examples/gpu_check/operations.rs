//! The operations of the decoder, beside their fused kernels.

use anyhow::{Context, Result};
use dam_prelude::candle_core::{Tensor, Var};
use dam_prelude::checkpoint::{Activation, Pairs, Rope, Scaling};
use dam_prelude::ops::{
    Gradient, RotaryTable, gated, inject_gradient, linear, linear_into, mlp, rms_norm, rotary,
    soft_cap,
};

use crate::check::{Check, FUSED, ONE, SEVERAL, Size, operation};
use crate::target::{BACKWARD, FORWARD, Found, Side, Target, differentiate};

const ACTIVATIONS: [(&str, Activation); 2] =
    [("silu", Activation::Silu), ("gelu", Activation::GeluTanh)];

pub fn checks(size: Size) -> Vec<Check> {
    let Size { rows, width } = size;
    // Not a multiple of the tiles of any kernel.
    let out = width + 7;
    let mut all = Vec::new();
    all.extend(operation("linear", FUSED, ONE, move |target| {
        let inputs =
            [("x", target.tensor(&[2, rows, width], 1)?), ("w", target.tensor(&[out, width], 2)?)];
        differentiate(target, &inputs, |v| Ok(linear(&v[0], &v[1])?))
    }));
    all.extend(operation("linear_into", FUSED, ONE, move |target| {
        let (x, w) = (target.tensor(&[rows, width], 1)?, target.tensor(&[out, width], 2)?);
        let gradient = Gradient::default();
        let mut found =
            differentiate(target, &[("x", x)], |v| Ok(linear_into(&v[0], &w, &gradient)?))?;
        add_total(&mut found, "w", &gradient)?;
        Ok(found)
    }));
    all.extend(operation("Gradient, twice and after clear", FUSED, ONE, move |target| {
        let (x, dy) = (target.tensor(&[rows, width], 1)?, target.tensor(&[rows, out], 2)?);
        let (gradient, mut found) = (Gradient::default(), Found::default());
        gradient.add_product(&dy, &x)?;
        gradient.clear();
        gradient.add_product(&dy, &x)?;
        found.add(FORWARD, &gradient.total().context("no sum")?)?;
        gradient.add_product(&target.tensor(&[rows, out], 3)?, &x)?;
        add_total(&mut found, "twice", &gradient)?;
        Ok(found)
    }));
    for (name, f) in ACTIVATIONS {
        all.extend(operation(format!("gated, {name}"), FUSED, ONE, move |target| {
            let input = |seed| target.tensor(&[rows, width], seed);
            differentiate(target, &[("gate", input(1)?), ("up", input(2)?)], |v| {
                Ok(gated(&v[0], &v[1], f)?)
            })
        }));
        all.extend(operation(format!("mlp, {name}"), FUSED, SEVERAL, move |target| {
            whole_mlp(target, size, f)
        }));
    }
    all.extend(operation("rms_norm", FUSED, ONE, move |target| {
        let inputs = [("x", target.tensor(&[rows, width], 1)?), ("w", target.tensor(&[width], 2)?)];
        differentiate(target, &inputs, |v| Ok(rms_norm(&v[0], &v[1], 1e-5)?))
    }));
    for (name, pairs, dims) in [
        ("rotary, halves", Pairs::Halves, 32),
        ("rotary, neighbours", Pairs::Neighbours, 32),
        ("rotary, part of a head", Pairs::Halves, 16),
    ] {
        all.extend(operation(name, FUSED, ONE, move |target| {
            let rope = Rope { theta: 1e4, dims, scaling: Scaling::None, pairs };
            let table = RotaryTable::new(&rope, &[3..rows - 2, 3..8]);
            let x = target.tensor(&[rows, 4, 32], 1)?;
            differentiate(target, &[("x", x)], |v| Ok(rotary(&v[0], &table)?))
        }));
    }
    all.extend(operation("soft_cap", FUSED, SEVERAL, move |target| {
        let x = target.tensor(&[rows, width], 1)?;
        differentiate(target, &[("x", x)], |v| Ok(soft_cap(&v[0], 0.7)?))
    }));
    all.extend(operation("inject_gradient", FUSED, ONE, move |target| {
        let (x, gradient) = (target.tensor(&[rows, width], 1)?, target.tensor(&[rows, width], 2)?);
        differentiate(target, &[("x", x)], |v| Ok(inject_gradient(&(&v[0] * 2.0)?, &gradient)?))
    }));
    all
}

/// Adds the gradient of a weight.
fn add_total(found: &mut Found, name: &str, gradient: &Gradient) -> Result<()> {
    found.add(format!("{BACKWARD}/{name}"), &gradient.total().context("no gradient")?)
}

/// An MLP with the gradients of its weights. `mlp` itself exists on the CPU alone; the device runs
/// the operations that the decoder takes there.
fn whole_mlp(target: &Target, size: Size, f: Activation) -> Result<Found> {
    let (rows, width, inner) = (size.rows, size.width, 2 * size.width);
    // Weights of the order of 1 / sqrt(width) keep the gate in the range where it bends.
    let scale = (width as f64).sqrt().recip();
    let weight =
        |shape: &[usize], seed| Ok::<_, anyhow::Error>((target.tensor(shape, seed)? * scale)?);
    let (gate, up, down) =
        (weight(&[inner, width], 2)?, weight(&[inner, width], 3)?, weight(&[width, inner], 4)?);
    let sums = [(); 3].map(|()| Gradient::default());
    let run = |x: &Tensor| -> Result<Tensor> {
        if target.side == Side::Reference {
            let with = [(&gate, Some(&sums[0])), (&up, Some(&sums[1])), (&down, Some(&sums[2]))];
            return Ok(mlp(x, with, f)?);
        }
        let (g, u) = (linear_into(x, &gate, &sums[0])?, linear_into(x, &up, &sums[1])?);
        Ok(linear_into(&gated(&g, &u, f)?, &down, &sums[2])?)
    };
    let x = Var::from_tensor(&target.tensor(&[rows, width], 1)?)?.into_inner();
    let mut found = differentiate(target, &[("x", x)], |v| run(&v[0]))?;
    for (name, sum) in ["gate", "up", "down"].into_iter().zip(&sums) {
        add_total(&mut found, name, sum)?;
    }
    Ok(found)
}
