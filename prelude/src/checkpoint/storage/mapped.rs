//! Memory-mapped files that detect changes.
//!
//! Writes by other programs to a mapped file are visible here, and if the file is truncated,
//! reading beyond its new end kills this process with SIGBUS. Size and modification time are
//! therefore compared before a source is used; a difference is an error.

use std::fs::{File, Metadata};
use std::io;
use std::ops::{Deref, Range};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use crate::error::{Error, Result};

/// A mapped file.
pub(crate) struct Mapped {
    map: Mmap,
    /// Kept open, to tell the kernel which of its pages are not needed.
    #[cfg(target_os = "linux")]
    file: File,
    path: PathBuf,
    stamp: Stamp,
    inode: u64,
}

/// The size in bytes and modification time of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    length: u64,
    written: Option<SystemTime>,
}

impl Stamp {
    /// The size in bytes, and the modification time in nanoseconds since 1970; `None` without a
    /// time, or before 1970.
    pub fn numbers(&self) -> Option<(u64, u64)> {
        let since = self.written?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some((self.length, u64::try_from(since.as_nanos()).ok()?))
    }

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
        let metadata = file.metadata().map_err(io)?;
        let (stamp, inode) = (Stamp::from(&metadata), metadata.ino());
        // SAFETY: the map is read-only, and this program replaces files instead of writing into
        // them. Nothing keeps other programs from that; callers that read much call `check` first.
        let map = unsafe { Mmap::map(file) }.map_err(io)?;
        Ok(Self {
            map,
            #[cfg(target_os = "linux")]
            file: file.try_clone().map_err(io)?,
            path: std::path::absolute(path).map_err(io)?,
            stamp,
            inode,
        })
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The size and modification time when it was mapped.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The number of the file in its file system.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    // What follows is advice to the kernel: a failure does not matter.

    /// Begins to read `range` from the disk into memory. It returns when the disk has taken the
    /// requests, which for a large range is when most of it has been read.
    pub fn read_ahead(&self, range: Range<usize>) {
        if !range.is_empty() {
            let _ = self.map.advise_range(Advice::WillNeed, range.start, range.len());
        }
    }

    /// Removes `range` from this process's memory. The kernel keeps the pages in its cache as long
    /// as it sees fit.
    pub fn release(&self, range: Range<usize>) {
        if !range.is_empty() {
            // SAFETY: the map is read-only and backed by a file, so no content is lost.
            let _ = unsafe {
                self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }

    /// Removes `range` from this process's memory and, on Linux, from the kernel's cache, unless
    /// another process has mapped it.
    pub fn forget(&self, range: Range<usize>) {
        self.release(range.clone());
        #[cfg(target_os = "linux")]
        if let Some(length) = std::num::NonZeroU64::new(range.len() as u64) {
            use rustix::fs::{Advice, fadvise};
            let _ = fadvise(&self.file, range.start as u64, Some(length), Advice::DontNeed);
        }
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
