//! What every merge leaves behind: a checkpoint with the side files of its sources and a model card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::Bake;
use super::beside::{Chosens, choose};
use super::gguf::{Q8_0, is_gguf};
use crate::checkpoint::{
    Buffer, Checkpoint, Content, Entry, Group, Restacked, Source, TensorSpec, Written, record, replace_directory, write_file,
};
use crate::error::{Error, Result};

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
        self.check_target(directory)?;
        if is_gguf(directory) {
            return self.write_gguf(directory, &tensors, content);
        }
        if self.options.dtype.as_deref() == Some(Q8_0) {
            return Err(Error::bad_value("dtype", Q8_0, "f32, f16 or bf16; a FILE.gguf may be q8_0"));
        }
        let main = tensors.iter().max_by_key(|t| t.shape.iter().product::<usize>()).map_or(Dtype::F32, |t| t.dtype);
        let checkpoint = Checkpoint { tensors, shard_bytes: self.options.shard_bytes };
        let Chosens { files, left_out } = self.beside(|_| true);
        let copied = || files.iter().filter(|file| file.group != Group::Config);
        let from: Vec<(String, String)> = copied().map(|f| (f.source.name().to_owned(), f.name.clone())).collect();
        let written = replace_directory(directory, self.options.force, |new| {
            checkpoint.write(new, content)?;
            for file in &files {
                let bytes = match (file.group, self.restacked) {
                    (Group::Config, Some(restacked)) => config(file.source, &restacked.config, main)?,
                    (Group::Config, None) => config(file.source, &file.bytes()?, main)?,
                    _ => file.bytes()?,
                };
                write_beside(new, &file.name, &bytes)?;
            }
            write_file(&new.join("README.md"), format!("{}{}", self.card, record(&from)).as_bytes())
        })?;
        Ok(Written { copied: copied().map(|file| file.name.clone()).collect(), left_out, ..written })
    }

    /// An error where `directory` is a source's.
    pub fn check_target(&self, directory: &Path) -> Result<()> {
        let target = directory.canonicalize().ok();
        let adapters = |s: &Source| s.base_and_adapters().1.into_iter().map(PathBuf::from).collect::<Vec<_>>();
        let is_target = |path: &Path| target.is_some() && path.canonicalize().ok() == target;
        match self.loaded.iter().find(|s| is_target(s.path()) || adapters(s).iter().any(|path| is_target(path))) {
            Some(source) => {
                let what = format!("`{}` is the source `{}`", directory.display(), source.name());
                Err(Error::Sources { what, hint: "write into another directory" })
            }
            None => Ok(()),
        }
    }

    /// The files of `wanted` groups beside the weights.
    pub fn beside(&self, wanted: impl Fn(Group) -> bool) -> Chosens<'_> {
        // The first that has a file gives it; where vocabularies differ, first the one that has all tokens.
        let reference = self.loaded.iter().find(|s| s.numbering().is_some_and(|n| n.is_reference));
        let models: Vec<&Source> = self.configured.into_iter().chain(reference).chain(self.merged).collect();
        let speakers: Vec<&Source> = self.tokenizer.into_iter().chain(models.iter().copied()).collect();
        choose(&models, &speakers, wanted)
    }
}

/// Writes the file `name` of `directory`, which may be in a directory of its own.
pub(super) fn write_beside(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = directory.join(name);
    if let Some(parent) = path.parent().filter(|_| name.contains('/')) {
        std::fs::create_dir_all(parent).map_err(|e| Error::Io { action: "write", path: parent.into(), source: e })?;
    }
    write_file(&path, bytes)
}

/// The dtype named `name`.
pub(super) fn named(name: &str) -> Result<DType> {
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
