//! The processes below the kernel: the relay, the cells' process, and the socket they share.

pub mod link;
mod peer;
pub mod relay;
mod stdin;
