//! A file mapped into memory that knows what it was then.
//!
//! What another program writes into a mapped file is seen here; where it cuts the file short, reading beyond the new end
//! would end this process with SIGBUS. So size and time are compared before a source is used, and what differs is an error.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// A mapped file.
pub(crate) struct Mapped {
    map: Mmap,
    path: PathBuf,
    stamp: Stamp,
}

/// What a file was: its length in bytes, and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    length: u64,
    written: Option<SystemTime>,
}

impl Stamp {
    /// What the file at `path` is now.
    ///
    /// # Errors
    /// A file that is not there or may not be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    /// An error where the file at `path` is another than it was.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check(&self, path: &Path) -> Result<()> {
        match Self::of(path) {
            Ok(now) if now == *self => Ok(()),
            _ => Err(Error::Changed { file: path.into() }),
        }
    }
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        Self { length: meta.len(), written: meta.modified().ok() }
    }
}

impl Mapped {
    /// Maps `file`, which is at `path`.
    ///
    /// # Errors
    /// A file that cannot be mapped.
    pub fn new(file: &File, path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let stamp = Stamp::from(&file.metadata().map_err(io)?);
        // SAFETY: the map is read-only, and whoever reads much of it calls `check` first.
        let map = unsafe { Mmap::map(file) }.map_err(io)?;
        Ok(Self { map, path: std::path::absolute(path).map_err(io)?, stamp })
    }

    /// The map itself.
    pub fn map(&self) -> &Mmap {
        &self.map
    }

    /// An error where the file is another than it was.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub fn check(&self) -> Result<()> {
        self.stamp.check(&self.path)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
