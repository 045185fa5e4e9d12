//! Downloads from the hub: redirects followed without giving the token away, drops resumed, sizes and checksums
//! compared, and nothing in the cache under its name before it is whole. What stalls is given up, and a stop is heeded.

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

/// Redirects followed for one file.
const REDIRECTS: usize = 5;

/// Times that a request is made, or a download goes on without getting further, before it is given up.
const TRIES: u32 = 5;

/// Seconds waited at most when the server asks for it.
const PATIENCE: u64 = 60;

/// Bytes of the longest answer that is not a file.
const LONGEST: u64 = 64 << 20;

/// How long an answer that is not a file may take.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Bytes a second that a download must bring.
const SLOWEST: u64 = 1024;

/// What is said where it does not.
fn too_slow() -> String {
    format!("fewer than {SLOWEST} bytes a second came")
}

/// A try got further that brought so many bytes, or a hundredth of the file.
const FURTHER: u64 = 16 << 20;

/// What a person does about a download that was given up.
const AGAIN: &str = "load again: the download goes on where it broke off; or check the network and HF_ENDPOINT";

/// The same of a server that does not send a part of a file.
const NO_RANGES: &str = "the server cannot resume a download: use a network that holds longer, or another HF_ENDPOINT";

/// Asks the hub. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    /// How long a server may send nothing.
    stall: Duration,
    /// Whether nobody waits for it any more.
    left: Arc<AtomicBool>,
}

/// Where files of one repository are fetched from and to.
pub(super) struct Server<'a> {
    pub client: &'a Client,
    /// The cache, and the repository's folder in it.
    pub cache: &'a Path,
    pub folder: PathBuf,
    /// As addresses have it: `org/name`, or `datasets/org/name`.
    pub repo: String,
    pub commit: &'a str,
}

/// A file as the hub announces it, and the answer that brings it.
struct Announced {
    etag: String,
    size: u64,
    /// Where its content is; whether that is a server that may know the token.
    url: String,
    trusted: bool,
    answer: Option<Response<Body>>,
}

/// How often a download is tried without getting beyond the best try so far.
#[derive(Default)]
struct Tries {
    best: u64,
    fruitless: u32,
}

impl Tries {
    /// One more try ended at byte `have` of `size`.
    fn ended(&mut self, have: u64, size: u64) {
        self.fruitless += 1;
        if have >= self.best + FURTHER.min(size / 100).max(1) {
            (self.best, self.fruitless) = (have, 0);
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
        Self { agent: config.into(), endpoint, token, stall, left: Arc::default() }
    }

    /// Runs `work` on a thread of its own, so that a stop is heeded whatever a server does: what waits for it is broken
    /// off, and what cannot be, a name that is looked up, is left behind.
    ///
    /// # Errors
    /// [`Error::Interrupted`], or those of `work`.
    pub fn stoppable<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        const LOOK: Duration = Duration::from_millis(20);
        let thread = std::thread::spawn(work);
        let mut stopped = None::<Instant>;
        while !thread.is_finished() {
            if stopped.is_none() && interrupt::requested() {
                self.left.store(true, Ordering::SeqCst);
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

    /// An error where nobody waits any more.
    fn check(&self) -> Result<()> {
        if self.left.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { interrupt::check() }
    }

    fn unreachable(&self, reason: impl ToString) -> Error {
        Error::HubUnreachable { endpoint: self.endpoint.clone(), reason: reason.to_string() }
    }

    /// One request; waits where the server says so. An answer that is no file is an error of its kind.
    fn get(&self, url: &str, range: Option<u64>, trusted: bool, repo: &str) -> Result<Response<Body>> {
        let waits = Work::begin("download", repo, None);
        for attempt in 1.. {
            self.check()?;
            let mut request = self.agent.get(url);
            if let Some(token) = self.token.as_ref().filter(|_| trusted) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(start) = range {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            // Compressed answers have another length than their file.
            let response = match request.header(header::ACCEPT_ENCODING, "identity").call() {
                Ok(response) => response,
                Err(error) if attempt < TRIES => {
                    let say = |_| format!("{repo}: cannot reach the hub ({error}), trying again");
                    waits.wait(Duration::from_millis(100 << attempt), say)?;
                    continue;
                }
                Err(error) => return Err(self.unreachable(error)),
            };
            let status = response.status();
            if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                let asked = asks_to_wait(response.headers());
                if attempt < TRIES && asked.is_none_or(|s| s <= PATIENCE) {
                    let pause = asked.map_or(Duration::from_millis(200 << attempt), Duration::from_secs);
                    waits.wait(pause, |left| format!("{repo}: the hub is busy ({status}), trying again in {left} s"))?;
                    continue;
                }
                let asked = asked.map_or_else(String::new, |s| format!(", and asks to wait {s} s"));
                let reason = format!("it answers {status}{asked}");
                let hint = "the hub is busy or counts requests: try again later, or set HF_TOKEN";
                return Err(Error::Hub { repo: repo.into(), reason, hint });
            }
            return self.judged(response, repo);
        }
        Err(self.unreachable("no answer"))
    }

    fn judged(&self, response: Response<Body>, repo: &str) -> Result<Response<Body>> {
        let (status, repo) = (response.status(), repo.to_owned());
        let code = text(&response, "x-error-code").unwrap_or_default();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if code == "GatedRepo" => Err(Error::HubGated { repo }),
            // The hub does not tell strangers what there is.
            StatusCode::UNAUTHORIZED if code == "RepoNotFound" || self.token.is_none() => {
                Err(Error::HubMissing { repo, what: "repository of that name, or it is private".into() })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let reason = format!("it answers {status}");
                Err(Error::Hub { repo, reason, hint: "HF_TOKEN is not accepted: make a new one, with leave to read" })
            }
            StatusCode::NOT_FOUND => {
                let what = match code.as_str() {
                    "RevisionNotFound" => "such revision",
                    "EntryNotFound" => "such file",
                    _ => "repository of that name",
                };
                Err(Error::HubMissing { repo, what: what.into() })
            }
            status if status.is_success() || status.is_redirection() => Ok(response),
            status => Err(self.odd(&repo, format!("it answers {status}"))),
        }
    }

    fn odd(&self, repo: &str, reason: String) -> Error {
        Error::Hub { repo: repo.into(), reason, hint: "the server does not speak the hub's protocol: check HF_ENDPOINT" }
    }

    /// A short answer.
    pub fn text(&self, path: &str, repo: &str) -> Result<String> {
        let mut response = self.get(&format!("{}{path}", self.endpoint), None, true, repo)?;
        let mut reader = response.body_mut().with_config().limit(LONGEST).reader();
        let bytes = self.brought(&mut reader, LONGEST_WAIT, repo)?;
        String::from_utf8(bytes).map_err(|_| self.odd(repo, "its answer is not text".into()))
    }

    /// All that `reader` brings, which may stall no more than a download, and take no longer than `most`.
    fn brought(&self, reader: &mut impl Read, most: Duration, repo: &str) -> Result<Vec<u8>> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        let (begun, mut pace) = (Instant::now(), Pace::begin(self.stall, 0));
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(read) => read,
                Err(error) => {
                    self.check()?;
                    return Err(self.odd(repo, format!("its answer breaks off: {error}")));
                }
            };
            self.check()?;
            bytes.extend_from_slice(&buffer[..read]);
            if pace.is_slow(bytes.len() as u64) {
                return Err(self.unreachable(format!("of its answer, {}", too_slow())));
            }
            if begun.elapsed() > most {
                return Err(self.unreachable(format!("its answer takes longer than {} s", most.as_secs())));
            }
        }
    }
}

/// Whether what comes does so as fast as it must.
struct Pace {
    stall: Duration,
    since: Instant,
    before: u64,
}

impl Pace {
    /// From byte `have` on.
    fn begin(stall: Duration, have: u64) -> Self {
        Self { stall, since: Instant::now(), before: have }
    }

    /// Whether too little came, now that there are `have` bytes: looked at anew as often as a server may stall.
    fn is_slow(&mut self, have: u64) -> bool {
        if self.since.elapsed() <= self.stall {
            return false;
        }
        let is_slow = have - self.before < SLOWEST * self.stall.as_secs().max(1);
        *self = Self::begin(self.stall, have);
        is_slow
    }
}

impl Server<'_> {
    /// The path of `name` in the snapshot, downloaded if it is not there.
    ///
    /// # Errors
    /// What the hub refuses, does not give whole, or gives other than it announced; links in the cache that lead out of
    /// the repository's folder.
    pub fn fetch(&self, name: &str) -> Result<PathBuf> {
        match self.there(name)? {
            Some(path) => Ok(path),
            None => self.bring(name, self.announced(name)?),
        }
    }

    /// The bytes of `name`, which is then in the snapshot as [`Server::fetch`] brings it; none where they are more
    /// than `most`.
    ///
    /// # Errors
    /// As for [`Server::fetch`].
    pub fn fetch_within(&self, name: &str, most: u64) -> Result<Option<u64>> {
        if let Some(path) = self.there(name)? {
            return fs::metadata(&path).map(|found| Some(found.len())).map_err(|e| Error::io("read", path, e));
        }
        let announced = self.announced(name)?;
        let size = announced.size;
        if size > most {
            return Ok(None);
        }
        self.bring(name, announced)?;
        Ok(Some(size))
    }

    /// Where `name` is in the repository's folder.
    fn pointer(&self, name: &str) -> PathBuf {
        Path::new("snapshots").join(self.commit).join(name)
    }

    /// The path of `name`, where the snapshot has it.
    fn there(&self, name: &str) -> Result<Option<PathBuf>> {
        let full = self.folder.join(self.pointer(name));
        if !full.is_file() {
            return Ok(None);
        }
        let found = Contained::open(&self.folder).and_then(|folder| folder.find(&self.pointer(name)));
        found.map_err(|e| explain(&self.repo, "read", &full, e))?;
        Ok(Some(full))
    }

    /// Downloads `name` as it was `announced`, and links to it from the snapshot.
    fn bring(&self, name: &str, mut announced: Announced) -> Result<PathBuf> {
        let pointer = self.pointer(name);
        let full = self.folder.join(&pointer);
        let io = |e| explain(&self.repo, "write", &full, e);
        let folder = Contained::make(self.cache, &self.folder).map_err(io)?;
        let blob = PathBuf::from("blobs").join(&announced.etag);
        let blobs = folder.folder(Path::new("blobs")).map_err(io)?;
        let has = |blob: &Path| match folder.find(blob) {
            Ok(found) => Ok(found.is_file()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(io(e)),
        };
        if !has(&blob)? {
            let _lock = self.lock(name, &announced.etag)?;
            if !has(&blob)? {
                let part = blobs.join(format!("{}.incomplete", announced.etag));
                self.whole(name, &mut announced, &folder, &part)?;
                fs::rename(&part, blobs.join(&announced.etag)).map_err(io)?;
            }
        }
        let parent = folder.folder(pointer.parent().unwrap_or(&pointer)).map_err(io)?;
        let target = format!("{}blobs/{}", "../".repeat(2 + name.matches('/').count()), announced.etag);
        point(&parent.join(pointer.file_name().unwrap_or_default()), &target).map_err(io)?;
        Ok(full)
    }

    /// Locks a blob where Python's `huggingface_hub` does, `.locks/FOLDER/ETAG.lock` in the cache, so that of two programs
    /// the second waits and finds the file. The lock's file stays there, as one that is deleted would be locked by some
    /// and made anew by others.
    fn lock(&self, name: &str, etag: &str) -> Result<File> {
        let path = Path::new(".locks").join(self.folder.file_name().unwrap_or_default()).join(format!("{etag}.lock"));
        let io = |e| explain(&self.repo, "write", &self.cache.join(&path), e);
        let lock = Contained::open(self.cache).and_then(|cache| cache.file(&path)).map_err(io)?;
        let waits = Work::begin("download", self.repo.as_str(), None);
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(e)) => return Err(io(e)),
                Err(TryLockError::WouldBlock) => {
                    self.client.check()?;
                    waits.wait(Duration::from_millis(100), |_| format!("{}/{name}: another program downloads it", self.repo))?;
                }
            }
        }
    }

    /// What the hub says of `name`, and where its content is.
    fn announced(&self, name: &str) -> Result<Announced> {
        let client = self.client;
        let odd = |reason: &str| client.odd(&self.repo, format!("of `{name}`, {reason}"));
        let home: Uri = client.endpoint.parse().map_err(|_| odd("the address is none"))?;
        let mut url = format!("{}/{}/resolve/{}/{name}", client.endpoint, self.repo, self.commit);
        let (mut etag, mut size, mut trusted) = (None, None, true);
        for _ in 0..=REDIRECTS {
            let response = client.get(&url, None, trusted, &self.repo)?;
            etag = etag.or_else(|| text(&response, "x-linked-etag"));
            size = size.or_else(|| text(&response, "x-linked-size"));
            if response.status().is_redirection() {
                let location = text(&response, "location").ok_or_else(|| odd("it redirects to nowhere"))?;
                let next: Uri = location.parse().map_err(|_| odd("it redirects to nowhere"))?;
                if next.host().is_some() {
                    trusted &= next.authority() == home.authority() && next.scheme() == home.scheme();
                    url = location;
                } else {
                    let here: Uri = url.parse().map_err(|_| odd("it redirects to nowhere"))?;
                    let authority = here.authority().map_or("", |a| a.as_str());
                    url = format!("{}://{authority}{location}", here.scheme_str().unwrap_or("https"));
                }
                continue;
            }
            let etag = etag.or_else(|| text(&response, "etag")).ok_or_else(|| odd("it says no etag"))?;
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            let plain = etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            if etag.is_empty() || etag.len() > 128 || !plain {
                return Err(odd("its etag is no name of a file"));
            }
            let size = size.or_else(|| text(&response, "content-length")).and_then(|s| s.parse().ok());
            return Ok(Announced {
                etag,
                size: size.ok_or_else(|| odd("it says no size"))?,
                url,
                trusted,
                answer: Some(response),
            });
        }
        Err(odd("it redirects in circles"))
    }

    /// Fetches the content into `part`, whole and as its ETag says: if it is other, once more from the begin.
    fn whole(&self, name: &str, announced: &mut Announced, folder: &Contained, part: &Path) -> Result<()> {
        for _ in 0..2 {
            let open = folder.file(&Path::new("blobs").join(part.file_name().unwrap_or_default()));
            let mut content = Part::open(open.map_err(|e| explain(&self.repo, "write", part, e))?, part, announced, self.client)?;
            self.download(name, announced, &mut content)?;
            match content.digest.take().map(Digest::finish) {
                Some(found) if !found.eq_ignore_ascii_case(&announced.etag) => {
                    fs::remove_file(part).map_err(|e| Error::io("write", part, e))?;
                }
                _ => return Ok(()),
            }
        }
        Err(Error::Hub {
            repo: self.repo.clone(),
            reason: format!("`{name}` came twice, and each time its bytes were not those of its checksum `{}`", announced.etag),
            hint: "the server or something on the way changes files: check HF_ENDPOINT and proxies; nothing of it was kept",
        })
    }

    /// Fetches the content into `part`, going on where an earlier try broke off.
    fn download(&self, name: &str, announced: &mut Announced, part: &mut Part<'_>) -> Result<()> {
        let (mut tries, mut last, mut resumes) = (Tries { best: part.have, fruitless: 0 }, String::new(), true);
        let work = Work::begin("download", format!("{}/{name}", self.repo), Some(announced.size));
        loop {
            if part.have > announced.size {
                part.restart()?;
            }
            if part.have == announced.size {
                return part.sync();
            }
            if tries.fruitless == TRIES {
                let reason = format!("of `{name}`, {} of {} bytes came{last}", part.have.max(tries.best), announced.size);
                let hint = if resumes { AGAIN } else { NO_RANGES };
                return Err(Error::Hub { repo: self.repo.clone(), reason, hint });
            }
            let range = (part.have > 0).then_some(part.have);
            let mut response = match announced.answer.take().filter(|_| range.is_none()) {
                Some(answer) => answer,
                None => self.client.get(&announced.url, range, announced.trusted, &self.repo)?,
            };
            // A server that does not know ranges begins anew.
            let start = format!("bytes {}-", part.have);
            let resumed = text(&response, "content-range").is_some_and(|r| r.starts_with(&start));
            if range.is_some() && !(response.status() == StatusCode::PARTIAL_CONTENT && resumed) {
                resumes = false;
                part.restart()?;
            }
            let broke = self.copy(response.body_mut(), part, announced.size, &work)?;
            last = broke.map_or_else(String::new, |reason| format!(": {reason}"));
            if part.have > announced.size {
                let _ = fs::remove_file(part.path);
                let reason = format!("of `{name}`, more came than the {} bytes that were announced", announced.size);
                return Err(self.client.odd(&self.repo, reason));
            }
            tries.ended(part.have, announced.size);
            if part.have < announced.size {
                let say =
                    |_| format!("{}/{name}: it broke off at {} of {} bytes, going on", self.repo, part.have, announced.size);
                work.wait(Duration::from_millis(50 << tries.fruitless), say)?;
            }
        }
    }

    /// Copies until the end, a break, or one byte too many. Gives back why it broke off.
    fn copy(&self, body: &mut Body, part: &mut Part<'_>, size: u64, work: &Work) -> Result<Option<String>> {
        let (mut buffer, mut reader) = (vec![0; 1 << 16], body.as_reader());
        let mut pace = Pace::begin(self.client.stall, part.have);
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

/// What is there of a file, with its checksum so far.
struct Part<'a> {
    path: &'a Path,
    file: File,
    have: u64,
    digest: Option<Digest>,
    /// What makes the checksum anew.
    announced: (String, u64),
}

impl<'a> Part<'a> {
    /// Goes on with what `file` has.
    fn open(mut file: File, path: &'a Path, announced: &Announced, client: &Client) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let mut digest = Digest::of(&announced.etag, announced.size);
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
        Ok(Self { path, file, have, digest, announced: (announced.etag.clone(), announced.size) })
    }

    /// Begins anew.
    fn restart(&mut self) -> Result<()> {
        let io = |e| Error::io("write", self.path, e);
        self.file.set_len(0).map_err(io)?;
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        (self.have, self.digest) = (0, Digest::of(&self.announced.0, self.announced.1));
        Ok(())
    }

    /// Takes `bytes` more; those that make it longer than `size` are counted only.
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

/// Links `pointer` to `target`, relative, as Python does.
fn point(pointer: &Path, target: &str) -> std::io::Result<()> {
    match std::os::unix::fs::symlink(target, pointer) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && pointer.is_file() => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(pointer)?;
            std::os::unix::fs::symlink(target, pointer)
        }
        other => other,
    }
}

/// The seconds that an answer asks to wait: `Retry-After`, or the rest of the window of `RateLimit` (`...;r=0;t=55`).
fn asks_to_wait(headers: &HeaderMap) -> Option<u64> {
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

    /// Tries that end anywhere below the best, or creep beyond it, are counted; those that get further are not.
    #[test]
    fn a_download_that_gets_no_further_is_given_up() {
        let given_up = |ends: &[u64]| {
            let mut tries = Tries::default();
            ends.iter().position(|end| {
                tries.ended(*end, 1_000_000);
                tries.fruitless == TRIES
            })
        };
        assert_eq!(given_up(&[500_000, 0, 300_000, 499_999, 1, 500_000, 400_000]), Some(5));
        assert_eq!(given_up(&[500_000, 500_001, 500_002, 500_003, 500_004, 500_005]), Some(5));
        assert_eq!(given_up(&[0, 100_000, 50_000, 200_000, 300_000, 1, 1, 400_000]), None);
    }

    /// An answer that never ends is given up, however fast it comes.
    #[test]
    fn an_answer_that_is_no_file_takes_only_so_long() {
        let client = Client::new("http://127.0.0.1:1".into(), None, Duration::from_secs(10));
        let (most, begun) = (Duration::from_millis(50), Instant::now());
        let error = client.brought(&mut std::io::repeat(b' ').take(u64::MAX), most, "org/name").unwrap_err();
        assert!(error.to_string().contains("takes longer") && begun.elapsed() < Duration::from_secs(5), "{error}");
        assert_eq!(client.brought(&mut &b"{}"[..], most, "org/name").unwrap(), b"{}");
    }

    #[test]
    fn waits_are_read_from_both_headers() {
        let asked = |name: &'static str, value: &str| {
            asks_to_wait(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(asked("retry-after", "7"), Some(7));
        assert_eq!(asked("ratelimit", "\"api\";r=0;t=55"), Some(55));
        assert_eq!(asked("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"), None);
    }
}
