//! The verbs, which a prompt, a script and a notebook share.
//!
//! One file per verb has its [`Verb`] (name, signature, help) and the command that a line is parsed
//! into. Everything else reads those:
//!
//! ```text
//! verb.rs       what a verb and its command are
//! signature.rs  the words, options and flags of a verb
//! kind.rs       kinds of words and values: how each is shown, and what fits
//! arguments.rs  reads arguments by a signature
//! run.rs        runs statements and records what they did
//! topics.rs     help that several verbs share
//! ```

use crate::Error;
use crate::Result;

mod arguments;
mod ask;
mod bake;
mod branch;
mod compare;
mod data;
mod diff;
mod eval;
mod evolve;
mod export;
mod fault;
mod generate;
mod help;
mod history;
mod inspect;
mod kind;
mod load;
mod loss;
mod merge;
mod mix;
mod open;
mod paths;
mod plot;
mod prelude;
mod quit;
mod redo;
mod reply;
mod run;
mod rust;
mod save;
mod set;
mod signature;
mod solve;
mod step;
mod switch;
mod topics;
mod trace;
mod train;
mod undo;
mod verb;
mod wrap;

pub use crate::syntax::{
    Argument, Piece, Statement, Unclosed, Word, is_complete, line, pieces, quoted, statements,
};
pub use crate::timeline::{Context, Latest, Recovered, State, Timeline};
pub(crate) use arguments::Reading;
pub(crate) use data::split_source;
pub(crate) use fault::Fault;
pub use help::reference;
pub(crate) use kind::{Kind, LIKE, NewFile, RECIPES, Words};
pub(crate) use paths::at_home;
pub use reply::{Reply, columns};
pub(crate) use run::replay;
pub(crate) use signature::Opt;
pub use topics::{TOPICS, Topic};
pub use verb::{AtPrompt, Verb};

/// All verbs, in the order of the documentation.
pub const VERBS: &[&Verb] = &[
    &load::VERB,
    &data::VERB,
    &wrap::VERB,
    &solve::VERB,
    &mix::VERB,
    &set::VERB,
    &loss::VERB,
    &step::VERB,
    &train::VERB,
    &inspect::VERB,
    &plot::VERB,
    &eval::VERB,
    &generate::VERB,
    &ask::VERB,
    &trace::VERB,
    &merge::VERB,
    &evolve::VERB,
    &compare::VERB,
    &bake::VERB,
    &save::VERB,
    &open::VERB,
    &export::VERB,
    &undo::VERB,
    &redo::VERB,
    &history::VERB,
    &branch::VERB,
    &switch::VERB,
    &diff::VERB,
    &rust::VERB,
    &help::VERB,
    &quit::VERB,
];

/// The chapters of the documentation, each with its first verb.
const CHAPTERS: [(&Verb, &str); 7] = [
    (&load::VERB, "sources, data and settings"),
    (&loss::VERB, "train"),
    (&inspect::VERB, "inspect"),
    (&merge::VERB, "other ways to merge"),
    (&bake::VERB, "save and export"),
    (&undo::VERB, "undo and branches"),
    (&rust::VERB, "other"),
];

/// Aliases familiar from other programs.
const ALIASES: [(&str, &Verb); 2] = [("exit", &quit::VERB), ("?", &help::VERB)];

/// The verb `name`.
///
/// # Errors
/// An unknown verb; the error names the nearest.
pub fn find(name: &str) -> Result<&'static Verb> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, verb)| *verb);
    let found = alias.or_else(|| VERBS.iter().copied().find(|verb| verb.name == name));
    found.ok_or_else(|| Error::unknown("verb", name, VERBS.iter().map(|verb| verb.name)))
}

/// What a prompt does for the verb `name` besides running it.
pub fn at_prompt(name: &str) -> Option<AtPrompt> {
    find(name).ok()?.at_prompt
}
