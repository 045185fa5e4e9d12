//! Downloads from the hub: redirects followed without giving the token away, drops resumed, sizes checked,
//! and nothing in the cache under its name before it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use crate::error::{Error, Result};

/// How far a download is.
#[derive(Clone, Debug)]
pub struct Download {
    /// `org/name/file`.
    pub file: String,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes of the whole.
    pub total: u64,
}

type Watcher = Box<dyn Fn(&Download) + Send + Sync>;

static WATCHER: OnceLock<Watcher> = OnceLock::new();

/// Calls `watcher` during every download of this process from now on. Only the first call counts.
pub fn watch_downloads(watcher: impl Fn(&Download) + Send + Sync + 'static) {
    let _ = WATCHER.set(Box::new(watcher));
}

/// Redirects followed for one file.
const REDIRECTS: usize = 5;

/// Times that a request is made before it is given up.
const TRIES: u32 = 5;

/// Seconds waited at most when the server asks for it.
const PATIENCE: u64 = 60;

/// Characters of the longest answer that is not a file.
const LONGEST: u64 = 64 << 20;

/// Asks the hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// Where files of one repository are fetched from and to.
pub(super) struct Server<'a> {
    pub client: &'a Client,
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
    answer: Response<Body>,
}

impl Client {
    pub fn new(endpoint: String, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("dam/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), endpoint, token }
    }

    fn unreachable(&self, reason: impl ToString) -> Error {
        Error::HubUnreachable { endpoint: self.endpoint.clone(), reason: reason.to_string() }
    }

    /// One request; waits where the server says so. An answer that is no file is an error of its kind.
    fn get(&self, url: &str, range: Option<u64>, trusted: bool, repo: &str) -> Result<Response<Body>> {
        for attempt in 1.. {
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
                Err(_) if attempt < TRIES => {
                    std::thread::sleep(Duration::from_millis(100 << attempt));
                    continue;
                }
                Err(error) => return Err(self.unreachable(error)),
            };
            let status = response.status();
            if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                let asked = text(&response, "retry-after").and_then(|s| s.parse::<u64>().ok());
                if attempt < TRIES && asked.is_none_or(|s| s <= PATIENCE) {
                    std::thread::sleep(asked.map_or(Duration::from_millis(200 << attempt), Duration::from_secs));
                    continue;
                }
                let reason = format!("it answers {status}");
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
        let read = response.body_mut().with_config().limit(LONGEST).read_to_string();
        read.map_err(|e| self.odd(repo, format!("its answer breaks off: {e}")))
    }
}

impl Server<'_> {
    /// The path of `name` in the snapshot, downloaded if it is not there.
    ///
    /// # Errors
    /// What the hub refuses, or does not give whole.
    pub fn fetch(&self, name: &str) -> Result<PathBuf> {
        let pointer = self.pointer(name);
        if !pointer.is_file() {
            self.bring(name, &pointer, self.announced(name)?)?;
        }
        Ok(pointer)
    }

    /// The bytes of `name`, which is then in the snapshot as [`Server::fetch`] brings it; none where they are more
    /// than `most`.
    ///
    /// # Errors
    /// As for [`Server::fetch`].
    pub fn fetch_within(&self, name: &str, most: u64) -> Result<Option<u64>> {
        let pointer = self.pointer(name);
        if let Ok(there) = fs::metadata(&pointer) {
            return Ok(Some(there.len()));
        }
        let announced = self.announced(name)?;
        let size = announced.size;
        if size > most {
            return Ok(None);
        }
        self.bring(name, &pointer, announced)?;
        Ok(Some(size))
    }

    fn pointer(&self, name: &str) -> PathBuf {
        self.folder.join("snapshots").join(self.commit).join(name)
    }

    /// Downloads `name` as it was announced, and links `pointer` to it.
    fn bring(&self, name: &str, pointer: &Path, announced: Announced) -> Result<()> {
        let blobs = self.folder.join("blobs");
        let blob = blobs.join(&announced.etag);
        let io = |e| Error::io("write", &blob, e);
        fs::create_dir_all(&blobs).map_err(io)?;
        if !blob.is_file() {
            // Two programs at once, Python's too: the second waits, and finds the file.
            let lock = self.lock_file(&announced.etag);
            fs::create_dir_all(lock.parent().unwrap_or(&lock)).map_err(io)?;
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock).map_err(io)?;
            lock.lock().map_err(io)?;
            if !blob.is_file() {
                let part = blobs.join(format!("{}.incomplete", announced.etag));
                self.download(name, announced, &part)?;
                fs::rename(&part, &blob).map_err(io)?;
            }
        }
        self.point(pointer, &blob, name).map_err(|e| Error::io("write", pointer, e))
    }

    /// Where Python's `huggingface_hub` locks a blob: `.locks/FOLDER/ETAG.lock` in the cache. It stays there, as
    /// one that is deleted would be locked by some and made anew by others.
    fn lock_file(&self, etag: &str) -> PathBuf {
        let (cache, name) = (self.folder.parent().unwrap_or(&self.folder), self.folder.file_name().unwrap_or_default());
        cache.join(".locks").join(name).join(format!("{etag}.lock"))
    }

    /// Links `pointer` to `blob`, relative, as Python does.
    fn point(&self, pointer: &Path, blob: &Path, name: &str) -> std::io::Result<()> {
        let parent = pointer.parent().unwrap_or(pointer);
        fs::create_dir_all(parent)?;
        let up = "../".repeat(2 + name.matches('/').count());
        let target = format!("{up}blobs/{}", blob.file_name().unwrap_or_default().to_string_lossy());
        match std::os::unix::fs::symlink(&target, pointer) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists && pointer.is_file() => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(pointer)?;
                std::os::unix::fs::symlink(&target, pointer)
            }
            other => other,
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
            return Ok(Announced { etag, size: size.ok_or_else(|| odd("it says no size"))?, url, trusted, answer: response });
        }
        Err(odd("it redirects in circles"))
    }

    /// Fetches the content into `part`, going on where an earlier try broke off.
    fn download(&self, name: &str, announced: Announced, part: &Path) -> Result<()> {
        let io = |e| Error::io("write", part, e);
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(part).map_err(io)?;
        let (mut fruitless, mut last, mut answer) = (0, None, Some(announced.answer));
        loop {
            let mut have = file.metadata().map_err(io)?.len();
            if have > announced.size {
                file.set_len(0).map_err(io)?;
                have = 0;
            }
            if have == announced.size {
                return file.sync_all().map_err(io);
            }
            if fruitless == TRIES {
                let got = format!("of `{name}`, {have} of {} bytes came", announced.size);
                let reason = last.map_or_else(|| got.clone(), |e: String| format!("{got}: {e}"));
                return Err(Error::Hub {
                    repo: self.repo.clone(),
                    reason,
                    hint: "load again: the download goes on where it broke off",
                });
            }
            let range = (have > 0).then_some(have);
            let mut response = match answer.take().filter(|_| range.is_none()) {
                Some(answer) => answer,
                None => self.client.get(&announced.url, range, announced.trusted, &self.repo)?,
            };
            // A server that does not know ranges begins anew.
            let resumed = text(&response, "content-range").is_some_and(|r| r.starts_with(&format!("bytes {have}-")));
            if range.is_some() && !(response.status() == StatusCode::PARTIAL_CONTENT && resumed) {
                file.set_len(0).map_err(io)?;
                have = 0;
            }
            file.seek(SeekFrom::Start(have)).map_err(io)?;
            let before = have;
            last = self.copy(name, response.body_mut(), &mut file, &mut have, announced.size).map_err(io)?;
            if have > announced.size {
                drop(file);
                let _ = fs::remove_file(part);
                let reason = format!("of `{name}`, more came than the {} bytes that were announced", announced.size);
                return Err(self.client.odd(&self.repo, reason));
            }
            fruitless = if have > before { fruitless.max(1) } else { fruitless + 1 };
            if have < announced.size {
                std::thread::sleep(Duration::from_millis(50 << fruitless));
            }
        }
    }

    /// Copies until the end, a break, or one byte too many. Gives back why it broke off.
    fn copy(&self, name: &str, body: &mut Body, file: &mut File, have: &mut u64, size: u64) -> std::io::Result<Option<String>> {
        let (mut buffer, mut reader) = (vec![0; 1 << 16], body.as_reader());
        while *have <= size {
            let read = match reader.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                Err(error) => return Ok(Some(error.to_string())),
            };
            *have += read as u64;
            if *have <= size {
                file.write_all(&buffer[..read])?;
            }
            if let Some(watcher) = WATCHER.get() {
                watcher(&Download { file: format!("{}/{name}", self.repo), done: (*have).min(size), total: size });
            }
        }
        Ok(None)
    }
}

fn text<T>(response: &Response<T>, header: &str) -> Option<String> {
    Some(response.headers().get(header)?.to_str().ok()?.to_owned())
}
