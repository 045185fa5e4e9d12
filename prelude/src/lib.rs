//! Differentiable Adaptive Merging (DAM, arXiv 2410.08371) as six primitives.
//!
//! N fine-tunes of one model become one model, `W[:, j] = sum_i f(c[i, j]) W_i[:, j]`, with a
//! learnt coefficient per source and weight column. Training makes the merge agree with each source
//! on that source's own data; no labels are needed.
//!
//! ```
//! use dam_prelude::*;
//!
//! let models = load(["builtin:japanese", "builtin:math"])?; // 1. load: paths or built-in models
//! let dam = models.wrap(Columns::default())?; //               2. wrap: a coefficient per source and column
//! let before = dam.loss()?; //                                 3. loss: every term, per source
//! dam.step()?; //                                              4. step: one optimiser step,
//! dam.train(3)?; //                                               or many
//! println!("{}", dam.inspect("layers.0.mlp")?); //             5. inspect: the coefficients
//!
//! let directory = tempfile::tempdir()?;
//! let written = dam.bake(directory.path().join("merged"))?; // 6. bake: a Hugging Face checkpoint
//! assert!(written.path.join("model.safetensors").is_file());
//! assert!(before.terms.iter().any(|(name, _)| name == "kl.math"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Columns`] is one of several built-in [`Scheme`]s; your own takes about ten lines of code.
//!
//! A source is a Hugging Face directory (safetensors or `.bin`), a repository on the Hub
//! (`org/name@revision`), a GGUF file, or a built-in model (`builtin:base`, `builtin:japanese`,
//! `builtin:math`, `builtin:sql`). Each may be followed by `+` and PEFT adapters. Sources stay
//! memory-mapped. Every returned type has a text form (`Display`) and shows itself as the result of
//! an evcxr cell.
//!
//! # Modules, from the bottom up
//!
//! | module | contents |
//! | --- | --- |
//! | [`error`] | errors, each with a hint |
//! | [`checkpoint`] | find, open, verify and write checkpoints |
//! | [`ops`] | differentiable operations: fused on the CPU, composed of candle's operations elsewhere |
//! | [`data`] | examples, chat templates, batches |
//! | [`model`] | the decoder, generic over its weights |
//! | [`coefficients`] | schemes, their coefficients, and the merged weights |
//! | [`objective`] | the terms of the loss |
//! | [`methods`] | merge methods without training |
//! | [`solve`] | coefficients from linear algebra, layer by layer |
//! | [`train`] | optimisers, schedules, the forward and backward pass, teachers, settings |
//! | [`eval`] | loss, perplexity, exact match, generation |
//! | [`trace`] | an answer through a merge and its sources, layer by layer |
//! | [`show`] | reports, tables and figures |
//! | [`session`] | [`Dam`], the six primitives |
//! | [`syntax`] | lines of verbs: words and statements |
//! | [`timeline`] | the state of a session, its history, undo, recovery |
//! | [`export`] | a session as a notebook, a script or a program |
//! | [`verbs`] | the command language of the terminal and the kernel |
//! | [`assist`] | what is wrong with a line of verbs, how it may go on, and what comes next |
//! | `notebook` | display, input and controls in notebooks |
//!
//! A module uses only modules above it in this table.

#![warn(missing_docs)]

pub mod assist;
pub mod checkpoint;
pub mod coefficients;
pub mod data;
mod device;
pub mod error;
pub mod eval;
pub mod export;
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
mod seed;
pub mod session;
pub mod show;
pub mod solve;
pub mod syntax;
pub mod timeline;
pub mod trace;
pub mod train;
mod vectorised;
pub mod verbs;
mod work;

pub use candle_core;
pub use candle_core::Tensor;
pub use checkpoint::Kind;
pub use coefficients::{
    BiasStart, Columns, Heads, Init, LowRank, Nonlinearity, Options, Parameter, PerLayer,
    PerTensor, Rest, Rows, RowsColumns, Scheme, Site, Softmax, Task, Wrap,
};
pub use error::{Error, Result};
#[cfg(unix)]
pub use notebook::{Button, Control, Desk, DeskSettings, Dropdown, Slider, Text};
pub use objective::Reduction;
pub use session::{
    Amount, Bake, Compare, Dam, Evaluation, Evolve, EvolveProgress, Evolved, Merged, Models, Trace,
    check_scheme, latest, load,
};
pub use solve::SolveSettings;
pub use train::{Optimizer, Schedule, Settings};
