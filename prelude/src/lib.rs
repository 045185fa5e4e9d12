//! Differentiable Adaptive Merging (arXiv 2410.08371) as six primitives: load, wrap, loss, step,
//! inspect, bake.

pub mod checkpoint;
pub mod coefficients;
pub mod data;
pub mod error;
pub mod eval;
pub mod model;
pub mod objective;
pub mod ops;
pub mod session;
pub mod show;
pub mod train;

pub use candle_core;
pub use checkpoint::Kind;
pub use coefficients::{BiasStart, Columns, Init, Nonlinearity};
pub use error::{Error, Result};
pub use objective::Reduction;
pub use session::{Bake, Dam, Models, load};
pub use train::{Optimizer, Schedule, Settings};
