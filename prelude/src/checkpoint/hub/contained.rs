//! A directory that no link can escape: a repository in the hub cache, which other programs share.

use std::fs::{self, File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use crate::checkpoint::storage::other_kind;

/// The directory; its path contains no links.
pub(crate) struct Contained(PathBuf);

impl Contained {
    /// Opens the directory `path`, which may be reached through links.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(path.canonicalize()?))
    }

    /// Opens the directory `path` and creates it if missing; a link that leaves `parent` is not
    /// followed.
    pub fn make(parent: &Path, path: &Path) -> Result<Self> {
        fs::create_dir_all(parent)?;
        let within = Self::open(parent)?;
        within.folder(path.strip_prefix(parent).unwrap_or(path))?;
        Self::open(path)
    }

    /// The real location of `path`, a path within the directory.
    ///
    /// # Errors
    /// A missing file, or a link that leaves the directory.
    pub fn find(&self, path: &Path) -> Result<PathBuf> {
        let found = self.0.join(path).canonicalize()?;
        if found.starts_with(&self.0) { Ok(found) } else { Err(leads_out(path)) }
    }

    /// The subdirectory `path`, created if missing.
    ///
    /// # Errors
    /// A link that leaves the directory, or a directory that cannot be created.
    pub fn folder(&self, path: &Path) -> Result<PathBuf> {
        let mut at = self.0.clone();
        for part in path.components() {
            let Component::Normal(part) = part else { return Err(leads_out(path)) };
            at.push(part);
            match at.canonicalize() {
                Ok(found) if found.starts_with(&self.0) => at = found,
                Ok(_) => return Err(leads_out(path)),
                Err(e) if e.kind() == ErrorKind::NotFound => match fs::create_dir(&at) {
                    // A dangling link, or another process created it first.
                    Err(e) if e.kind() == ErrorKind::AlreadyExists && !at.is_dir() => {
                        return Err(leads_out(path));
                    }
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                    _ => {}
                },
                Err(e) => return Err(e),
            }
        }
        Ok(at)
    }

    /// Opens the file `path` within the directory for reading and writing, and creates it if
    /// missing. Links are not followed.
    ///
    /// # Errors
    /// A link, or something that is not a regular file.
    pub fn file(&self, path: &Path) -> Result<File> {
        let (parent, name) =
            (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default());
        let full = self.folder(parent)?.join(name);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(full);
        match opened {
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Err(leads_out(path)),
            opened => match opened.and_then(|file| Ok((file.metadata()?, file)))? {
                (metadata, file) if metadata.is_file() => Ok(file),
                (metadata, _) => {
                    let what = other_kind(&metadata).unwrap_or("a directory");
                    Err(unexpected(format!(
                        "`{}` in the cache is {what}, not a regular file",
                        path.display()
                    )))
                }
            },
        }
    }
}

fn leads_out(path: &Path) -> Error {
    unexpected(format!("`{}` in the cache is a link that leaves the cache", path.display()))
}

/// An error for something unexpected in the cache.
fn unexpected(what: String) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

/// An I/O error of `action` on a file in the cache of `repo`, with a hint if the cache was tampered
/// with.
pub(crate) fn explain(
    repo: &str,
    action: &'static str,
    file: &Path,
    error: Error,
) -> crate::error::Error {
    match error.kind() {
        ErrorKind::InvalidInput => {
            let hint = "this program did not create it: inspect it, remove it and load again";
            crate::error::Error::Hub { repo: repo.into(), reason: error.to_string(), hint }
        }
        _ => crate::error::Error::io(action, file, error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_leave_the_directory_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (cache, out) = (directory.path().join("cache"), directory.path().join("out"));
        fs::create_dir(&out).unwrap();
        fs::write(out.join("kept"), "kept").unwrap();
        let folder = Contained::make(&cache, &cache.join("models--a--b")).unwrap();
        folder.file(Path::new("blobs/x")).unwrap().write_all(b"x").unwrap();
        let root = cache.join("models--a--b");
        symlink("../../blobs/x", folder.folder(Path::new("snapshots/c")).unwrap().join("inside"))
            .unwrap();
        assert!(folder.find(Path::new("snapshots/c/inside")).is_ok());
        for (link, target) in
            [("file", out.join("kept")), ("folder", out.clone()), ("nowhere", out.join("new"))]
        {
            symlink(target, root.join(link)).unwrap();
        }
        assert!(
            folder.find(Path::new("file")).is_err()
                && folder.find(Path::new("folder/kept")).is_err()
        );
        for path in ["file", "nowhere", "folder/kept", "folder/new", "folder/a/new", "nowhere/new"]
        {
            assert!(folder.file(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(
            (fs::read(out.join("kept")).unwrap(), fs::read_dir(&out).unwrap().count()),
            (b"kept".to_vec(), 1)
        );
        // The same for a link in place of the directory.
        symlink(&out, cache.join("models--a--c")).unwrap();
        assert!(Contained::make(&cache, &cache.join("models--a--c")).is_err());
    }
}
