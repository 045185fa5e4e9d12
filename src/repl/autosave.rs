//! Autosave of the interactive session. A crash or a closed terminal loses at most one second of
//! training and the current step. The next start offers to resume a session that ended
//! unexpectedly.
//!
//! ```text
//! STATE/dam/sessions/NUMBER/     one per session: its timeline, its working directory (`place`) and a lock file (`lock`)
//! STATE/dam/set-aside/NUMBER/    an unreadable session, never deleted
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use dam_prelude::checkpoint::{open_to_write, read_file};
use dam_prelude::session::{Progress, latest};
use dam_prelude::verbs::{Context, Recovered, quoted};

use super::state::state_directory;
use crate::terminal::render::note;

/// The least time between two autosaves during training.
const INTERVAL: Duration = Duration::from_secs(1);

/// An empty directory older than this does not belong to a session that is starting.
const STARTUP: Duration = Duration::from_secs(60);

/// The lock file, held while a session runs.
const LOCK: &str = "lock";

/// The file that holds the working directory.
const DIRECTORY_FILE: &str = "place";

/// The autosave of the running session.
static ACTIVE: Mutex<Option<ActiveAutosave>> = Mutex::new(None);

struct ActiveAutosave {
    directory: PathBuf,
    /// The time of the last autosave during training.
    last_save: Option<Instant>,
    /// The thread that writes an autosave while training continues.
    writer: Option<JoinHandle<dam_prelude::Result<()>>>,
}

impl ActiveAutosave {
    /// Waits until the current write is complete.
    fn finish(&mut self) -> dam_prelude::Result<()> {
        self.writer.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())))
    }
}

fn active() -> MutexGuard<'static, Option<ActiveAutosave>> {
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The autosave of a running session.
pub struct Autosave {
    directory: PathBuf,
    /// Held while the session runs.
    _lock: File,
}

/// A session that ended unexpectedly.
pub struct UnfinishedSession {
    directory: PathBuf,
    lock: File,
    /// The time of the last write.
    pub when: SystemTime,
}

impl Autosave {
    /// Creates the autosave directory of a new session.
    ///
    /// # Errors
    /// The state directory is not writable.
    pub fn begin() -> Result<Self> {
        let sessions = sessions()?;
        create_private(&sessions)?;
        let number =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let directory = sessions.join(format!("{number}-{}", std::process::id()));
        create_private(&directory)?;
        let lock = File::create(directory.join(LOCK))?;
        // Another program that is looking for sessions may hold the lock for a moment.
        lock.lock()?;
        fs::write(
            directory.join(DIRECTORY_FILE),
            std::env::current_dir()?.as_os_str().as_encoded_bytes(),
        )?;
        Ok(Self::activate(directory, lock))
    }

    fn activate(directory: PathBuf, lock: File) -> Self {
        *active() =
            Some(ActiveAutosave { directory: directory.clone(), last_save: None, writer: None });
        Self { directory, _lock: lock }
    }

    /// Resumes an unfinished session in its own directory; returns its state and notes.
    ///
    /// # Errors
    /// Damaged files or missing sources; the directory stays unchanged.
    pub fn recover(
        session: UnfinishedSession,
    ) -> Result<(Self, Context, Vec<String>), (UnfinishedSession, anyhow::Error)> {
        match session.recovered() {
            Ok(Recovered { context, mut notes, unused }) => {
                notes.extend(unused.map(|file| session.preserve(&file)));
                Ok((Self::activate(session.directory, session.lock), context, notes))
            }
            Err(error) => Err((session, error)),
        }
    }

    /// Saves the state of the session.
    ///
    /// # Errors
    /// The state cannot be written, for example to a full disk.
    pub fn save(&self, context: &mut Context) -> Result<()> {
        if let Some(active) = &mut *active() {
            active.finish()?;
            active.last_save = None;
        }
        Ok(context.keep(&self.directory)?)
    }

    /// Ends the session normally and deletes its autosave.
    pub fn end(self) {
        if let Some(mut active) = active().take() {
            let _ = active.finish();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl UnfinishedSession {
    /// All unfinished sessions, latest first.
    pub fn all() -> Vec<Self> {
        let entries = sessions().and_then(|path| Ok(fs::read_dir(path)?));
        let mut all: Vec<Self> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Self::open(&entry.path()))
            .collect();
        all.sort_by_key(|session| std::cmp::Reverse(session.when));
        all
    }

    /// The unfinished session in `directory`; none if it is running or empty.
    fn open(directory: &Path) -> Option<Self> {
        let lock = open_to_write(
            File::options().write(true).create(true).truncate(false),
            &directory.join(LOCK),
        )
        .ok()?;
        lock.try_lock().ok()?;
        let files = fs::read_dir(directory).ok()?.collect::<std::io::Result<Vec<_>>>().ok()?;
        let mut written = files
            .iter()
            .filter(|file| file.file_name() != LOCK && file.file_name() != DIRECTORY_FILE)
            .peekable();
        if written.peek().is_none() {
            // It ended before the first verb, or it is just starting.
            let age = fs::metadata(directory)
                .and_then(|m| m.modified())
                .ok()
                .and_then(|when| when.elapsed().ok());
            if age.is_some_and(|age| age > STARTUP) {
                let _ = fs::remove_dir_all(directory);
            }
            return None;
        }
        let when = written.filter_map(|file| file.metadata().and_then(|m| m.modified()).ok()).max();
        Some(Self {
            directory: directory.into(),
            lock,
            when: when.unwrap_or(SystemTime::UNIX_EPOCH),
        })
    }

    /// Restores the session and its working directory.
    fn recovered(&self) -> Result<Recovered> {
        if let Some(directory) = self
            .working_directory()
            .filter(|directory| std::env::current_dir().ok().as_ref() != Some(directory))
        {
            std::env::set_current_dir(&directory)
                .with_context(|| format!("cannot change to {}", directory.display()))?;
            note(&format!("working directory: {}", directory.display()));
        }
        Ok(Context::recover(&self.directory)?)
    }

    /// The working directory of the session.
    fn working_directory(&self) -> Option<PathBuf> {
        /// The longest path, in bytes.
        const LONGEST: u64 = 1 << 16;
        let bytes = read_file(&self.directory.join(DIRECTORY_FILE), LONGEST).ok()?;
        Some(PathBuf::from(OsString::from_vec(bytes)))
    }

    /// A summary of the session.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn summary(&self) -> Result<String> {
        Ok(Context::summary(&self.directory)?)
    }

    /// Moves an unreadable session to where it is not offered again; returns a message with its
    /// path and saved states.
    pub fn set_aside(self) -> String {
        let to = set_aside_path(&self.directory).and_then(|to| {
            create_private(to.parent().unwrap_or(&to))?;
            fs::rename(&self.directory, &to)?;
            Ok(to)
        });
        let (place, is) = match &to {
            Ok(to) => (to, "it was set aside in"),
            Err(_) => (&self.directory, "it is still in"),
        };
        format!("{is} `{}`; {}", place.display(), saved_states(place))
    }

    /// Moves `file` out of the session directory so that it outlives the session; returns a message
    /// with its path.
    fn preserve(&self, file: &Path) -> String {
        let to = set_aside_path(&self.directory).and_then(|to| {
            create_private(&to)?;
            let to = to.join(file.file_name().unwrap_or_default());
            fs::rename(file, &to)?;
            Ok(to)
        });
        let place = to.as_deref().unwrap_or(file);
        format!("it was kept: open {}", quoted(&place.display().to_string()))
    }

    /// A message with the path and the saved states of the session.
    pub fn location(&self) -> String {
        format!("it is still in `{}`; {}", self.directory.display(), saved_states(&self.directory))
    }

    /// Deletes the session; returns whether that succeeded.
    pub fn delete(self) -> bool {
        fs::remove_dir_all(&self.directory).is_ok()
    }
}

/// A message that lists the saved states in `directory`.
fn saved_states(directory: &Path) -> String {
    let all = Context::saved_in(directory);
    let one = |(file, step): &(PathBuf, usize)| {
        format!("\n  open {}   (step {step})", quoted(&file.display().to_string()))
    };
    if all.is_empty() {
        "it has no saved states".into()
    } else {
        format!("its saved states can be opened:{}", all.iter().map(one).collect::<String>())
    }
}

/// Saves the step that training just made, unless one was saved within the last second.
pub fn save_step(progress: &Progress<'_>) {
    let (Some(dam), Some(_)) = (progress.dam, progress.step) else { return };
    let mut active = active();
    let Some(autosave) = active.as_mut() else { return };
    let is_due = autosave.last_save.is_none_or(|time| time.elapsed() >= INTERVAL);
    // Trials of `compare` do not belong to the session. Only one write runs at a time.
    let is_busy = autosave.writer.as_ref().is_some_and(|thread| !thread.is_finished());
    if !is_due || is_busy || !latest().is_ok_and(|latest| latest.is_same(dam)) {
        return;
    }
    let kept = autosave.finish().and_then(|()| Context::keep_now(dam, &autosave.directory));
    match kept {
        Ok(write) => {
            autosave.last_save = Some(Instant::now());
            autosave.writer = Some(std::thread::spawn(write));
        }
        Err(error) => {
            note(&format!("autosave is now off: {error}"));
            *active = None;
        }
    }
}

/// The path to which the session in `directory` is set aside.
fn set_aside_path(directory: &Path) -> Result<PathBuf> {
    Ok(sessions()?.with_file_name("set-aside").join(directory.file_name().unwrap_or_default()))
}

fn sessions() -> Result<PathBuf> {
    Ok(state_directory()
        .context("no state directory: set HOME or XDG_STATE_HOME")?
        .join("sessions"))
}

/// Creates a directory that only its owner can access.
fn create_private(directory: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory name need not be UTF-8, and is restored byte for byte.
    #[test]
    fn a_working_directory_need_not_be_utf_8() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(OsString::from_vec(b"caf\xe9".into()));
        fs::write(dir.path().join(DIRECTORY_FILE), place.as_os_str().as_encoded_bytes()).unwrap();
        fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert_eq!(UnfinishedSession::open(dir.path()).unwrap().working_directory(), Some(place));
    }

    #[test]
    fn a_named_pipe_is_not_used_as_a_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::CString::new(dir.path().join(LOCK).to_str().unwrap()).unwrap();
        // SAFETY: the path is a NUL-terminated string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert!(UnfinishedSession::open(dir.path()).is_none());
    }
}
