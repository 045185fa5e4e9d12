//! Coefficients against float64 solutions of the same systems, which `tests/data/solve/make.py`
//! computed with dense Jacobians.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, safetensors};

use super::{Case, SolveSettings, golden, golden_data, read, scheme, sources};
use crate::checkpoint::Source;

fn expected(run: &str) -> HashMap<String, Tensor> {
    let all = safetensors::load(super::data("solve/expected.safetensors"), &Device::Cpu).unwrap();
    let of = |(name, x): (String, Tensor)| {
        let (of, tensor) = name.split_once('/')?;
        (of == run).then(|| (tensor.to_owned(), x))
    };
    all.into_iter().filter_map(of).collect()
}

/// The scales, N x R x C; of one per element, the first column and the first row.
fn outline(scales: &Tensor) -> Vec<f32> {
    let (n, rows, columns) = scales.dims3().unwrap();
    let flat = match rows.min(columns) {
        1 => scales.reshape((n, ())).unwrap(),
        _ => {
            let column = scales.narrow(2, 0, 1).unwrap().reshape((n, rows)).unwrap();
            let row = scales.narrow(1, 0, 1).unwrap().reshape((n, columns)).unwrap();
            Tensor::cat(&[column, row], 1).unwrap()
        }
    };
    flat.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn agrees(case: &Case, run: &str, settings: SolveSettings, base: Option<&Source>) {
    let expected = expected(run);
    // Scales of one per element are computed in f32, element by element.
    let tolerance = if run.contains("rows_columns") { 1e-5 } else { 1e-6 };
    for (dtype, tolerance) in [(DType::F64, tolerance), (DType::F32, 1e-3)] {
        case.solve(settings.clone(), dtype, base).unwrap();
        let mut seen = 0;
        for tensor in &case.merge.tensors {
            let Some(x) = expected.get(&tensor.spec.name) else { continue };
            let found = outline(&case.merge.coefficients(tensor).unwrap());
            let x: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(found.len(), x.len(), "{run}: {}", tensor.spec.name);
            for (i, (found, x)) in found.iter().zip(&x).enumerate() {
                assert!(
                    (found - x).abs() <= tolerance * (1.0 + x.abs()),
                    "{run} {dtype:?}: {} at {i}: {found} and {x}",
                    tensor.spec.name
                );
            }
            seen += 1;
        }
        assert_eq!(seen, expected.len(), "{run}");
    }
}

#[test]
fn columns_of_two_three_and_four_sources() {
    let three = golden();
    let data = golden_data(&three);
    let case = |n: usize| Case::new(three[..n].to_vec(), data[..n].to_vec(), scheme("columns"));
    agrees(&case(2), "two", SolveSettings::default(), None);
    agrees(&case(3), "columns", SolveSettings::default(), None);
    // The base has no data.
    let four = [three, sources(&[("base", "golden/base")])].concat();
    let case = Case::new(four, data, scheme("columns"));
    agrees(&case, "four", SolveSettings::default(), None);
}

#[test]
fn schemes_that_are_linear_in_their_parameters() {
    let three = golden();
    let data = golden_data(&three);
    for name in ["rows", "tensor", "rows_columns", "heads"] {
        let case = Case::new(three.clone(), data.clone(), scheme(name));
        agrees(&case, name, SolveSettings::default(), None);
    }
}

#[test]
fn tied_models_with_biases() {
    let three = sources(&[("a", "solve/tied0"), ("b", "solve/tied1"), ("c", "solve/tied2")]);
    let data: Vec<_> = (0..3).map(|i| read(&format!("solve/tied{i}.jsonl"), &three[i])).collect();
    for name in ["columns", "rows", "rows_columns"] {
        let case = Case::new(three.clone(), data.clone(), scheme(name));
        agrees(&case, &format!("tied_{name}"), SolveSettings::default(), None);
    }
}

#[test]
fn relatives() {
    let three = golden();
    let case = Case::new(three.clone(), golden_data(&three), scheme("columns"));
    agrees(&case, "regmean", SolveSettings::regmean(), None);
    agrees(&case, "regmean_plus_plus", SolveSettings::regmean_plus_plus(), None);
    let base = Source::open(&format!("base={}", super::data("golden/base").display())).unwrap();
    let case = Case::new(three, Vec::new(), scheme("columns"));
    agrees(&case, "wudi", SolveSettings::wudi(), Some(&base));
}
