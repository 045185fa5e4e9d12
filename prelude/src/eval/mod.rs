//! Floor 5: how well a model does on held-out data, and what it says.

mod generate;
mod score;

pub use generate::generate;
pub use score::{Score, score};
