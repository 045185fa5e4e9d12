//! How far two residual streams are apart, token by token.

use candle_core::{D, DType, Tensor};
use serde::Serialize;

use crate::error::Result;

/// How far the merge's residual stream `x` is from a source's, `y`, at every place and token. Place
/// 0 is after the embedding, place `l + 1` after layer `l`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Drift {
    /// `|x - y| / |y|`, places x tokens.
    pub distance: Vec<Vec<f64>>,
    /// `<x, y> / (|x| |y|)`, places x tokens.
    pub cosine: Vec<Vec<f64>>,
}

impl Drift {
    /// Adds the next place, with `x` and `y` of tokens x hidden.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(super) fn push(&mut self, x: &Tensor, y: &Tensor) -> Result<()> {
        let x = x.to_dtype(DType::F32)?;
        let y = y.to_device(x.device())?.to_dtype(DType::F32)?;
        let sums = |x: Tensor| -> Result<Vec<f64>> {
            Ok(x.sum(D::Minus1)?.to_dtype(DType::F64)?.to_vec1()?)
        };
        let apart = sums((&x - &y)?.sqr()?)?;
        let (xx, yy, xy) = (sums(x.sqr()?)?, sums(y.sqr()?)?, sums((&x * &y)?)?);
        // Equal streams of zeros, as of a padding token, are not apart.
        let ratio = |a: f64, b: f64, none: f64| if b > 0.0 { a / b } else { none };
        let distances = apart.iter().zip(&yy).map(|(a, y)| ratio(a.sqrt(), y.sqrt(), a.sqrt()));
        self.distance.push(distances.collect());
        let norms = xx.iter().zip(&yy).map(|(x, y)| (x * y).sqrt());
        self.cosine.push(xy.iter().zip(norms).map(|(xy, norm)| ratio(*xy, norm, 1.0)).collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// By hand: (3, 4) and (0, 5) are 10^0.5 apart, and 4/5 is the cosine.
    #[test]
    fn distances_are_relative_to_the_source() {
        let of = |rows: &[[f32; 2]; 2]| Tensor::new(rows, &Device::Cpu).unwrap();
        let mut drift = Drift::default();
        drift.push(&of(&[[3.0, 4.0], [1.0, 0.0]]), &of(&[[0.0, 5.0], [2.0, 0.0]])).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-7, "{a} {b}");
        close(drift.distance[0][0], 10f64.sqrt() / 5.0);
        close(drift.distance[0][1], 0.5);
        close(drift.cosine[0][0], 0.8);
        close(drift.cosine[0][1], 1.0);
    }
}
