//! A verb: its signature, from which running, checking, completion, help and exports all read, and
//! the command that a line of it becomes.
//!
//! ```text
//! line --syntax--> Statement --Arguments::read, by the signature--> Verb::read --> Command
//! ```

use std::fmt::Write;

use super::arguments::Arguments;
use super::kind::Kind;
use super::reply::Reply;
use crate::Result;
use crate::export::Code;
use crate::syntax::{Argument, Statement};
use crate::timeline::{Context, Rebuild};

/// A verb.
pub struct Verb {
    /// What one types.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// An example.
    pub example: &'static str,
    /// The words that follow it, in order.
    pub(crate) words: &'static [Slot],
    /// Its `KEY=VALUE` options.
    pub(crate) options: &'static [Opt],
    /// Further options, which depend on the words.
    pub(crate) more: Option<More>,
    /// The number of words without which options and flags are not offered.
    pub(crate) options_after: usize,
    /// Its flags.
    pub(crate) flags: &'static [&'static str],
    /// Reads its arguments.
    pub(crate) read: fn(&Arguments) -> Result<Box<dyn Command>>,
    /// Whether an export contains it.
    pub(crate) is_exported: bool,
    /// The part of a state that running it again rebuilds.
    pub(crate) rebuilds: Option<Rebuild>,
    /// Whether it creates a merge to train.
    pub(crate) wraps: bool,
    /// Whether sources, tensors or branches may have other names after it.
    pub(crate) renames: bool,
    /// Whether it works before anything is loaded.
    pub(crate) needs_nothing: bool,
    /// Whether it ends the session.
    pub(crate) quits: bool,
}

/// A word of a verb.
pub struct Slot {
    pub kind: Kind,
    pub is_required: bool,
    pub is_repeated: bool,
    /// Whether it may follow the words before it.
    pub follows: fn(&[&str]) -> bool,
}

/// A `KEY=VALUE` option.
#[derive(Clone, Copy)]
pub struct Opt {
    pub key: &'static str,
    pub kind: Kind,
}

/// Options that depend on the words.
pub struct More {
    /// How they are shown in the usage.
    pub usage: fn() -> String,
    /// Those that go with these words; none where that is unknown, and every key is taken.
    pub options: fn(&[&str]) -> Option<Vec<Opt>>,
}

/// A verb with its arguments read.
pub trait Command {
    /// Runs it.
    ///
    /// # Errors
    /// Whatever prevents it; the session has not changed then, except for completed steps.
    fn run(&self, context: &mut Context) -> Result<Reply>;

    /// Writes it as Rust. By default it has no Rust form.
    ///
    /// # Errors
    /// It needs what no statement before it made.
    fn rust(&self, _: &mut Code) -> Result<()> {
        Ok(())
    }

    /// The statement to record, after `steps` training steps, and a reply if it succeeded.
    fn record(&self, statement: &Statement, _steps: usize, _reply: Option<&Reply>) -> Statement {
        statement.clone()
    }

    /// The statement for a script that runs where this one has run before.
    fn again(&self, statement: &Statement) -> Statement {
        statement.clone()
    }
}

/// A required word.
pub const fn one(kind: Kind) -> Slot {
    Slot { kind, is_required: true, is_repeated: false, follows: |_| true }
}

/// An optional word.
pub const fn optional(kind: Kind) -> Slot {
    Slot { is_required: false, ..one(kind) }
}

/// Words of which there is at least one.
pub const fn some(kind: Kind) -> Slot {
    Slot { is_repeated: true, ..one(kind) }
}

/// Any number of words.
pub const fn any(kind: Kind) -> Slot {
    Slot { is_required: false, ..some(kind) }
}

impl Slot {
    /// The same after certain words only.
    pub const fn after(self, follows: fn(&[&str]) -> bool) -> Self {
        Self { follows, ..self }
    }
}

/// An option.
pub const fn option(key: &'static str, kind: Kind) -> Opt {
    Opt { key, kind }
}

impl Verb {
    /// A verb without arguments that changes nothing and is in no export.
    pub(crate) const fn new(
        name: &'static str,
        about: &'static str,
        example: &'static str,
        read: fn(&Arguments) -> Result<Box<dyn Command>>,
    ) -> Self {
        Self {
            name,
            about,
            example,
            words: &[],
            options: &[],
            more: None,
            options_after: 0,
            flags: &[],
            read,
            is_exported: false,
            rebuilds: None,
            wraps: false,
            renames: false,
            needs_nothing: false,
            quits: false,
        }
    }

    /// Its arguments: `[x]` is optional, `x...` may be repeated, `a|b` is one of both, and what is
    /// in capitals stands for something else.
    pub fn usage(&self) -> String {
        let mut text = self.name.to_owned();
        for Slot { kind, is_required, is_repeated, .. } in self.words {
            let (open, close) = if *is_required { ("", "") } else { ("[", "]") };
            let more = if *is_repeated { "..." } else { "" };
            let _ = write!(text, " {open}{}{more}{close}", kind.usage());
        }
        for Opt { key, kind } in self.options {
            let _ = write!(text, " [{key}={}]", kind.usage());
        }
        if let Some(more) = &self.more {
            let _ = write!(text, " {}", (more.usage)());
        }
        for flag in self.flags {
            let _ = write!(text, " [{flag}]");
        }
        text
    }

    /// Reads `arguments` into a command.
    ///
    /// # Errors
    /// The first argument that does not fit.
    pub(crate) fn command(&'static self, arguments: &[Argument]) -> Result<Box<dyn Command>> {
        (self.read)(&Arguments::read(self, arguments)?)
    }

    /// The options that go with `words`; none if any may.
    pub(crate) fn options(&self, words: &[&str]) -> Option<Vec<Opt>> {
        let more = self.more.as_ref().map_or(Some(Vec::new()), |more| (more.options)(words))?;
        Some(self.options.iter().copied().chain(more).collect())
    }

    /// Whether arguments of the form `KEY=VALUE` are options.
    pub(crate) fn has_options(&self) -> bool {
        !self.options.is_empty() || self.more.is_some()
    }

    /// Whether its first word is text of any words.
    pub(crate) fn takes_text(&self) -> bool {
        matches!(self.words, [Slot { kind: Kind::Text(_), .. }, ..])
    }

    /// An argument as a word: where `a=b` would be an option or a named source but is in quotation
    /// marks, it is the path `./a=b`.
    pub(crate) fn word(&self, argument: &Argument) -> String {
        let is_split = self
            .words
            .iter()
            .any(|slot| slot.kind.is_named() || (self.has_options() && slot.kind.is_path()));
        let prefix = if argument.is_whole && is_split { "./" } else { "" };
        format!("{prefix}{}", argument.text)
    }
}
