//! An HTTP client for the hub. It sends the token only to servers that may receive it, waits as the
//! server asks, gives up on stalled responses, and honours a stop.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

/// The maximum number of attempts for a request, or for a download that makes no progress.
pub(super) const MAX_TRIES: u32 = 5;

/// The maximum wait in seconds that a server may request.
const MAX_WAIT_SECONDS: u64 = 60;

/// The maximum size in bytes of a response that is not a file.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

/// The maximum duration of a response that is not a file.
const MAX_RESPONSE_TIME: Duration = Duration::from_secs(300);

/// The minimum download speed in bytes per second.
const MIN_BYTES_PER_SECOND: u64 = 1024;

/// The message for a download below that speed.
pub(super) fn too_slow() -> String {
    format!("the speed fell below {MIN_BYTES_PER_SECOND} bytes per second")
}

/// An HTTP client for the hub. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    agent: Agent,
    pub endpoint: String,
    token: Option<String>,
    /// How long a server may send nothing.
    pub stall: Duration,
    /// Whether the caller no longer waits for the request.
    abandoned: Arc<AtomicBool>,
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
    pub fn check(&self) -> Result<()> {
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
    pub fn get(
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

    pub fn protocol_error(&self, repo: &str, reason: String) -> Error {
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
pub(super) struct SpeedCheck {
    stall: Duration,
    since: Instant,
    before: u64,
}

impl SpeedCheck {
    /// Starts at byte `have`.
    pub fn begin(stall: Duration, have: u64) -> Self {
        Self { stall, since: Instant::now(), before: have }
    }

    /// Whether too few bytes arrived, now that there are `have`; checked once per stall interval.
    pub fn is_slow(&mut self, have: u64) -> bool {
        if self.since.elapsed() <= self.stall {
            return false;
        }
        let is_slow = have - self.before < MIN_BYTES_PER_SECOND * self.stall.as_secs().max(1);
        *self = Self::begin(self.stall, have);
        is_slow
    }
}

/// The seconds to wait according to `Retry-After`, or to the rest of the window in `RateLimit`
/// (`...;r=0;t=55`).
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let get = |name: &str| headers.get(name)?.to_str().ok();
    let rest = || get("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t="));
    get("retry-after").and_then(|s| s.trim().parse().ok()).or_else(|| rest()?.parse().ok())
}

/// The text of a header.
pub(super) fn text<T>(response: &Response<T>, header: &str) -> Option<String> {
    Some(response.headers().get(header)?.to_str().ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response that never ends fails, however fast it is.
    #[test]
    fn a_response_that_is_not_a_file_has_a_time_limit() {
        let client = Client::new("http://127.0.0.1:1".into(), None, Duration::from_secs(10));
        let (limit, begun) = (Duration::from_millis(50), Instant::now());
        let error = client
            .read_limited(&mut std::io::repeat(b' ').take(u64::MAX), limit, "org/name")
            .unwrap_err();
        assert!(
            error.to_string().contains("took longer") && begun.elapsed() < Duration::from_secs(5),
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
