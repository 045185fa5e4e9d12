//! config.json: the architecture of a decoder as it describes it.

mod architecture;
mod attention;
mod class;
mod family;
mod layers;
mod read;
mod rope;
mod values;
mod wrapper;

pub use architecture::{Activation, Architecture, Kind, LayerAttention, Norms, QkNorm, TensorSpec};
pub(crate) use class::other_than_language_model;
pub(crate) use layers::move_layers;
pub use rope::{Pairs, Rope, Scaling};
pub(crate) use wrapper::{get, is_wrapper};
