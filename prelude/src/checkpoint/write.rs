//! Writing: a checkpoint streamed block by block, aside, then renamed into place.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::DType;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use super::config::TensorSpec;
use super::encode::encode;
use super::source::SIDE_FILES;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

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

/// One tensor to be written.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl Entry {
    /// A tensor of `spec` to be encoded as `dtype`, f32, f16 or bf16.
    pub fn new(spec: &TensorSpec, dtype: DType) -> Self {
        let dtype = match dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        Self { name: spec.name.clone(), shape: spec.shape.clone(), dtype }
    }

    /// What its values are encoded as.
    fn encoding(&self) -> DType {
        match self.dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => DType::F32,
        }
    }

    fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64 / 8
    }
}

/// Fills a slice with the values from an element on; on any thread, in any order.
pub(crate) type Values<'a> = Box<dyn Fn(usize, &mut [f32]) + Send + Sync + 'a>;

/// What a tensor is made of.
pub(crate) enum Content<'a> {
    /// Values to be encoded.
    Values(Values<'a>),
    /// The bytes themselves, copied.
    Bytes(&'a [u8]),
}

/// Tensors to be written as safetensors files of at most `shard_bytes` each.
pub(crate) struct Checkpoint {
    pub tensors: Vec<Entry>,
    pub shard_bytes: u64,
}

/// Bytes written at a time, by each thread from memory of its own that is used again: fresh memory
/// costs more than what is done with it.
const BLOCK: usize = 1 << 18;

/// Values that are made at a time, which stay in a cache until they are encoded.
const VALUES: usize = 1 << 13;

impl Checkpoint {
    /// Writes `model.safetensors`, or shards with their index, into `directory`. `content` gives what
    /// each tensor is made of; all threads work, block by block, and no whole tensor is held.
    ///
    /// # Errors
    /// A value that its dtype cannot hold, or a file that cannot be written.
    pub fn write<'a>(mut self, directory: &Path, content: impl Fn(&Entry) -> Result<Content<'a>> + Sync) -> Result<()> {
        self.tensors.sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
        let mut shards: Vec<Vec<&Entry>> = vec![Vec::new()];
        let mut filled = 0;
        for tensor in &self.tensors {
            if filled > 0 && filled + tensor.bytes() > self.shard_bytes {
                shards.push(Vec::new());
                filled = 0;
            }
            filled += tensor.bytes();
            shards.last_mut().into_iter().for_each(|shard| shard.push(tensor));
        }
        let count = shards.len();
        let mut weight_map = BTreeMap::new();
        let buffers = Buffers::default();
        let total: u64 = self.tensors.iter().map(Entry::bytes).sum();
        let work = Work::begin("write", "writing the merge", Some(total));
        for (number, shard) in shards.iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
            write_shard(&directory.join(&name), shard, &buffers, &work, &content)?;
        }
        if count > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            write_file(&directory.join("model.safetensors.index.json"), index.to_string().as_bytes())?;
        }
        Ok(())
    }
}

/// Writes one safetensors file: its header, then every tensor at its place, and syncs it.
fn write_shard<'a>(
    path: &Path,
    shard: &[&Entry],
    buffers: &Buffers,
    work: &Work,
    content: &(impl Fn(&Entry) -> Result<Content<'a>> + Sync),
) -> Result<()> {
    let (mut header, mut placed, mut offset) = (serde_json::Map::new(), Vec::new(), 0);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for tensor in shard {
        let end = offset + tensor.bytes();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        placed.push((*tensor, offset));
        offset = end;
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text.push_str(&" ".repeat((8 - text.len() % 8) % 8));
    let start = 8 + text.len() as u64;
    let io = |e| Error::io("write", path, e);
    let mut file = File::create(path).map_err(io)?;
    file.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    // Many tensors at once, so that no thread waits where one ends.
    placed.par_iter().try_for_each(|(tensor, offset)| {
        interrupt::check()?;
        let content = content(tensor)?;
        let put = |at: usize, bytes: &[u8]| {
            work.advance(bytes.len() as u64)?;
            file.write_all_at(bytes, start + offset + at as u64).map_err(io)
        };
        match content {
            Content::Bytes(bytes) => bytes.chunks(BLOCK).enumerate().try_for_each(|(i, bytes)| put(i * BLOCK, bytes)),
            Content::Values(values) => {
                let blocks = (0..tensor.bytes() as usize).into_par_iter().step_by(BLOCK);
                blocks.try_for_each(|at| {
                    buffers.lend(|buffer, tile| {
                        let bytes = &mut buffer[..BLOCK.min(tensor.bytes() as usize - at)];
                        fill(tensor, &values, at, bytes, tile)?;
                        put(at, bytes)
                    })
                })
            }
        }
    })?;
    file.sync_all().map_err(io)
}

/// Fills `bytes` with what `tensor` has from byte `at` on.
fn fill(tensor: &Entry, values: &Values<'_>, at: usize, bytes: &mut [u8], tile: &mut [f32]) -> Result<()> {
    let dtype = tensor.encoding();
    let width = dtype.size_in_bytes();
    let mut start = at / width;
    for bytes in bytes.chunks_mut(VALUES * width) {
        let tile = &mut tile[..bytes.len() / width];
        values(start, tile);
        if let Some(bad) = encode(tile, dtype, bytes) {
            let (tensor, dtype) = (tensor.name.clone(), dtype.as_str());
            return Err(Error::NotBaked { tensor, position: start + bad, value: tile[bad], dtype });
        }
        start += tile.len();
    }
    Ok(())
}

/// Memory for blocks of bytes and the values in them: as many as threads have asked for at once.
#[derive(Default)]
struct Buffers(Mutex<Vec<(Vec<u8>, Vec<f32>)>>);

impl Buffers {
    fn lend<T>(&self, f: impl FnOnce(&mut [u8], &mut [f32]) -> T) -> T {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = free().pop();
        let (mut bytes, mut values) = taken.unwrap_or_else(|| (vec![0; BLOCK], vec![0.0; VALUES]));
        let result = f(&mut bytes, &mut values);
        free().push((bytes, values));
        result
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

/// [`replace_file`] where nothing is there yet.
///
/// # Errors
/// [`Error::Exists`] where something is.
pub(crate) fn new_file(path: &Path, bytes: &[u8]) -> Result<Written> {
    match path.symlink_metadata().is_ok() {
        true => Err(Error::Exists { path: path.into() }),
        false => replace_file(path, bytes),
    }
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
