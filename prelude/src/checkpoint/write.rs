//! Writing: a checkpoint streamed tensor by tensor, aside, then renamed into place.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::json;

use super::config::TensorSpec;
use super::source::SIDE_FILES;
use crate::error::{Error, Result};

/// What a write produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// How many files.
    pub files: usize,
    /// Their size together.
    pub bytes: u64,
}

/// Tensors to be written as safetensors files of at most `shard_bytes` each.
pub(crate) struct Checkpoint {
    pub tensors: Vec<(TensorSpec, DType)>,
    pub shard_bytes: u64,
}

impl Checkpoint {
    /// Writes `model.safetensors`, or shards with their index, into `directory`. `bytes` gives each
    /// tensor's little-endian bytes; one tensor is held at a time.
    pub fn write(mut self, directory: &Path, mut bytes: impl FnMut(&TensorSpec, DType) -> Result<Vec<u8>>) -> Result<()> {
        self.tensors.sort_by(|(a, x), (b, y)| (y.size_in_bytes(), &a.name).cmp(&(x.size_in_bytes(), &b.name)));
        let size = |(spec, dtype): &(TensorSpec, DType)| (spec.shape.iter().product::<usize>() * dtype.size_in_bytes()) as u64;
        let mut shards: Vec<Vec<&(TensorSpec, DType)>> = vec![Vec::new()];
        let mut filled = 0;
        for tensor in &self.tensors {
            if filled > 0 && filled + size(tensor) > self.shard_bytes {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += size(tensor);
            shards.last_mut().into_iter().for_each(|shard| shard.push(tensor));
        }
        let count = shards.len();
        let mut weight_map = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let (mut header, mut offset) = (serde_json::Map::new(), 0);
            header.insert("__metadata__".into(), json!({"format": "pt"}));
            for tensor in shard {
                let (spec, dtype) = tensor;
                let end = offset + size(tensor);
                let kind = dtype.as_str().to_uppercase();
                header.insert(spec.name.clone(), json!({"dtype": kind, "shape": spec.shape, "data_offsets": [offset, end]}));
                weight_map.insert(spec.name.clone(), name.clone());
                offset = end;
            }
            let path = directory.join(&name);
            let io = |e| Error::io("write", &path, e);
            let mut file = BufWriter::new(File::create(&path).map_err(io)?);
            let mut text = serde_json::Value::Object(header).to_string();
            text.push_str(&" ".repeat((8 - text.len() % 8) % 8));
            file.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
            file.write_all(text.as_bytes()).map_err(io)?;
            for (spec, dtype) in shard {
                file.write_all(&bytes(spec, *dtype)?).map_err(io)?;
            }
            let file = file.into_inner().map_err(|e| io(e.into_error()))?;
            file.sync_all().map_err(io)?;
        }
        if count > 1 {
            let total: u64 = self.tensors.iter().map(size).sum();
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            write_file(&directory.join("model.safetensors.index.json"), index.to_string().as_bytes())?;
        }
        Ok(())
    }
}

/// Writes and syncs one small file.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("write", path, e))
}

/// Fills a temporary sibling of `path` and renames it into place. A failure leaves nothing.
///
/// # Errors
/// [`Error::Exists`] where `path` exists and `force` is false; with `force`, only a directory of
/// nothing but a checkpoint's files is replaced.
pub(crate) fn replace_directory(path: &Path, force: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Written> {
    let path = std::path::absolute(path).map_err(|e| Error::io("write", path, e))?;
    let exists = path.symlink_metadata().is_ok();
    if exists && !force {
        return Err(Error::Exists { path });
    }
    if exists && !is_only_checkpoint(&path) {
        return Err(Error::NotReplaced { path, what: "a checkpoint" });
    }
    let (parent, prefix) = sibling(&path)?;
    let io = |e| Error::io("write", &path, e);
    let new = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(&parent.path)
        .map_err(io)?;
    fill(new.path())?;
    let mut written = Written { path: path.clone(), files: 0, bytes: 0 };
    for entry in fs::read_dir(new.path()).map_err(io)? {
        written.files += 1;
        written.bytes += entry.and_then(|e| e.metadata()).map_err(io)?.len();
    }
    let old = match exists {
        true => {
            let old = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent.path).map_err(io)?;
            fs::rename(&path, old.path()).map_err(io)?;
            Some(old)
        }
        false => None,
    };
    if let Err(error) = fs::rename(new.path(), &path) {
        if let Some(old) = old {
            let _ = fs::rename(old.keep(), &path);
        }
        return Err(io(error));
    }
    let _ = new.keep();
    let _ = File::open(&parent.path).and_then(|d| d.sync_all());
    parent.keep();
    Ok(written)
}

/// Writes `bytes` to a temporary sibling of `path` and renames it into place.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    let path = std::path::absolute(path).map_err(|e| Error::io("write", path, e))?;
    let (parent, prefix) = sibling(&path)?;
    let io = |e| Error::io("write", &path, e);
    let mode = Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(&prefix).permissions(mode).tempfile_in(&parent.path).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(io)?;
    file.persist(&path).map_err(|e| io(e.error))?;
    parent.keep();
    Ok(Written { path, files: 1, bytes: bytes.len() as u64 })
}

/// Whether `path` is a directory of nothing but files that a checkpoint has.
fn is_only_checkpoint(path: &Path) -> bool {
    let part =
        |name: &str| name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"));
    let known = |name: &str| part(name) || name == "README.md" || SIDE_FILES.contains(&name);
    let plain = path.symlink_metadata().is_ok_and(|m| m.is_dir());
    let fits = |entry: std::io::Result<fs::DirEntry>| {
        entry.is_ok_and(|e| e.file_type().is_ok_and(|t| t.is_file()) && e.file_name().to_str().is_some_and(known))
    };
    plain && fs::read_dir(path).is_ok_and(|mut entries| entries.all(fits))
}

/// The directory that something is written in, made where it was missing; what was made goes again
/// unless it is kept.
struct Parent {
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Parent {
    fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Innermost first; a directory that is no longer empty stays.
        self.made.iter().for_each(|path| drop(fs::remove_dir(path)));
    }
}

/// The directory of `path`, and the prefix of temporary names in it.
fn sibling(path: &Path) -> Result<(Parent, String)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::NotReplaced { path: path.into(), what: "a checkpoint or a session" });
    };
    let missing = parent.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
    let parent = Parent { path: parent.into(), made: missing };
    fs::create_dir_all(&parent.path).map_err(|e| Error::io("write", path, e))?;
    Ok((parent, format!(".{}.", name.to_string_lossy())))
}
