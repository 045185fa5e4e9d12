//! A verb: its signature, from which running, checking, completion, help and exports all read, and
//! the command that a line of it becomes.
//!
//! ```text
//! line --syntax--> Statement --Arguments::read, by the signature--> Verb::read --> Command
//! ```

use super::arguments::Arguments;
use super::reply::Reply;
use super::signature::Signature;
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
    /// Its arguments.
    pub(crate) signature: Signature,
    /// Reads its arguments.
    pub(crate) read: fn(&Arguments) -> Result<Box<dyn Command>>,
    /// Whether an export contains it.
    pub(crate) is_exported: bool,
    /// The part of a state that running it again rebuilds.
    pub(crate) rebuilds: Option<Rebuild>,
    /// Whether it creates a merge to train.
    pub(crate) wraps: bool,
    /// Whether it may change the names of sources, tensors or branches.
    pub(crate) renames: bool,
    /// Whether it works before anything is loaded.
    pub(crate) needs_nothing: bool,
    /// What a prompt does for it besides running it.
    pub(crate) at_prompt: Option<AtPrompt>,
}

/// What only a prompt can do for a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtPrompt {
    /// Run it, then end the session.
    Quit,
    /// Open the Rust prompt instead.
    Rust,
}

/// A parsed command.
pub trait Command {
    /// Runs it.
    ///
    /// # Errors
    /// On error the session is unchanged, except that completed steps are kept.
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
            signature: Signature::EMPTY,
            read,
            is_exported: false,
            rebuilds: None,
            wraps: false,
            renames: false,
            needs_nothing: false,
            at_prompt: None,
        }
    }

    /// The verb with its arguments: `[x]` is optional, `x...` may be repeated, `a|b` is either of
    /// both, and capitals are placeholders.
    pub fn usage(&self) -> String {
        self.signature.usage(self.name)
    }

    /// Reads `arguments` into a command.
    ///
    /// # Errors
    /// The first argument that does not fit.
    pub(crate) fn command(&'static self, arguments: &[Argument]) -> Result<Box<dyn Command>> {
        (self.read)(&Arguments::read(self.name, &self.signature, arguments)?)
    }
}
