//! Floor 3: the coefficients of a merge and the weights they make.

mod columns;
mod merged;
mod nearest;
mod nonlinearity;

pub(crate) use columns::seed_of;
pub use columns::{BiasStart, Columns, Init};
pub use merged::{Merge, MergedPart, MergedTensor, MergedWeights};
pub(crate) use nearest::nearest;
pub use nonlinearity::Nonlinearity;
