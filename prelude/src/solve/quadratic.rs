//! The objective of one weight as a quadratic in its deviation `D` from the average of the sources
//! (rows x columns):
//!
//! ```text
//! E(D) = <D, D G> - 2 <D, M> + E(0)
//! ```

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::ops::linear;

/// The second moment of inputs.
#[derive(Clone)]
pub(super) enum Gram {
    /// columns x columns: of a projection.
    Dense(Tensor),
    /// 1 x columns: of a norm, whose weight scales its inputs one by one.
    Columns(Tensor),
    /// rows x 1: of an embedding, whose inputs are single rows.
    Rows(Tensor),
}

impl Gram {
    /// Returns `D G`.
    pub fn times(&self, d: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Gram::Dense(g) => linear(d, g)?,
            Gram::Columns(g) | Gram::Rows(g) => d.broadcast_mul(g)?,
        })
    }

    /// Returns the diagonal, in a form that broadcasts to rows x columns.
    pub fn diagonal(&self) -> Result<Tensor> {
        Ok(match self {
            Gram::Dense(g) => {
                let n = g.dim(0)?;
                let places: Vec<u32> = (0..n as u32).map(|i| i * (n as u32 + 1)).collect();
                let places = Tensor::from_vec(places, n, g.device())?;
                g.flatten_all()?.index_select(&places, 0)?.reshape((1, n))?
            }
            Gram::Columns(g) | Gram::Rows(g) => g.clone(),
        })
    }

    /// Whether both are the same moment of the same inputs.
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |gram: &Self| match gram {
            Gram::Dense(g) | Gram::Columns(g) | Gram::Rows(g) => g.id(),
        };
        id(self) == id(other)
    }

    /// Returns the part of some columns.
    pub fn narrow(&self, start: usize, columns: usize) -> Result<Self> {
        Ok(match self {
            Gram::Dense(g) if g.dim(0)? == columns => self.clone(),
            Gram::Dense(g) => {
                let part = g.narrow(0, start, columns)?.narrow(1, start, columns)?;
                Gram::Dense(part.contiguous()?)
            }
            Gram::Columns(_) | Gram::Rows(_) => self.clone(),
        })
    }
}

/// The objective of one weight.
#[derive(Clone)]
pub(super) struct Quadratic {
    /// `G`
    pub gram: Gram,
    /// `M`, rows x columns.
    pub right: Tensor,
    /// `E(0)`, the disagreement of the average with the sources.
    pub at_average: f64,
}

impl Quadratic {
    /// Returns `D G - M`, half the gradient.
    pub fn slope(&self, d: &Tensor) -> Result<Tensor> {
        Ok((self.gram.times(d)? - &self.right)?)
    }

    /// Returns `E(D)`.
    pub fn value(&self, d: &Tensor) -> Result<f64> {
        let slope = (self.slope(d)? - &self.right)?;
        Ok(self.at_average + dot(d, &slope)?)
    }
}

/// Returns `<a, b>`, summed row by row.
pub(super) fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    let rows = (a * b)?.sum_keepdim(a.rank() - 1)?.flatten_all()?;
    Ok(rows.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F64)?.sum_all()?.to_scalar()?)
}
