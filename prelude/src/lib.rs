//! Differentiable Adaptive Merging (DAM, arXiv 2410.08371) as six primitives.
//!
//! N fine-tunes of one model become one model, `W[:, j] = sum_i f(c[i, j]) W_i[:, j]`: a learnt
//! coefficient for every source and weight column. The coefficients are learnt by making the merge
//! agree with each source on that source's own data; no labels are needed.
//!
//! ```
//! use dam_prelude::*;
//!
//! let models = load(["builtin:japanese", "builtin:math"])?; // 1. load: paths or built-in models
//! let dam = models.wrap(Columns::default())?; //               2. wrap: a coefficient a source and column
//! let before = dam.loss()?; //                                 3. loss: every term, per source
//! dam.step()?; //                                              4. step: one optimiser step,
//! dam.train(3)?; //                                               or many
//! println!("{}", dam.inspect("layers.0.mlp")?); //             5. inspect: what the coefficients became
//!
//! let directory = tempfile::tempdir()?;
//! let written = dam.bake(directory.path().join("merged"))?; // 6. bake: a Hugging Face checkpoint
//! assert!(written.path.join("model.safetensors").is_file());
//! assert!(before.terms.iter().any(|(name, _)| name == "kl.math"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Columns`] is one [`Scheme`] of many: others are built in, and one of your own takes about ten lines.
//!
//! A source is a Hugging Face directory (f32, f16 or bf16; one file or shards), a name on the hub
//! (`org/name@revision`), a GGUF file, or one of the models that live in this library (`builtin:base`,
//! `builtin:japanese`, `builtin:math`, `builtin:sql`), each with LoRA adapters behind a `+`. Families that
//! run: llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, phi3, smollm3. Sources stay memory-mapped. Every type that is returned shows
//! itself, as text (`Display`) and as the result of an evcxr cell.
//!
//! The guide, with the prompt, notebooks, models, methods, schemes and results: the module `guide`.
//!
//! # From the ground up
//!
//! | module | what |
//! | --- | --- |
//! | [`error`] | what can go wrong, with the remedy |
//! | [`checkpoint`] | find, open, verify and write checkpoints |
//! | [`ops`] | differentiable operations: fused on the CPU, composed elsewhere |
//! | [`coefficients`] | the schemes, of what coefficients are made, and the weights they make |
//! | [`model`] | the decoder, over any weights |
//! | [`data`] | examples, chat templates, batches |
//! | [`objective`] | the terms of the loss |
//! | [`methods`] | the ways to merge that train nothing |
//! | [`train`] | optimisers, schedules, teachers, settings |
//! | [`eval`] | loss, perplexity, exact match |
//! | [`show`] | reports, tables and pictures |
//! | [`session`] | [`Dam`], the six primitives |
//! | [`verbs`] | the same, as lines of text |
//! | `notebook` | what a notebook adds |
//!
//! A module uses those above it, never one below.

#![warn(missing_docs)]

pub mod checkpoint;
pub mod coefficients;
pub mod data;
pub mod error;
pub mod eval;
mod factor;
#[doc(hidden)]
pub mod fuzz;
mod guard;
#[cfg(doc)]
pub mod guide;
pub mod interrupt;
pub mod methods;
pub mod model;
#[cfg(unix)]
pub mod notebook;
pub mod objective;
pub mod ops;
pub mod session;
pub mod show;
pub mod train;
pub mod verbs;
mod work;

pub use candle_core;
pub use candle_core::Tensor;
pub use checkpoint::Kind;
pub use coefficients::{
    BiasStart, Columns, Heads, Init, LowRank, Nonlinearity, Options, Parameter, PerLayer, PerTensor, Rest, Rows, RowsColumns,
    Scheme, Site, Softmax, Task, Wrap,
};
pub use error::{Error, Result};
pub use objective::Reduction;
pub use session::{Bake, Compare, Dam, Evolve, Evolved, Merged, Models, Tried, check_scheme, latest, load};
pub use train::{Optimizer, Schedule, Settings};
