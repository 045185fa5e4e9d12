//! The operations of the decoder, beside their fused kernels.

use anyhow::{Context, Result};
use dam_prelude::candle_core::{Tensor, Var};
use dam_prelude::checkpoint::{Activation, Pairs, Rope, Scaling};
use dam_prelude::ops::{
    Gradient, RotaryTable, gated, linear, linear_into, mlp, rms_norm, rotary, send_down, soft_cap,
};

use crate::check::{Check, FUSED, ONE, SEVERAL, Size, operation};
use crate::place::{BACKWARD, FORWARD, Found, Place, Side, differentiate};

const ACTIVATIONS: [(&str, Activation); 2] =
    [("silu", Activation::Silu), ("gelu", Activation::GeluTanh)];

pub fn checks(size: Size) -> Vec<Check> {
    let Size { rows, width } = size;
    // Not a multiple of the tiles of any kernel.
    let out = width + 7;
    let mut all = Vec::new();
    all.extend(operation("linear", FUSED, ONE, move |place| {
        let inputs =
            [("x", place.tensor(&[2, rows, width], 1)?), ("w", place.tensor(&[out, width], 2)?)];
        differentiate(place, &inputs, |v| Ok(linear(&v[0], &v[1])?))
    }));
    all.extend(operation("linear_into", FUSED, ONE, move |place| {
        let (x, w) = (place.tensor(&[rows, width], 1)?, place.tensor(&[out, width], 2)?);
        let gradient = Gradient::default();
        let mut found =
            differentiate(place, &[("x", x)], |v| Ok(linear_into(&v[0], &w, &gradient)?))?;
        add_total(&mut found, "w", &gradient)?;
        Ok(found)
    }));
    all.extend(operation("Gradient, twice and after clear", FUSED, ONE, move |place| {
        let (x, dy) = (place.tensor(&[rows, width], 1)?, place.tensor(&[rows, out], 2)?);
        let (gradient, mut found) = (Gradient::default(), Found::default());
        gradient.add_product(&dy, &x)?;
        gradient.clear();
        gradient.add_product(&dy, &x)?;
        found.add(FORWARD, &gradient.total().context("no sum")?)?;
        gradient.add_product(&place.tensor(&[rows, out], 3)?, &x)?;
        add_total(&mut found, "twice", &gradient)?;
        Ok(found)
    }));
    for (name, f) in ACTIVATIONS {
        all.extend(operation(format!("gated, {name}"), FUSED, ONE, move |place| {
            let input = |seed| place.tensor(&[rows, width], seed);
            differentiate(place, &[("gate", input(1)?), ("up", input(2)?)], |v| {
                Ok(gated(&v[0], &v[1], f)?)
            })
        }));
        all.extend(operation(format!("mlp, {name}"), FUSED, SEVERAL, move |place| {
            whole_mlp(place, size, f)
        }));
    }
    all.extend(operation("rms_norm", FUSED, ONE, move |place| {
        let inputs = [("x", place.tensor(&[rows, width], 1)?), ("w", place.tensor(&[width], 2)?)];
        differentiate(place, &inputs, |v| Ok(rms_norm(&v[0], &v[1], 1e-5)?))
    }));
    for (name, pairs, dims) in [
        ("rotary, halves", Pairs::Halves, 32),
        ("rotary, neighbours", Pairs::Neighbours, 32),
        ("rotary, part of a head", Pairs::Halves, 16),
    ] {
        all.extend(operation(name, FUSED, ONE, move |place| {
            let rope = Rope { theta: 1e4, dims, scaling: Scaling::None, pairs };
            let table = RotaryTable::new(&rope, &[3..rows - 2, 3..8]);
            let x = place.tensor(&[rows, 4, 32], 1)?;
            differentiate(place, &[("x", x)], |v| Ok(rotary(&v[0], &table)?))
        }));
    }
    all.extend(operation("soft_cap", FUSED, SEVERAL, move |place| {
        let x = place.tensor(&[rows, width], 1)?;
        differentiate(place, &[("x", x)], |v| Ok(soft_cap(&v[0], 0.7)?))
    }));
    all.extend(operation("send_down", FUSED, ONE, move |place| {
        let (x, gradient) = (place.tensor(&[rows, width], 1)?, place.tensor(&[rows, width], 2)?);
        differentiate(place, &[("x", x)], |v| Ok(send_down(&(&v[0] * 2.0)?, &gradient)?))
    }));
    all
}

/// Adds the gradient of a weight.
fn add_total(found: &mut Found, name: &str, gradient: &Gradient) -> Result<()> {
    found.add(format!("{BACKWARD}/{name}"), &gradient.total().context("no gradient")?)
}

/// An MLP with the gradients of its weights. `mlp` itself exists on the CPU alone; the device runs
/// the operations that the decoder takes there.
fn whole_mlp(place: &Place, size: Size, f: Activation) -> Result<Found> {
    let (rows, width, inner) = (size.rows, size.width, 2 * size.width);
    // Weights of the order of 1 / sqrt(width) keep the gate in the range where it bends.
    let scale = (width as f64).sqrt().recip();
    let weight =
        |shape: &[usize], seed| Ok::<_, anyhow::Error>((place.tensor(shape, seed)? * scale)?);
    let (gate, up, down) =
        (weight(&[inner, width], 2)?, weight(&[inner, width], 3)?, weight(&[width, inner], 4)?);
    let sums = [(); 3].map(|()| Gradient::default());
    let run = |x: &Tensor| -> Result<Tensor> {
        if place.side == Side::Reference {
            let with = [(&gate, Some(&sums[0])), (&up, Some(&sums[1])), (&down, Some(&sums[2]))];
            return Ok(mlp(x, with, f)?);
        }
        let (g, u) = (linear_into(x, &gate, &sums[0])?, linear_into(x, &up, &sums[1])?);
        Ok(linear_into(&gated(&g, &u, f)?, &down, &sums[2])?)
    };
    let x = Var::from_tensor(&place.tensor(&[rows, width], 1)?)?.into_inner();
    let mut found = differentiate(place, &[("x", x)], |v| run(&v[0]))?;
    for (name, sum) in ["gate", "up", "down"].into_iter().zip(&sums) {
        add_total(&mut found, name, sum)?;
    }
    Ok(found)
}
