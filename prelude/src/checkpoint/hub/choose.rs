//! Chooses the files of a repository to download.

use std::path::Path;

use globset::GlobBuilder;
use serde::Deserialize;

use super::reference::{HubRef, is_inside};
use crate::checkpoint::side_files::needed;
use crate::checkpoint::storage::{
    ADAPTER_CONFIG, ADAPTER_WEIGHTS, TOKENIZER_FILES, WEIGHTS, read_file,
};
use crate::error::{Error, Result};

/// The maximum size in bytes of an index of weights.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The kind of snapshot to fetch.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum SnapshotKind {
    Model,
    Adapter,
    /// The training split, or the given file.
    Data,
    /// The files that match any of these patterns, in which `*` matches no `/`.
    Matching(Vec<String>),
}

/// Selects the files that are needed from those in the repository.
pub(super) fn choose(
    reference: &HubRef,
    kind: &SnapshotKind,
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
    if *kind == SnapshotKind::Adapter {
        let weights = ADAPTER_WEIGHTS.into_iter().find(|file| has(file));
        let weights = weights.ok_or_else(|| missing(&format!("file `{}`", ADAPTER_WEIGHTS[0])))?;
        if !has(ADAPTER_CONFIG) {
            return Err(missing(&format!("file `{ADAPTER_CONFIG}`")));
        }
        let beside = TOKENIZER_FILES.into_iter().filter(|file| has(file));
        return Ok([ADAPTER_CONFIG, weights]
            .into_iter()
            .chain(beside)
            .map(str::to_owned)
            .collect());
    }
    if *kind == SnapshotKind::Data {
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
    if let SnapshotKind::Matching(patterns) = kind {
        let matcher = |pattern: &String| {
            let glob = GlobBuilder::new(pattern).literal_separator(true).build();
            Some(glob.ok()?.compile_matcher())
        };
        let matchers: Vec<_> = patterns.iter().filter_map(matcher).collect();
        let mut files = names.to_vec();
        files.retain(|name| matchers.iter().any(|matcher| matcher.is_match(name)));
        files.sort();
        let what = || format!("file {}", patterns.join(" or "));
        return if files.is_empty() { Err(missing(&what())) } else { Ok(files) };
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
/// Whether a model can be loaded without the file `name`.
pub(super) fn is_beside(name: &str) -> bool {
    !(name == "config.json"
        || WEIGHTS.contains(&name)
        || (name.ends_with(".safetensors") && !name.contains('/')))
}

/// The shards that an index names.
pub(super) fn shards(index: &Path) -> Result<Vec<String>> {
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
