//! How cells are built: cargo behind a wrapper, with versions fixed and the prelude built once.

mod answers;
pub mod build;
pub mod cache;
pub mod direct;
mod known_types;
pub mod library;
pub mod lock;
pub mod package;
pub mod prelude;
pub mod separate;
pub mod wrapper;
