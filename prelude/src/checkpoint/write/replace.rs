//! Atomic writes: files and directories are written to a temporary sibling and renamed, so that a
//! path always has either the old or the new contents.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::extra_files::extra_file;
use super::written::Written;
use crate::error::{Error, Result};

/// Fills a temporary sibling of `path` and renames it into place. On failure, nothing remains.
///
/// # Errors
/// [`Error::Exists`] if `path` exists and `force` is false; with `force`, [`Error::ExtraFile`] if
/// it contains anything that is not part of a checkpoint.
pub(crate) fn replace_directory(
    path: &Path,
    force: bool,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<Written> {
    let path = std::path::absolute(path).map_err(|e| Error::io("write", path, e))?;
    restore_backup(&path);
    let exists = path.symlink_metadata().is_ok();
    if exists && !force {
        return Err(Error::Exists { path });
    }
    if exists && !path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
        return Err(Error::NotReplaced { path, what: "a checkpoint" });
    }
    if let Some(file) = extra_file(&path).filter(|_| exists) {
        return Err(Error::ExtraFile { path, file });
    }
    let (parent, name) = sibling(&path)?;
    let io = |e| Error::io("write", &path, e);
    remove_leftovers(&parent.path, &name);
    let (new, _lock) = create_locked(|| {
        let mode = Permissions::from_mode(0o777);
        let new = tempfile::Builder::new()
            .prefix(&name)
            .rand_bytes(RANDOM_CHARACTERS)
            .permissions(mode)
            .tempdir_in(&parent.path)?;
        let path = new.path().to_owned();
        Ok((new, path))
    })
    .map_err(io)?;
    fill(new.path())?;
    let mut written = Written { path: path.clone(), ..Written::default() };
    measure(new.path(), &mut written).map_err(io)?;
    match rename_new(new.path(), &path) {
        Ok(()) => drop(new.keep()),
        // The previous contents, or what another process wrote in the meantime.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && force => {
            if let Some(file) = extra_file(&path) {
                return Err(Error::ExtraFile { path, file });
            }
            // The previous contents are now in the temporary directory and are deleted with it.
            exchange(new.path(), &path).map_err(io)?;
        }
        Err(error) => return Err(rename_error(&path, error)),
    }
    parent.keep();
    Ok(written)
}

/// Writes `bytes` to a temporary sibling of `path` and renames it into place.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    fill_file(path, true, |file| file.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// [`replace_file`] for a path that does not exist yet: of two processes that write at once, one
/// succeeds.
///
/// # Errors
/// [`Error::Exists`] if the path exists.
pub(crate) fn new_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    fill_file(path, false, |file| file.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// Fills a temporary sibling of `path` and renames it into place. On failure, nothing remains.
///
/// # Errors
/// [`Error::Exists`] if the path exists, before or after filling, unless `replaces` is true.
pub(crate) fn fill_file(
    path: &Path,
    replaces: bool,
    fill: impl FnOnce(&mut File) -> Result<()>,
) -> Result<Written> {
    if !replaces && path.symlink_metadata().is_ok() {
        return Err(Error::Exists { path: path.into() });
    }
    let path = std::path::absolute(path).map_err(|e| Error::io("write", path, e))?;
    let (parent, name) = sibling(&path)?;
    let io = |e| Error::io("write", &path, e);
    remove_leftovers(&parent.path, &name);
    let mode = || Permissions::from_mode(0o666);
    let (mut file, _lock) = create_locked(|| {
        let file = tempfile::Builder::new()
            .prefix(&name)
            .rand_bytes(RANDOM_CHARACTERS)
            .permissions(mode())
            .tempfile_in(&parent.path)?;
        let path = file.path().to_owned();
        Ok((file, path))
    })
    .map_err(io)?;
    fill(file.as_file_mut())?;
    file.as_file().sync_all().map_err(io)?;
    let bytes = file.as_file().metadata().map_err(io)?.len();
    let rename = if replaces { fs::rename } else { rename_new };
    rename(file.path(), &path).map_err(|e| rename_error(&path, e))?;
    // The temporary file no longer exists and need not be removed.
    let _ = file.into_temp_path().keep();
    parent.keep();
    Ok(Written { path, files: 1, bytes, ..Written::default() })
}

/// The error of a rename to `path`; [`Error::Exists`] if it was created in the meantime.
fn rename_error(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.into() },
        _ => Error::io("write", path, error),
    }
}

/// Renames `from` to `to`, which must not exist.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without atomic renames of this kind: check and rename with minimal delay.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => {
            match to.symlink_metadata() {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => fs::rename(from, to),
            }
        }
        done => Ok(done?),
    }
}

/// The suffix of the backup of a directory while another takes its place.
const BACKUP_SUFFIX: &str = "-old";

/// Exchanges the directories `new` and `old`, so that one of them is always in place.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => {
            let mut aside = new.as_os_str().to_owned();
            aside.push(BACKUP_SUFFIX);
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

/// Restores the backup that [`exchange`] created of the directory `path` if the process was killed
/// before the new directory was in place, or deletes it if it was killed later. Backups that a
/// process still uses are kept.
fn restore_backup(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    let (prefix, Ok(entries)) = (prefix(name), fs::read_dir(parent)) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        let aside = entry.file_name();
        let new = aside.to_str().and_then(|aside| aside.strip_suffix(BACKUP_SUFFIX));
        let Some(new) = new.filter(|new| is_temporary(new, &prefix)).map(|new| parent.join(new))
        else {
            continue;
        };
        // The new directory stays locked until it is in place and the old one is deleted.
        let lock = try_lock(&new);
        if lock.is_none() && new.symlink_metadata().is_ok() {
            continue;
        }
        match path.symlink_metadata() {
            Ok(there) if there.is_dir() => {
                if let Some(_lock) = try_lock(path) {
                    drop(fs::remove_dir_all(entry.path()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                drop(rename_new(&entry.path(), path))
            }
            _ => {}
        }
    }
}

/// A temporary file or directory created by `make`, with a lock that tells [`remove_leftovers`]
/// that it is in use.
fn create_locked<T>(make: impl Fn() -> io::Result<(T, PathBuf)>) -> io::Result<(T, Option<File>)> {
    const MAX_TRIES: usize = 16;
    for _ in 0..MAX_TRIES {
        let (created, path) = make()?;
        let Ok(lock) = File::open(&path) else { continue };
        match lock.try_lock() {
            // Another process may have deleted it before it was locked.
            Ok(()) if path.exists() => return Ok((created, Some(lock))),
            // A file system without locks: nothing is cleaned up there.
            Err(fs::TryLockError::Error(_)) => return Ok((created, None)),
            _ => {}
        }
    }
    Err(io::Error::other("its temporary files keep disappearing"))
}

/// The number of random characters at the end of a temporary name.
const RANDOM_CHARACTERS: usize = 12;

/// Deletes what killed processes left in `directory`: temporary files and directories whose names
/// begin with `prefix` and that are not locked. Files that cannot be deleted remain.
fn remove_leftovers(directory: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let is_ours = |name: &str| is_temporary(name, prefix);
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_ours)) {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        // Locked until it is deleted: a process that has just created it must not take it in
        // between.
        if let Some(_lock) = try_lock(&path) {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Whether `name` is a temporary name: `prefix` and random characters.
fn is_temporary(name: &str, prefix: &str) -> bool {
    let random = name.strip_prefix(prefix);
    random.is_some_and(|random| {
        random.len() == RANDOM_CHARACTERS && random.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// Locks the file or directory `path` until the result is dropped; `None` if a process has locked
/// it. Does not block on a pipe.
fn try_lock(path: &Path) -> Option<File> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.ok().filter(|file| file.try_lock().is_ok())
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

/// The directory to write in. It is created if missing, and removed again on drop unless it is
/// kept.
struct Parent {
    path: PathBuf,
    created: Vec<PathBuf>,
}

impl Parent {
    /// Keeps created directories and syncs the directory, so that renames in it are on disk.
    fn keep(mut self) {
        let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
        self.created.clear();
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Innermost first; non-empty directories remain.
        self.created.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

/// The directory of `path`, and the prefix of temporary names in it.
fn sibling(path: &Path) -> Result<(Parent, String)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotReplaced { path: path.into(), what: "a checkpoint or a session" });
    };
    let missing = parent.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
    let parent = Parent { path: parent.into(), created: missing };
    fs::create_dir_all(&parent.path).map_err(|e| Error::io("write", path, e))?;
    Ok((parent, prefix(name)))
}

/// The prefix of temporary siblings of `name`.
fn prefix(name: &OsStr) -> String {
    format!(".{}.dam-", name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint with the model card `text`.
    fn checkpoint(path: &Path, text: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("README.md"), text).unwrap();
    }

    fn card(path: &Path) -> String {
        fs::read_to_string(path.join("README.md")).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(path: &Path, force: bool) -> Result<Written> {
        replace_directory(path, force, |new| {
            fs::write(new.join("README.md"), "newer").map_err(|e| Error::io("write", new, e))
        })
    }

    const NEW: &str = ".out.dam-0123456789ab";
    const OLD: &str = ".out.dam-0123456789ab-old";

    /// The process was killed after the old directory was set aside and before the new one was in
    /// place.
    #[test]
    fn a_backup_is_restored_if_nothing_took_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for force in [false, true] {
            checkpoint(&at(OLD), "old");
            checkpoint(&at(NEW), "new");
            match write(&at("out"), force) {
                Ok(_) => assert!(force && card(&at("out")) == "newer"),
                Err(Error::Exists { .. }) => assert!(!force && card(&at("out")) == "old"),
                Err(error) => panic!("{error:?}"),
            }
            assert!(!at(OLD).exists());
            for name in names(directory.path()) {
                fs::remove_dir_all(at(&name)).unwrap();
            }
        }
    }

    /// The process was killed after the new directory was in place and before the old one was
    /// deleted.
    #[test]
    fn a_backup_is_deleted_if_the_new_directory_is_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        checkpoint(&at("out"), "new");
        checkpoint(&at(OLD), "old");
        // Similar names that are not temporary files.
        let others =
            [".out.dam-short-old", ".out.dam-0123456789a!-old", ".other.dam-0123456789ab-old"];
        others.iter().for_each(|name| checkpoint(&at(name), "other"));
        assert!(matches!(write(&at("out"), false), Err(Error::Exists { .. })));
        assert_eq!(card(&at("out")), "new");
        let mut left = [&["out"], &others[..]].concat();
        left.sort_unstable();
        assert_eq!(names(directory.path()), left);
    }

    #[test]
    fn a_backup_in_use_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        checkpoint(&at(OLD), "old");
        checkpoint(&at(NEW), "new");
        let lock = File::open(at(NEW)).unwrap();
        lock.lock().unwrap();
        restore_backup(&at("out"));
        assert_eq!(names(directory.path()), [NEW, OLD]);
        // The new directory is in place; the backup is deleted next.
        fs::rename(at(NEW), at("out")).unwrap();
        restore_backup(&at("out"));
        assert_eq!(names(directory.path()), [OLD, "out"]);
        drop(lock);
        restore_backup(&at("out"));
        assert_eq!(names(directory.path()), ["out"]);
    }
}
