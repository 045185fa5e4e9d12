//! The decoder, generic over its weights: those of a source, of a merge, or of a merge in training.

mod decoder;
mod runs;
mod weights;

pub use decoder::{Cache, Decoder, Places, capped};
pub use runs::runs;
pub(crate) use weights::collect;
pub use weights::{SourceWeights, Weights};
