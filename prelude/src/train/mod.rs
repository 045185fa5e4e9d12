//! Optimisers, schedules, teachers, the forward and backward pass, and the resource forecast.

mod forecast;
mod history;
mod optimizer;
mod pass;
mod settings;
mod teacher;

pub use forecast::{Forecast, Recompute, Workload, available_bytes, keep_memory};
pub use history::History;
pub use optimizer::{MOFO_ALPHA, Moments, Optimizer, Update};
pub use pass::{Gradients, Pass, PassOptions};
pub use settings::{SETTINGS, Schedule, Setting, Settings, TermWeights, Values};
pub use teacher::{Outputs, TeacherRun, Teachers};
