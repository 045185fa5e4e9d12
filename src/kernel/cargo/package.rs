//! The prelude as a package.

/// Its name.
pub const PRELUDE: &str = "dam-prelude";

/// The lock file of this program: the versions that the prelude was tested with.
pub const LOCK: &str = include_str!("../../../Cargo.lock");
