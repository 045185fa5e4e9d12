//! The decoder, generic over its weights: those of a source, of a merge, or of a merge in training.

mod decoder;
mod chunks;
mod weights;

pub use decoder::{Cache, Decoder, Positions, capped};
pub use chunks::chunks;
pub(crate) use weights::collect;
pub use weights::{SourceWeights, Weights};
