//! The columns of a projection in which the merge departs most from a source, given what the layer
//! receives.
//!
//! A projection `y = W x` departs from that of a source by `sum_j (W - W_i)[:, j] x_j`. The share of
//! column `j` is its part of `sum_j |(W - W_i)[:, j]|^2 mean_t x_tj^2`, over the tokens `t` of the
//! merge's input.

use candle_core::{DType, Device, Tensor};

use super::observe::Observed;
use super::place::half_of;
use super::subject::{Question, Subject, with_layer};
use crate::error::Result;
use crate::model::{Decoder, Half, Weights};

/// Returns the share of every column of the tensor `name` in its departure from the source of
/// `question`, the largest first; `None` unless it is the weight of a projection in a layer.
///
/// # Errors
/// A missing weight, or [`Error::Interrupted`](crate::Error::Interrupted).
pub(super) fn column_shares<W: Weights + ?Sized>(
    subject: &Subject<'_, W>,
    question: &Question<'_>,
    observed: &Observed,
    name: &str,
) -> Result<Option<Vec<(usize, f64)>>> {
    let a = subject.architecture;
    let Some((half, layer)) = half_of(a, name) else { return Ok(None) };
    let Some(own) = name.strip_suffix(".weight") else { return Ok(None) };
    let is_projection =
        |part: &&str| own.strip_suffix(*part).is_some_and(|before| before.ends_with('.'));
    let is_first = half.first(a).iter().any(is_projection);
    if !is_first && !is_projection(&half.last()) {
        return Ok(None);
    }
    let (_, positions) = subject.batch(question.ids, 1)?;
    let x = &observed.merge[2 * layer + usize::from(half == Half::Mlp)];
    with_layer(subject.merge, a, layer, |held| {
        let decoder = Decoder::new(a, held);
        let mut input = decoder.before(half, layer, x)?;
        if !is_first {
            input = decoder.inner(half, layer, &input, &positions)?;
        }
        let weight = held.weight(name)?.to_dtype(DType::F32)?;
        let source = subject.source_weight(question.like, name)?;
        let source = source.to_device(weight.device())?.to_dtype(DType::F32)?;
        let apart = (weight - source)?.sqr()?.sum(0)?;
        let squares = input.to_dtype(DType::F32)?.sqr()?.mean(0)?;
        Ok(Some(shares(&(apart * squares)?)?))
    })
}

/// Returns the share of every value of `squares` in their sum, the largest first.
fn shares(squares: &Tensor) -> Result<Vec<(usize, f64)>> {
    let squares: Vec<f64> = squares.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?;
    let total: f64 = squares.iter().sum();
    let share = |x: f64| if total > 0.0 { x / total } else { 0.0 };
    let mut found: Vec<(usize, f64)> = squares.into_iter().map(share).enumerate().collect();
    found.sort_by(|(i, a), (j, b)| b.total_cmp(a).then(i.cmp(j)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_are_sorted() {
        let of = |x: &[f32]| shares(&Tensor::new(x, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(of(&[1.0, 6.0, 1.0]), [(1, 0.75), (0, 0.125), (2, 0.125)]);
        assert_eq!(of(&[0.0, 0.0]), [(0, 0.0), (1, 0.0)]);
    }
}
