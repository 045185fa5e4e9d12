//! Compares what both sides found.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use dam_prelude::candle_core::{DType, Tensor};

use crate::check::{Check, How, Measure};
use crate::report::{Outcome, Row};

/// What a check found on one side.
#[derive(Default)]
pub struct Findings {
    pub seconds: f64,
    pub error: Option<String>,
    pub tensors: BTreeMap<String, Tensor>,
    pub texts: BTreeMap<String, String>,
}

/// The measure in a step that the coefficients' comparison looks up.
pub const GRADIENTS: &str = "gradients";

/// Returns the rows of a check.
pub fn rows(part: &str, check: &Check, reference: &Findings, device: &Findings) -> Vec<Row> {
    let row = |name: String| Row {
        part: part.into(),
        name,
        dtype: check.dtype(),
        reference: check.reference.into(),
        difference: None,
        tolerance: None,
        outcome: Outcome::Fail,
        note: String::new(),
        seconds: Some(device.seconds),
    };
    let failed = [("device", device), ("reference", reference)]
        .into_iter()
        .find_map(|(side, found)| Some(format!("{side}: {}", found.error.as_ref()?)));
    if let Some(note) = failed {
        return vec![Row { note, ..row(check.name.clone()) }];
    }
    let one = |measure: &Measure| {
        let row = row(format!("{}: {}", check.name, measure.name));
        match difference(measure, reference, device) {
            Ok((difference, note)) => Row {
                difference: Some(difference),
                tolerance: Some(measure.tolerance),
                outcome: if difference <= measure.tolerance {
                    Outcome::Pass
                } else {
                    Outcome::Fail
                },
                note,
                ..row
            },
            Err(error) => Row { note: format!("{error:#}"), ..row },
        }
    };
    check.measures.iter().map(one).collect()
}

/// Whether a result called `name` belongs to the measure.
fn belongs(name: &str, measure: &Measure) -> bool {
    name.split('/').next() == Some(measure.name)
}

/// Returns the difference, and what was found where it is largest.
fn difference(measure: &Measure, reference: &Findings, device: &Findings) -> Result<(f64, String)> {
    if measure.how == How::Equal {
        return unequal(measure, reference, device);
    }
    let mut pairs = Vec::new();
    for (name, a) in reference.tensors.iter().filter(|(name, _)| belongs(name, measure)) {
        let Some(b) = device.tensors.get(name) else { bail!("the device lacks {name}") };
        ensure!(a.dims() == b.dims(), "{name} is {:?} on the device, not {:?}", b.dims(), a.dims());
        pairs.push((name, values(a)?, values(b)?));
    }
    ensure!(!pairs.is_empty(), "nothing was measured");
    let of_device = device.tensors.keys().filter(|name| belongs(name, measure)).count();
    ensure!(of_device == pairs.len(), "the reference lacks some results");
    let all = pairs.iter().fold(0.0, |scale, (_, a, _)| largest(a).max(scale));
    let mut worst = (0.0, String::new());
    for (name, a, b) in &pairs {
        let counts: Vec<bool> = match measure.how {
            How::WhereGradient(share) => {
                let gradient = format!("{GRADIENTS}/{}", name.split_once('/').map_or("", |n| n.1));
                let Some(gradient) = reference.tensors.get(&gradient) else {
                    bail!("no {gradient}");
                };
                let gradient = values(gradient)?;
                let enough = share * largest(&gradient);
                gradient.iter().map(|g| g.abs() > enough).collect()
            }
            _ => vec![true; a.len()],
        };
        let scale = match measure.how {
            How::Relative => largest(a),
            How::RelativeToAll => all,
            _ => 1.0,
        };
        for ((a, b), _) in a.iter().zip(b).zip(&counts).filter(|(_, counts)| **counts) {
            let distance = if a == b { 0.0 } else { (a - b).abs() / scale };
            let distance = if distance.is_nan() { f64::INFINITY } else { distance };
            if distance > worst.0 {
                worst = (distance, format!("{name}: {b:.6e}, not {a:.6e}"));
            }
        }
    }
    Ok(worst)
}

/// Counts texts that differ.
fn unequal(measure: &Measure, reference: &Findings, device: &Findings) -> Result<(f64, String)> {
    let of = |found: &Findings| -> BTreeMap<String, String> {
        let texts = found.texts.iter().filter(|(name, _)| belongs(name, measure));
        texts.map(|(name, text)| (name.clone(), text.clone())).collect()
    };
    let (a, b) = (of(reference), of(device));
    ensure!(!a.is_empty() && a.keys().eq(b.keys()), "nothing was measured, or not on both sides");
    let other: Vec<String> = a
        .iter()
        .zip(b.values())
        .filter(|((_, a), b)| a != b)
        .map(|((name, a), b)| format!("{name}: {b:?}, not {a:?}"))
        .collect();
    Ok((other.len() as f64, other.into_iter().next().unwrap_or_default()))
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| x.abs().max(most))
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}
