//! `y = x W^T` for f32 rows `x` and a weight stored as bf16, with sums in f32: decoding one token
//! reads every weight once, so half the bytes take half the time.

use candle_core::Result;
use half::bf16;
use rayon::prelude::*;

use super::LANES;
use super::product::{Into, Matrix, product};
use crate::vectorised::vectorised;

/// Outputs computed per task.
const BLOCK: usize = 64;

/// With at least this many rows of `x`, a block of the weight is converted for an ordinary product.
const MANY: usize = 4;

/// A product of so few weights takes less time on one thread than others take to wake up.
const FEW: usize = 1 << 18;

/// Bytes from a weight that is read to one that is asked for. Rows are too short for the processor
/// to see that they follow one another.
const AHEAD: usize = 4096;

/// Returns `x W^T`, rows x outputs. `x` is rows x `inner`, `w` is outputs x `inner`.
///
/// # Errors
/// Sizes that do not fit.
pub(super) fn product_with_half(x: &[f32], w: &[bf16], inner: usize) -> Result<Vec<f32>> {
    if inner == 0 || !x.len().is_multiple_of(inner) || !w.len().is_multiple_of(inner) {
        candle_core::bail!("a weight of {} elements does not fit rows of {inner}", w.len());
    }
    let (rows, outputs) = (x.len() / inner, w.len() / inner);
    if rows == 0 {
        return Ok(Vec::new());
    }
    let mut blocks = vec![0f32; rows * outputs];
    // What other threads would take over.
    let others = w.len() - w.len() / rayon::current_num_threads();
    let parts = if others < FEW { outputs.div_ceil(BLOCK) } else { 1 };
    // Block by block of outputs, each rows x outputs of the block.
    let tasks = blocks.par_chunks_mut(BLOCK * rows).zip(w.par_chunks(BLOCK * inner));
    tasks.with_min_len(parts).for_each_init(Vec::new, |wide, (y, w)| {
        vectorised(
            #[inline(always)]
            || {
                if rows < MANY {
                    dots(x, w, inner, y)
                } else {
                    wide.clear();
                    wide.extend(w.iter().map(|w| widened(*w)));
                    let count = w.len() / inner;
                    let (x, w) = (
                        Matrix::new(x, rows, inner, inner),
                        Matrix::new(wide.as_slice(), count, inner, inner),
                    );
                    product(x, w.t(), 1.0, (y, count), Into::Replace, false);
                }
            },
        );
    });
    if rows == 1 {
        return Ok(blocks);
    }
    let mut y = vec![0f32; rows * outputs];
    for (block, part) in blocks.chunks(BLOCK * rows).enumerate() {
        let count = part.len() / rows;
        for (row, part) in part.chunks(count).enumerate() {
            y[row * outputs + block * BLOCK..][..count].copy_from_slice(part);
        }
    }
    Ok(y)
}

/// The value of `w`, in a form that compilers vectorise.
#[inline(always)]
fn widened(w: bf16) -> f32 {
    f32::from_bits(u32::from(w.to_bits()) << 16)
}

/// Computes every row of `x` times every row of `w`, into rows x outputs.
#[inline(always)]
fn dots(x: &[f32], w: &[bf16], inner: usize, y: &mut [f32]) {
    let count = w.len() / inner;
    for (output, w) in w.chunks(inner).enumerate() {
        for (row, x) in x.chunks(inner).enumerate() {
            y[row * count + output] = dot(x, w);
        }
    }
}

/// Returns the product of two rows. Two sets of sums alternate: one alone would wait for its
/// additions.
#[inline(always)]
fn dot(x: &[f32], w: &[bf16]) -> f32 {
    let ((whole, rest), (weights, others)) = (x.as_chunks::<LANES>(), w.as_chunks::<LANES>());
    let mut lanes = [[0f32; LANES]; 2];
    for (i, (x, w)) in whole.iter().zip(weights).enumerate() {
        ask_for(w.as_ptr().wrapping_byte_add(AHEAD));
        for ((lane, x), w) in lanes[i % 2].iter_mut().zip(x).zip(w) {
            *lane += x * widened(*w);
        }
    }
    let total: f32 = lanes[0].iter().zip(&lanes[1]).map(|(a, b)| a + b).sum();
    total + rest.iter().zip(others).map(|(x, w)| x * widened(*w)).sum::<f32>()
}

/// Asks the processor to read the cache line of `weight` soon; the address may be any.
#[inline(always)]
fn ask_for(weight: *const bf16) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(weight.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = weight;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_product_of_widened_weights() {
        for (rows, outputs, inner) in
            [(1, 1, 1), (1, 67, 100), (3, 130, 33), (4, 64, 32), (9, 131, 70), (0, 5, 7)]
        {
            let value = |i: usize, by: usize| ((i * by) % 17) as f32 / 8.0 - 1.0;
            let x: Vec<f32> = (0..rows * inner).map(|i| value(i, 5)).collect();
            let w: Vec<bf16> = (0..outputs * inner).map(|i| bf16::from_f32(value(i, 7))).collect();
            let y = product_with_half(&x, &w, inner).unwrap();
            let exact = (0..rows * outputs).map(|at| {
                let (x, w) = (&x[at / outputs * inner..], &w[at % outputs * inner..]);
                (0..inner).map(|k| f64::from(x[k]) * f64::from(w[k])).sum::<f64>()
            });
            assert_eq!(y.len(), rows * outputs);
            for (y, exact) in y.iter().zip(exact) {
                assert!((f64::from(*y) - exact).abs() < 1e-4, "{rows} {outputs} {inner}");
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let w = [bf16::ONE; 6];
        assert!(product_with_half(&[1.0; 4], &w, 4).is_err());
        assert!(product_with_half(&[1.0; 4], &w, 0).is_err());
    }
}
