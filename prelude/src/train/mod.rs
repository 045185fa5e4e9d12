mod optimizer;
pub use optimizer::{MOFO_ALPHA, Moments, Optimizer};
