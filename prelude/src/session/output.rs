//! What every merge leaves behind: a checkpoint with the side files of its sources and a model card.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::Bake;
use super::gguf::{Q8_0, is_gguf};
use crate::checkpoint::{
    Buffer, Checkpoint, Content, Entry, Restacked, SIDE_FILES, Source, TensorSpec, Written, replace_directory, write_file,
};
use crate::error::{Error, Result};

/// The side files that say nothing of tokens.
const MODEL_FILES: [&str; 2] = ["config.json", "generation_config.json"];

/// A checkpoint to be written.
pub(super) struct Output<'a> {
    pub options: &'a Bake,
    /// All that is loaded, none of which is written over.
    pub loaded: &'a [Source],
    /// What is merged; the first that has a side file gives it.
    pub merged: &'a [Source],
    /// Whose config.json goes before the others'.
    pub configured: Option<&'a Source>,
    /// Whose tokenizer goes before the others'.
    pub tokenizer: Option<&'a Source>,
    /// Layers that are stacked anew.
    pub restacked: Option<&'a Restacked>,
    pub card: String,
}

impl Output<'_> {
    /// Tensors as they are stored: in the dtype asked for, or else in that of the sources, which is f32 where
    /// they differ.
    pub fn entries<'s>(&self, specs: impl IntoIterator<Item = (&'s TensorSpec, DType)>) -> Result<Vec<Entry>> {
        // Blocks are made of what is stored.
        let asked = self.options.dtype.as_deref().filter(|name| *name != Q8_0).map(named).transpose()?;
        let entry = |(spec, stored)| Entry::new(spec, self.stored_name(&spec.name), asked.unwrap_or(stored));
        Ok(specs.into_iter().map(entry).collect())
    }

    /// Whole numbers and truth values that are copied.
    pub fn copied(&self, buffers: &BTreeMap<String, Buffer>) -> Vec<Entry> {
        let entry = |(name, buffer): (&String, &Buffer)| Entry {
            name: name.clone(),
            stored: self.stored_name(name),
            shape: buffer.shape.clone(),
            dtype: buffer.dtype,
        };
        buffers.iter().map(entry).collect()
    }

    /// What the first source calls the tensor `name` in its files.
    fn stored_name(&self, name: &str) -> String {
        self.merged.first().map_or_else(|| name.to_owned(), |source| source.stored_name(name))
    }

    /// Writes `tensors`, made of `content`, to the new directory `directory`.
    ///
    /// # Errors
    /// A place that is a source's, is taken, has no room or may not be written; nothing is left behind.
    pub fn write<'a>(
        &self,
        directory: &Path,
        tensors: Vec<Entry>,
        content: impl Fn(&Entry) -> Result<Content<'a>> + Sync,
    ) -> Result<Written> {
        let target = directory.canonicalize().ok();
        let is_target = |s: &&Source| target.is_some() && s.path().canonicalize().ok() == target;
        if let Some(source) = self.loaded.iter().find(is_target) {
            let what = format!("`{}` is the source `{}`", directory.display(), source.name());
            return Err(Error::Sources { what, hint: "write to another place" });
        }
        if is_gguf(directory) {
            return self.write_gguf(directory, &tensors, content);
        }
        if self.options.dtype.as_deref() == Some(Q8_0) {
            return Err(Error::bad_value("dtype", Q8_0, "f32, f16 or bf16; a FILE.gguf may be q8_0"));
        }
        let main = tensors.iter().max_by_key(|t| t.shape.iter().product::<usize>()).map_or(Dtype::F32, |t| t.dtype);
        let checkpoint = Checkpoint { tensors, shard_bytes: self.options.shard_bytes };
        replace_directory(directory, self.options.force, |new| {
            checkpoint.write(new, content)?;
            // The first that has a file gives it; where vocabularies differ, first the one that has all tokens.
            let reference = self.loaded.iter().find(|s| s.numbering().is_some_and(|n| n.is_reference));
            for name in SIDE_FILES {
                let preferred = match name {
                    "config.json" => self.configured,
                    _ => self.tokenizer.filter(|_| !MODEL_FILES.contains(&name)),
                };
                for source in preferred.into_iter().chain(reference).chain(self.merged) {
                    let Some(bytes) = source.side_file(name)? else { continue };
                    let bytes = match (name, self.restacked) {
                        ("config.json", Some(restacked)) => config(source, &restacked.config, main)?,
                        ("config.json", None) => config(source, &bytes, main)?,
                        _ => bytes.to_vec(),
                    };
                    write_file(&new.join(name), &bytes)?;
                    break;
                }
            }
            write_file(&new.join("README.md"), self.card.as_bytes())
        })
    }
}

/// The dtype named `name`.
fn named(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Error::bad_value("dtype", name, "f32, f16 or bf16, or q8_0 for a FILE.gguf")),
    }
}

/// The last part of a place: where things lie on this machine is nobody else's business.
pub(super) fn last(place: &str) -> String {
    Path::new(place).file_name().map_or(place.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// config.json of `source`, naming the dtype that was written.
fn config(source: &Source, bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>> {
    let json = |e: serde_json::Error| Error::Json { file: source.path().join("config.json"), reason: e.to_string() };
    let mut config: Map<String, Value> = serde_json::from_slice(bytes).map_err(json)?;
    let name = match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), name.into());
    // A multimodal model's parts say theirs too.
    for part in config.values_mut().filter_map(Value::as_object_mut) {
        for key in ["dtype", "torch_dtype"] {
            part.get_mut(key).into_iter().filter(|dtype| dtype.is_string()).for_each(|dtype| *dtype = name.into());
        }
    }
    config.remove("_name_or_path");
    serde_json::to_vec_pretty(&config).map_err(json)
}
