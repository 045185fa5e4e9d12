//! The decoder, generic over its weights: those of a source, of a merge, or of a merge in training.
//! A new family is an entry of `checkpoint/config/family.rs`, which the decoder follows.

mod chunks;
mod decoder;
mod weights;

pub use chunks::chunks;
pub use decoder::{Cache, Decoder, Half, Positions, capped};
pub(crate) use weights::collect;
pub use weights::{SourceWeights, Weights};
