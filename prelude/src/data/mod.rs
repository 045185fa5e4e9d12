//! Floor 3: examples, chat templates and batches.

mod batch;
mod chat;
mod examples;

pub use batch::Batch;
pub use examples::{Dataset, Example, builtin_datasets};
