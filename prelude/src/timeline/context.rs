//! What verbs act on: the sources loaded so far; once wrapped, the merge in training; and a merge
//! that is being tried.

use std::path::{Path, PathBuf};

use super::tree::Timeline;
use crate::checkpoint::Stamp;
use crate::error::refuse;
use crate::{Dam, Merged, Models, Result};

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
    pub(crate) saved: Option<u64>,
    /// The file that `save` wrote or `open` read last, and what it was then: `save` may write it
    /// again.
    pub(crate) file: Option<(PathBuf, Stamp)>,
    /// The history, for `undo` and `switch`.
    pub(crate) timeline: Timeline,
}

/// The latest merge, which `eval`, `ask`, `inspect` and `bake` use.
pub enum Latest {
    /// The merge in training.
    Dam(Dam),
    /// A static merge.
    Merged(Merged),
}

impl Context {
    /// The merge.
    ///
    /// # Errors
    /// When nothing has been wrapped yet.
    pub fn dam(&self) -> Result<&Dam> {
        self.loaded()?;
        let Some(dam) = &self.dam else {
            return refuse(
                "the sources are not wrapped yet",
                "run `wrap` first, or `merge linear`",
            );
        };
        Ok(dam)
    }

    /// `file` has the session as it is now.
    pub(crate) fn is_in(&mut self, file: &Path) {
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

    /// The latest merge, from `merge` or `wrap`, with the current data and settings.
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

    /// The history of the session.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Checks that a source is loaded.
    ///
    /// # Errors
    /// None is.
    pub fn loaded(&self) -> Result<()> {
        if self.dam.is_none() && self.models.names().next().is_none() {
            return refuse("nothing is loaded yet", "load ja=builtin:japanese math=builtin:math");
        }
        Ok(())
    }

    /// The models as they are now, wrapped or not.
    pub fn current(&self) -> Models {
        self.dam.as_ref().map_or_else(|| self.models.clone(), Dam::models)
    }

    /// The models, unless the merge is in use by another thread.
    pub fn known(&self) -> Option<Models> {
        match &self.dam {
            Some(dam) => Some(dam.status()?.models),
            None => Some(self.models.clone()),
        }
    }
}
