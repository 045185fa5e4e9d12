//! Downloads from the hub. Interrupted downloads are resumed, sizes and checksums are verified, and
//! a file gets its name in the cache only when it is complete. Stalled downloads fail; a stop is
//! honoured.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Body;
use ureq::http::StatusCode;

use super::client::{Client, MAX_TRIES, SpeedCheck, text, too_slow};
use super::contained::{Contained, explain};
use super::digest::Digest;
use super::partial_file::PartialFile;
use super::remote_file::RemoteFile;
use crate::error::{Error, Result};
use crate::work::Work;

/// An attempt made progress if it received this many bytes, or a hundredth of the file.
const PROGRESS_BYTES: u64 = 16 << 20;

/// The hint for a failed download.
const RETRY_HINT: &str = "load again to resume the download; or check the network and HF_ENDPOINT";

/// The hint for a server that does not support range requests.
const NO_RANGES_HINT: &str =
    "the server cannot resume downloads: use a more stable network, or another HF_ENDPOINT";

/// Downloads files of one repository into the cache.
pub(crate) struct Server<'a> {
    pub client: &'a Client,
    /// The cache, and the repository's directory in it.
    pub cache: &'a Path,
    pub folder: PathBuf,
    /// The repository in URLs: `org/name`, or `datasets/org/name`.
    pub repo: String,
    pub commit: &'a str,
}

/// Counts attempts that make no progress beyond the best one so far.
#[derive(Default)]
struct Attempts {
    best: u64,
    without_progress: u32,
}

impl Attempts {
    /// Records an attempt that ended at byte `have` of `size`.
    fn ended(&mut self, have: u64, size: u64) {
        self.without_progress += 1;
        if have >= self.best + PROGRESS_BYTES.min(size / 100).max(1) {
            (self.best, self.without_progress) = (have, 0);
        }
    }
}

impl Server<'_> {
    /// The path of `name` in the snapshot; downloads it if it is missing.
    ///
    /// # Errors
    /// What the hub refuses, delivers incompletely or with wrong contents; links in the cache that
    /// leave the repository's directory.
    pub fn fetch(&self, name: &str) -> Result<PathBuf> {
        match self.cached(name)? {
            Some(path) => Ok(path),
            None => self.download_file(name, self.remote_file(name)?),
        }
    }

    /// Downloads `name` as [`Server::fetch`] does and returns its size; `None` if it has more than
    /// `limit` bytes, in which case it is not downloaded.
    ///
    /// # Errors
    /// As for [`Server::fetch`].
    pub fn fetch_within(&self, name: &str, limit: u64) -> Result<Option<u64>> {
        if let Some(path) = self.cached(name)? {
            return fs::metadata(&path)
                .map(|found| Some(found.len()))
                .map_err(|e| Error::io("read", path, e));
        }
        let remote = self.remote_file(name)?;
        let size = remote.size;
        if size > limit {
            return Ok(None);
        }
        self.download_file(name, remote)?;
        Ok(Some(size))
    }

    /// Queries the hub about `name`.
    fn remote_file(&self, name: &str) -> Result<RemoteFile> {
        RemoteFile::find(self.client, &self.repo, self.commit, name)
    }

    /// The path of `name` in the repository's directory.
    fn pointer(&self, name: &str) -> PathBuf {
        Path::new("snapshots").join(self.commit).join(name)
    }

    /// The path of `name` if the snapshot has it.
    fn cached(&self, name: &str) -> Result<Option<PathBuf>> {
        let full = self.folder.join(self.pointer(name));
        if !full.is_file() {
            return Ok(None);
        }
        let found =
            Contained::open(&self.folder).and_then(|folder| folder.find(&self.pointer(name)));
        found.map_err(|e| explain(&self.repo, "read", &full, e))?;
        Ok(Some(full))
    }

    /// Downloads `name` and links to it from the snapshot.
    fn download_file(&self, name: &str, mut remote: RemoteFile) -> Result<PathBuf> {
        let pointer = self.pointer(name);
        let full = self.folder.join(&pointer);
        let io = |e| explain(&self.repo, "write", &full, e);
        let folder = Contained::make(self.cache, &self.folder).map_err(io)?;
        let blob = PathBuf::from("blobs").join(&remote.etag);
        let blobs = folder.folder(Path::new("blobs")).map_err(io)?;
        let has = |blob: &Path| match folder.find(blob) {
            Ok(found) => Ok(found.is_file()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io(e)),
        };
        if !has(&blob)? {
            let _lock = self.lock(name, &remote.etag)?;
            if !has(&blob)? {
                let part = blobs.join(format!("{}.incomplete", remote.etag));
                self.download_verified(name, &mut remote, &folder, &part)?;
                fs::rename(&part, blobs.join(&remote.etag)).map_err(io)?;
            }
        }
        let parent = folder.folder(pointer.parent().unwrap_or(&pointer)).map_err(io)?;
        let target =
            format!("{}blobs/{}", "../".repeat(2 + name.matches('/').count()), remote.etag);
        link(&parent.join(pointer.file_name().unwrap_or_default()), &target).map_err(io)?;
        Ok(full)
    }

    /// Locks a blob with the same file as Python's `huggingface_hub`, `.locks/FOLDER/ETAG.lock` in
    /// the cache, so that of two processes the second waits and finds the file. The lock file is
    /// not deleted: otherwise some would lock the deleted file and others a new one.
    fn lock(&self, name: &str, etag: &str) -> Result<File> {
        let path = Path::new(".locks")
            .join(self.folder.file_name().unwrap_or_default())
            .join(format!("{etag}.lock"));
        let io = |e| explain(&self.repo, "write", &self.cache.join(&path), e);
        let lock = Contained::open(self.cache).and_then(|cache| cache.file(&path)).map_err(io)?;
        let work = Work::begin("download", self.repo.as_str(), None);
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(e)) => return Err(io(e)),
                Err(TryLockError::WouldBlock) => {
                    self.client.check()?;
                    work.wait(Duration::from_millis(100), |_| {
                        format!("{}/{name}: another process is downloading it", self.repo)
                    })?;
                }
            }
        }
    }

    /// Downloads the content into `part` and verifies it against its ETag; if it differs, tries
    /// once more from the start.
    fn download_verified(
        &self,
        name: &str,
        remote: &mut RemoteFile,
        folder: &Contained,
        part: &Path,
    ) -> Result<()> {
        for _ in 0..2 {
            let open = folder.file(&Path::new("blobs").join(part.file_name().unwrap_or_default()));
            let mut content = PartialFile::open(
                open.map_err(|e| explain(&self.repo, "write", part, e))?,
                part,
                remote,
                self.client,
            )?;
            self.download(name, remote, &mut content)?;
            match content.digest.take().map(Digest::finish) {
                Some(found) if !found.eq_ignore_ascii_case(&remote.etag) => {
                    fs::remove_file(part).map_err(|e| Error::io("write", part, e))?;
                }
                _ => return Ok(()),
            }
        }
        Err(Error::Hub {
            repo: self.repo.clone(),
            reason: format!(
                "`{name}` was downloaded twice and did not match its checksum `{}`",
                remote.etag
            ),
            hint: "the server or a proxy modifies files: check HF_ENDPOINT and proxies; the download was discarded",
        })
    }

    /// Downloads the content into `part`, resuming an interrupted download.
    fn download(
        &self,
        name: &str,
        remote: &mut RemoteFile,
        part: &mut PartialFile<'_>,
    ) -> Result<()> {
        let (mut attempts, mut last, mut resumes) =
            (Attempts { best: part.have, without_progress: 0 }, String::new(), true);
        let work = Work::begin("download", format!("{}/{name}", self.repo), Some(remote.size));
        loop {
            if part.have > remote.size {
                part.restart()?;
            }
            if part.have == remote.size {
                return part.sync();
            }
            if attempts.without_progress == MAX_TRIES {
                let reason = format!(
                    "`{name}`: received {} of {} bytes{last}",
                    part.have.max(attempts.best),
                    remote.size
                );
                let hint = if resumes { RETRY_HINT } else { NO_RANGES_HINT };
                return Err(Error::Hub { repo: self.repo.clone(), reason, hint });
            }
            let range = (part.have > 0).then_some(part.have);
            let mut response = match remote.answer.take().filter(|_| range.is_none()) {
                Some(answer) => answer,
                None => self.client.get(&remote.url, range, remote.trusted, &self.repo)?,
            };
            // A server without range support starts over.
            let start = format!("bytes {}-", part.have);
            let resumed = text(&response, "content-range").is_some_and(|r| r.starts_with(&start));
            if range.is_some() && !(response.status() == StatusCode::PARTIAL_CONTENT && resumed) {
                resumes = false;
                part.restart()?;
            }
            let broke = self.copy(response.body_mut(), part, remote.size, &work)?;
            last = broke.map_or_else(String::new, |reason| format!(": {reason}"));
            if part.have > remote.size {
                let _ = fs::remove_file(part.path);
                let reason =
                    format!("`{name}`: received more than the announced {} bytes", remote.size);
                return Err(self.client.protocol_error(&self.repo, reason));
            }
            attempts.ended(part.have, remote.size);
            if part.have < remote.size {
                let say = |_| {
                    format!(
                        "{}/{name}: interrupted at {} of {} bytes, resuming",
                        self.repo, part.have, remote.size
                    )
                };
                work.wait(Duration::from_millis(50 << attempts.without_progress), say)?;
            }
        }
    }

    /// Copies until the end, an interruption, or one byte too many. Returns the reason for an
    /// interruption.
    fn copy(
        &self,
        body: &mut Body,
        part: &mut PartialFile<'_>,
        size: u64,
        work: &Work,
    ) -> Result<Option<String>> {
        let (mut buffer, mut reader) = (vec![0; 1 << 16], body.as_reader());
        let mut pace = SpeedCheck::begin(self.client.stall, part.have);
        while part.have <= size {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                Err(error) => {
                    self.client.check()?;
                    return Ok(Some(error.to_string()));
                }
            };
            part.write(&buffer[..read], size)?;
            self.client.check()?;
            work.reach(part.have.min(size))?;
            if pace.is_slow(part.have) {
                return Ok(Some(too_slow()));
            }
        }
        Ok(None)
    }
}

/// Links `pointer` to the relative path `target`, as Python does.
fn link(pointer: &Path, target: &str) -> std::io::Result<()> {
    match std::os::unix::fs::symlink(target, pointer) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && pointer.is_file() => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(pointer)?;
            std::os::unix::fs::symlink(target, pointer)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attempts that end below the best one, or barely beyond it, are counted; those that make
    /// progress are not.
    #[test]
    fn a_download_without_progress_fails() {
        let given_up = |ends: &[u64]| {
            let mut attempts = Attempts::default();
            ends.iter().position(|end| {
                attempts.ended(*end, 1_000_000);
                attempts.without_progress == MAX_TRIES
            })
        };
        assert_eq!(given_up(&[500_000, 0, 300_000, 499_999, 1, 500_000, 400_000]), Some(5));
        assert_eq!(given_up(&[500_000, 500_001, 500_002, 500_003, 500_004, 500_005]), Some(5));
        assert_eq!(given_up(&[0, 100_000, 50_000, 200_000, 300_000, 1, 1, 400_000]), None);
    }
}
