//! Floor 8: the verbs, which a prompt, a script and a notebook share.
//!
//! The table of verbs: name, usage, help, example and function. Help and dispatch come from it.

use crate::Result;
mod arguments;
mod ask;
mod bake;
mod branch;
mod check;
mod compare;
mod complete;
mod context;
mod data;
mod diff;
mod eval;
mod evolve;
mod export;
mod generate;
mod help;
mod history;
mod inspect;
mod journal;
mod load;
mod loss;
mod merge;
mod next;
mod open;
mod parse;
mod plot;
mod quit;
mod redo;
mod rust;
mod save;
mod set;
mod step;
mod switch;
mod timeline;
mod topics;
mod train;
mod undo;
pub mod usage;
mod wrap;

use crate::Error;

pub use check::{Problem, check};
pub use complete::{Candidate, Completions, complete};
pub(crate) use context::refuse;
pub use context::{Context, Latest, Reply, columns};
pub use export::Code;
pub use help::reference;
pub use journal::Recovered;
pub use next::{is_possible, next};
pub use parse::{
    Piece, Statement, Unclosed, Word, is_complete, line, path, pieces, quoted, statements,
};
pub use timeline::{State, Timeline};
pub use topics::{TOPICS, Topic};

/// Writes a statement, by its arguments, into a program.
pub type Rust = fn(&mut Code, &[String]) -> Result<()>;

/// One verb.
pub struct Verb {
    /// What one types.
    pub name: &'static str,
    /// Its arguments.
    pub usage: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// A line that does it.
    pub example: &'static str,
    /// Writes what it does with its arguments as Rust; none of a verb that leaves nothing to do
    /// again.
    pub rust: Option<Rust>,
    /// Does it, with its arguments.
    pub run: fn(&mut Context, &[String]) -> Result<Reply>,
}

/// All verbs, in the order one meets them.
pub const VERBS: &[Verb] = &[
    load::VERB,
    data::VERB,
    wrap::VERB,
    set::VERB,
    loss::VERB,
    step::VERB,
    train::VERB,
    inspect::VERB,
    plot::VERB,
    eval::VERB,
    generate::VERB,
    ask::VERB,
    merge::VERB,
    evolve::VERB,
    compare::VERB,
    bake::VERB,
    save::VERB,
    open::VERB,
    export::VERB,
    undo::VERB,
    redo::VERB,
    history::VERB,
    branch::VERB,
    switch::VERB,
    diff::VERB,
    rust::VERB,
    help::VERB,
    quit::VERB,
];

/// The verb `name`.
///
/// # Errors
/// An unknown one, with the nearest.
pub fn find(name: &str) -> Result<&'static Verb> {
    // What shells of other programs call them.
    let known = match name {
        "exit" => quit::VERB.name,
        "?" => help::VERB.name,
        _ => name,
    };
    let found = VERBS.iter().find(|v| v.name == known);
    found.ok_or_else(|| Error::unknown("verb", name, VERBS.iter().map(|v| v.name)))
}

/// Whether the verb ends the session.
pub fn quits(name: &str) -> bool {
    find(name).is_ok_and(|verb| verb.name == quit::VERB.name)
}
