//! Losses over rows of logits.

use anyhow::Result;
use dam_prelude::candle_core::{Device, Tensor};
use dam_prelude::ops::{cross_entropy, entropy, kl_divergence, squared_error};

use crate::check::{Check, FUSED, LOOPS, ONE, Size, operation};
use crate::target::{BACKWARD, FORWARD, Found, Side, Target, differentiate};

/// As the default of the setting `temperature`.
const TEMPERATURE: f64 = 2.0;

pub fn checks(size: Size) -> Vec<Check> {
    let shape = [size.rows, 5 * size.width + 3];
    let mut all = Vec::new();
    all.extend(operation("cross_entropy", FUSED, ONE, move |target| {
        let targets: Vec<u32> = (0..shape[0]).map(|row| (row * 31 % shape[1]) as u32).collect();
        differentiate(target, &[("z", logits(target, shape, 1)?)], |v| {
            Ok(cross_entropy(&v[0], &targets)?)
        })
    }));
    all.extend(operation("kl_divergence", FUSED, ONE, move |target| {
        let teacher = logits(target, shape, 2)?;
        differentiate(target, &[("z", logits(target, shape, 1)?)], |v| {
            Ok(kl_divergence(&v[0], &teacher, TEMPERATURE)?)
        })
    }));
    all.extend(operation("entropy", FUSED, ONE, move |target| {
        differentiate(target, &[("z", logits(target, shape, 1)?)], |v| {
            Ok(entropy(&v[0], TEMPERATURE)?)
        })
    }));
    all.extend(operation("squared_error", LOOPS, ONE, move |target| match target.side {
        Side::Device => {
            let teacher = logits(target, shape, 2)?;
            differentiate(target, &[("z", logits(target, shape, 1)?)], |v| {
                Ok(squared_error(&v[0], &teacher)?)
            })
        }
        Side::Reference => squares(target, shape),
    }));
    all
}

/// Logits between -6 and 6.
fn logits(target: &Target, shape: [usize; 2], seed: u64) -> Result<Tensor> {
    Ok((target.tensor(&shape, seed)? * 4.0)?)
}

/// `sum (z - t)^2 / width`, gradient `2 (z - t) / width`.
fn squares(target: &Target, shape: [usize; 2]) -> Result<Found> {
    let read =
        |seed| -> Result<Vec<f32>> { Ok(logits(target, shape, seed)?.flatten_all()?.to_vec1()?) };
    let (z, teacher) = (read(1)?, read(2)?);
    let differences = z.iter().zip(&teacher).map(|(z, t)| f64::from(*z) - f64::from(*t));
    let width = shape[1] as f64;
    let loss = differences.clone().map(|d| d * d / width).sum::<f64>();
    let mut found = Found::default();
    found.add(FORWARD, &Tensor::new(loss, &Device::Cpu)?)?;
    let gradient: Vec<f64> = differences.map(|d| 2.0 * d / width).collect();
    found.add(format!("{BACKWARD}/z"), &Tensor::from_vec(gradient, &shape, &Device::Cpu)?)?;
    Ok(found)
}
