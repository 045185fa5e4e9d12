//! Where the bytes of a checkpoint lie, and how they are read: regular files, memory maps, and
//! views that decode a stored tensor to f32.

mod change;
mod float8;
mod mapped;
mod regular_file;
mod view;

pub(crate) use change::{Change, LowRank, Rows};
pub(crate) use float8::{Codes, Float8, power};
pub(crate) use mapped::{Mapped, Stamp};
pub(crate) use regular_file::other_kind;
pub use regular_file::{open_file, open_to_write, private_directory, read_file};
pub use view::View;
pub(crate) use view::{Stored, TILE, deinterleaved, interleaved};
