//! Autosave of the interactive session. A crash or a closed terminal loses at most one second of training and the current
//! step. The next start offers to resume a session that ended unexpectedly.
//!
//! ```text
//! STATE/dam/sessions/NUMBER/     one per session: its timeline; `place`, its working directory; `lock`, a lock file held while it runs
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

use crate::render::note;
use crate::terminal::state_directory;

/// The least time between two autosaves during training.
const PACE: Duration = Duration::from_secs(1);

/// An empty directory older than this does not belong to a session that is starting.
const BEGINS: Duration = Duration::from_secs(60);

/// The lock file, held while a session runs.
const LOCK: &str = "lock";

/// The file that holds the working directory.
const PLACE: &str = "place";

/// The autosave of the running session.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

struct Running {
    directory: PathBuf,
    /// The time of the last autosave during training.
    last: Option<Instant>,
    /// The thread that writes an autosave while training continues.
    writes: Option<JoinHandle<dam_prelude::Result<()>>>,
}

impl Running {
    /// Waits until the current write is complete.
    fn finish(&mut self) -> dam_prelude::Result<()> {
        self.writes.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())))
    }
}

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The autosave of a running session.
pub struct Autosave {
    directory: PathBuf,
    /// Held while the session runs.
    _lock: File,
}

/// A session that ended unexpectedly.
pub struct Left {
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
        private(&sessions)?;
        let number = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let directory = sessions.join(format!("{number}-{}", std::process::id()));
        private(&directory)?;
        let lock = File::create(directory.join(LOCK))?;
        // Another program that is looking for sessions may hold the lock for a moment.
        lock.lock()?;
        fs::write(directory.join(PLACE), std::env::current_dir()?.as_os_str().as_encoded_bytes())?;
        Ok(Self::running(directory, lock))
    }

    fn running(directory: PathBuf, lock: File) -> Self {
        *running() = Some(Running { directory: directory.clone(), last: None, writes: None });
        Self { directory, _lock: lock }
    }

    /// Resumes an unfinished session in its own directory; returns its state and notes.
    ///
    /// # Errors
    /// Damaged files or missing sources; the directory stays unchanged.
    pub fn recover(left: Left) -> Result<(Self, Context, Vec<String>), (Left, anyhow::Error)> {
        match left.recovered() {
            Ok(Recovered { context, mut notes, unused }) => {
                notes.extend(unused.map(|file| left.kept_aside(&file)));
                Ok((Self::running(left.directory, left.lock), context, notes))
            }
            Err(error) => Err((left, error)),
        }
    }

    /// Saves the state of the session.
    ///
    /// # Errors
    /// The state cannot be written, for example to a full disk.
    pub fn keep(&self, context: &mut Context) -> Result<()> {
        if let Some(running) = &mut *running() {
            running.finish()?;
            running.last = None;
        }
        Ok(context.keep(&self.directory)?)
    }

    /// Ends the session normally and deletes its autosave.
    pub fn end(self) {
        if let Some(mut running) = running().take() {
            let _ = running.finish();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Left {
    /// All unfinished sessions, latest first.
    pub fn all() -> Vec<Self> {
        let entries = sessions().and_then(|path| Ok(fs::read_dir(path)?));
        let mut all: Vec<Self> = entries.into_iter().flatten().flatten().filter_map(|entry| Self::of(&entry.path())).collect();
        all.sort_by_key(|left| std::cmp::Reverse(left.when));
        all
    }

    /// The unfinished session in `directory`; none if it is running or empty.
    fn of(directory: &Path) -> Option<Self> {
        let lock = open_to_write(File::options().write(true).create(true).truncate(false), &directory.join(LOCK)).ok()?;
        lock.try_lock().ok()?;
        let files = fs::read_dir(directory).ok()?.collect::<std::io::Result<Vec<_>>>().ok()?;
        let mut written = files.iter().filter(|file| file.file_name() != LOCK && file.file_name() != PLACE).peekable();
        if written.peek().is_none() {
            // It ended before the first verb, or it is just starting.
            let age = fs::metadata(directory).and_then(|m| m.modified()).ok().and_then(|when| when.elapsed().ok());
            if age.is_some_and(|age| age > BEGINS) {
                let _ = fs::remove_dir_all(directory);
            }
            return None;
        }
        let when = written.filter_map(|file| file.metadata().and_then(|m| m.modified()).ok()).max();
        Some(Self { directory: directory.into(), lock, when: when.unwrap_or(SystemTime::UNIX_EPOCH) })
    }

    /// Restores the session and its working directory.
    fn recovered(&self) -> Result<Recovered> {
        if let Some(place) = self.place().filter(|place| std::env::current_dir().ok().as_ref() != Some(place)) {
            std::env::set_current_dir(&place).with_context(|| format!("cannot change to {}", place.display()))?;
            note(&format!("working directory: {}", place.display()));
        }
        Ok(Context::recover(&self.directory)?)
    }

    /// The working directory of the session.
    fn place(&self) -> Option<PathBuf> {
        /// The longest path, in bytes.
        const LONGEST: u64 = 1 << 16;
        let bytes = read_file(&self.directory.join(PLACE), LONGEST).ok()?;
        Some(PathBuf::from(OsString::from_vec(bytes)))
    }

    /// A summary of the session.
    ///
    /// # Errors
    /// The journal is damaged.
    pub fn summary(&self) -> Result<String> {
        Ok(Context::summary(&self.directory)?)
    }

    /// Moves an unreadable session to where it is not offered again; returns a message with its path and saved states.
    pub fn set_aside(self) -> String {
        let to = aside(&self.directory).and_then(|to| {
            private(to.parent().unwrap_or(&to))?;
            fs::rename(&self.directory, &to)?;
            Ok(to)
        });
        let (place, is) = match &to {
            Ok(to) => (to, "it was moved to"),
            Err(_) => (&self.directory, "it is still in"),
        };
        format!("{is} `{}`; {}", place.display(), states(place))
    }

    /// Moves `file` out of the session directory so that it outlives the session; returns a message with its path.
    fn kept_aside(&self, file: &Path) -> String {
        let to = aside(&self.directory).and_then(|to| {
            private(&to)?;
            let to = to.join(file.file_name().unwrap_or_default());
            fs::rename(file, &to)?;
            Ok(to)
        });
        let place = to.as_deref().unwrap_or(file);
        format!("it was kept: open {}", quoted(&place.display().to_string()))
    }

    /// A message with the path and the saved states of the session.
    pub fn whereabouts(&self) -> String {
        format!("it is still in `{}`; {}", self.directory.display(), states(&self.directory))
    }

    /// Deletes the session; returns whether that succeeded.
    pub fn forget(self) -> bool {
        fs::remove_dir_all(&self.directory).is_ok()
    }
}

/// A message that lists the saved states in `directory`.
fn states(directory: &Path) -> String {
    let all = Context::saved_in(directory);
    let one = |(file, step): &(PathBuf, usize)| format!("\n  open {}   (step {step})", quoted(&file.display().to_string()));
    match all.is_empty() {
        true => "it has no saved states".into(),
        false => format!("its saved states can be opened:{}", all.iter().map(one).collect::<String>()),
    }
}

/// Saves the step that training just made, unless one was saved within the last second.
pub fn step(progress: &Progress<'_>) {
    let (Some(dam), Some(_)) = (progress.dam, progress.step) else { return };
    let mut running = running();
    let Some(place) = running.as_mut() else { return };
    let is_due = place.last.is_none_or(|last| last.elapsed() >= PACE);
    // Trials of `compare` do not belong to the session. Only one write runs at a time.
    let is_busy = place.writes.as_ref().is_some_and(|thread| !thread.is_finished());
    if !is_due || is_busy || !latest().is_ok_and(|latest| latest.is(dam)) {
        return;
    }
    let kept = place.finish().and_then(|()| Context::keep_now(dam, &place.directory));
    match kept {
        Ok(write) => {
            place.last = Some(Instant::now());
            place.writes = Some(std::thread::spawn(write));
        }
        Err(error) => {
            note(&format!("autosave is now off: {error}"));
            *running = None;
        }
    }
}

/// The path to which the session in `directory` is set aside.
fn aside(directory: &Path) -> Result<PathBuf> {
    Ok(sessions()?.with_file_name("set-aside").join(directory.file_name().unwrap_or_default()))
}

fn sessions() -> Result<PathBuf> {
    Ok(state_directory().context("no state directory: set HOME or XDG_STATE_HOME")?.join("sessions"))
}

/// Creates a directory that only its owner can access.
fn private(directory: &Path) -> std::io::Result<()> {
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
        fs::write(dir.path().join(PLACE), place.as_os_str().as_encoded_bytes()).unwrap();
        fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert_eq!(Left::of(dir.path()).unwrap().place(), Some(place));
    }

    #[test]
    fn a_named_pipe_is_not_used_as_a_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::CString::new(dir.path().join(LOCK).to_str().unwrap()).unwrap();
        // SAFETY: the path is a NUL-terminated string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert!(Left::of(dir.path()).is_none());
    }
}
