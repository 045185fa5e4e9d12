//! Cells: their text, their run in evcxr, their output, and their errors.

pub mod cell;
pub mod code;
pub mod complete;
pub mod engine;
pub mod failure;
mod locate;
pub mod members;
pub mod output;
mod parameters;
mod rate_limit;
mod report;
