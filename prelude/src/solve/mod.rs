//! Coefficients from linear algebra: DAM in one sweep through the layers, without gradients of a
//! loss.
//!
//! For one linear layer with sources `W_k`, inputs `X_i` of the merge so far on the data of source
//! `i`, and targets `T_i` (what source `i` itself gives at this place), the coefficients minimise
//!
//! ```text
//! E(W) = sum_i 1/n_i |W X_i - T_i|^2 + ridge      W = sum_k s_k W_k, s the scales of the scheme
//! ```
//!
//! With `A` the average of the sources and `D = W - A`, this is quadratic in `D` (`quadratic.rs`):
//!
//! ```text
//! E(D) = <D, D G> - 2 <D, M> + E(0)     G = sum_i X_i X_i^T / n_i     M = sum_i (T_i - A X_i) X_i^T / n_i
//! ```
//!
//! `M` comes from differences, and the sources enter as their mean and their differences from the
//! first (`basis.rs`): sources are nearly equal, and what is decided is small beside them. Column
//! coefficients are one Cholesky factorisation (`columns.rs`); any other scheme, your own included,
//! goes through its own derivative (`gauss_newton.rs`). The sweep (`sweep.rs`) takes the tensors in
//! the order of computation, with the inputs that the merge so far really produces, so that errors
//! are corrected as they arise.

mod basis;
mod block;
mod bounded;
mod cholesky;
mod columns;
mod conjugate;
mod embedding;
mod gauss_newton;
mod memory;
mod norms;
mod pass;
mod preconditioner;
mod projections;
mod quadratic;
mod scheme;
mod settings;
mod solved;
mod steps;
mod streams;
mod sweep;
#[cfg(test)]
mod tests;
mod unrestricted;

pub(crate) use memory::bytes;
pub(crate) use pass::FullWeights;
pub use settings::{Inputs, SOLVED_METHODS, SolveSettings, SolvedMethod, Target};
pub use solved::{SolvedPart, SolvedTensor};
pub(crate) use sweep::Sweep;
