//! A file as the hub describes it. Redirects never leak the token.

use ureq::Body;
use ureq::http::{Response, Uri};

use super::client::{Client, text};
use crate::error::Result;

/// The maximum number of redirects per file.
const MAX_REDIRECTS: usize = 5;

/// A file as described by the hub, with the response that delivers it.
pub(super) struct RemoteFile {
    pub etag: String,
    pub size: u64,
    /// The URL of the content, and whether that server may receive the token.
    pub url: String,
    pub trusted: bool,
    pub answer: Option<Response<Body>>,
}

impl RemoteFile {
    /// Queries the hub about the file `name` of `repo` at `commit`, and finds the URL of its
    /// content.
    pub fn find(client: &Client, repo: &str, commit: &str, name: &str) -> Result<Self> {
        let protocol_error =
            |reason: &str| client.protocol_error(repo, format!("`{name}`: {reason}"));
        let home: Uri =
            client.endpoint.parse().map_err(|_| protocol_error("the endpoint is not a URL"))?;
        let mut url = format!("{}/{repo}/resolve/{commit}/{name}", client.endpoint);
        let (mut etag, mut size, mut trusted) = (None, None, true);
        for _ in 0..=MAX_REDIRECTS {
            let response = client.get(&url, None, trusted, repo)?;
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
            return Ok(Self {
                etag,
                size: size.ok_or_else(|| protocol_error("the size is missing"))?,
                url,
                trusted,
                answer: Some(response),
            });
        }
        Err(protocol_error("too many redirects"))
    }
}
