//! A low-rank coefficient matrix per source, like LoRA (arXiv 2106.09685) for weights.
//!
//! ```text
//! c[i] = start[i] + A[i] B[i]      A: rows x rank, seeded noise of variance 1 / rank;  B: rank x columns, zeros
//! ```
//!
//! The merge therefore starts at `start`, and the gradient of B is not 0. Applies to the matrices
//! of layers; the embedding, the output layer, norms and biases are as in columns.

use candle_core::{Result, Tensor};

use super::columns::by_column;
use super::{Parameter, Scheme, Site};

/// One coefficient per source and element, of low rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRank {
    /// The rank. It is limited by the numbers of rows and columns of the matrix.
    pub rank: usize,
}

impl Default for LowRank {
    fn default() -> Self {
        Self { rank: 4 }
    }
}

impl Scheme for LowRank {
    fn name(&self) -> String {
        "low_rank".into()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("rank", self.rank.to_string())]
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        if !site.is_projection() {
            return vec![by_column(site)];
        }
        let n = site.sources;
        let rows = site.rows();
        let columns = site.columns();
        let rank = self.rank.min(rows).min(columns);
        let a = format!("{} A", site.name());
        let b = format!("{} B", site.name());
        // Uniform noise in -w..w has variance w^2 / 3.
        let width = (3.0 / rank as f32).sqrt();
        let noise = site.noise(&a, n * rows * rank).into_iter().map(|x| x * width).collect();
        vec![
            Parameter::new(a, &[n, rows, rank], noise),
            Parameter::filled(b, &[n, rank, columns], 0.0),
        ]
    }

    fn coefficients(&self, site: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor> {
        let [a, b] = parameters else { return Ok(parameters[0].clone()) };
        let start = Tensor::from_vec(site.start(site.name()), (site.sources, 1, 1), a.device())?;
        a.matmul(b)?.broadcast_add(&start)
    }
}
