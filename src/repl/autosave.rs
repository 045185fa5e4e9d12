//! What an interactive session has done is kept as it goes, so that a crash or a closed terminal loses at most the step
//! under way. What is left by one that ended so is offered to the next.
//!
//! ```text
//! STATE/dam/sessions/NUMBER/    one a session: its timeline, `place`, where it was typed, and `lock`, held while it runs
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use dam_prelude::session::{Progress, latest};
use dam_prelude::verbs::Context;

use crate::render::note;
use crate::terminal::state_directory;

/// Left sessions that are kept: the oldest beyond them are removed.
const MOST: usize = 10;

/// The file with the working directory.
const PLACE: &str = "place";

/// Where the running session is kept.
static RUNNING: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The place of a session that runs.
pub struct Autosave {
    directory: PathBuf,
    /// Held while it runs.
    _lock: File,
}

/// A session that ended without being left.
pub struct Left {
    directory: PathBuf,
    lock: File,
    /// When it was last written.
    pub when: SystemTime,
}

impl Autosave {
    /// A new place.
    ///
    /// # Errors
    /// A state directory that may not be written.
    pub fn begin() -> Result<Self> {
        let sessions = sessions()?;
        private(&sessions)?;
        let number = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let directory = sessions.join(format!("{number}-{}", std::process::id()));
        private(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.try_lock().context("the place of this session is taken")?;
        fs::write(directory.join(PLACE), std::env::current_dir()?.as_os_str().as_encoded_bytes())?;
        Ok(Self::running(directory, lock))
    }

    fn running(directory: PathBuf, lock: File) -> Self {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.clone());
        Self { directory, _lock: lock }
    }

    /// Goes on in the place of a session that was left, with what it had.
    ///
    /// # Errors
    /// Files that are damaged, sources that are gone; the place stays as it was.
    pub fn recover(left: Left) -> Result<(Self, Context)> {
        // Paths were typed there.
        if let Some(place) = left.place().filter(|place| std::env::current_dir().ok().as_ref() != Some(place)) {
            std::env::set_current_dir(&place).with_context(|| format!("cannot go to {}", place.display()))?;
            note(&format!("in {} again", place.display()));
        }
        let context = Context::recover(&left.directory)?;
        Ok((Self::running(left.directory, left.lock), context))
    }

    /// Keeps what has been done.
    ///
    /// # Errors
    /// A place that has no room.
    pub fn keep(&self, context: &mut Context) -> Result<()> {
        Ok(context.keep(&self.directory)?)
    }

    /// The session is left on purpose: nothing of it needs to be kept.
    pub fn end(self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Left {
    /// The session that was left last, if one was.
    pub fn last() -> Option<Self> {
        let entries = fs::read_dir(sessions().ok()?).ok()?;
        let mut all: Vec<Self> = entries.flatten().filter_map(|entry| Self::of(&entry.path())).collect();
        all.sort_by_key(|left| left.when);
        while all.len() > MOST {
            all.remove(0).forget();
        }
        all.pop()
    }

    /// The session of `directory`, if none runs in it and it has something.
    fn of(directory: &Path) -> Option<Self> {
        let lock = File::options().write(true).open(directory.join("lock")).ok()?;
        lock.try_lock().ok()?;
        let Ok(when) = fs::metadata(directory.join("journal.json")).and_then(|m| m.modified()) else {
            // It ended before anything was done.
            let _ = fs::remove_dir_all(directory);
            return None;
        };
        let now = fs::metadata(directory.join("now.dam")).and_then(|m| m.modified()).unwrap_or(when);
        Some(Self { directory: directory.into(), lock, when: when.max(now) })
    }

    /// Where it was typed.
    fn place(&self) -> Option<PathBuf> {
        Some(PathBuf::from(String::from_utf8(fs::read(self.directory.join(PLACE)).ok()?).ok()?))
    }

    /// What is in it, in words.
    ///
    /// # Errors
    /// A journal that is damaged.
    pub fn summary(&self) -> Result<String> {
        Ok(Context::summary(&self.directory)?)
    }

    /// Removes it; whether that could be done.
    pub fn forget(self) -> bool {
        fs::remove_dir_all(&self.directory).is_ok()
    }
}

/// Keeps the step that training just made.
pub fn step(progress: &Progress<'_>) {
    let (Some(dam), Some(_)) = (progress.dam, progress.step) else { return };
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    // Trials of `compare` are nobody's session.
    if let Some(directory) = &*running
        && latest().is_ok_and(|latest| latest.is(dam))
        && let Err(error) = Context::keep_now(dam, directory)
    {
        note(&format!("this training is not kept as it goes: {error}"));
        *running = None;
    }
}

fn sessions() -> Result<PathBuf> {
    Ok(state_directory().context("no state directory is known: set HOME or XDG_STATE_HOME")?.join("sessions"))
}

/// Makes a directory that is nobody else's business.
fn private(directory: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}
