//! The bytes of a file: memory-mapped, built in, or made in memory.

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use super::mapped::Mapped;
use super::regular_file::open_file;
use crate::error::{Error, Result};

/// A file's bytes, memory-mapped or built in. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Bytes {
    Mapped(Arc<Mapped>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Releases the memory behind `range`; later reads load it from the file again.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(map) = self {
            map.release(range);
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// Maps a regular file, which may be empty, into memory.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let file = open_file(path)?;
    if file.metadata().map_err(|e| Error::io("read", path, e))?.len() == 0 {
        return Ok(Bytes::Static(&[]));
    }
    Ok(Bytes::Mapped(Arc::new(Mapped::new(&file, path)?)))
}
