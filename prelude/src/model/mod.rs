//! The decoder, generic over its weights: those of a source, of a merge, or of a merge in training.
//! A new family is an entry of `checkpoint/config/family.rs`, which the decoder follows.

mod attended;
mod cache;
mod chunks;
mod decoder;
mod held;
mod positions;
mod weights;

pub use cache::Cache;
pub use chunks::chunks;
pub use decoder::{Decoder, Half, capped};
pub(crate) use held::Held;
pub use positions::Positions;
pub(crate) use weights::collect;
pub use weights::{SourceWeights, Weights};
