//! Sources: opening them, their files, and how several are compared, numbered and stacked.

mod checked;
mod compatible;
mod config_differences;
mod disk_speed;
mod files;
mod fingerprint;
mod loaded;
mod numbering;
mod open;
mod paging;
mod renumber;
mod resident;
mod restack;
mod specifier;
mod vocabulary;
pub(super) mod weights;

pub(crate) use config_differences::ConfigDifference;
pub(crate) use disk_speed::disk_speed;
pub(super) use files::Files;
pub use loaded::Source;
pub(crate) use loaded::{common_dtype, views};
pub use numbering::MissingTokens;
pub(crate) use numbering::{NO_ROW, Numbering, Renumbered};
pub(crate) use paging::{LAYERS_AHEAD, keep_in_memory, passing_bytes};
pub(crate) use renumber::with_shared_numbering;
pub(crate) use resident::{DEFAULT_RESERVE, capacity, make_room};
pub(crate) use restack::Restacked;
pub(crate) use specifier::split_name;
pub(crate) use vocabulary::extend;
