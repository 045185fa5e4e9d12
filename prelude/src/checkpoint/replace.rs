//! Files and directories are written aside, then put in place at once: there is always what was there or what is new.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::foreign::foreign;
use super::written::Written;
use crate::error::{Error, Result};

/// Fills a temporary sibling of `path` and renames it into place. A failure leaves nothing.
///
/// # Errors
/// [`Error::Exists`] where `path` exists and `force` is false; with `force`, [`Error::Foreign`] where it holds
/// anything but a checkpoint's files.
pub(crate) fn replace_directory(path: &Path, force: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Written> {
    let path = std::path::absolute(path).map_err(|e| Error::io("write", path, e))?;
    let exists = path.symlink_metadata().is_ok();
    if exists && !force {
        return Err(Error::Exists { path });
    }
    if exists && !path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Error::NotReplaced { path, what: "a checkpoint" });
    }
    if let Some(file) = foreign(&path).filter(|_| exists) {
        return Err(Error::Foreign { path, file });
    }
    let (parent, name) = sibling(&path)?;
    let io = |e| Error::io("write", &path, e);
    sweep(&parent.path, &name);
    let (new, _lock) = claimed(|| {
        let mode = Permissions::from_mode(0o777);
        let new = tempfile::Builder::new().prefix(&name).rand_bytes(RANDOM).permissions(mode).tempdir_in(&parent.path)?;
        let path = new.path().to_owned();
        Ok((new, path))
    })
    .map_err(io)?;
    fill(new.path())?;
    let mut written = Written { path: path.clone(), ..Written::default() };
    measure(new.path(), &mut written).map_err(io)?;
    match rename_new(new.path(), &path) {
        Ok(()) => drop(new.keep()),
        // What was there before, or what another program has written meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && force => {
            if let Some(file) = foreign(&path) {
                return Err(Error::Foreign { path, file });
            }
            // What was there is in the temporary directory then, and goes with it.
            exchange(new.path(), &path).map_err(io)?;
        }
        Err(error) => return Err(taken(&path, error)),
    }
    parent.keep();
    Ok(written)
}

/// Writes `bytes` to a temporary sibling of `path` and renames it into place.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    fill_file(path, true, |file| file.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// [`replace_file`] where nothing is there yet: of two programs that write at once, one succeeds.
///
/// # Errors
/// [`Error::Exists`] where something is.
pub(crate) fn new_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    fill_file(path, false, |file| file.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// Fills a temporary sibling of `path` and renames it into place. A failure leaves nothing.
///
/// # Errors
/// [`Error::Exists`] where something is there, before or after it was filled, unless it `replaces` that.
pub(crate) fn fill_file(path: &Path, replaces: bool, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<Written> {
    if !replaces && path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: path.into() });
    }
    let path = std::path::absolute(path).map_err(|e| Error::io("write", path, e))?;
    let (parent, name) = sibling(&path)?;
    let io = |e| Error::io("write", &path, e);
    sweep(&parent.path, &name);
    let mode = || Permissions::from_mode(0o666);
    let (mut file, _lock) = claimed(|| {
        let file = tempfile::Builder::new().prefix(&name).rand_bytes(RANDOM).permissions(mode()).tempfile_in(&parent.path)?;
        let path = file.path().to_owned();
        Ok((file, path))
    })
    .map_err(io)?;
    fill(file.as_file_mut())?;
    file.as_file().sync_all().map_err(io)?;
    let bytes = file.as_file().metadata().map_err(io)?.len();
    let rename = if replaces { fs::rename } else { rename_new };
    rename(file.path(), &path).map_err(|e| taken(&path, e))?;
    // Nothing is there any more to be removed.
    let _ = file.into_temp_path().keep();
    parent.keep();
    Ok(Written { path, files: 1, bytes, ..Written::default() })
}

/// The error of a rename to `path`: of one that something took meanwhile, that it exists.
fn taken(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::io("write", path, error),
    }
}

/// Renames `from` to `to`, where nothing is.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do both at once: the moment between is as short as can be.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => match to.symlink_metadata() {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        done => Ok(done?),
    }
}

/// Puts the directory `new` in the place of `old` and `old` in that of `new`, so that there is always one or the other.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => {
            let mut aside = new.as_os_str().to_owned();
            aside.push("-old");
            let aside = PathBuf::from(aside);
            fs::rename(old, &aside)?;
            if let Err(error) = fs::rename(new, old) {
                let _ = fs::rename(&aside, old);
                return Err(error);
            }
            fs::rename(&aside, new)
        }
        done => Ok(done?),
    }
}

/// A temporary file or directory that `make` made, with a lock that tells [`sweep`] that it is in use.
fn claimed<T>(make: impl Fn() -> io::Result<(T, PathBuf)>) -> io::Result<(T, Option<File>)> {
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let (made, path) = make()?;
        let Ok(lock) = File::open(&path) else { continue };
        match lock.try_lock() {
            // Another program may have swept it away before it was locked.
            Ok(()) if path.exists() => return Ok((made, Some(lock))),
            // A file system without locks: then nothing is swept there either.
            Err(fs::TryLockError::Error(_)) => return Ok((made, None)),
            _ => {}
        }
    }
    Err(io::Error::other("its temporary files disappear"))
}

/// Random letters and digits that the name of a temporary file ends with.
const RANDOM: usize = 12;

/// Removes what a program that was killed while it wrote the same thing left in `directory`: temporary files and
/// directories by their names, which begin with `prefix`, and that nobody has locked. What cannot be removed stays.
fn sweep(directory: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let is_ours = |name: &str| {
        let random = name.strip_prefix(prefix);
        random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_ours)) {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        if let Ok(left) = File::open(&path)
            && left.try_lock().is_ok()
        {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Adds the files below `directory` to `written`.
fn measure(directory: &Path, written: &mut Written) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            measure(&entry.path(), written)?;
            continue;
        }
        written.files += 1;
        written.bytes += entry.metadata()?.len();
    }
    Ok(())
}

/// The directory that something is written in, made where it was missing; what was made goes again
/// unless it is kept.
struct Parent {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Parent {
    /// What was made stays, and what was renamed in it is on the disk.
    fn keep(mut self) {
        let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
        self.made.clear();
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Innermost first; a directory that is no longer empty stays.
        self.made.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

/// The directory of `path`, and the prefix of temporary names in it.
fn sibling(path: &Path) -> Result<(Parent, String)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotReplaced { path: path.into(), what: "a checkpoint or a session" });
    };
    let missing = parent.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
    let parent = Parent { path: parent.into(), made: missing };
    fs::create_dir_all(&parent.path).map_err(|e| Error::io("write", path, e))?;
    Ok((parent, format!(".{}.dam-", name.to_string_lossy())))
}
