//! The weights of a checkpoint: one file, shards with an index, or a GGUF file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::files::Files;
use crate::checkpoint::storage::{WEIGHTS, is_index};
use crate::checkpoint::tensors::Archive;
use crate::checkpoint::weight_file::read_weight_file;
use crate::error::{Error, Result};

/// Opens the weights: safetensors before `.bin`, a single file before an index; or a GGUF file.
pub(in crate::checkpoint) fn open(files: &Files) -> Result<Archive> {
    if let Files::Gguf(gguf) = files {
        return Ok(Archive {
            tensors: gguf.tensors()?,
            file: gguf.path().into(),
            ..Archive::default()
        });
    }
    for name in WEIGHTS {
        let Some(bytes) = files.get(name)? else { continue };
        let file = files.path().join(name);
        let mut archive = if is_index(name) {
            indexed(files, file.clone(), &bytes)?
        } else {
            read_weight_file(&file, bytes)?
        };
        archive.file = file;
        archive.notes.dedup();
        return Ok(archive);
    }
    Err(missing(files.path()))
}

/// Opens the shards that the index `file` names.
fn indexed(files: &Files, file: PathBuf, index: &[u8]) -> Result<Archive> {
    let json = |reason: String| Error::Json { file: file.clone(), reason };
    let index: Index = serde_json::from_slice(index).map_err(|e| json(e.to_string()))?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    let mut all = Archive { file, ..Archive::default() };
    for shard in shards {
        let plain = Path::new(shard).components().count() == 1
            && !shard.contains(['/', '\\'])
            && shard != "..";
        if !plain {
            return Err(Error::OutsideDirectory { index: all.file, entry: shard.clone() });
        }
        let path = files.path().join(shard);
        // A tensor counts only in the shard that the index assigns it to, as in transformers.
        let counts = |name: &String| index.weight_map.get(name) == Some(shard);
        let found = read_weight_file(&path, files.require(shard)?)?;
        all.notes.extend(found.notes);
        all.tensors.extend(found.tensors.into_iter().filter(|(name, _)| counts(name)));
        all.buffers.extend(found.buffers.into_iter().filter(|(name, _)| counts(name)));
    }
    let known = |name: &String| all.tensors.contains_key(name) || all.buffers.contains_key(name);
    if let Some(tensor) = index.weight_map.keys().find(|name| !known(name)) {
        return Err(Error::MissingTensor {
            file: files.path().join(&index.weight_map[tensor]),
            tensor: tensor.clone(),
        });
    }
    Ok(all)
}

/// The error for a directory without weights; it names weights in other formats.
fn missing(directory: &Path) -> Error {
    const ENDS: [&str; 9] =
        [".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".onnx", ".npz", ".gguf"];
    let names = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok());
    let is_other = |name: &String| {
        ENDS.iter().any(|end| name.ends_with(end))
            && !name.starts_with('.')
            && !name.starts_with("training_args")
    };
    match names.filter(is_other).min() {
        None => Error::MissingFile { directory: directory.into(), file: WEIGHTS[0].into() },
        Some(name) => Error::Sources {
            what: format!(
                "`{}` has neither `{}` nor `{}` nor an index, only `{name}`",
                directory.display(),
                WEIGHTS[0],
                WEIGHTS[2]
            ),
            hint: "shards need their index in the same directory; for a GGUF file, name the file itself; save other formats again with transformers' save_pretrained",
        },
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}
