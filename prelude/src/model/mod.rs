//! Floor 3: the decoder, run over any source of weights: one model, a merge, or weights in training.

mod decoder;
mod runs;
mod weights;

pub use decoder::{Cache, Decoder, Places, capped};
pub use runs::runs;
pub(crate) use weights::collect;
pub use weights::{SourceWeights, Weights};
