//! Both paths against the definition, finite differences and each other.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::composed::Blocks;
use super::{Attention, composed, fused};
use crate::ops::check::{agrees, differentiates, random, values};

/// The bounds of blocks: one for each sequence; a few queries each; one query each.
const BOUNDS: [usize; 3] = [usize::MAX, 1 << 10, 1];

#[derive(Clone)]
struct Case {
    attention: Attention,
    lengths: Vec<usize>,
    start: usize,
    dim: usize,
}

/// Several sequences with 4 heads, 4, 2 or 1 of keys; windows, soft caps and earlier keys.
fn cases() -> Vec<Case> {
    let case = |kv, window, soft_cap, lengths: &[usize], start| Case {
        attention: Attention { heads: 4, key_value_heads: kv, scale: 0.6, window, soft_cap },
        lengths: lengths.to_vec(),
        start,
        dim: 3,
    };
    vec![
        case(2, None, None, &[5, 1, 7], 0),
        case(1, Some(3), None, &[5, 1, 7], 0),
        case(4, None, Some(2.0), &[9, 2], 2),
        case(2, Some(2), Some(1.5), &[3, 8], 4),
        case(2, Some(1), None, &[6], 3),
        // Decoding.
        case(2, None, None, &[1], 6),
        case(2, Some(4), Some(1.5), &[1, 1], 6),
    ]
}

impl Case {
    fn inputs(&self) -> [Tensor; 3] {
        let tokens: usize = self.lengths.iter().sum();
        let keys = tokens + self.start * self.lengths.len();
        let (a, dim) = (&self.attention, self.dim);
        let (width, keys_width) = (a.heads * dim, a.key_value_heads * dim);
        [
            random(&[tokens, width], 1),
            random(&[keys, keys_width], 2),
            random(&[keys, keys_width], 3),
        ]
    }

    fn composed(&self, [q, k, v]: [&Tensor; 3], bound: usize) -> Result<Tensor> {
        let packed = self.attention.packed(q, k, v, &self.lengths, self.start)?;
        composed::attention(q, k, v, packed, Blocks { bound, by_softmax: false })
    }

    /// As on a GPU with kernels, where there is no soft cap.
    fn by_softmax(&self, [q, k, v]: [&Tensor; 3], bound: usize) -> Result<Tensor> {
        let packed = self.attention.packed(q, k, v, &self.lengths, self.start)?;
        let by_softmax = self.attention.soft_cap.is_none();
        composed::attention(q, k, v, packed, Blocks { bound, by_softmax })
    }

    fn fused(&self, [q, k, v]: [&Tensor; 3]) -> Result<Tensor> {
        let packed = self.attention.packed(q, k, v, &self.lengths, self.start)?;
        fused::attention(q, k, v, packed)
    }

    /// The definition, query by query.
    fn by_definition(&self, inputs: &[Tensor; 3]) -> Tensor {
        let (a, dim) = (&self.attention, self.dim);
        let [q, k, v] = inputs.each_ref().map(values);
        let (width, keys_width) = (a.heads * dim, a.key_value_heads * dim);
        let mut out = vec![0.0; q.len()];
        let (mut query, mut first) = (0, 0);
        for length in &self.lengths {
            for position in self.start..self.start + length {
                for head in 0..a.heads {
                    let own = query * width + head * dim;
                    let column = head / (a.heads / a.key_value_heads) * dim;
                    let key = |j: usize| (first + j) * keys_width + column;
                    let seen =
                        |j: usize| j <= position && a.window.is_none_or(|w| j + w > position);
                    let weight = |j: usize| -> f64 {
                        let s: f64 = (0..dim).map(|d| q[own + d] * k[key(j) + d]).sum();
                        let s = s * a.scale;
                        a.soft_cap.map_or(s, |cap| cap * (s / cap).tanh()).exp()
                    };
                    let keys: Vec<usize> = (0..self.start + length).filter(|j| seen(*j)).collect();
                    let sum: f64 = keys.iter().map(|j| weight(*j)).sum();
                    for d in 0..dim {
                        let part = |j: &usize| weight(*j) / sum * v[key(*j) + d];
                        out[own + d] = keys.iter().map(part).sum();
                    }
                }
                query += 1;
            }
            first += self.start + length;
        }
        Tensor::from_vec(out, inputs[0].shape(), &Device::Cpu).unwrap()
    }
}

/// Returns the output, and the gradients of `sum(weights * output)`; bf16 has all these weights.
fn passes(inputs: &[Tensor; 3], run: impl Fn([&Tensor; 3]) -> Result<Tensor>) -> [Tensor; 4] {
    let vars = inputs.each_ref().map(|x| Var::from_tensor(x).unwrap());
    let tensors = vars.each_ref().map(|v| v.as_tensor());
    let out = run(tensors).unwrap();
    let weights = random(out.dims(), 4).to_dtype(DType::BF16).unwrap();
    let loss = (&out * weights.to_dtype(out.dtype()).unwrap()).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    let [dq, dk, dv] = tensors.map(|x| grads.get(x).unwrap().clone());
    [out, dq, dk, dv]
}

fn rounded(inputs: &[Tensor; 3], dtype: DType) -> [Tensor; 3] {
    inputs.each_ref().map(|x| x.to_dtype(dtype).unwrap())
}

/// Compares the norm of the difference with that of `b`.
#[track_caller]
fn close(a: &[Tensor; 4], b: &[Tensor; 4], tolerance: f64) {
    for (which, (a, b)) in a.iter().zip(b).enumerate() {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (values(a), values(b));
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let (difference, size) =
            (norm(&mut a.iter().zip(&b).map(|(a, b)| a - b)), norm(&mut b.iter().copied()));
        // Softmax of one key has no gradient.
        assert!(difference <= tolerance * (size + 1e-3), "{which}: {difference} of {size}");
    }
}

#[test]
fn both_paths_agree_with_the_definition() {
    for case in cases() {
        let inputs = case.inputs();
        let expected = case.by_definition(&inputs);
        agrees(&case.fused(inputs.each_ref()).unwrap(), &expected);
        for bound in BOUNDS {
            agrees(&case.composed(inputs.each_ref(), bound).unwrap(), &expected);
            agrees(&case.by_softmax(inputs.each_ref(), bound).unwrap(), &expected);
        }
    }
}

#[test]
fn both_paths_agree_with_finite_differences() {
    for case in cases() {
        let inputs = case.inputs();
        differentiates(&inputs, |x| case.fused([&x[0], &x[1], &x[2]]));
        for bound in &BOUNDS[..2] {
            differentiates(&inputs, |x| case.composed([&x[0], &x[1], &x[2]], *bound));
            differentiates(&inputs, |x| case.by_softmax([&x[0], &x[1], &x[2]], *bound));
        }
    }
}

/// More queries than a block of either path, with a remainder.
fn long_cases() -> impl Iterator<Item = Case> {
    [(None, None, 0), (Some(70), None, 0), (None, Some(2.0), 9), (Some(20), Some(1.5), 9)]
        .into_iter()
        .map(|(window, soft_cap, start)| Case {
            attention: Attention { heads: 4, key_value_heads: 2, scale: 0.6, window, soft_cap },
            lengths: vec![2 * fused::BLOCK + 3, 11],
            start,
            dim: 4,
        })
}

#[test]
fn blocks_agree_with_the_fused_kernel() {
    for case in long_cases() {
        let inputs = case.inputs();
        let single = rounded(&inputs, DType::F32);
        let expected = passes(&inputs, |x| case.fused(x));
        for bound in [usize::MAX, 1 << 15, 1] {
            let found = passes(&inputs, |x| case.composed(x, bound));
            found.iter().zip(&expected).for_each(|(found, expected)| agrees(found, expected));
            close(&passes(&single, |x| case.composed(x, bound)), &expected, 1e-5);
        }
        close(&passes(&single, |x| case.fused(x)), &expected, 1e-5);
    }
}

/// bf16 has 8 significant bits. Summing gradients over blocks in it would lose more of them.
#[test]
fn blocks_in_bf16_agree_with_f32() {
    for case in long_cases() {
        let low = rounded(&case.inputs(), DType::BF16);
        let expected = passes(&rounded(&low, DType::F32), |x| case.fused(x));
        for bound in [usize::MAX, 1 << 15, 1] {
            close(&passes(&low, |x| case.composed(x, bound)), &expected, 1.0 / 128.0);
            close(&passes(&low, |x| case.by_softmax(x, bound)), &expected, 1.0 / 128.0);
        }
    }
}

#[test]
fn an_output_without_gradients_keeps_nothing() {
    let case = &cases()[0];
    assert!(!case.composed(case.inputs().each_ref(), usize::MAX).unwrap().track_op());
}

#[test]
fn what_does_not_fit_is_refused() {
    let attention =
        |window| Attention { heads: 4, key_value_heads: 2, scale: 0.6, window, soft_cap: None };
    let (q, k) = (random(&[4, 12], 1), random(&[4, 6], 2));
    assert!(attention(None).run(&q, &k, &k, &[2, 3], 0).is_err());
    assert!(attention(None).run(&q, &k, &k, &[4], 1).is_err());
    assert!(attention(None).run(&k, &q, &q, &[4], 0).is_err());
    assert!(attention(Some(0)).run(&q, &k, &k, &[4], 0).is_err());
}
