//! Attention: windows, caps, groups of heads, several sequences, keys of a cache.

use anyhow::Result;
use dam_prelude::candle_core::{Device, Tensor};
use dam_prelude::ops::{Attention, Causal, causal_softmax};

use crate::check::{Check, FUSED, LOOPS, ONE, SEVERAL, Size, operation};
use crate::target::{BACKWARD, FORWARD, Found, Side, Target, differentiate};

/// Features per head.
const DIM: usize = 32;

pub fn checks(size: Size) -> Vec<Check> {
    // More queries than a block of the fused kernel.
    let long = size.rows + 40;
    let mut all = Vec::new();
    for (name, key_value_heads, window, soft_cap, start) in [
        ("attention", 4, None, None, 0),
        ("attention, groups", 2, None, None, 0),
        ("attention, one key head", 1, None, None, 0),
        ("attention, window", 2, Some(17), None, 0),
        ("attention, soft cap", 2, None, Some(2.0), 0),
        ("attention, window and soft cap", 2, Some(9), Some(1.5), 0),
        ("attention, keys of a cache", 2, None, None, 11),
        ("attention, window over a cache", 2, Some(20), None, 11),
    ] {
        all.extend(operation(name, FUSED, SEVERAL, move |target| {
            let scale = (DIM as f64).sqrt().recip();
            let attention = Attention { heads: 4, key_value_heads, scale, window, soft_cap };
            let lengths = [long, 1, 13];
            let tokens: usize = lengths.iter().sum();
            let keys = tokens + start * lengths.len();
            let key_shape = [keys, key_value_heads * DIM];
            let inputs = [
                ("q", target.tensor(&[tokens, 4 * DIM], 1)?),
                ("k", target.tensor(&key_shape, 2)?),
                ("v", target.tensor(&key_shape, 3)?),
            ];
            differentiate(target, &inputs, |v| {
                Ok(attention.run(&v[0], &v[1], &v[2], &lengths, start)?)
            })
        }));
    }
    for (name, start, window) in
        [("causal_softmax", 0, None), ("causal_softmax, window over a cache", 5, Some(6))]
    {
        all.extend(operation(name, LOOPS, ONE, move |target| {
            let queries = size.rows;
            let causal = Causal { scale: 0.7, start, window, queries };
            let shape = [2, 2 * queries, queries + start];
            let scores = target.tensor(&shape, 1)?;
            match target.side {
                Side::Device => {
                    differentiate(target, &[("s", scores)], |v| Ok(causal_softmax(&v[0], causal)?))
                }
                Side::Reference => softmax_by_rows(target, &shape, causal),
            }
        }));
    }
    all
}

/// `p = softmax(scale s)` over the visible positions, row by row, and with `dp` the weights of the
/// loss `ds = scale p (dp - sum(p dp))`.
fn softmax_by_rows(target: &Target, shape: &[usize], causal: Causal) -> Result<Found> {
    let read =
        |seed| -> Result<Vec<f32>> { Ok(target.values(shape, seed)?.flatten_all()?.to_vec1()?) };
    let (scores, weights) = (read(1)?, read(99)?);
    let keys = shape[2];
    let (mut p, mut ds) = (vec![0f64; scores.len()], vec![0f64; scores.len()]);
    for (row, s) in scores.chunks(keys).enumerate() {
        let end = causal.start + row % causal.queries + 1;
        let seen = end.saturating_sub(causal.window.unwrap_or(end))..end;
        let power = |j: usize| (causal.scale * f64::from(s[j])).exp();
        let total: f64 = seen.clone().map(power).sum();
        let at = row * keys;
        for j in seen.clone() {
            p[at + j] = power(j) / total;
        }
        let mean: f64 = seen.clone().map(|j| p[at + j] * f64::from(weights[at + j])).sum();
        for j in seen {
            ds[at + j] = causal.scale * p[at + j] * (f64::from(weights[at + j]) - mean);
        }
    }
    let mut found = Found::default();
    found.add(FORWARD, &Tensor::from_vec(p, shape, &Device::Cpu)?)?;
    found.add(format!("{BACKWARD}/s"), &Tensor::from_vec(ds, shape, &Device::Cpu)?)?;
    Ok(found)
}
