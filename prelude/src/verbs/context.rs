//! What verbs act on: the sources loaded so far; once wrapped, the merge in training; and a merge that is being tried.

use crate::show::Html;
use crate::{Dam, Error, Merged, Models, Result};
use serde_json::{Map, Value};

use super::{Statement, find};

/// The session of one run of `dam`.
#[derive(Default)]
pub struct Context {
    /// Sources, data and settings; once wrapped, the merge has its own.
    pub models: Models,
    /// The merge in training.
    pub dam: Option<Dam>,
    /// The merge that `merge` made last without writing it, until something else is made.
    pub merged: Option<Merged>,
    /// What was done so far.
    pub done: Vec<Statement>,
    /// The step that the last `save` or `open` kept.
    pub saved: usize,
}

/// What is scored, asked, looked at and baked: what was made last.
pub enum Latest {
    /// The merge in training.
    Dam(Dam),
    /// One that trains nothing.
    Merged(Merged),
}

/// What a verb answers: text for a person, fields for a program.
pub struct Reply {
    /// For a terminal.
    pub text: String,
    /// The same for a notebook, where it has a form of its own.
    pub html: Option<String>,
    /// For a program.
    pub json: Map<String, Value>,
}

impl Reply {
    /// A reply with the fields of `json`, an object.
    pub fn new(text: impl std::fmt::Display, json: Value) -> Self {
        let json = if let Value::Object(map) = json { map } else { Map::new() };
        Self { text: text.to_string(), html: None, json }
    }

    /// The same of what has a form for a notebook too.
    pub(super) fn shown(report: &impl Html, json: Value) -> Self {
        Self { html: Some(report.html()), ..Self::new(report, json) }
    }
}

/// Refuses with a message and a hint.
pub fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Error::Refused { message: message.into(), hint: hint.into() })
}

impl Context {
    /// Runs a statement, and keeps in mind what it did.
    ///
    /// # Errors
    /// An unknown verb, or what the verb says.
    pub fn run(&mut self, statement: &Statement) -> Result<Reply> {
        let verb = find(&statement.verb)?;
        let steps = |context: &Self| context.dam.as_ref().map_or(0, Dam::steps);
        let before = steps(self);
        let reply = (verb.run)(self, &statement.arguments);
        // Of training that was stopped, or failed on the way, what was made is done.
        let trains = ["step", "train"].contains(&verb.name);
        let made = steps(self).saturating_sub(before);
        if verb.rust.is_some() && if trains { made > 0 } else { reply.is_ok() } {
            let mut done = statement.clone();
            if trains {
                done.arguments = vec![made.to_string()];
            }
            // A search that was stopped is one of as many candidates as it tried.
            let fields = reply.as_ref().map(|reply| &reply.json).ok().filter(|_| verb.name == "evolve");
            if let Some(fields) = fields.filter(|fields| fields.get("stopped") == Some(&true.into())) {
                done.arguments.retain(|argument| !argument.starts_with("budget="));
                done.arguments.extend(fields.get("candidates").map(|tried| format!("budget={tried}")));
            }
            self.done.push(done);
        }
        reply
    }

    /// The merge.
    ///
    /// # Errors
    /// When nothing has been wrapped yet.
    pub fn dam(&self) -> Result<&Dam> {
        self.loaded()?;
        match &self.dam {
            Some(dam) => Ok(dam),
            None => refuse(
                "the sources are not wrapped yet",
                "give every column its coefficients: wrap; or merge them without training: merge linear",
            ),
        }
    }

    /// The merge to be trained, which is then the latest.
    ///
    /// # Errors
    /// As for [`Context::dam`].
    pub fn trainee(&mut self) -> Result<&Dam> {
        if self.dam.is_some() {
            self.merged = None;
        }
        self.dam()
    }

    /// What was made last: by `merge`, or by `wrap`. Data and settings are those of now.
    ///
    /// # Errors
    /// When nothing has been made yet.
    pub fn latest(&self) -> Result<Latest> {
        match &self.merged {
            Some(merged) => Ok(Latest::Merged(merged.among(&self.current()))),
            None => Ok(Latest::Dam(self.dam()?.clone())),
        }
    }

    /// `dam` is what verbs act on from now on.
    pub fn wrapped(&mut self, dam: Dam) {
        self.dam = Some(dam);
        self.merged = None;
        self.saved = 0;
    }

    /// An error where no source is loaded.
    ///
    /// # Errors
    /// As said.
    pub fn loaded(&self) -> Result<()> {
        match self.dam.is_some() || self.models.names().next().is_some() {
            true => Ok(()),
            false => refuse("nothing is loaded yet", "load ja=builtin:japanese math=builtin:math"),
        }
    }

    /// The models as they are now, wrapped or not.
    pub fn current(&self) -> Models {
        self.dam.as_ref().map_or_else(|| self.models.clone(), Dam::models)
    }

    /// An error if there is training that `force` does not give up.
    ///
    /// # Errors
    /// As said.
    pub fn may_discard(&self, force: bool) -> Result<()> {
        let steps = self.dam.as_ref().map_or(0, Dam::steps);
        if steps > self.saved && !force {
            return refuse(
                format!("this would discard {} steps of training", steps - self.saved),
                "save FILE first, then repeat it with --force",
            );
        }
        Ok(())
    }
}
