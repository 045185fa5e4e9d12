//! What an interactive session has done is kept as it goes, so that a crash or a closed terminal loses at most a second of
//! training and the step under way. What is left by one that ended so is offered to the next.
//!
//! ```text
//! STATE/dam/sessions/NUMBER/     one per session: its timeline, `place`, where it was typed, and `lock`, held while it runs
//! STATE/dam/set-aside/NUMBER/    a session that cannot be read: nothing of it is deleted
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

/// How far apart training is kept, at least.
const PACE: Duration = Duration::from_secs(1);

/// What is older than this and has nothing in it does not belong to a session that is just beginning.
const BEGINS: Duration = Duration::from_secs(60);

/// The file that is locked while a session runs.
const LOCK: &str = "lock";

/// The file with the working directory.
const PLACE: &str = "place";

/// Where the running session is kept.
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

struct Running {
    directory: PathBuf,
    /// When training was kept last.
    last: Option<Instant>,
    /// Writes it while training goes on.
    writes: Option<JoinHandle<dam_prelude::Result<()>>>,
}

impl Running {
    /// Waits until what is being written is whole.
    fn finish(&mut self) -> dam_prelude::Result<()> {
        self.writes.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())))
    }
}

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let lock = File::create(directory.join(LOCK))?;
        // Another program that looks for sessions may hold it for a moment.
        lock.lock()?;
        fs::write(directory.join(PLACE), std::env::current_dir()?.as_os_str().as_encoded_bytes())?;
        Ok(Self::running(directory, lock))
    }

    fn running(directory: PathBuf, lock: File) -> Self {
        *running() = Some(Running { directory: directory.clone(), last: None, writes: None });
        Self { directory, _lock: lock }
    }

    /// Goes on in the place of a session that was left, with what it had.
    ///
    /// # Errors
    /// Files that are damaged, sources that are gone; the place stays as it was.
    pub fn recover(left: Left) -> Result<(Self, Context, Vec<String>), (Left, anyhow::Error)> {
        match left.recovered() {
            Ok(Recovered { context, mut notes, unused }) => {
                notes.extend(unused.map(|file| left.kept_aside(&file)));
                Ok((Self::running(left.directory, left.lock), context, notes))
            }
            Err(error) => Err((left, error)),
        }
    }

    /// Keeps what has been done.
    ///
    /// # Errors
    /// A place that has no room.
    pub fn keep(&self, context: &mut Context) -> Result<()> {
        if let Some(running) = &mut *running() {
            running.finish()?;
            running.last = None;
        }
        Ok(context.keep(&self.directory)?)
    }

    /// The session is left on purpose: nothing of it needs to be kept.
    pub fn end(self) {
        if let Some(mut running) = running().take() {
            let _ = running.finish();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Left {
    /// The sessions that were left, the latest first.
    pub fn all() -> Vec<Self> {
        let entries = sessions().and_then(|path| Ok(fs::read_dir(path)?));
        let mut all: Vec<Self> = entries.into_iter().flatten().flatten().filter_map(|entry| Self::of(&entry.path())).collect();
        all.sort_by_key(|left| std::cmp::Reverse(left.when));
        all
    }

    /// The session of `directory`, if none runs in it and it has something.
    fn of(directory: &Path) -> Option<Self> {
        let lock = open_to_write(File::options().write(true).create(true).truncate(false), &directory.join(LOCK)).ok()?;
        lock.try_lock().ok()?;
        let files = fs::read_dir(directory).ok()?.collect::<std::io::Result<Vec<_>>>().ok()?;
        let mut written = files.iter().filter(|file| file.file_name() != LOCK && file.file_name() != PLACE).peekable();
        if written.peek().is_none() {
            // It ended before anything was done, or it is just beginning.
            let age = fs::metadata(directory).and_then(|m| m.modified()).ok().and_then(|when| when.elapsed().ok());
            if age.is_some_and(|age| age > BEGINS) {
                let _ = fs::remove_dir_all(directory);
            }
            return None;
        }
        let when = written.filter_map(|file| file.metadata().and_then(|m| m.modified()).ok()).max();
        Some(Self { directory: directory.into(), lock, when: when.unwrap_or(SystemTime::UNIX_EPOCH) })
    }

    /// What it was, in the directory where it was typed.
    fn recovered(&self) -> Result<Recovered> {
        // Paths were typed there.
        if let Some(place) = self.place().filter(|place| std::env::current_dir().ok().as_ref() != Some(place)) {
            std::env::set_current_dir(&place).with_context(|| format!("cannot go to {}", place.display()))?;
            note(&format!("in {} again", place.display()));
        }
        Ok(Context::recover(&self.directory)?)
    }

    /// Where it was typed.
    fn place(&self) -> Option<PathBuf> {
        /// Bytes of the longest path.
        const LONGEST: u64 = 1 << 16;
        let bytes = read_file(&self.directory.join(PLACE), LONGEST).ok()?;
        Some(PathBuf::from(OsString::from_vec(bytes)))
    }

    /// What is in it, in words.
    ///
    /// # Errors
    /// A journal that is damaged.
    pub fn summary(&self) -> Result<String> {
        Ok(Context::summary(&self.directory)?)
    }

    /// Puts a session that cannot be read where it is not offered again; says where it is and which saved states it has.
    pub fn set_aside(self) -> String {
        let to = aside(&self.directory).and_then(|to| {
            private(to.parent().unwrap_or(&to))?;
            fs::rename(&self.directory, &to)?;
            Ok(to)
        });
        let (place, is) = match &to {
            Ok(to) => (to, "it is set aside in"),
            Err(_) => (&self.directory, "it stays in"),
        };
        format!("{is} `{}`; {}", place.display(), states(place))
    }

    /// Has `file` of it where it outlives the session; says where that is.
    fn kept_aside(&self, file: &Path) -> String {
        let to = aside(&self.directory).and_then(|to| {
            private(&to)?;
            let to = to.join(file.file_name().unwrap_or_default());
            fs::rename(file, &to)?;
            Ok(to)
        });
        let place = to.as_deref().unwrap_or(file);
        format!("it is kept: open {}", quoted(&place.display().to_string()))
    }

    /// Where it is, and which saved states it has.
    pub fn whereabouts(&self) -> String {
        format!("it stays in `{}`; {}", self.directory.display(), states(&self.directory))
    }

    /// Removes it; whether that could be done.
    pub fn forget(self) -> bool {
        fs::remove_dir_all(&self.directory).is_ok()
    }
}

/// The saved states in `directory`, in words.
fn states(directory: &Path) -> String {
    let all = Context::saved_in(directory);
    let one = |(file, step): &(PathBuf, usize)| format!("\n  open {}   (step {step})", quoted(&file.display().to_string()));
    match all.is_empty() {
        true => "it has no saved state".into(),
        false => format!("its saved states can be opened:{}", all.iter().map(one).collect::<String>()),
    }
}

/// Keeps the step that training just made, unless one was kept within the last second.
pub fn step(progress: &Progress<'_>) {
    let (Some(dam), Some(_)) = (progress.dam, progress.step) else { return };
    let mut running = running();
    let Some(place) = running.as_mut() else { return };
    let is_due = place.last.is_none_or(|last| last.elapsed() >= PACE);
    // Trials of `compare` are nobody's session. What takes longer to write than a second is written one at a time.
    let is_busy = place.writes.as_ref().is_some_and(|thread| !thread.is_finished());
    if !is_due || is_busy || !latest().is_ok_and(|latest| latest.is_same(dam)) {
        return;
    }
    let kept = place.finish().and_then(|()| Context::keep_now(dam, &place.directory));
    match kept {
        Ok(write) => {
            place.last = Some(Instant::now());
            place.writes = Some(std::thread::spawn(write));
        }
        Err(error) => {
            note(&format!("autosave is off from here on: {error}"));
            *running = None;
        }
    }
}

/// Where the session of `directory` is set aside.
fn aside(directory: &Path) -> Result<PathBuf> {
    Ok(sessions()?.with_file_name("set-aside").join(directory.file_name().unwrap_or_default()))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory may have any name, and be left with it.
    #[test]
    fn a_place_need_not_be_utf_8() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join(OsString::from_vec(b"caf\xe9".into()));
        fs::write(dir.path().join(PLACE), place.as_os_str().as_encoded_bytes()).unwrap();
        fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert_eq!(Left::of(dir.path()).unwrap().place(), Some(place));
    }

    #[test]
    fn a_pipe_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let name = std::ffi::CString::new(dir.path().join(LOCK).to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert!(Left::of(dir.path()).is_none());
    }
}
