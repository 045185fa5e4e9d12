//! Models and datasets on the Hugging Face hub. The cache is shared with Python's
//! `huggingface_hub`: `blobs/ETAG` holds a file, `snapshots/COMMIT/NAME` links to it,
//! `refs/REVISION` names a commit.
//!
//! `HF_HOME`, `HF_HUB_CACHE` or its former name `HUGGINGFACE_HUB_CACHE` set the cache directory,
//! `HF_ENDPOINT` the server, `HF_TOKEN` the access token, `HF_HUB_OFFLINE=1` disables network
//! access, and `HF_HUB_DOWNLOAD_TIMEOUT` sets the seconds that a server may send nothing.

use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;

use super::contained::{Contained, explain};
use super::download::{Client, Server};
use crate::checkpoint::adapter::{
    CONFIG as ADAPTER_CONFIG, FILES as ADAPTER_FILES, WEIGHTS as ADAPTER_WEIGHTS,
};
use crate::checkpoint::side_files::{self, needed};
use crate::checkpoint::source::{WEIGHTS, is_index};
use crate::checkpoint::storage::read_file;
use crate::error::{Error, Result};

/// A reference to a repository on the hub, `org/name` or `org/name@revision`, and optionally to a
/// file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubRef {
    pub repo: String,
    pub revision: String,
    /// A file in the repository, if given.
    pub file: Option<String>,
    pub is_dataset: bool,
}

/// The kind of snapshot to fetch.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotKind {
    Model,
    Adapter,
    /// The training split, or the given file.
    Data,
}

/// Files in the cache: the commit and its directory.
pub(crate) struct Snapshot {
    pub commit: String,
    pub directory: PathBuf,
    /// The requested files that exist, in order.
    pub files: Vec<String>,
}

impl HubRef {
    /// Parses `org/name[@revision][/path/of/file]`; `None` if it does not have that form.
    pub fn parse(spec: &str, is_dataset: bool) -> Option<Self> {
        let plain = |s: &str| {
            let fits = s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            !s.is_empty() && fits && !s.starts_with('.') && !s.contains("..")
        };
        let (org, rest) = spec.split_once('/')?;
        let (name, file) =
            rest.split_once('/').map_or((rest, None), |(name, file)| (name, Some(file.to_owned())));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let fits =
            plain(org) && plain(name) && plain(revision) && file.as_deref().is_none_or(is_inside);
        fits.then(|| Self {
            repo: format!("{org}/{name}"),
            revision: revision.into(),
            file,
            is_dataset,
        })
    }

    fn repo(&self) -> Repo {
        let kind = if self.is_dataset { RepoType::Dataset } else { RepoType::Model };
        Repo::with_revision(self.repo.clone(), kind, self.revision.clone())
    }

    /// The reference to the same files at `commit`.
    pub fn pinned(&self, commit: &str) -> String {
        let file = self.file.as_deref().map_or_else(String::new, |file| format!("/{file}"));
        format!("{}@{commit}{file}", self.repo)
    }
}

/// Whether a name stays inside its directory.
fn is_inside(name: &str) -> bool {
    let normal = |c: Component<'_>| matches!(c, Component::Normal(_));
    !name.is_empty()
        && !name.contains(['\\', '\0', ':'])
        && Path::new(name).components().all(normal)
}

/// The value of an environment variable, if set and not empty.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The user's Hugging Face directory, and the cache.
fn folders() -> Option<(PathBuf, PathBuf)> {
    let home = set("HF_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(set("XDG_CACHE_HOME")?).join("huggingface")));
    let home = home.or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache/huggingface")))?;
    let named = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE"));
    let cache = named.map_or_else(|| home.join("hub"), PathBuf::from);
    Some((home, cache))
}

/// The names of cached models or datasets, `org/name`, sorted, from the first `limit` directories.
pub(crate) fn cached_names(are_datasets: bool, limit: usize) -> Vec<String> {
    let prefix = if are_datasets { "datasets--" } else { "models--" };
    let entries = folders()
        .and_then(|(_, cache)| std::fs::read_dir(cache).ok())
        .into_iter()
        .flatten()
        .flatten();
    let name = |entry: std::fs::DirEntry| {
        let folder = entry.file_name().to_str()?.strip_prefix(prefix)?.replace("--", "/");
        HubRef::parse(&folder, are_datasets)
            .filter(|reference| reference.file.is_none())
            .map(|reference| reference.repo)
    };
    let mut names: Vec<String> = entries.take(limit).filter_map(name).collect();
    names.sort();
    names
}

/// The maximum size in bytes of a small cache file: a commit, a token.
const MAX_SMALL_FILE_BYTES: u64 = 1 << 12;

/// The maximum size in bytes of an index of weights.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// How long a server may send nothing by default.
const DEFAULT_STALL: Duration = Duration::from_secs(30);

/// The text of a small file; `None` if it cannot be read.
fn read_small_file(path: &Path) -> Option<String> {
    Some(String::from_utf8(read_file(path, MAX_SMALL_FILE_BYTES).ok()?).ok()?.trim().to_owned())
}

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
        let snapshot = self.client.stoppable(move || hub.get(&requested, kind))?;
        snapshot.files.iter().try_for_each(|name| within(&snapshot.directory, name))?;
        Ok(snapshot)
    }

    fn get(&self, reference: &HubRef, kind: SnapshotKind) -> Result<Snapshot> {
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
        let mut files = self.choose(reference, kind, &names)?;
        let (mut done, mut side_bytes) = (0, 0);
        while let Some(name) = files.get(done).cloned() {
            // Side files are only downloaded within the limits for copying them.
            if kind == SnapshotKind::Model && reference.file.is_none() && is_beside(&name) {
                let most = side_files::MAX_FILE_BYTES.min(side_files::MAX_SIDE_BYTES - side_bytes);
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
    fn cached(&self, reference: &HubRef, kind: SnapshotKind, commit: String) -> Option<Snapshot> {
        let directory = self.folder(reference).join("snapshots").join(&commit);
        let mut names = Vec::new();
        list(&directory, "", &mut names);
        names.sort();
        let mut files = self.choose(reference, kind, &names).ok()?;
        if let Some(index) =
            WEIGHTS.into_iter().find(|name| is_index(name) && files.iter().any(|file| file == name))
        {
            files.extend(shards(&directory.join(index)).ok()?);
        }
        let whole = files.iter().all(|name| directory.join(name).is_file());
        whole.then_some(Snapshot { commit, directory, files })
    }

    /// Selects the files that are needed from those in the repository.
    fn choose(
        &self,
        reference: &HubRef,
        kind: SnapshotKind,
        names: &[String],
    ) -> Result<Vec<String>> {
        let has = |name: &str| names.iter().any(|n| n == name);
        let missing =
            |what: &str| Error::HubMissing { repo: reference.repo.clone(), what: what.into() };
        if let Some(file) = &reference.file {
            return if has(file) {
                Ok(vec![file.clone()])
            } else {
                Err(missing(&format!("file `{file}`")))
            };
        }
        if kind == SnapshotKind::Adapter {
            let weights = ADAPTER_WEIGHTS.into_iter().find(|file| has(file));
            let weights =
                weights.ok_or_else(|| missing(&format!("file `{}`", ADAPTER_WEIGHTS[0])))?;
            if !has(ADAPTER_CONFIG) {
                return Err(missing(&format!("file `{ADAPTER_CONFIG}`")));
            }
            let beside = ADAPTER_FILES.into_iter().filter(|file| has(file));
            return Ok([ADAPTER_CONFIG, weights]
                .into_iter()
                .chain(beside)
                .map(str::to_owned)
                .collect());
        }
        if kind == SnapshotKind::Data {
            let own = |n: &&String| !n.starts_with('.') && !n.ends_with("dataset_infos.json");
            let end_in = |ends: &[&str]| -> Vec<String> {
                let reads = |n: &&String| ends.iter().any(|end| n.ends_with(end));
                names.iter().filter(reads).filter(own).cloned().collect()
            };
            // Tables are a fallback: they often duplicate the other files.
            let mut files = end_in(&[".parquet", ".jsonl", ".json", ".txt"]);
            if files.is_empty() {
                files = end_in(&[".csv", ".tsv"]);
            }
            if files.iter().any(|n| n.contains("train")) {
                files.retain(|n| n.contains("train"));
            }
            files.sort();
            return if files.is_empty() {
                Err(missing("parquet, JSON lines or CSV file of a training split"))
            } else {
                Ok(files)
            };
        }
        if !has("config.json") {
            if has(ADAPTER_CONFIG) {
                return Err(missing(&format!(
                    "file `config.json`; it is an adapter: load it with its base, BASE+{}",
                    reference.repo
                )));
            }
            let gguf = names.iter().find(|n| n.ends_with(".gguf"));
            let named = gguf.map_or_else(
                || "file `config.json`".into(),
                |n| {
                    format!(
                        "file `config.json`; it has GGUF files: load one, for example {}/{n}",
                        reference.repo
                    )
                },
            );
            return Err(missing(&named));
        }
        let mut files = needed(names);
        match WEIGHTS.iter().find(|name| has(name)) {
            Some(weights) => files.push((*weights).to_owned()),
            None => return Err(missing("weights: neither safetensors nor pytorch_model.bin")),
        }
        Ok(files)
    }
}

/// Whether a model can be loaded without the file `name`.
fn is_beside(name: &str) -> bool {
    !(name == "config.json"
        || WEIGHTS.contains(&name)
        || (name.ends_with(".safetensors") && !name.contains('/')))
}

/// Returns an error if the file `name` of a snapshot is a link that leaves its repository's
/// directory. A missing file is not an error.
pub(crate) fn within(directory: &Path, name: &str) -> Result<()> {
    let folder = directory.parent().and_then(Path::parent).unwrap_or(directory);
    let found = Contained::open(folder)
        .and_then(|all| all.find(&directory.strip_prefix(folder).unwrap_or(directory).join(name)));
    match found {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let repo = folder.file_name().unwrap_or_default().to_string_lossy();
            Err(explain(&repo, "read", &directory.join(name), e))
        }
        _ => Ok(()),
    }
}

/// The shards that an index names.
fn shards(index: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let bytes = read_file(index, MAX_INDEX_BYTES)?;
    let index_of: Index = serde_json::from_slice(&bytes)
        .map_err(|e| Error::Json { file: index.into(), reason: e.to_string() })?;
    let mut names: Vec<String> = index_of.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names.iter().find(|name| !is_inside(name) || name.contains('/')) {
        Some(entry) => Err(Error::OutsideDirectory { index: index.into(), entry: entry.clone() }),
        None => Ok(names),
    }
}

/// Lists the files below `directory` by relative name, no deeper than datasets nest.
fn list(directory: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true if prefix.matches('/').count() < 6 => {
                list(&entry.path(), &format!("{name}/"), names)
            }
            true => {}
            false => names.push(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_references_are_distinguished_from_paths() {
        let reference =
            |spec: &str| HubRef::parse(spec, false).map(|p| (p.repo, p.revision, p.file));
        assert_eq!(reference("org/name"), Some(("org/name".into(), "main".into(), None)));
        assert_eq!(
            reference("o/n@v1/a/b.gguf"),
            Some(("o/n".into(), "v1".into(), Some("a/b.gguf".into())))
        );
        for spec in
            ["name", "./a", "../a/b", "/a/b", "a/..", "a/b/../c", "a b/c", "a/b@../x", "a//b"]
        {
            assert_eq!(reference(spec), None, "{spec}");
        }
    }
}
