//! A small server for the hub's protocol on the loopback interface, with selectable faults.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::common::dam;

/// The fault of a file or of the whole server.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Every response breaks off after this many bytes of content.
    Drops(usize),
    /// Less or more content than announced.
    Short,
    Long,
    /// Range requests are not supported.
    NoRanges,
    /// The same, and every response breaks off, after each of these numbers of bytes in turn,
    /// repeatedly.
    BreaksAnew(Vec<usize>),
    /// Sends this many bytes, then nothing, and keeps the connection open.
    Stalls(usize),
    /// Sends single bytes slowly, of weights or of the listing.
    Trickles,
    TricklesListing,
    /// A bit of large files is flipped, this many times.
    Flipped(usize),
    /// The same for small files.
    FlippedSmall(usize),
    /// Always asks to retry after this many seconds.
    Wait(u64),
    /// Redirects to itself.
    Circle,
    /// This status and error code for the whole repository.
    Status(u16, &'static str),
    /// Status 429 this many times.
    Busy(usize),
    /// The listing is not JSON, or names a file outside the repository.
    Garbage,
    Outside,
    BadEtag,
    /// ETags that are not checksums, as for multipart uploads.
    PartsEtag,
}

/// `dam -c VERBS` with the cache in `home` and the server `endpoint`.
pub fn program(home: &Path, endpoint: &str, verbs: &str) -> Command {
    let mut command = dam(home);
    for name in [
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "http_proxy",
        "https_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", endpoint).args(["-c", verbs]);
    command
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct State {
    files: BTreeMap<String, Vec<u8>>,
    fault: Fault,
    token: Option<String>,
    log: Vec<String>,
    cdn: String,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The ETag of a large file.
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// The ETag of a small file.
pub fn git(content: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", content.len()))
        .chain_update(content)
        .finalize())
}

/// A running server, with a second one on another port that serves the content of large files.
#[derive(Clone)]
pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let (hub, cdn) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let cdn_address = format!("http://{}", cdn.local_addr().unwrap());
        let state =
            State { files, fault: Fault::None, token: None, log: Vec::new(), cdn: cdn_address };
        let server = Self { endpoint, state: Arc::new(Mutex::new(state)) };
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let server = server.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    std::thread::spawn(move || server.answer(stream, is_cdn));
                }
            });
        }
        server
    }

    pub fn fault(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    pub fn require(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.into());
    }

    /// Takes the log of requests, as `PATH [token] [from N]`.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn answer(&self, mut stream: TcpStream, is_cdn: bool) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut first = String::new();
        if reader.read_line(&mut first).is_err() || first.is_empty() {
            return;
        }
        let path = first.split(' ').nth(1).unwrap_or("/").to_owned();
        let (mut token, mut start) = (None, None);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok() && line.trim() != "" {
            let lower = line.to_lowercase();
            if lower.starts_with("authorization:") {
                token = line.split_whitespace().last().map(str::to_owned);
            }
            if let Some(range) = lower.trim().strip_prefix("range: bytes=") {
                start = range.split('-').next().and_then(|s| s.parse::<usize>().ok());
            }
            line.clear();
        }
        let mut state = self.state.lock().unwrap();
        let side = if is_cdn { "cdn " } else { "" };
        state.log.push(format!(
            "{side}{path}{}{}",
            token.as_deref().map_or("", |_| " token"),
            start.map_or(String::new(), |s| format!(" from {s}"))
        ));
        let mut out = stream.try_clone().unwrap();
        let mut send = |status: &str, headers: &str, body: &[u8], announced: usize| {
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {announced}\r\n{headers}\r\n"
            );
            let _ = out
                .write_all(head.as_bytes())
                .and_then(|()| out.write_all(body))
                .and_then(|()| out.flush());
        };
        match state.fault.clone() {
            Fault::Status(status, code) => {
                return send(&format!("{status} No"), &format!("x-error-code: {code}\r\n"), b"", 0);
            }
            Fault::Wait(seconds) => {
                return send(
                    "429 Too Many Requests",
                    &format!("retry-after: {seconds}\r\n"),
                    b"",
                    0,
                );
            }
            Fault::Busy(times) if times > 0 => {
                state.fault = Fault::Busy(times - 1);
                return send("429 Too Many Requests", "retry-after: 0\r\n", b"", 0);
            }
            _ => {}
        }
        if !is_cdn && state.token.is_some() && state.token != token {
            return send("401 Unauthorized", "x-error-code: GatedRepo\r\n", b"", 0);
        }
        if path.starts_with("/api/") {
            let names = state
                .files
                .keys()
                .map(|name| serde_json::json!({"rfilename": name}))
                .collect::<Vec<_>>();
            let mut body = serde_json::json!({"sha": COMMIT, "siblings": names}).to_string();
            match state.fault {
                Fault::Garbage => body = "<html>".into(),
                Fault::Outside => body =
                    serde_json::json!({"sha": COMMIT, "siblings": [{"rfilename": "../../evil"}]})
                        .to_string(),
                _ => {}
            }
            if !path.ends_with("/revision/main")
                && !path.ends_with("/revision/v1")
                && !path.ends_with(COMMIT)
            {
                return send("404 Not Found", "x-error-code: RevisionNotFound\r\n", b"", 0);
            }
            if state.fault == Fault::TricklesListing {
                drop(state);
                send("200 OK", "", &[], body.len());
                return trickle(&mut stream, body.as_bytes());
            }
            return send("200 OK", "", body.as_bytes(), body.len());
        }
        let Some((_, name)) =
            path.split_once(&format!("/resolve/{COMMIT}/")).or_else(|| path.split_once("/cdn/"))
        else {
            return send("404 Not Found", "x-error-code: RepoNotFound\r\n", b"", 0);
        };
        let Some(content) = state.files.get(name).cloned() else {
            return send("404 Not Found", "x-error-code: EntryNotFound\r\n", b"", 0);
        };
        // Weights are on another host, as on the hub, and have another kind of checksum.
        let large = name.ends_with(".safetensors");
        let mut etag = if large { sha256(&content) } else { git(&content) };
        if state.fault == Fault::BadEtag {
            etag = "../../../evil".into();
        }
        if state.fault == Fault::PartsEtag {
            etag = format!("{}-2", &git(&content)[..32]);
        }
        if !is_cdn && large {
            let headers = format!(
                "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {}\r\n",
                content.len()
            );
            let target = match state.fault {
                Fault::Circle => path.clone(),
                _ => format!("{}/cdn/{name}", state.cdn),
            };
            return send("302 Found", &format!("{headers}location: {target}\r\n"), b"", 0);
        }
        let mut content = content;
        match &mut state.fault {
            Fault::Flipped(times) if is_cdn && *times > 0 => {
                *times -= 1;
                let middle = content.len() / 2;
                content[middle] ^= 4;
            }
            Fault::FlippedSmall(times) if !large && *times > 0 => {
                *times -= 1;
                content[0] ^= 1;
            }
            _ => {}
        }
        let ranges = !matches!(state.fault, Fault::NoRanges | Fault::BreaksAnew(_));
        let from = start.filter(|_| ranges).unwrap_or(0).min(content.len());
        let part = &content[from..];
        let range = format!(
            "content-range: bytes {from}-{}/{}\r\n",
            content.len().saturating_sub(1),
            content.len()
        );
        let (status, range) =
            if from > 0 { ("206 Partial Content", range.as_str()) } else { ("200 OK", "") };
        let headers = format!("x-repo-commit: {COMMIT}\r\netag: W/\"{etag}\"\r\n{range}");
        if let Fault::BreaksAnew(ends) = &mut state.fault
            && is_cdn
        {
            ends.rotate_left(1);
            let end = ends[ends.len() - 1];
            return send(status, &headers, &part[..end.min(part.len())], part.len());
        }
        match state.fault {
            Fault::Stalls(after) if is_cdn => {
                drop(state);
                send(
                    status,
                    &headers,
                    &part[..after.saturating_sub(from).min(part.len())],
                    part.len(),
                );
                std::thread::sleep(Duration::from_secs(60));
            }
            Fault::Trickles if is_cdn => {
                drop(state);
                send(status, &headers, &[], part.len());
                trickle(&mut stream, part);
            }
            Fault::Drops(after) if is_cdn => {
                send(status, &headers, &part[..after.min(part.len())], part.len())
            }
            Fault::Short if is_cdn => {
                send(status, &headers, &part[..part.len() / 2], part.len() / 2)
            }
            Fault::Long if is_cdn => {
                send(status, &headers, &[part, b"more"].concat(), part.len() + 4)
            }
            _ => send(status, &headers, part, part.len()),
        }
    }
}

/// Sends `bytes` one by one until the client disconnects.
fn trickle(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes {
        std::thread::sleep(Duration::from_millis(300));
        if stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}
