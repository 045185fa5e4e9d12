//! Downloads from the hub. Redirects never leak the token, interrupted downloads are resumed, sizes
//! and checksums are verified, and a file gets its name in the cache only when it is complete.
//! Stalled downloads fail; a stop is honoured.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::contained::{Contained, explain};
use super::digest::Digest;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

/// The maximum number of redirects per file.
const MAX_REDIRECTS: usize = 5;

/// The maximum number of attempts for a request, or for a download that makes no progress.
const MAX_TRIES: u32 = 5;

/// The maximum wait in seconds that a server may request.
const MAX_WAIT_SECONDS: u64 = 60;

/// The maximum size in bytes of a response that is not a file.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// The maximum duration of a response that is not a file.
const MAX_RESPONSE_TIME: Duration = Duration::from_secs(300);

/// The minimum download speed in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// The message for a download below that speed.
fn too_slow() -> String {
    format!("the speed fell below {MIN_BYTES_PER_SECOND} bytes per second")
}

/// An attempt made progress if it received this many bytes, or a hundredth of the file.
const PROGRESS_BYTES: u64 = 16 << 20;

/// The hint for a failed download.
const RETRY_HINT: &str = "load again to resume the download; or check the network and HF_ENDPOINT";

/// The hint for a server that does not support range requests.
const NO_RANGES_HINT: &str =
    "the server cannot resume downloads: use a more stable network, or another HF_ENDPOINT";

/// An HTTP client for the hub. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    /// How long a server may send nothing.
    stall: Duration,
    /// Whether the caller no longer waits for the request.
    abandoned: Arc<AtomicBool>,
}

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

/// A file as described by the hub, with the response that delivers it.
struct RemoteFile {
    etag: String,
    size: u64,
    /// The URL of the content, and whether that server may receive the token.
    url: String,
    trusted: bool,
    answer: Option<Response<Body>>,
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

impl Client {
    pub fn new(endpoint: String, token: Option<String>, stall: Duration) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(stall))
            .timeout_per_write(Some(stall))
            .user_agent(concat!("dam/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), endpoint, token, stall, abandoned: Arc::default() }
    }

    /// Runs `work` on a separate thread so that a stop is honoured whatever the server does. The
    /// request is cancelled; what cannot be cancelled, such as a name lookup, is left to finish in
    /// the background.
    ///
    /// # Errors
    /// [`Error::Interrupted`], or those of `work`.
    pub fn stoppable<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        const LOOK: Duration = Duration::from_millis(20);
        let thread = std::thread::spawn(work);
        let mut stopped = None::<Instant>;
        while !thread.is_finished() {
            if stopped.is_none() && interrupt::requested() {
                self.abandoned.store(true, Ordering::SeqCst);
                self.agent.clone().shutdown();
                stopped = Some(Instant::now());
            }
            if stopped.is_some_and(|since| since.elapsed() > 10 * LOOK) {
                return Err(Error::Interrupted);
            }
            std::thread::park_timeout(LOOK);
        }
        let done = thread.join().unwrap_or_else(|_| Err(self.unreachable("the download failed")));
        if stopped.is_some() && done.is_err() { Err(Error::Interrupted) } else { done }
    }

    /// Returns an error if the caller no longer waits.
    fn check(&self) -> Result<()> {
        if self.abandoned.load(Ordering::SeqCst) {
            Err(Error::Interrupted)
        } else {
            interrupt::check()
        }
    }

    fn unreachable(&self, reason: impl ToString) -> Error {
        Error::HubUnreachable { endpoint: self.endpoint.clone(), reason: reason.to_string() }
    }

    /// Sends one request and waits if the server asks for it. An error status becomes the matching
    /// error.
    fn get(
        &self,
        url: &str,
        range: Option<u64>,
        trusted: bool,
        repo: &str,
    ) -> Result<Response<Body>> {
        let work = Work::begin("download", repo, None);
        for attempt in 1.. {
            self.check()?;
            let mut request = self.agent.get(url);
            if let Some(token) = self.token.as_ref().filter(|_| trusted) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(start) = range {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            // Compressed responses have a different length than the file.
            let response = match request.header(header::ACCEPT_ENCODING, "identity").call() {
                Ok(response) => response,
                Err(error) if attempt < MAX_TRIES => {
                    let say = |_| format!("{repo}: cannot reach the hub ({error}), retrying");
                    work.wait(Duration::from_millis(100 << attempt), say)?;
                    continue;
                }
                Err(error) => return Err(self.unreachable(error)),
            };
            let status = response.status();
            if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                let wait_seconds = retry_after(response.headers());
                if attempt < MAX_TRIES && wait_seconds.is_none_or(|s| s <= MAX_WAIT_SECONDS) {
                    let pause = wait_seconds
                        .map_or(Duration::from_millis(200 << attempt), Duration::from_secs);
                    work.wait(pause, |seconds| {
                        format!("{repo}: the hub is busy ({status}), retrying in {seconds} s")
                    })?;
                    continue;
                }
                let wait_seconds =
                    wait_seconds.map_or_else(String::new, |s| format!(" and asks to wait {s} s"));
                let reason = format!("the server returned {status}{wait_seconds}");
                let hint = "the hub is busy or limits requests: try again later, or set HF_TOKEN";
                return Err(Error::Hub { repo: repo.into(), reason, hint });
            }
            return self.check_status(response, repo);
        }
        Err(self.unreachable("no response"))
    }

    fn check_status(&self, response: Response<Body>, repo: &str) -> Result<Response<Body>> {
        let (status, repo) = (response.status(), repo.to_owned());
        let code = text(&response, "x-error-code").unwrap_or_default();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if code == "GatedRepo" => {
                Err(Error::HubGated { repo })
            }
            // The hub hides the existence of private repositories.
            StatusCode::UNAUTHORIZED if code == "RepoNotFound" || self.token.is_none() => {
                Err(Error::HubMissing { repo, what: "such repository, or it is private".into() })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let reason = format!("the server returned {status}");
                Err(Error::Hub {
                    repo,
                    reason,
                    hint: "HF_TOKEN is invalid: create a token with read access",
                })
            }
            StatusCode::NOT_FOUND => {
                let what = match code.as_str() {
                    "RevisionNotFound" => "such revision",
                    "EntryNotFound" => "such file",
                    _ => "such repository",
                };
                Err(Error::HubMissing { repo, what: what.into() })
            }
            status if status.is_success() || status.is_redirection() => Ok(response),
            status => Err(self.protocol_error(&repo, format!("the server returned {status}"))),
        }
    }

    fn protocol_error(&self, repo: &str, reason: String) -> Error {
        Error::Hub {
            repo: repo.into(),
            reason,
            hint: "the server does not follow the hub's protocol: check HF_ENDPOINT",
        }
    }

    /// Returns a short text response.
    pub fn text(&self, path: &str, repo: &str) -> Result<String> {
        let mut response = self.get(&format!("{}{path}", self.endpoint), None, true, repo)?;
        let mut reader = response.body_mut().with_config().limit(MAX_RESPONSE_BYTES).reader();
        let bytes = self.read_limited(&mut reader, MAX_RESPONSE_TIME, repo)?;
        String::from_utf8(bytes)
            .map_err(|_| self.protocol_error(repo, "the response is not text".into()))
    }

    /// Reads everything from `reader`, at no less than the minimum speed and within the time
    /// `limit`.
    fn read_limited(&self, reader: &mut impl Read, limit: Duration, repo: &str) -> Result<Vec<u8>> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        let (begun, mut pace) = (Instant::now(), SpeedCheck::begin(self.stall, 0));
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(read) => read,
                Err(error) => {
                    self.check()?;
                    return Err(
                        self.protocol_error(repo, format!("the response was cut off: {error}"))
                    );
                }
            };
            self.check()?;
            bytes.extend_from_slice(&buffer[..read]);
            if pace.is_slow(bytes.len() as u64) {
                return Err(
                    self.unreachable(format!("while receiving the response, {}", too_slow()))
                );
            }
            if begun.elapsed() > limit {
                return Err(self
                    .unreachable(format!("the response took longer than {} s", limit.as_secs())));
            }
        }
    }
}

/// Checks the speed of a download.
struct SpeedCheck {
    stall: Duration,
    since: Instant,
    before: u64,
}

impl SpeedCheck {
    /// Starts at byte `have`.
    fn begin(stall: Duration, have: u64) -> Self {
        Self { stall, since: Instant::now(), before: have }
    }

    /// Whether too few bytes arrived, now that there are `have`; checked once per stall interval.
    fn is_slow(&mut self, have: u64) -> bool {
        if self.since.elapsed() <= self.stall {
            return false;
        }
        let is_slow = have - self.before < MIN_BYTES_PER_SECOND * self.stall.as_secs().max(1);
        *self = Self::begin(self.stall, have);
        is_slow
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

    /// Queries the hub about `name` and finds the URL of its content.
    fn remote_file(&self, name: &str) -> Result<RemoteFile> {
        let client = self.client;
        let protocol_error =
            |reason: &str| client.protocol_error(&self.repo, format!("`{name}`: {reason}"));
        let home: Uri =
            client.endpoint.parse().map_err(|_| protocol_error("the endpoint is not a URL"))?;
        let mut url = format!("{}/{}/resolve/{}/{name}", client.endpoint, self.repo, self.commit);
        let (mut etag, mut size, mut trusted) = (None, None, true);
        for _ in 0..=MAX_REDIRECTS {
            let response = client.get(&url, None, trusted, &self.repo)?;
            etag = etag.or_else(|| text(&response, "x-linked-etag"));
            size = size.or_else(|| text(&response, "x-linked-size"));
            if response.status().is_redirection() {
                let location = text(&response, "location")
                    .ok_or_else(|| protocol_error("invalid redirect"))?;
                let next: Uri = location.parse().map_err(|_| protocol_error("invalid redirect"))?;
                if next.host().is_some() {
                    trusted &=
                        next.authority() == home.authority() && next.scheme() == home.scheme();
                    url = location;
                } else {
                    let here: Uri = url.parse().map_err(|_| protocol_error("invalid redirect"))?;
                    let authority = here.authority().map_or("", |a| a.as_str());
                    url =
                        format!("{}://{authority}{location}", here.scheme_str().unwrap_or("https"));
                }
                continue;
            }
            let etag = etag
                .or_else(|| text(&response, "etag"))
                .ok_or_else(|| protocol_error("the ETag is missing"))?;
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            let plain = etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if etag.is_empty() || etag.len() > 128 || !plain {
                return Err(protocol_error("invalid ETag"));
            }
            let size =
                size.or_else(|| text(&response, "content-length")).and_then(|s| s.parse().ok());
            return Ok(RemoteFile {
                etag,
                size: size.ok_or_else(|| protocol_error("the size is missing"))?,
                url,
                trusted,
                answer: Some(response),
            });
        }
        Err(protocol_error("too many redirects"))
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

/// A partially downloaded file with its checksum so far.
struct PartialFile<'a> {
    path: &'a Path,
    file: File,
    have: u64,
    digest: Option<Digest>,
    /// The ETag and size, to restart the checksum.
    remote: (String, u64),
}

impl<'a> PartialFile<'a> {
    /// Resumes with the contents of `file`.
    fn open(mut file: File, path: &'a Path, remote: &RemoteFile, client: &Client) -> Result<Self> {
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
    fn restart(&mut self) -> Result<()> {
        let io = |e| Error::io("write", self.path, e);
        self.file.set_len(0).map_err(io)?;
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        (self.have, self.digest) = (0, Digest::of(&self.remote.0, self.remote.1));
        Ok(())
    }

    /// Appends `bytes`; those beyond `size` are only counted.
    fn write(&mut self, bytes: &[u8], size: u64) -> Result<()> {
        self.have += bytes.len() as u64;
        if self.have <= size {
            self.digest.iter_mut().for_each(|digest| digest.update(bytes));
            self.file.write_all(bytes).map_err(|e| Error::io("write", self.path, e))?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| Error::io("write", self.path, e))
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

/// The seconds to wait according to `Retry-After`, or to the rest of the window in `RateLimit`
/// (`...;r=0;t=55`).
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let get = |name: &str| headers.get(name)?.to_str().ok();
    let rest = || get("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    get("retry-after").and_then(|s| s.trim().parse().ok()).or_else(|| rest()?.parse().ok())
}

fn text<T>(response: &Response<T>, header: &str) -> Option<String> {
    Some(response.headers().get(header)?.to_str().ok()?.to_owned())
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

    /// A response that never ends fails, however fast it is.
    #[test]
    fn a_response_that_is_not_a_file_has_a_time_limit() {
        let client = Client::new("http://127.0.0.1:1".into(), None, Duration::from_secs(10));
        let (limit, begun) = (Duration::from_millis(50), Instant::now());
        let error = client
            .read_limited(&mut std::io::repeat(b' ').take(u64::MAX), limit, "org/name")
            .unwrap_err();
        assert!(
            error.to_string().contains("takes longer") && begun.elapsed() < Duration::from_secs(5),
            "{error}"
        );
        assert_eq!(client.read_limited(&mut &b"{}"[..], limit, "org/name").unwrap(), b"{}");
    }

    #[test]
    fn retry_delays_are_read_from_both_headers() {
        let wait_seconds = |name: &'static str, value: &str| {
            retry_after(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(wait_seconds("retry-after", "7"), Some(7));
        assert_eq!(wait_seconds("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(wait_seconds("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }
}
