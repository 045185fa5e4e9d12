//! Why a merge gives an answer the probability that it gives: one prompt through the merge and its
//! sources, layer by layer.
//!
//! With `x_p` the residual stream after the embedding (`p = 0`) or after layer `p - 1`, at the last
//! token before the answer token `a`, and `L` layers:
//!
//! ```text
//! drift        |x_p - y_p| / |y_p| and cos(x_p, y_p)       y: the stream of a source    drift.rs
//! logit lens   softmax(W norm(x_p))[a]                     W: the output layer          lens.rs
//! attribution  x_L = x_0 + sum over half-layers of what each adds, so with the norm's scale frozen
//!              logit(a) - mean logit = sum of one contribution per part                 attribution.rs
//!              loss = -ln p(a) = ln sum_v exp(logit(v) - mean logit) - sum of contributions
//! patching     put what a source has in one place, run on, and compare p(a)             patch.rs
//! ```
//!
//! The logit lens is of nostalgebraist (2020, "interpreting GPT: the logit lens"), the
//! decomposition of a logit of Elhage et al. (2021, "A mathematical framework for transformer
//! circuits"), and patching is causal tracing of arXiv 2202.05262, by the recommendations of arXiv
//! 2309.16042: source activations, not noise, and the log-probability as the measure.

mod attribution;
mod columns;
mod drift;
mod halves;
mod lens;
mod observe;
mod patch;
mod place;
mod run;
mod subject;

pub use attribution::{Attribution, Contribution};
pub use drift::Drift;
pub use lens::Reading;
pub use patch::Patched;
pub use place::{Part, Patch, stream_name};
pub use run::{ModelTrace, Traced};
pub(crate) use run::{PASSES, bytes, trace};
pub(crate) use subject::{Question, Subject};
