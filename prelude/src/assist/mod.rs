//! Help while a line of verbs is typed, all of it from the signatures of the verbs: what is wrong
//! with the line, how it may go on, and which line makes sense next.

mod check;
mod complete;
mod next;

pub use check::{Problem, check};
pub use complete::{Candidate, Completions, complete};
pub use next::{is_possible, next};
