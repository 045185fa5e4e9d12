//! Optimisers, schedules, teachers, the forward and backward pass, and the resource forecast.
//!
//! # Memory between steps
//!
//! Every step frees large blocks of memory and takes as many again. By default glibc returns them
//! to the system at once, and the page faults of fresh memory cost about a tenth of a step. The
//! allocator belongs to the program, so the library leaves it alone; `dam` and the process that
//! runs the cells of its notebooks make it keep freed memory. A program of your own saves the same
//! time with
//!
//! ```no_run
//! # #[cfg(all(target_os = "linux", target_env = "gnu"))]
//! // SAFETY: these calls only set two thresholds of the allocator.
//! unsafe {
//!     libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
//!     libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
//! }
//! ```
//!
//! or without code, if it is started with `MALLOC_MMAP_THRESHOLD_=1073741824` and
//! `MALLOC_TRIM_THRESHOLD_=2147483647` in its environment.

mod disk;
mod forecast;
mod history;
mod memory;
mod optimizer;
mod pass;
mod settings;
mod speed;
mod teacher;

pub use crate::device::available_bytes;
pub use disk::DiskForecast;
pub(crate) use disk::plan_sources;
pub use forecast::{Forecast, GpuForecast, Workload};
pub use history::History;
pub use memory::{Recompute, Room};
pub(crate) use memory::{StepPlan, StepShape};
pub use optimizer::{MOFO_ALPHA, Moments, Optimizer, Update};
pub use pass::{Gradients, Pass, PassOptions};
pub use settings::{SETTINGS, Schedule, Setting, Settings, TermWeights, Values};
pub use teacher::{Outputs, TeacherRun, Teachers};
