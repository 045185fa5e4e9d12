//! Checks an operation in f64: its fused kernel against its composition, and its backward pass
//! against central finite differences.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Returns values in -1.5..1.5, f64.
pub(crate) fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| rng.random_range(-1.5..1.5)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[track_caller]
pub(crate) fn agrees(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    for (i, (a, b)) in values(a).into_iter().zip(values(b)).enumerate() {
        assert!((a - b).abs() <= 1e-10 * (1.0 + b.abs()), "element {i}: {a} and {b}");
    }
}

/// Compares every gradient of `sum(weights * f(inputs))` with central differences.
#[track_caller]
pub(crate) fn differentiates(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tracked).unwrap();
    let weights = random(y.dims(), 99);
    let grads = (y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let loss = |inputs: &[Tensor]| -> f64 {
        values(&(f(inputs).unwrap() * &weights).unwrap()).into_iter().sum()
    };
    for (which, input) in inputs.iter().enumerate() {
        let gradient = values(grads.get(&tracked[which]).expect("a gradient for every input"));
        for (i, analytic) in gradient.into_iter().enumerate() {
            let shifted = |h: f64| {
                let mut x = values(input);
                x[i] += h;
                let mut inputs = inputs.to_vec();
                inputs[which] = Tensor::from_vec(x, input.dims(), &Device::Cpu).unwrap();
                loss(&inputs)
            };
            let h = 1e-5;
            let numeric = (shifted(h) - shifted(-h)) / (2.0 * h);
            assert!(
                (analytic - numeric).abs() <= 1e-6 * (1.0 + numeric.abs()),
                "input {which}, element {i}: {analytic} and {numeric}"
            );
        }
    }
}
