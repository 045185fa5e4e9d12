//! The guide, one page per module.

#[doc = include_str!("../guide/prompt.md")]
pub mod prompt {}

#[doc = include_str!("../guide/verbs.md")]
pub mod verbs {}

#[doc = include_str!("../guide/notebooks.md")]
pub mod notebooks {}

#[doc = include_str!("../guide/controls.md")]
pub mod controls {}

#[doc = include_str!("../guide/models.md")]
pub mod models {}

#[doc = include_str!("../guide/tasks.md")]
pub mod tasks {}

#[doc = include_str!("../guide/methods.md")]
pub mod methods {}

#[doc = include_str!("../guide/schemes.md")]
pub mod schemes {}

#[doc = include_str!("../guide/solve.md")]
pub mod solve {}

#[doc = include_str!("../guide/trace.md")]
pub mod trace {}

#[doc = include_str!("../guide/gpu.md")]
pub mod gpu {}

#[doc = include_str!("../guide/results.md")]
pub mod results {}

#[doc = include_str!("../guide/architecture.md")]
pub mod architecture {}
