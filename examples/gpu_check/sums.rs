//! The merge of a weight, in every form of its scales, beside plain loops. (The fused path takes
//! views of files; the steps of families compare with it.)

use anyhow::Result;
use dam_prelude::candle_core::{DType, Device, Tensor};
use dam_prelude::ops::{Form, ScaledSum};

use crate::check::{Check, LOOPS, ONE, Size, operation};
use crate::target::{BACKWARD, FORWARD, Found, Side, Target};

const SOURCES: usize = 3;

/// A weight, a norm or a bias, with the form of its scales.
#[derive(Clone, Copy)]
struct Case {
    rows: usize,
    columns: usize,
    /// Whether its tensors have one dimension.
    flat: bool,
    form: Form,
}

impl Case {
    fn shape(&self) -> Vec<usize> {
        if self.flat { vec![self.rows * self.columns] } else { vec![self.rows, self.columns] }
    }

    fn scales(&self) -> [usize; 3] {
        [SOURCES, self.form.rows, self.form.columns]
    }

    /// The rows that are looked up, one of them twice.
    fn ids(&self) -> [u32; 3] {
        let last = self.rows as u32 - 1;
        [last, 0, last]
    }
}

pub fn checks(size: Size) -> Vec<Check> {
    let (rows, columns) = (size.rows, size.width + 7);
    let mut all = Vec::new();
    for (name, rows, columns, flat) in
        [("weight", rows, columns, false), ("norm", 1, columns, true), ("bias", rows, 1, true)]
    {
        let mut forms = vec![(1, columns), (rows, 1), (1, 1), (rows, columns)];
        forms.sort_unstable();
        forms.dedup();
        for (r, c) in forms {
            let case = Case { rows, columns, flat, form: Form { rows: r, columns: c } };
            let count = |n: usize, all: &'static str| if n == 1 { "1" } else { all };
            let (high, wide) = (count(r, "R"), count(c, "C"));
            let title = format!("scaled sum of a {name}, {high} x {wide} scales");
            all.extend(operation(title, LOOPS, ONE, move |target| match target.side {
                Side::Device => on_device(target, case),
                Side::Reference => by_loops(target, case),
            }));
        }
    }
    all
}

fn on_device(target: &Target, case: Case) -> Result<Found> {
    let weights = (0..SOURCES as u64).map(|i| target.tensor(&case.shape(), 10 + i));
    let sum = ScaledSum::resident(weights.collect::<Result<_>>()?, case.columns)?;
    // Scales and gradients of weights are f32 in a session of any dtype.
    let wide = |shape: &[usize], seed| -> Result<Tensor> {
        Ok(target.values(shape, seed)?.to_device(&target.device)?)
    };
    let scales = wide(&case.scales(), 1)?;
    let mut found = Found::default();
    found.add(format!("{FORWARD}/whole"), sum.forward(&scales)?.as_tensor())?;
    let kept = sum.forward_in(&wide(&case.scales(), 2)?, target.dtype, None)?;
    found.add(
        format!("{FORWARD}/kept"),
        sum.forward_in(&scales, target.dtype, Some(&kept))?.as_tensor(),
    )?;
    found.add(format!("{BACKWARD}/whole"), &sum.backward(&wide(&case.shape(), 3)?, case.form)?)?;
    let ids = Tensor::new(&case.ids(), &target.device)?;
    found.add(format!("{FORWARD}/rows"), &sum.forward_rows(&scales, &ids)?)?;
    let gradient = wide(&[case.ids().len(), case.columns], 4)?;
    found.add(format!("{BACKWARD}/rows"), &sum.backward_rows(&gradient, &ids, case.form)?)?;
    Ok(found)
}

/// `W[o, j] = sum_i s[i, o, j] W_i[o, j]`, and `ds[i, r, c]` the sum of `dW[o, j] W_i[o, j]` over
/// the elements that `s[i, r, c]` scales.
fn by_loops(target: &Target, case: Case) -> Result<Found> {
    let read = |shape: &[usize], seed| -> Result<Vec<f64>> {
        Ok(target.values(shape, seed)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
    };
    let weights = (0..SOURCES as u64).map(|i| read(&case.shape(), 10 + i));
    let (weights, scales) = (weights.collect::<Result<Vec<_>>>()?, read(&case.scales(), 1)?);
    let Case { rows, columns, form, .. } = case;
    let place_of = |i: usize, row: usize, column: usize| {
        let (r, c) =
            (if form.rows == 1 { 0 } else { row }, if form.columns == 1 { 0 } else { column });
        (i * form.rows + r) * form.columns + c
    };
    let forward = |chosen: &[usize]| -> Vec<f64> {
        let elements = chosen.iter().flat_map(|row| (0..columns).map(move |column| (*row, column)));
        let one = |(row, column)| {
            (0..SOURCES)
                .map(|i| scales[place_of(i, row, column)] * weights[i][row * columns + column])
                .sum()
        };
        elements.map(one).collect()
    };
    let backward = |gradient: &[f64], chosen: &[usize]| -> Vec<f64> {
        let mut sums = vec![0.0; scales.len()];
        for (gradient, row) in gradient.chunks(columns).zip(chosen) {
            for (column, g) in gradient.iter().enumerate() {
                for (i, w) in weights.iter().enumerate() {
                    sums[place_of(i, *row, column)] += g * w[row * columns + column];
                }
            }
        }
        sums
    };
    let (all, ids) = ((0..rows).collect::<Vec<_>>(), case.ids().map(|id| id as usize));
    let tensor = |values, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
    let mut found = Found::default();
    for name in ["whole", "kept"] {
        found.add(format!("{FORWARD}/{name}"), &tensor(forward(&all), &case.shape())?)?;
    }
    found.add(
        format!("{BACKWARD}/whole"),
        &tensor(backward(&read(&case.shape(), 3)?, &all), &case.scales())?,
    )?;
    found.add(format!("{FORWARD}/rows"), &tensor(forward(&ids), &[ids.len(), columns])?)?;
    found.add(
        format!("{BACKWARD}/rows"),
        &tensor(backward(&read(&[ids.len(), columns], 4)?, &ids), &case.scales())?,
    )?;
    Ok(found)
}
