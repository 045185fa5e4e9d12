//! A partially downloaded file with its checksum so far.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::client::Client;
use super::digest::Digest;
use super::remote_file::RemoteFile;
use crate::error::{Error, Result};

/// A partially downloaded file with its checksum so far.
pub(super) struct PartialFile<'a> {
    pub path: &'a Path,
    file: File,
    pub have: u64,
    pub digest: Option<Digest>,
    /// The ETag and size, to restart the checksum.
    remote: (String, u64),
}

impl<'a> PartialFile<'a> {
    /// Resumes with the contents of `file`.
    pub fn open(
        mut file: File,
        path: &'a Path,
        remote: &RemoteFile,
        client: &Client,
    ) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let mut digest = Digest::of(&remote.etag, remote.size);
        let (mut buffer, mut have) = (vec![0; 1 << 20], 0);
        loop {
            client.check()?;
            match file.read(&mut buffer).map_err(io)? {
                0 => break,
                read => {
                    have += read as u64;
                    digest.iter_mut().for_each(|digest| digest.update(&buffer[..read]));
                }
            }
        }
        Ok(Self { path, file, have, digest, remote: (remote.etag.clone(), remote.size) })
    }

    /// Starts over.
    pub fn restart(&mut self) -> Result<()> {
        let io = |e| Error::io("write", self.path, e);
        self.file.set_len(0).map_err(io)?;
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        (self.have, self.digest) = (0, Digest::of(&self.remote.0, self.remote.1));
        Ok(())
    }

    /// Appends `bytes`; those beyond `size` are only counted.
    pub fn write(&mut self, bytes: &[u8], size: u64) -> Result<()> {
        self.have += bytes.len() as u64;
        if self.have <= size {
            self.digest.iter_mut().for_each(|digest| digest.update(bytes));
            self.file.write_all(bytes).map_err(|e| Error::io("write", self.path, e))?;
        }
        Ok(())
    }

    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("write", self.path, e))
    }
}
