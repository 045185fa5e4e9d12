//! Damage, loss and hostile input: nothing is lost, and every failure is reported.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/hub.rs"]
mod server;

mod bad_input;
mod crash;
mod faults;
mod hostile;
mod hub;
mod lost;
