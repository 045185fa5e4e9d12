//! Floor 5: optimisers, schedules, teachers and the settings they share.

mod optimizer;
mod settings;
mod teacher;

pub use optimizer::{MOFO_ALPHA, Moments, Optimizer, Update};
pub use settings::{KEYS, Schedule, Settings, Weights, choose};
pub use teacher::{Lesson, Teachers};
