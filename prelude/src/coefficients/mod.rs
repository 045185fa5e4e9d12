//! The coefficients of a merge and the merged weights.
//!
//! A [`Scheme`] computes the coefficients of every tensor, in broadcast form, from trainable
//! parameters; a [`Merge`] computes the merged weights and maps gradients of weights back to the
//! parameters.

mod builtin;
mod check;
mod columns;
mod heads;
mod low_rank;
mod merged;
mod nearest;
mod nonlinearity;
mod options;
mod part;
mod rows;
mod scheme;
mod shared;
mod softmax;
mod task;
mod variables;

pub use builtin::{Build, Builtin, SCHEMES, find};
pub use check::{SchemeReport, check};
pub use columns::{COLUMNS, Columns};
pub use heads::Heads;
pub use low_rank::LowRank;
pub use merged::{Merge, MergedTensor};
pub(crate) use nearest::nearest;
pub use nonlinearity::Nonlinearity;
pub use options::{BiasStart, Init, Options, Rest};
pub use part::{MergedPart, MergedWeights};
pub use rows::{Rows, RowsColumns};
pub use scheme::{Parameter, Scheme, Site, Wrap};
pub use shared::{PerLayer, PerTensor};
pub use softmax::{Softmax, softmax_over_sources};
pub use task::Task;
pub use variables::Variable;
