//! Floor 5: how well a model does on held-out data.

mod score;

pub use score::{Score, score};
