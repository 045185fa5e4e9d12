//! `dam jupyter`: installs and uninstalls the kernel, and checks what notebooks need.

mod build_progress;
pub mod command;
mod doctor;
mod install;
mod registry;
mod spec;
