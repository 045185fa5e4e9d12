//! The data files of a task: `dataset_path` and `dataset_kwargs`.

use std::collections::BTreeMap;

use minijinja::value::{Value, ValueKind};

use super::hub_data::HubData;
use super::keys::{Keys, bad, one_or_more, pairs};
use crate::checkpoint::{BUILTIN_PREFIX, HubRef};
use crate::data::DocumentFormat;
use crate::error::Result;

/// Where the documents are.
#[derive(Clone, Debug)]
pub(super) struct DataFiles {
    pub format: DocumentFormat,
    /// The files of each split; those of the hub are found when the task is opened.
    pub splits: BTreeMap<String, Vec<String>>,
    /// The data set of the hub, if it is one.
    pub hub: Option<HubData>,
}

/// The splits of `data`, for messages.
pub(super) fn known(data: &DataFiles) -> String {
    data.splits.keys().cloned().collect::<Vec<_>>().join(", ")
}

/// Refuses the split that `key` names if the data has no such split.
///
/// # Errors
/// The data has no such split.
pub(super) fn check_split(
    keys: &Keys<'_>,
    data: &DataFiles,
    key: &str,
    split: Option<&str>,
) -> Result<()> {
    let is_known = |split: &&str| data.hub.is_some() || data.splits.contains_key(*split);
    match split.filter(|split| !is_known(split)) {
        None => Ok(()),
        Some(split) => {
            let reason = format!("the data has no split `{split}`");
            let hint = format!("its splits are: {}; they are the keys of data_files", known(data));
            Err(keys.bad(key, reason, hint))
        }
    }
}

/// Reads `dataset_path` and `dataset_kwargs`.
///
/// # Errors
/// A format that is not read, or files that are not named.
pub(super) fn data_files(keys: &mut Keys<'_>) -> Result<DataFiles> {
    const FORMATS: &str = "write dataset_path: json, parquet or csv, with dataset_kwargs: {data_files: ...}, the name of a data set on the hub: org/name, or builtin:NAME";
    let path = keys.required("dataset_path")?;
    let arguments = keys.take("dataset_kwargs").unwrap_or_else(|| Value::from_pairs([("", ())]));
    let mut inside = Keys::within(keys.file, "dataset_kwargs", &arguments)?;
    inside.skip(&["trust_remote_code", ""]);
    if path.starts_with(BUILTIN_PREFIX) {
        inside.finish()?;
        let splits = BTreeMap::from([("test".into(), vec![path])]);
        return Ok(DataFiles { format: DocumentFormat::Json, splits, hub: None });
    }
    let format = match path.as_str() {
        "json" => DocumentFormat::Json,
        "parquet" => DocumentFormat::Parquet,
        "csv" => {
            let delimiter = inside.text("delimiter")?.or(inside.text("sep")?);
            let delimiter = delimiter.unwrap_or_else(|| ",".into());
            let [delimiter] = delimiter.as_bytes() else {
                return Err(inside.bad("delimiter", "it is not one ASCII character", "use ,"));
            };
            DocumentFormat::Csv { delimiter: *delimiter }
        }
        _ if HubRef::parse(&path, true).is_some_and(|reference| reference.file.is_none()) => {
            if inside.has("data_files") {
                let hint = "remove it: the files are those of dataset_name and the splits";
                return Err(inside.bad("data_files", "the hub's data sets name their own", hint));
            }
            inside.finish()?;
            let hub = HubData { repo: path, config: keys.text("dataset_name")? };
            let (format, splits) = (DocumentFormat::Parquet, BTreeMap::new());
            return Ok(DataFiles { format, splits, hub: Some(hub) });
        }
        _ => {
            let reason = format!("`{path}` is not a format of data files");
            return Err(keys.bad("dataset_path", reason, FORMATS));
        }
    };
    if keys.has("dataset_name") {
        let hint = "remove it: data files have no named parts";
        return Err(keys.bad("dataset_name", format!("`{path}` has none"), hint));
    }
    keys.skip(&["dataset_name"]);
    let files = inside.take("data_files").ok_or_else(|| {
        let hint = "add dataset_kwargs: {data_files: {test: FILE}}";
        bad(keys.file, "`dataset_kwargs.data_files`", "it is missing", hint)
    })?;
    let mut splits = BTreeMap::new();
    let listed: Vec<(String, Value)> = match files.kind() {
        ValueKind::Map => pairs(&files),
        _ => vec![("train".into(), files)],
    };
    for (split, value) in listed {
        let names = one_or_more(&value).filter(|names| !names.is_empty());
        let names = names.ok_or_else(|| {
            let hint = "write one name, a list, or an object of splits with names";
            inside.bad("data_files", format!("the files of `{split}` are not names"), hint)
        })?;
        for name in &names {
            if name.contains(['*', '?', '[']) || name.contains("://") {
                let reason = format!("`{name}` is a pattern or an address");
                return Err(inside.bad("data_files", reason, "name local files"));
            }
        }
        splits.insert(split, names);
    }
    inside.finish()?;
    Ok(DataFiles { format, splits, hub: None })
}
