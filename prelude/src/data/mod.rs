//! Floor 3: examples, chat templates and batches.

mod batch;
mod chat;
mod choices;
mod examples;
pub(crate) mod fuzz;
mod rows;
mod sampler;
mod spoken;
mod template_limits;

pub use batch::Batch;
pub use choices::Question;
pub(crate) use examples::prompt_ids;
pub use examples::{Dataset, Example, builtin_datasets};
pub(crate) use sampler::next as next_examples;
pub(crate) use spoken::Spoken;
