//! Data sets of the Hugging Face hub: the files of the splits of a configuration, from the cache or
//! downloaded into it.
//!
//! They are those that the front matter of the data set's README names, or else those whose names
//! follow the conventions of the `datasets` library: `CONFIG/SPLIT-*`, `data/SPLIT-*` and so on.

use std::collections::BTreeMap;
use std::path::Path;

use minijinja::value::{Value, ValueKind};

use super::keys::{bad, one_or_more, pairs};
use super::yaml;
use crate::checkpoint::{Hub, HubRef, SnapshotKind, read_file};
use crate::data::DocumentFormat;
use crate::error::{Error, Result};

/// A configuration of a data set.
#[derive(Clone, Debug)]
pub(super) struct HubData {
    /// `org/name`, with `@revision` if one is given.
    pub repo: String,
    /// `dataset_name`.
    pub config: Option<String>,
}

/// The maximum size of a README in bytes.
const README_BYTES: u64 = 16 << 20;

/// The files of splits: the names of each, in order, and their format.
pub(super) type SplitFiles = (DocumentFormat, BTreeMap<String, Vec<String>>);

impl HubData {
    /// Returns the files of `splits`.
    ///
    /// # Errors
    /// A data set that is neither cached nor reachable, or lacks a split; the message says how to
    /// get it.
    pub fn files(&self, task: &Path, splits: &[&str]) -> Result<SplitFiles> {
        let reference = HubRef::parse(&self.repo, true)
            .ok_or_else(|| self.bad(task, "it is not the name of a data set".into()))?;
        let hub = Hub::from_env()?;
        let described = self.described(task, &hub, &reference)?;
        let mut format = None;
        let mut found = BTreeMap::new();
        for split in splits {
            let choices = match &described {
                Some(described) => vec![described.get(*split).cloned().ok_or_else(|| {
                    let known: Vec<&str> = described.keys().map(String::as_str).collect();
                    let reason = format!("it has no split `{split}`; it has {}", known.join(", "));
                    self.bad(task, reason)
                })?],
                None => self.by_convention(split),
            };
            let (directory, names) = self.fetch(task, &hub, &reference, choices)?;
            complete(&names).map_err(|reason| self.bad(task, reason))?;
            for name in &names {
                let own = format_of(name);
                let own = own.ok_or_else(|| {
                    self.bad(task, format!("`{name}` is not Parquet, JSON lines or CSV"))
                })?;
                if *format.get_or_insert(own) != own {
                    return Err(self.bad(task, "its files have several formats".into()));
                }
            }
            let path = |name: &String| directory.join(name).display().to_string();
            found.insert((*split).to_owned(), names.iter().map(path).collect());
        }
        Ok((format.unwrap_or(DocumentFormat::Parquet), found))
    }

    /// Fetches the files of the first of `choices`, each a list of patterns, that any match.
    fn fetch(
        &self,
        task: &Path,
        hub: &Hub,
        reference: &HubRef,
        choices: Vec<Vec<String>>,
    ) -> Result<(std::path::PathBuf, Vec<String>)> {
        let mut last = None;
        for patterns in choices {
            match hub.snapshot(reference, SnapshotKind::Matching(patterns)) {
                Ok(snapshot) => return Ok((snapshot.directory, snapshot.files)),
                Err(error) => last = Some(error),
            }
        }
        let reason = last.map_or_else(|| "it has no files".into(), |error| error.to_string());
        Err(self.bad(task, reason))
    }

    fn bad(&self, task: &Path, reason: String) -> Error {
        let place = match &self.config {
            Some(config) => format!("the data set `{}` ({config})", self.repo),
            None => format!("the data set `{}`", self.repo),
        };
        let hint = format!(
            "download it into the hub's cache where there is a network: hf download {} --repo-type dataset",
            self.repo
        );
        bad(task, place, reason, hint)
    }

    /// The patterns of each split in the data set's README; `None` if it names none.
    fn described(
        &self,
        task: &Path,
        hub: &Hub,
        reference: &HubRef,
    ) -> Result<Option<BTreeMap<String, Vec<String>>>> {
        let readme = SnapshotKind::Matching(vec!["README.md".into()]);
        let Ok(snapshot) = hub.snapshot(reference, readme) else { return Ok(None) };
        let text = read_file(&snapshot.directory.join("README.md"), README_BYTES)?;
        let text = String::from_utf8_lossy(&text);
        let Some(matter) = front_matter(&text) else { return Ok(None) };
        let matter = yaml::parse(matter).map_err(|(_, reason)| {
            self.bad(task, format!("its README.md has invalid YAML: {reason}"))
        })?;
        let configs: Vec<Value> = match matter.get_attr("configs") {
            Ok(list) if list.kind() == ValueKind::Seq => {
                list.try_iter().into_iter().flatten().collect()
            }
            _ => return Ok(None),
        };
        let attribute = |config: &Value, key: &str| config.get_attr(key).unwrap_or_default();
        let name = |config: &Value| attribute(config, "config_name").as_str().map(str::to_owned);
        let chosen = match &self.config {
            Some(wanted) => configs.iter().find(|c| name(c).as_ref() == Some(wanted)),
            None if configs.len() == 1 => configs.first(),
            None => configs.iter().find(|c| {
                attribute(c, "default").is_true() || name(c).as_deref() == Some("default")
            }),
        };
        let Some(chosen) = chosen else {
            let names: Vec<String> = configs.iter().filter_map(name).collect();
            let reason = match &self.config {
                Some(_) => format!("it has no such configuration; it has {}", names.join(", ")),
                None => format!("`dataset_name` must name a configuration: {}", names.join(", ")),
            };
            return Err(self.bad(task, reason));
        };
        let splits = splits(&attribute(chosen, "data_files"));
        let stays = |pattern: &String| !pattern.contains("://") && !pattern.contains("..");
        if !splits.values().flatten().all(stays) {
            return Err(self.bad(task, "its README.md names files outside of it".into()));
        }
        Ok(Some(splits).filter(|splits| !splits.is_empty()))
    }

    /// The patterns of `split` by convention, the likeliest first.
    fn by_convention(&self, split: &str) -> Vec<Vec<String>> {
        const ENDS: [&str; 5] = ["parquet", "jsonl", "json", "csv", "tsv"];
        let mut starts: Vec<String> = Vec::new();
        if let Some(config) = &self.config {
            starts.extend([format!("{config}/{split}-*."), format!("{config}/{split}/*.")]);
            starts.extend([format!("{config}/{split}."), format!("{config}_{split}.")]);
        }
        starts.extend([format!("data/{split}-*."), format!("data/{split}.")]);
        starts.extend([format!("{split}-*."), format!("{split}.")]);
        ENDS.map(|end| starts.iter().map(|start| format!("{start}{end}")).collect()).to_vec()
    }
}

/// The patterns of each split in `data_files`: one or several, or a list of splits with theirs.
fn splits(data_files: &Value) -> BTreeMap<String, Vec<String>> {
    let names = |value: &Value| one_or_more(value).unwrap_or_default();
    let own = names(data_files);
    if !own.is_empty() {
        return BTreeMap::from([("train".to_owned(), own)]);
    }
    let mut found = BTreeMap::new();
    for item in data_files.try_iter().into_iter().flatten() {
        let of = |key: &str| item.get_attr(key).unwrap_or_default();
        let patterns = names(&of("path"));
        if let Some(split) = of("split").as_str().filter(|_| !patterns.is_empty()) {
            found.insert(split.to_owned(), patterns);
        }
    }
    if found.is_empty() && data_files.kind() == ValueKind::Map {
        let of = |(split, value): (String, Value)| (split, names(&value));
        found.extend(pairs(data_files).into_iter().map(of).filter(|(_, own)| !own.is_empty()));
    }
    found
}

/// The text between the lines `---` at the beginning of a README.
fn front_matter(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).strip_prefix("---")?;
    let text = text.trim_start_matches('\r').strip_prefix('\n')?;
    text.find("\n---").map(|end| &text[..=end])
}

fn format_of(name: &str) -> Option<DocumentFormat> {
    match Path::new(name).extension()?.to_str()? {
        "parquet" => Some(DocumentFormat::Parquet),
        "json" | "jsonl" => Some(DocumentFormat::Json),
        "csv" => Some(DocumentFormat::Csv { delimiter: b',' }),
        "tsv" => Some(DocumentFormat::Csv { delimiter: b'\t' }),
        _ => None,
    }
}

/// Checks that of files numbered `-00000-of-00003`, as a cache may have them in part, all are
/// there.
fn complete(names: &[String]) -> Result<(), String> {
    let mut have: BTreeMap<(&str, usize), usize> = BTreeMap::new();
    for name in names {
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let Some((start, count)) = stem.rsplit_once("-of-") else { continue };
        let (Some((start, _)), Ok(count)) = (start.rsplit_once('-'), count.parse()) else {
            continue;
        };
        *have.entry((start, count)).or_default() += 1;
    }
    match have.into_iter().find(|((_, count), have)| have != count) {
        Some(((start, count), have)) => {
            Err(format!("of the {count} files `{start}-*`, {have} are in the cache"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readme_names_the_files_of_splits() {
        let readme = "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: test\n    path: a/test-*\n---\n# A\n---\n";
        let matter = yaml::parse(front_matter(readme).unwrap()).unwrap();
        let config = matter.get_attr("configs").unwrap().get_item_by_index(0).unwrap();
        let found = splits(&config.get_attr("data_files").unwrap());
        assert_eq!(found, BTreeMap::from([("test".to_owned(), vec!["a/test-*".to_owned()])]));
        assert_eq!(front_matter("# A"), None);
    }

    #[test]
    fn files_in_parts_are_all_there() {
        let names =
            |names: &[&str]| complete(&names.iter().map(|n| (*n).into()).collect::<Vec<_>>());
        assert!(names(&["a/test-00000-of-00002.parquet", "a/test-00001-of-00002.parquet"]).is_ok());
        assert!(names(&["a/test-00001-of-00002.parquet"]).is_err());
        assert!(names(&["test.jsonl"]).is_ok());
    }
}
