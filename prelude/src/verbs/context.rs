//! What verbs act on: the sources loaded so far; once wrapped, the merge in training; and a merge
//! that is being tried.

use std::path::{Path, PathBuf};

use super::timeline::Timeline;
use crate::checkpoint::{Stamp, Written};
use crate::show::{Figure, Render, paragraph};
use crate::{Dam, Error, Merged, Models, Result};
use serde_json::{Map, Value};

/// The session of one run of `dam`.
#[derive(Default)]
pub struct Context {
    /// Sources, data and settings; once wrapped, the merge has its own.
    pub models: Models,
    /// The merge in training.
    pub dam: Option<Dam>,
    /// The merge that `merge` made last without writing it, until something else is made.
    pub merged: Option<Merged>,
    /// The state of the merge that was taken out last, by `save`, `open` or `bake`.
    pub(super) saved: Option<u64>,
    /// The file that `save` wrote or `open` read last, and what it was then: `save` may write it
    /// again.
    pub(super) file: Option<(PathBuf, Stamp)>,
    /// What was done, to go back to.
    pub(super) timeline: Timeline,
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
    /// The same with ANSI colours, for a terminal that shows them; control characters of names and
    /// models' texts are replaced in it.
    pub ansi: Option<String>,
    /// The same for a notebook, where it has a form of its own.
    pub html: Option<String>,
    /// For a program.
    pub json: Map<String, Value>,
    /// The picture that it is, where it is one: a terminal draws it as well as it can.
    pub figure: Option<Figure>,
}

impl Reply {
    /// A reply with the fields of `json`, an object.
    pub fn new(text: impl std::fmt::Display, json: Value) -> Self {
        let json = if let Value::Object(map) = json { map } else { Map::new() };
        Self { text: text.to_string(), ansi: None, html: None, json, figure: None }
    }

    /// The same of what has a form for a notebook too, and fits the terminal.
    pub(super) fn shown(report: &impl Render, json: Value) -> Self {
        Self { html: Some(report.html()), ..Self::new(report.lines(columns()), json) }
    }

    /// The same of files that were written.
    pub(super) fn written(written: &Written) -> Self {
        Self::shown(written, written.json())
    }

    /// With one more line, if there is one.
    pub(super) fn and(mut self, note: impl std::fmt::Display) -> Self {
        let note = note.to_string();
        if !note.is_empty() {
            self.text = format!("{}\n{note}", self.text);
            self.html = self.html.map(|html| html + &paragraph(&note));
        }
        self
    }
}

/// The columns of the terminal that is standard output; none where it is not one.
pub fn columns() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns).clamp(24, 400))
}

/// Refuses with a message and a hint.
pub fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Error::Refused { message: message.into(), hint: hint.into() })
}

impl Context {
    /// The merge.
    ///
    /// # Errors
    /// When nothing has been wrapped yet.
    pub fn dam(&self) -> Result<&Dam> {
        self.loaded()?;
        match &self.dam {
            Some(dam) => Ok(dam),
            None => {
                refuse("the sources are not wrapped yet", "run `wrap` first, or `merge linear`")
            }
        }
    }

    /// `file` has the session as it is now.
    pub(super) fn is_in(&mut self, file: &Path) {
        let path = std::path::absolute(file).ok();
        self.file = path.and_then(|path| Stamp::of(&path).ok().map(|stamp| (path, stamp)));
        self.is_saved();
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
            Some(merged) => Ok(Latest::Merged(merged.with_models(&self.current()))),
            None => Ok(Latest::Dam(self.dam()?.clone())),
        }
    }

    /// `dam` is what verbs act on from now on.
    pub fn wrapped(&mut self, dam: Dam) {
        self.dam = Some(dam);
        self.merged = None;
    }

    /// What was done, and the states that came of it.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
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

    /// The models, where that can be told without waiting for what works on them.
    pub fn known(&self) -> Option<Models> {
        match &self.dam {
            Some(dam) => Some(dam.status()?.models),
            None => Some(self.models.clone()),
        }
    }
}
