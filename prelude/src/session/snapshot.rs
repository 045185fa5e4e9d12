//! Snapshots of a session, and forks that start from them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::models::Models;
use super::session_file::content;
use super::snapshot_content::SnapshotContent;
use super::{Dam, Session};
use crate::checkpoint::Source;
use crate::coefficients::{Options, Wrap};
use crate::error::{Error, Result};
use crate::show::Scores;

/// Counts the states of all sessions, so that every state has its own id.
static STATES: AtomicU64 = AtomicU64::new(1);

/// Returns a new state id.
pub(super) fn new_state() -> u64 {
    STATES.fetch_add(1, Ordering::Relaxed)
}

/// The state of a session at one moment: coefficients, optimiser moments, settings, data and
/// training history. Cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) models: Models,
    /// The scheme by name and settings, and its options. A snapshot cannot be restored into another
    /// merge.
    pub(super) wrap: Identity,
    pub(super) step: usize,
    loss: Option<f64>,
    pub(super) scores: Option<Scores>,
    /// Describes the start of the coefficients, as in the session.
    pub(super) start: Option<String>,
    state: u64,
    storage: Arc<Mutex<Storage>>,
}

/// What distinguishes one parametrisation from another.
type Identity = (String, Vec<(&'static str, String)>, Options);

/// Where the content of a snapshot is stored.
enum Storage {
    Memory(Arc<SnapshotContent>),
    /// In a session file.
    File(PathBuf),
}

impl Snapshot {
    /// Returns the number of steps made up to the snapshot.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Returns the loss before the last step, if there was one.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// Returns the last scores of these coefficients.
    pub fn scores(&self) -> Option<&Scores> {
        self.scores.as_ref()
    }

    /// Returns the state id, as [`Dam::state`] does.
    pub fn state(&self) -> u64 {
        self.state
    }

    /// Sets the scores that were computed since.
    pub(crate) fn set_scores(&mut self, scores: Option<Scores>) {
        self.scores = scores;
    }

    /// Returns the bytes it uses in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &*self.storage.lock().unwrap_or_else(PoisonError::into_inner) {
            Storage::Memory(content) => content.bytes(),
            Storage::File(_) => 0,
        }
    }

    /// Frees the content in memory; `file`, written by [`Dam::save_at`], has it too.
    pub(crate) fn spill(&self, file: &Path) {
        *self.storage.lock().unwrap_or_else(PoisonError::into_inner) = Storage::File(file.into());
    }

    /// Returns the content.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub(super) fn content(&self, session: &Session) -> Result<Arc<SnapshotContent>> {
        let file = match &*self.storage.lock().unwrap_or_else(PoisonError::into_inner) {
            Storage::Memory(content) => return Ok(content.clone()),
            Storage::File(file) => file.clone(),
        };
        content(&file, &session.merge.variables).map(Arc::new)
    }
}

fn identity(wrap: &Wrap) -> Identity {
    (wrap.scheme.name(), wrap.scheme.settings(), wrap.options.clone())
}

impl Session {
    /// Takes a snapshot.
    pub(super) fn snapshot(&self) -> Result<Snapshot> {
        let values = self
            .merge
            .variables
            .iter()
            .map(|v| Ok(v.value.flatten_all()?.to_vec1()?))
            .collect::<Result<_>>()?;
        let moments = self.moments.clone();
        let history = self.history.clone();
        let content = SnapshotContent { values, moments, drawn: self.drawn, history };
        Ok(Snapshot {
            models: self.models.clone(),
            wrap: identity(&self.merge.wrap),
            step: self.step,
            loss: self.history.total.last().map(|(_, loss)| *loss),
            scores: self.scores.clone(),
            start: self.start.clone(),
            state: self.state,
            storage: Arc::new(Mutex::new(Storage::Memory(Arc::new(content)))),
        })
    }
}

impl Snapshot {
    /// Returns the first difference between its merge and that of `session`.
    fn difference(&self, session: &Session) -> Option<String> {
        let (name, settings, options) = &self.wrap;
        let (other_name, other_settings, other_options) = identity(&session.merge.wrap);
        let a = &self.models.sources;
        let b = &session.models.sources;
        let same = |(a, b): (&Source, &Source)| a.name() == b.name() && a.spec() == b.spec();
        if a.len() != b.len() || !a.iter().zip(b).all(same) {
            return Some("it has other sources".into());
        }
        if *name != other_name || *settings != other_settings {
            return Some(format!(
                "its scheme is `{name}`, not `{other_name}`, or has other settings"
            ));
        }
        (*options != other_options).then(|| "it was wrapped with other options".into())
    }
}

impl Dam {
    /// Returns the id of the current state. Every change of coefficients, settings or data gives a
    /// new id; restoring a snapshot restores its id.
    pub fn state(&self) -> u64 {
        self.session().state
    }

    /// Takes a snapshot, which [`Dam::restore`] goes back to.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let start = dam.snapshot()?;
    /// let first = dam.step()?.total;
    /// dam.restore(&start)?;
    /// assert_eq!((dam.steps(), dam.step()?.total), (0, first));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// None on the CPU.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.session().snapshot()
    }

    /// Restores a snapshot of this session, or of one with the same sources, scheme and options.
    ///
    /// # Errors
    /// The snapshot is of another merge, its file is missing, or its device is not available.
    /// Nothing changes then.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        let content = {
            let session = self.session();
            if let Some(difference) = snapshot.difference(&session) {
                let what = format!("the snapshot is of another merge: {difference}");
                return Err(Error::Sources {
                    what,
                    hint: "restore it into the merge it was taken from",
                });
            }
            snapshot.content(&session)?
        };
        self.set(snapshot.models.settings.clone())?;
        let mut session = self.session();
        for (variable, values) in session.merge.variables.iter().zip(&content.values) {
            variable.value.set(&Tensor::from_slice(
                values,
                variable.value.dims(),
                &Device::Cpu,
            )?)?;
        }
        for (name, data) in &session.models.data.clone() {
            if snapshot.models.data.get(name).is_none_or(|other| !Arc::ptr_eq(data, other)) {
                session.teachers.forget(name);
            }
        }
        session.models.data = snapshot.models.data.clone();
        session.moments = content.moments.clone();
        session.step = snapshot.step;
        session.drawn = content.drawn;
        session.state = snapshot.state;
        session.history = content.history.clone();
        session.scores = snapshot.scores.clone();
        session.start = snapshot.start.clone();
        Ok(())
    }

    /// Returns an independent session at the same state.
    ///
    /// # Errors
    /// As for [`Models::wrap`].
    pub fn fork(&self) -> Result<Self> {
        self.fork_at(&self.snapshot()?)
    }

    /// Like [`Dam::fork`], at the state of a snapshot.
    ///
    /// # Errors
    /// As for [`Dam::restore`].
    pub fn fork_at(&self, snapshot: &Snapshot) -> Result<Self> {
        let wrap = self.session().merge.wrap.clone();
        let dam = Dam::new(snapshot.models.clone(), wrap)?;
        dam.restore(snapshot)?;
        Ok(dam)
    }
}
