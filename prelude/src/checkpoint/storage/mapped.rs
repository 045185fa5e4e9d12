//! Memory-mapped files that detect changes.
//!
//! Writes by other programs to a mapped file are visible here, and if the file is truncated,
//! reading beyond its new end kills this process with SIGBUS. Size and modification time are
//! therefore compared before a source is used; a difference is an error.

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

/// The size in bytes and modification time of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    length: u64,
    written: Option<SystemTime>,
}

impl Stamp {
    /// The current stamp of the file at `path`.
    ///
    /// # Errors
    /// A file that does not exist or cannot be accessed.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&std::fs::metadata(path)?))
    }

    /// Returns an error if the file at `path` has changed.
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
        // SAFETY: the map is read-only, and this program replaces files instead of writing into
        // them. Nothing keeps other programs from that; callers that read much call `check` first.
        let map = unsafe { Mmap::map(file) }.map_err(io)?;
        Ok(Self { map, path: std::path::absolute(path).map_err(io)?, stamp })
    }

    /// The memory map.
    pub fn map(&self) -> &Mmap {
        &self.map
    }

    /// Returns an error if the file has changed.
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
