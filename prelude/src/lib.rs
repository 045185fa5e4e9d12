pub mod checkpoint;
pub mod data;
pub mod error;
pub mod eval;
pub mod model;
pub mod ops;
pub mod train;
pub use candle_core;
pub use error::{Error, Result};
