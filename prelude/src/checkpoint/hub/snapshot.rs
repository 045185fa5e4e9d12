//! Models and datasets on the Hugging Face hub. The cache is shared with Python's
//! `huggingface_hub`: `blobs/ETAG` holds a file, `snapshots/COMMIT/NAME` links to it,
//! `refs/REVISION` names a commit.
//!
//! `HF_HOME`, `HF_HUB_CACHE` or its former name `HUGGINGFACE_HUB_CACHE` set the cache directory,
//! `HF_ENDPOINT` the server, `HF_TOKEN` the access token, `HF_HUB_OFFLINE=1` disables network
//! access, and `HF_HUB_DOWNLOAD_TIMEOUT` sets the seconds that a server may send nothing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use serde::Deserialize;

use super::cache::{folders, list, read_small_file, set, within};
use super::choose::{SnapshotKind, choose, is_beside, shards};
use super::client::Client;
use super::contained::{Contained, explain};
use super::download::Server;
use super::reference::{HubRef, is_inside};
use crate::checkpoint::side_files::{MAX_FILE_BYTES, MAX_SIDE_BYTES};
use crate::checkpoint::storage::{WEIGHTS, is_index};
use crate::error::{Error, Result};

/// Files in the cache: the commit and its directory.
pub(crate) struct Snapshot {
    pub commit: String,
    pub directory: PathBuf,
    /// The requested files that exist, in order.
    pub files: Vec<String>,
}

/// How long a server may send nothing by default.
const DEFAULT_STALL: Duration = Duration::from_secs(30);

/// Access to the hub and its cache. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hub {
    cache: Cache,
    offline: bool,
    client: Client,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// Configures access from the environment.
    pub fn from_env() -> Result<Self> {
        let (home, cache) = folders().ok_or_else(|| Error::Hub {
            repo: "the hub".into(),
            reason: "the cache directory is unknown".into(),
            hint: "set HF_HOME",
        })?;
        let kept = || read_small_file(&home.join("token")).filter(|t| !t.is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = set("HF_HUB_OFFLINE")
            .is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str()));
        let token = set("HF_TOKEN").or_else(kept);
        let stall = set("HF_HUB_DOWNLOAD_TIMEOUT")
            .and_then(|s| s.parse().ok())
            .filter(|s| (1..=3600).contains(s));
        let stall = stall.map_or(DEFAULT_STALL, Duration::from_secs);
        let cache = std::path::absolute(&cache).map_err(|e| Error::io("read", &cache, e))?;
        Ok(Self {
            cache: Cache::new(cache),
            offline,
            client: Client::new(endpoint.trim_end_matches('/').into(), token, stall),
        })
    }

    fn folder(&self, reference: &HubRef) -> PathBuf {
        self.cache.path().join(reference.repo().folder_name())
    }

    /// Returns the files that `kind` needs, from the cache or downloaded into it.
    ///
    /// # Errors
    /// A repository that is gated, missing, or neither reachable nor cached; a file that does not
    /// match its description; links in the cache that leave the repository's directory; a stop.
    pub fn snapshot(&self, reference: &HubRef, kind: SnapshotKind) -> Result<Snapshot> {
        let (hub, requested) = (self.clone(), reference.clone());
        let snapshot = self.client.stoppable(move || hub.get(&requested, &kind))?;
        snapshot.files.iter().try_for_each(|name| within(&snapshot.directory, name))?;
        Ok(snapshot)
    }

    fn get(&self, reference: &HubRef, kind: &SnapshotKind) -> Result<Snapshot> {
        let is_commit = reference.revision.len() == 40
            && reference.revision.chars().all(|c| c.is_ascii_hexdigit());
        if self.offline || is_commit {
            let known = if is_commit {
                Some(reference.revision.clone())
            } else {
                self.known_commit(reference)
            };
            if let Some(snapshot) = known.and_then(|commit| self.cached(reference, kind, commit)) {
                return Ok(snapshot);
            }
            if self.offline {
                return Err(Error::Hub {
                    repo: reference.repo.clone(),
                    reason: "the cached copy is incomplete and HF_HUB_OFFLINE is set".into(),
                    hint: "unset HF_HUB_OFFLINE to download it",
                });
            }
        }
        let listing = match self.listing(reference) {
            Err(error @ Error::HubUnreachable { .. }) => {
                let cached = self
                    .known_commit(reference)
                    .and_then(|commit| self.cached(reference, kind, commit));
                return cached.ok_or(error);
            }
            listing => listing?,
        };
        let commit = listing.sha.clone();
        if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(self.protocol_error(reference, format!("invalid commit `{commit}`")));
        }
        let names: Vec<String> = listing.siblings.into_iter().map(|s| s.rfilename).collect();
        if let Some(name) = names.iter().find(|name| !is_inside(name)) {
            return Err(self.protocol_error(
                reference,
                format!("it lists `{name}`, which is outside the repository"),
            ));
        }
        let repo = if reference.is_dataset {
            format!("datasets/{}", reference.repo)
        } else {
            reference.repo.clone()
        };
        let (client, cache) = (&self.client, self.cache.path());
        let server =
            Server { client, cache, folder: self.folder(reference), repo, commit: &commit };
        let mut files = choose(reference, kind, &names)?;
        let (mut done, mut side_bytes) = (0, 0);
        while let Some(name) = files.get(done).cloned() {
            // Side files are only downloaded within the limits for copying them.
            if *kind == SnapshotKind::Model && reference.file.is_none() && is_beside(&name) {
                let most = MAX_FILE_BYTES.min(MAX_SIDE_BYTES - side_bytes);
                match server.fetch_within(&name, most)? {
                    Some(bytes) => (side_bytes, done) = (side_bytes + bytes, done + 1),
                    None => drop(files.remove(done)),
                }
                continue;
            }
            let path = server.fetch(&name)?;
            if WEIGHTS.contains(&name.as_str()) && is_index(&name) {
                files.extend(shards(&path)?);
            }
            done += 1;
        }
        if self.known_commit(reference).as_ref() != Some(&commit) {
            let write = || {
                let folder = Contained::make(self.cache.path(), &self.folder(reference))?;
                let mut file = folder.file(&Path::new("refs").join(&reference.revision))?;
                file.set_len(0)?;
                file.write_all(commit.as_bytes())
            };
            let path = self.folder(reference).join("refs").join(&reference.revision);
            write().map_err(|e| explain(&reference.repo, "write", &path, e))?;
        }
        let directory = self.folder(reference).join("snapshots").join(&commit);
        Ok(Snapshot { commit, directory, files })
    }

    fn protocol_error(&self, reference: &HubRef, reason: String) -> Error {
        Error::Hub {
            repo: reference.repo.clone(),
            reason,
            hint: "the server does not follow the hub's protocol: check HF_ENDPOINT",
        }
    }

    fn listing(&self, reference: &HubRef) -> Result<Listing> {
        let kind = if reference.is_dataset { "datasets" } else { "models" };
        let text = self.client.text(
            &format!("/api/{kind}/{}/revision/{}", reference.repo, reference.revision),
            &reference.repo,
        )?;
        serde_json::from_str(&text)
            .map_err(|e| self.protocol_error(reference, format!("unexpected response: {e}")))
    }

    /// The commit that the cache has for a revision.
    fn known_commit(&self, reference: &HubRef) -> Option<String> {
        let folder = Contained::open(&self.folder(reference)).ok()?;
        let text =
            read_small_file(&folder.find(&Path::new("refs").join(&reference.revision)).ok()?);
        text.filter(|c| !c.is_empty() && c.chars().all(|c| c.is_ascii_alphanumeric()))
    }

    /// The snapshot in the cache if it is complete.
    fn cached(&self, reference: &HubRef, kind: &SnapshotKind, commit: String) -> Option<Snapshot> {
        let directory = self.folder(reference).join("snapshots").join(&commit);
        let mut names = Vec::new();
        list(&directory, "", &mut names);
        names.sort();
        let mut files = choose(reference, kind, &names).ok()?;
        if let Some(index) =
            WEIGHTS.into_iter().find(|name| is_index(name) && files.iter().any(|file| file == name))
        {
            files.extend(shards(&directory.join(index)).ok()?);
        }
        let whole = files.iter().all(|name| directory.join(name).is_file());
        whole.then_some(Snapshot { commit, directory, files })
    }
}
