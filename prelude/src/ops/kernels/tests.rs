//! Every kernel as OpenCL C against the fused CPU kernels in f64, for the same inputs.

use candle_core::{DType, Device, Tensor, Var};

use super::gate::{Gate, scale};
use super::launch::Queue;
use super::loss::{Logits, Loss, row_loss};
use super::merge::{self, Source, Weights};
use super::norm::RmsNorm;
use super::opencl::{Buffer, OpenCl, TEXT};
use super::softmax::Softmax;
use crate::checkpoint::{Activation, View, encoded};
use crate::ops::check::{random, values};
use crate::ops::{self, Causal, Form, ScaledSum};

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Rows and columns: one of either, not a multiple of a group's lanes or of four, more than one
/// group, more than one block of rows.
fn shapes(cl: &OpenCl) -> &'static [(usize, usize)] {
    if cl.slow {
        &[(1, 1), (33, 1), (3, 70), (2, 260), (37, 36)]
    } else {
        &[(1, 1), (1, 33), (33, 1), (7, 32), (3, 1037), (70, 300), (300, 68), (5, 2052)]
    }
}

/// A tensor of f64 with the values that `dtype` has for random ones, and those on the device.
fn input(cl: &OpenCl, shape: &[usize], seed: u64, dtype: DType) -> (Tensor, Buffer) {
    let x = random(shape, seed).to_dtype(dtype).unwrap();
    (x.to_dtype(DType::F64).unwrap(), cl.upload(&x))
}

/// Compares a result with its exact value: in f32 to 1e-6 of its size, or of the usual size of
/// those that are not zero; in bf16 to the rounding, half a unit.
#[track_caller]
fn same(cl: &OpenCl, found: &Buffer, exact: &Tensor, dtype: DType, what: &str) {
    same_to(1e-6, cl, found, exact, dtype, what);
}

/// [`same`] to another relative error in f32.
#[track_caller]
fn same_to(error: f64, cl: &OpenCl, found: &Buffer, exact: &Tensor, dtype: DType, what: &str) {
    let (found, exact) = (cl.download(found), values(exact));
    assert_eq!(found.len(), exact.len(), "{what}");
    let others = exact.iter().filter(|x| **x != 0.0).count().max(1);
    let usual = (exact.iter().map(|x| x * x).sum::<f64>() / others as f64).sqrt();
    let rounding = if dtype == DType::BF16 { 1.0 / 256.0 } else { 0.0 };
    for (i, (found, exact)) in found.iter().zip(&exact).enumerate() {
        // The last term is the error of f64.
        let allowed = error * usual.max(exact.abs()) + rounding * exact.abs() + 1e-14;
        assert!((found - exact).abs() <= allowed, "{what}, element {i}: {found} for {exact}");
    }
}

/// Returns the gradients of `sum(dy * f(inputs))`.
fn gradients(inputs: &[&Tensor], dy: &Tensor, f: impl Fn(&[Tensor]) -> Tensor) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = (f(&tracked) * dy).unwrap().sum_all().unwrap().backward().unwrap();
    tracked.iter().map(|x| grads.get(x).unwrap().clone()).collect()
}

#[test]
fn merge_and_its_gradient() {
    let Some(cl) = OpenCl::get() else { return };
    for (rows, columns) in shapes(cl).iter().copied() {
        // One batch; for small shapes also two, and three of which the last is full.
        let numbers: &[usize] = if rows * columns < 300 { &[1, 9, 24] } else { &[3] };
        for sources in numbers {
            let dtype_of = |i: usize| [DType::F32, DType::BF16, DType::F16][(i + rows) % 3];
            let inputs: Vec<(Tensor, Buffer)> = (0..*sources)
                .map(|i| input(cl, &[rows, columns], 10 + i as u64, dtype_of(i)))
                .collect();
            let views = inputs.iter().map(|(x, _)| {
                let x: Vec<f32> = values(x).into_iter().map(|x| x as f32).collect();
                View::of(encoded(&x, DType::F32), DType::F32, &[rows, columns])
            });
            let sum = ScaledSum::mapped(views.collect(), columns).unwrap();
            let own: Vec<Source<'_, Buffer>> = (inputs.iter().enumerate())
                .map(|(i, (_, weight))| Source { weight, dtype: dtype_of(i) })
                .collect();
            for (r, c) in [(1, columns), (rows, 1), (1, 1), (rows, columns)] {
                let form = Form { rows: r, columns: c };
                let weights = Weights { sources: &own, rows, columns, form };
                let (scales, on_device) = input(cl, &[*sources, r, c], 1, DType::F32);
                let exact = sum.forward(&scales).unwrap();
                for dtype in DTYPES {
                    let what = format!("{sources} x {rows} x {columns}, {form:?}, {dtype:?}");
                    let mut merged = cl.allocate(dtype, rows * columns).unwrap();
                    merge::forward(cl, &weights, &on_device, &mut merged, dtype).unwrap();
                    same(cl, &merged, exact.as_tensor(), dtype, &what);
                    let (g, gradient) = input(cl, &[rows, columns], 2, dtype);
                    let found = merge::backward(cl, &weights, &gradient, dtype).unwrap();
                    same(cl, &found, &sum.backward(&g, form).unwrap(), DType::F32, &what);
                }
            }
        }
    }
}

/// Sums over more pieces than a group has lanes.
#[test]
fn gradient_of_one_scale_for_many_elements() {
    let Some(cl) = OpenCl::get().filter(|cl| !cl.slow) else { return };
    let (rows, columns) = (1031, 1201);
    let form = Form { rows: 1, columns: 1 };
    let (x, weight) = input(cl, &[rows, columns], 1, DType::BF16);
    let (g, gradient) = input(cl, &[rows, columns], 2, DType::F32);
    let sources = [Source { weight: &weight, dtype: DType::BF16 }];
    let weights = Weights { sources: &sources, rows, columns, form };
    let found = merge::backward(cl, &weights, &gradient, DType::F32).unwrap();
    let exact = (x * g).unwrap().sum_all().unwrap();
    same(cl, &found, &exact, DType::F32, "one scale");
}

#[test]
fn rms_norm_and_its_gradients() {
    let Some(cl) = OpenCl::get() else { return };
    for ((rows, columns), dtype) in shapes(cl).iter().flat_map(|s| DTYPES.map(|d| (*s, d))) {
        let what = format!("{rows} x {columns}, {dtype:?}");
        let (x, x_on) = input(cl, &[rows, columns], 1, dtype);
        let (w, w_on) = input(cl, &[columns], 2, dtype);
        let (dy, dy_on) = input(cl, &[rows, columns], 3, dtype);
        // Large, so that its place in the formula shows.
        let eps = 0.1;
        let norm = RmsNorm { rows, columns, eps, dtype };
        let exact = ops::rms_norm(&x, &w, eps).unwrap();
        same(cl, &norm.forward(cl, &x_on, &w_on).unwrap(), &exact, dtype, &what);
        let (dx, dw) = norm.backward(cl, &x_on, &w_on, &dy_on).unwrap();
        let exact = gradients(&[&x, &w], &dy, |v| ops::rms_norm(&v[0], &v[1], eps).unwrap());
        same(cl, &dx, &exact[0], dtype, &what);
        same(cl, &dw, &exact[1], dtype, &what);
    }
}

#[test]
fn gate_and_its_gradients() {
    let Some(cl) = OpenCl::get() else { return };
    for ((rows, columns), dtype) in shapes(cl).iter().flat_map(|s| DTYPES.map(|d| (*s, d))) {
        for f in [Activation::Silu, Activation::GeluTanh] {
            let what = format!("{rows} x {columns}, {dtype:?}, {f:?}");
            let inputs = [1, 2, 3].map(|seed| input(cl, &[rows, columns], seed, dtype));
            let [(g, g_on), (u, u_on), (dy, dy_on)] = &inputs;
            let gate = Gate { f, elements: rows * columns, dtype };
            let exact = ops::gated(g, u, f).unwrap();
            same(cl, &gate.forward(cl, g_on, u_on).unwrap(), &exact, dtype, &what);
            let (dg, du) = gate.backward(cl, g_on, u_on, dy_on).unwrap();
            let exact = gradients(&[g, u], dy, |v| ops::gated(&v[0], &v[1], f).unwrap());
            same(cl, &dg, &exact[0], dtype, &what);
            same(cl, &du, &exact[1], dtype, &what);
        }
    }
}

/// The gate where its exponential overflows.
#[test]
fn gate_of_large_values() {
    let Some(cl) = OpenCl::get() else { return };
    for (dtype, f) in
        DTYPES.iter().flat_map(|d| [Activation::Silu, Activation::GeluTanh].map(|f| (*d, f)))
    {
        let g = Tensor::new(&[-1e30f32, -200.0, 200.0, 1e30], &Device::Cpu).unwrap();
        let g = g.to_dtype(dtype).unwrap();
        let one = cl.upload(&g.ones_like().unwrap());
        let gate = Gate { f, elements: 4, dtype };
        let y = cl.download(&gate.forward(cl, &cl.upload(&g), &one).unwrap());
        let (dg, _) = gate.backward(cl, &cl.upload(&g), &one, &one).unwrap();
        let large = values(&g);
        assert_eq!(y, [0.0, 0.0, large[2], large[3]]);
        assert_eq!(cl.download(&dg), [0.0, 0.0, 1.0, 1.0]);
    }
}

#[test]
fn row_losses_and_their_gradients() {
    // Logits of up to 30 in f32 have errors of 2e-6, which are relative errors of exponentials.
    const EXPONENTIALS: f64 = 1e-5;
    let Some(cl) = OpenCl::get() else { return };
    for ((rows, columns), dtype) in shapes(cl).iter().flat_map(|s| DTYPES.map(|d| (*s, d))) {
        // Wide enough that the maximum matters.
        let logits = |seed| {
            let x = (random(&[rows, columns], seed) * 8.0).unwrap().to_dtype(dtype).unwrap();
            (x.to_dtype(DType::F64).unwrap(), cl.upload(&x))
        };
        let ((z, z_on), (t, t_on)) = (logits(1), logits(2));
        let targets: Vec<u32> = (0..rows).map(|row| (row * 7 % columns) as u32).collect();
        let targets_on = cl.upload(&Tensor::from_slice(&targets, rows, &Device::Cpu).unwrap());
        let temperature = 1.7;
        let check = |name: &str, loss: Loss<&Buffer>, exact: &dyn Fn(&Tensor) -> Tensor| {
            let what = format!("{name}, {rows} x {columns}, {dtype:?}");
            let logits = Logits { z: &z_on, rows, columns, dtype };
            for wanted in [true, false] {
                let (sum, gradient) = row_loss(cl, &logits, loss, wanted).unwrap();
                same_to(EXPONENTIALS, cl, &sum, &exact(&z), DType::F32, &what);
                assert_eq!(gradient.is_some(), wanted);
                if let Some(mut gradient) = gradient {
                    let two = cl.upload(&Tensor::new(&[2f32], &Device::Cpu).unwrap());
                    let up = Tensor::new(2f64, &Device::Cpu).unwrap();
                    scale(cl, &mut gradient, &two, (rows * columns, dtype)).unwrap();
                    let exact = gradients(&[&z], &up, |v| exact(&v[0]));
                    same_to(EXPONENTIALS, cl, &gradient, &exact[0], dtype, &what);
                }
            }
        };
        check("kl", Loss::Kl { teacher: &t_on, temperature }, &|z| {
            ops::kl_divergence(z, &t, temperature).unwrap()
        });
        check("entropy", Loss::Entropy { temperature }, &|z| ops::entropy(z, temperature).unwrap());
        check("cross entropy", Loss::CrossEntropy { targets: &targets_on }, &|z| {
            ops::cross_entropy(z, &targets).unwrap()
        });
    }
}

#[test]
fn causal_softmax_and_its_gradient() {
    let Some(cl) = OpenCl::get() else { return };
    let lengths: &[usize] = if cl.slow { &[1, 5, 40] } else { &[1, 5, 33, 270, 1030] };
    for (length, dtype) in lengths.iter().flat_map(|n| DTYPES.map(|d| (*n, d))) {
        for (start, window) in [(0, None), (3, None), (0, Some(4)), (3, Some(4)), (2, Some(1))] {
            // Of the long ones, the last queries only.
            let queries = length.min(40);
            let start = start + length - queries;
            let (rows, keys) = (2 * queries, start + queries);
            let what = format!("{rows} x {keys}, window {window:?}, {dtype:?}");
            let causal = Causal { scale: 0.7, start, window, queries };
            let (s, s_on) = input(cl, &[rows, keys], 1, dtype);
            let (dp, dp_on) = input(cl, &[rows, keys], 2, dtype);
            let softmax = Softmax { causal, rows, keys, dtype };
            let exact = ops::causal_softmax(&s, causal).unwrap();
            same(cl, &softmax.forward(cl, &s_on).unwrap(), &exact, dtype, &what);
            let exact = gradients(&[&s], &dp, |v| ops::causal_softmax(&v[0], causal).unwrap());
            same(cl, &softmax.backward(cl, &s_on, &dp_on).unwrap(), &exact[0], dtype, &what);
        }
    }
}

/// Ties, overflow to infinity, the smallest numbers, infinity and NaN, as the crate `half` does.
#[test]
fn bf16_rounds_to_nearest_even() {
    let Some(cl) = OpenCl::get() else { return };
    let bits = [
        0x3f80_8000u32,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0xbf80_8000,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7f80_0001,
        0x7fff_ffff,
        0x0000_8000,
        0x0001_8000,
        0x0000_0000,
        0x8000_0000,
    ];
    let parts = Tensor::new(&bits.map(f32::from_bits), &Device::Cpu).unwrap();
    let mut sums = cl.allocate(DType::BF16, bits.len()).unwrap();
    let (parts, size) = (cl.upload(&parts), (1, bits.len()));
    merge::sum_columns(cl, &parts, size, (&mut sums, DType::BF16), 0).unwrap();
    for (found, bits) in cl.download(&sums).into_iter().zip(bits) {
        let expected = f64::from(half::bf16::from_f32(f32::from_bits(bits)));
        assert!(found == expected || found.is_nan() && expected.is_nan(), "{bits:#x}: {found}");
    }
}

/// Every f16: as the crate `half` reads it.
#[test]
fn f16_is_read_exactly() {
    let Some(cl) = OpenCl::get() else { return };
    let all: Vec<half::f16> = (0..=u16::MAX).map(half::f16::from_bits).collect();
    let all: Vec<half::f16> = all.into_iter().step_by(if cl.slow { 37 } else { 1 }).collect();
    let size = all.len();
    let weight = cl.upload(&Tensor::from_slice(&all, size, &Device::Cpu).unwrap());
    let one = cl.upload(&Tensor::new(&[1f32], &Device::Cpu).unwrap());
    let form = Form { rows: 1, columns: 1 };
    let sources = [Source { weight: &weight, dtype: DType::F16 }];
    let weights = Weights { sources: &sources, rows: 1, columns: size, form };
    let mut merged = cl.allocate(DType::F32, size).unwrap();
    merge::forward(cl, &weights, &one, &mut merged, DType::F32).unwrap();
    for (found, x) in cl.download(&merged).into_iter().zip(all) {
        let expected = x.to_f64();
        assert!(found == expected || found.is_nan() && expected.is_nan(), "{x}: {found}");
    }
}

/// The committed PTX has every kernel of the text, once per dtype.
#[test]
fn ptx_has_every_kernel() {
    for line in TEXT.lines().filter(|line| line.starts_with("KERNEL")) {
        let name = line.trim_start_matches("KERNEL ").trim_start_matches("NAMED(");
        let name = &name[..name.find([')', '(']).unwrap()];
        let names = if line.contains("NAMED") {
            DTYPES.iter().map(|d| super::named(name, *d).unwrap()).collect()
        } else {
            vec![name.to_string()]
        };
        for name in names {
            assert!(super::PTX.contains(&format!(".entry {name}(")), "no {name}");
        }
    }
}
