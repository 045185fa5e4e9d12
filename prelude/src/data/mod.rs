//! Layer 3: examples, chat templates and batches.

mod batch;
mod chat;
mod choices;
mod columns;
mod document_template;
mod documents;
mod example;
mod examples;
pub(crate) mod fuzz;
mod layout;
mod messages;
mod open_prompts;
mod parquet;
mod python_json;
mod python_regex;
mod python_text;
mod row_error;
mod rows;
mod sampler;
mod stream_decoder;
mod table;
mod template;
mod template_limits;

pub use batch::Batch;
pub(crate) use chat::message;
#[cfg(test)]
pub(crate) use chat::{Conversation, render};
pub use choices::Question;
pub(crate) use document_template::{DocumentTemplates, with_document_templates};
pub(crate) use documents::{DocumentFormat, Documents};
pub use example::Example;
pub use examples::{Dataset, builtin_datasets};
pub(crate) use examples::{answer_ids, prompt_ids};
pub(crate) use layout::{EXTRA_INPUTS, INPUTS, OUTPUTS, SYSTEMS};
pub(crate) use open_prompts::open_prompts;
pub(crate) use python_regex::PythonRegex;
pub(crate) use python_text::{integer, is_space, literal, place, strip, text as python_str};
pub(crate) use sampler::next as next_examples;
pub(crate) use stream_decoder::StreamDecoder;
pub(crate) use template::value_bytes as document_bytes;
