//! Writes checkpoints as safetensors files, block by block.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use candle_core::DType;
use safetensors::Dtype;
use serde_json::json;

use crate::checkpoint::config::TensorSpec;
use crate::checkpoint::write::{Content, Encoding, Slot, fill_slots, write_file};
use crate::error::{Error, Result};
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

/// Tensors to write as safetensors files of at most `shard_bytes` each.
pub(crate) struct Checkpoint {
    pub tensors: Vec<Entry>,
    pub shard_bytes: u64,
}

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
