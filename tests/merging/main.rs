//! Merges: methods, training, schemes and scores give the numbers of other implementations.

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod choices;
mod compare;
mod examples_and_scores;
mod golden;
mod merge;
mod queries;
mod ready_tasks;
mod recipes;
mod schemes;
mod session;
mod show;
mod solve;
mod tasks;
mod trace;
