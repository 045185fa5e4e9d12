//! Writes checkpoints block by block.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::DType;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::json;

use super::encode::Encoding;
use crate::checkpoint::config::TensorSpec;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub name: String,
    /// The name in the file.
    pub stored: String,
    pub shape: Vec<usize>,
    pub dtype: Dtype,
}

impl Entry {
    /// A tensor `spec`, encoded as `dtype` (f32, f16 or bf16) and named `stored`.
    pub fn new(spec: &TensorSpec, stored: String, dtype: DType) -> Self {
        let dtype = match dtype {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        Self { name: spec.name.clone(), stored, shape: spec.shape.clone(), dtype }
    }

    /// The dtype of its encoding.
    pub fn encoding(&self) -> DType {
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

/// Fills a slice with values starting at an element; called on any thread, in any order.
pub(crate) type Values<'a> = Box<dyn Fn(usize, &mut [f32]) + Send + Sync + 'a>;

/// The contents of a tensor.
pub(crate) enum Content<'a> {
    /// Values to encode.
    Values(Values<'a>),
    /// Bytes to copy.
    Bytes(&'a [u8]),
}

/// Tensors to write as safetensors files of at most `shard_bytes` each.
pub(crate) struct Checkpoint {
    pub tensors: Vec<Entry>,
    pub shard_bytes: u64,
}

/// Bytes written at a time. Each thread reuses its buffer, because allocating memory costs more
/// than the work done with it.
const BLOCK: usize = 1 << 18;

/// Values computed at a time; they stay in the cache until they are encoded.
const VALUES: usize = 1 << 13;

impl Checkpoint {
    /// Writes `model.safetensors`, or shards with an index, into `directory`. `content` returns the
    /// contents of each tensor. All threads work block by block, and no tensor is held in memory.
    ///
    /// # Errors
    /// A value that its dtype cannot represent, or a file that cannot be written.
    pub fn write<'a>(
        mut self,
        directory: &Path,
        content: impl Fn(&Entry) -> Result<Content<'a>> + Sync,
    ) -> Result<()> {
        self.tensors
            .sort_by(|a, b| (b.dtype.bitsize(), &a.stored).cmp(&(a.dtype.bitsize(), &b.stored)));
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
        let total: u64 = self.tensors.iter().map(Entry::bytes).sum();
        let work = Work::begin("write", "writing the merge", Some(total));
        for (number, shard) in shards.iter().enumerate() {
            let name = match count {
                1 => "model.safetensors".to_owned(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            weight_map.extend(shard.iter().map(|tensor| (tensor.stored.clone(), name.clone())));
            write_shard(&directory.join(&name), shard, &work, &content)?;
        }
        if count > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            write_file(
                &directory.join("model.safetensors.index.json"),
                index.to_string().as_bytes(),
            )?;
        }
        Ok(())
    }
}

impl Checkpoint {
    /// Writes all tensors to the single file `path`.
    ///
    /// # Errors
    /// As for [`Checkpoint::write`].
    pub fn write_one<'a>(
        mut self,
        path: &Path,
        content: impl Fn(&Entry) -> Result<Content<'a>> + Sync,
    ) -> Result<()> {
        self.tensors
            .sort_by(|a, b| (b.dtype.bitsize(), &a.name).cmp(&(a.dtype.bitsize(), &b.name)));
        let work = Work::begin(
            "write",
            "writing the tensors",
            Some(self.tensors.iter().map(Entry::bytes).sum()),
        );
        write_shard(path, &self.tensors.iter().collect::<Vec<_>>(), &work, &content)
    }
}

/// Writes and syncs one safetensors file: its header, then each tensor at its offset.
fn write_shard<'a>(
    path: &Path,
    shard: &[&Entry],
    work: &Work,
    content: &(impl Fn(&Entry) -> Result<Content<'a>> + Sync),
) -> Result<()> {
    let (mut header, mut slots, mut offset) = (serde_json::Map::new(), Vec::new(), 0);
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    for tensor in shard {
        let end = offset + tensor.bytes();
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.stored.clone(), entry);
        let encoding = Encoding::Plain(tensor.encoding());
        slots.push(Slot {
            name: tensor.name.clone(),
            encoding,
            start: offset,
            bytes: tensor.bytes(),
        });
        offset = end;
    }
    let mut text = serde_json::Value::Object(header).to_string();
    text.push_str(&" ".repeat((8 - text.len() % 8) % 8));
    let start = 8 + text.len() as u64;
    slots.iter_mut().for_each(|slot| slot.start += start);
    let io = |e| Error::io("write", path, e);
    let mut file = File::create(path).map_err(io)?;
    file.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
    file.write_all(text.as_bytes()).map_err(io)?;
    fill_slots(&file, path, &slots, work, |i| content(shard[i]))?;
    file.sync_all().map_err(io)
}

/// The position of a tensor in a file.
pub(crate) struct Slot {
    pub name: String,
    pub encoding: Encoding,
    /// The offset of its first byte in the file.
    pub start: u64,
    pub bytes: u64,
}

/// Writes the content of each slot and reports progress to `work`. Many tensors are written at
/// once, so that no thread waits at the end of one.
///
/// # Errors
/// A value that its encoding cannot represent, a file that cannot be written, or a stop.
pub(crate) fn fill_slots<'a>(
    file: &File,
    path: &Path,
    slots: &[Slot],
    work: &Work,
    content: impl Fn(usize) -> Result<Content<'a>> + Sync,
) -> Result<()> {
    let buffers = Buffers::default();
    slots.par_iter().enumerate().try_for_each(|(i, slot)| {
        interrupt::check()?;
        let put = |at: usize, bytes: &[u8]| {
            work.advance(bytes.len() as u64)?;
            file.write_all_at(bytes, slot.start + at as u64)
                .map_err(|e| Error::io("write", path, e))
        };
        match content(i)? {
            Content::Bytes(bytes) => {
                bytes.chunks(BLOCK).enumerate().try_for_each(|(i, bytes)| put(i * BLOCK, bytes))
            }
            Content::Values(values) => {
                let step = BLOCK - BLOCK % slot.encoding.block().1;
                let blocks = (0..slot.bytes as usize).into_par_iter().step_by(step);
                blocks.try_for_each(|at| {
                    buffers.lend(|buffer, tile| {
                        let bytes = &mut buffer[..step.min(slot.bytes as usize - at)];
                        fill(slot, &values, at, bytes, tile)?;
                        put(at, bytes)
                    })
                })
            }
        }
    })
}

/// Fills `bytes` with the content of `slot` from byte `at`.
fn fill(
    slot: &Slot,
    values: &Values<'_>,
    at: usize,
    bytes: &mut [u8],
    tile: &mut [f32],
) -> Result<()> {
    let (per, width) = slot.encoding.block();
    let mut start = at / width * per;
    for bytes in bytes.chunks_mut(VALUES / per * width) {
        let tile = &mut tile[..bytes.len() / width * per];
        values(start, tile);
        if let Some(bad) = slot.encoding.encode(tile, bytes) {
            let (tensor, dtype) = (slot.name.clone(), slot.encoding.name());
            return Err(Error::Unrepresentable {
                tensor,
                position: start + bad,
                value: tile[bad],
                dtype,
            });
        }
        start += tile.len();
    }
    Ok(())
}

/// Reusable buffers for blocks of bytes and values: as many as threads that use them at once.
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

/// Writes and syncs a small file.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io("write", path, e))
}
