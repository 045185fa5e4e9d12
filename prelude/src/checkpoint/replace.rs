//! Files and directories are written aside, then put in place at once: there is always what was there or what is new.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
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
    put_back(&path);
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

/// What the name of a directory ends with that is set aside while another takes its place.
const ASIDE: &str = "-old";

/// Puts the directory `new` in the place of `old` and `old` in that of `new`, so that there is always one or the other.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL | rustix::io::Errno::NOTSUP) => {
            let mut aside = new.as_os_str().to_owned();
            aside.push(ASIDE);
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

/// Puts back what [`exchange`] had set aside of the directory `path` when its program was killed before the new one was in
/// its place, or removes it where it was after; what a program still works on stays.
fn put_back(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    let (prefix, Ok(entries)) = (prefix(name), fs::read_dir(parent)) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        let aside = entry.file_name();
        let new = aside.to_str().and_then(|aside| aside.strip_suffix(ASIDE));
        let Some(new) = new.filter(|new| is_temporary(new, &prefix)).map(|new| parent.join(new)) else { continue };
        // What is new is locked until it is in its place and what was there is gone.
        if new.symlink_metadata().is_ok() && !is_left(&new) {
            continue;
        }
        match path.symlink_metadata() {
            Ok(there) if there.is_dir() && is_left(path) => drop(fs::remove_dir_all(entry.path())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(rename_new(&entry.path(), path)),
            _ => {}
        }
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
    let is_ours = |name: &str| is_temporary(name, prefix);
    for entry in entries.flatten().filter(|e| e.file_name().to_str().is_some_and(is_ours)) {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        if is_left(&path) {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// Whether `name` is that of a temporary file: what it begins with, and random letters and digits.
fn is_temporary(name: &str, prefix: &str) -> bool {
    let random = name.strip_prefix(prefix);
    random.is_some_and(|random| random.len() == RANDOM && random.bytes().all(|b| b.is_ascii_alphanumeric()))
}

/// Whether no program works on the file or directory `path`. A pipe in its place is not waited for.
fn is_left(path: &Path) -> bool {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.is_ok_and(|file| file.try_lock().is_ok())
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
    Ok((parent, prefix(name)))
}

/// What the names of temporary siblings of `name` begin with.
fn prefix(name: &OsStr) -> String {
    format!(".{}.dam-", name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint whose card says `text`.
    fn checkpoint(path: &Path, text: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join("README.md"), text).unwrap();
    }

    fn card(path: &Path) -> String {
        fs::read_to_string(path.join("README.md")).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(path: &Path, force: bool) -> Result<Written> {
        replace_directory(path, force, |new| fs::write(new.join("README.md"), "newer").map_err(|e| Error::io("write", new, e)))
    }

    const NEW: &str = ".out.dam-0123456789ab";
    const OLD: &str = ".out.dam-0123456789ab-old";

    /// A program was killed when what was there was set aside and what is new was not in its place yet.
    #[test]
    fn what_was_set_aside_is_put_back_where_nothing_took_its_place() {
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

    /// A program was killed when what is new was in its place, and what was there was not gone yet.
    #[test]
    fn what_was_set_aside_is_swept_where_its_place_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        checkpoint(&at("out"), "new");
        checkpoint(&at(OLD), "old");
        // These are not ours, whatever they look like.
        let others = [".out.dam-short-old", ".out.dam-0123456789a!-old", ".other.dam-0123456789ab-old"];
        others.iter().for_each(|name| checkpoint(&at(name), "other"));
        assert!(matches!(write(&at("out"), false), Err(Error::Exists { .. })));
        assert_eq!(card(&at("out")), "new");
        let mut left = [&["out"], &others[..]].concat();
        left.sort_unstable();
        assert_eq!(names(directory.path()), left);
    }

    #[test]
    fn what_a_program_works_on_stays_aside() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        checkpoint(&at(OLD), "old");
        checkpoint(&at(NEW), "new");
        let lock = File::open(at(NEW)).unwrap();
        lock.lock().unwrap();
        put_back(&at("out"));
        assert_eq!(names(directory.path()), [NEW, OLD]);
        // It is in its place, and what was there goes next.
        fs::rename(at(NEW), at("out")).unwrap();
        put_back(&at("out"));
        assert_eq!(names(directory.path()), [OLD, "out"]);
        drop(lock);
        put_back(&at("out"));
        assert_eq!(names(directory.path()), ["out"]);
    }
}
