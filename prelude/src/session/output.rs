//! Writes the output of a merge: a checkpoint, the other files of its sources, and a model card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Map, Value};

use super::Bake;
use super::gguf::{Q8_0, is_gguf};
use super::side_files::{SideFiles, select};
use crate::checkpoint::{
    Buffer, Checkpoint, Content, Entry, Group, Restacked, Source, TensorSpec, Written, record,
    replace_directory, write_file,
};
use crate::error::{Error, Result};

/// A checkpoint to write.
pub(super) struct Output<'a> {
    pub options: &'a Bake,
    /// All loaded sources; none of them is overwritten.
    pub loaded: &'a [Source],
    /// The merged sources; the first source that has a file provides it.
    pub merged: &'a [Source],
    /// The source whose config.json is preferred.
    pub configured: Option<&'a Source>,
    /// The source whose tokenizer is preferred.
    pub tokenizer: Option<&'a Source>,
    /// Stacked layers with their new numbers.
    pub restacked: Option<&'a Restacked>,
    pub card: String,
}

impl Output<'_> {
    /// Returns the tensors as stored: in the requested dtype, or else in the sources' dtype (f32 if
    /// they differ).
    pub fn entries<'s>(
        &self,
        specs: impl IntoIterator<Item = (&'s TensorSpec, DType)>,
    ) -> Result<Vec<Entry>> {
        // Blocks are computed from stored values.
        let asked =
            self.options.dtype.as_deref().filter(|name| *name != Q8_0).map(named).transpose()?;
        let entry = |(spec, stored)| {
            Entry::new(spec, self.stored_name(&spec.name), asked.unwrap_or(stored))
        };
        Ok(specs.into_iter().map(entry).collect())
    }

    /// Returns the integer and boolean tensors, which are copied.
    pub fn copied(&self, buffers: &BTreeMap<String, Buffer>) -> Vec<Entry> {
        let entry = |(name, buffer): (&String, &Buffer)| Entry {
            name: name.clone(),
            stored: self.stored_name(name),
            shape: buffer.shape.clone(),
            dtype: buffer.dtype,
        };
        buffers.iter().map(entry).collect()
    }

    /// Returns the name of the tensor `name` in the files of the first source.
    fn stored_name(&self, name: &str) -> String {
        self.merged.first().map_or_else(|| name.to_owned(), |source| source.stored_name(name))
    }

    /// Writes `tensors`, whose values `content` returns, to the new directory `directory`.
    ///
    /// # Errors
    /// The path is a source's, exists, is not writable, or its disk is full. No partial output
    /// remains.
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
            return Err(Error::bad_value(
                "dtype",
                Q8_0,
                "f32, f16 or bf16; q8_0 needs a path that ends in .gguf",
            ));
        }
        let main = tensors
            .iter()
            .max_by_key(|t| t.shape.iter().product::<usize>())
            .map_or(Dtype::F32, |t| t.dtype);
        let checkpoint = Checkpoint { tensors, shard_bytes: self.options.shard_bytes };
        let SideFiles { files, left_out } = self.side_files(|_| true);
        let copied = || files.iter().filter(|file| file.group != Group::Config);
        let from: Vec<(String, String)> =
            copied().map(|f| (f.source.name().to_owned(), f.name.clone())).collect();
        let written = replace_directory(directory, self.options.force, |new| {
            checkpoint.write(new, content)?;
            for file in &files {
                let bytes = match (file.group, self.restacked) {
                    (Group::Config, Some(restacked)) => {
                        config(file.source, &restacked.config, main)?
                    }
                    (Group::Config, None) => config(file.source, &file.bytes()?, main)?,
                    _ => file.bytes()?,
                };
                write_side_file(new, &file.name, &bytes)?;
            }
            write_file(&new.join("README.md"), format!("{}{}", self.card, record(&from)).as_bytes())
        })?;
        Ok(Written {
            copied: copied().map(|file| file.name.clone()).collect(),
            left_out,
            ..written
        })
    }

    /// Returns an error if `directory` is that of a source.
    pub fn check_target(&self, directory: &Path) -> Result<()> {
        let target = directory.canonicalize().ok();
        let adapters =
            |s: &Source| s.base_and_adapters().1.into_iter().map(PathBuf::from).collect::<Vec<_>>();
        let is_target = |path: &Path| target.is_some() && path.canonicalize().ok() == target;
        match self
            .loaded
            .iter()
            .find(|s| is_target(s.path()) || adapters(s).iter().any(|path| is_target(path)))
        {
            Some(source) => {
                let what = format!("`{}` is the source `{}`", directory.display(), source.name());
                Err(Error::Sources { what, hint: "write to another directory" })
            }
            None => Ok(()),
        }
    }

    /// Returns the files of `wanted` groups to copy.
    pub fn side_files(&self, wanted: impl Fn(Group) -> bool) -> SideFiles<'_> {
        // The first source that has a file provides it. If vocabularies differ, the source with all
        // tokens comes first.
        let reference = self.loaded.iter().find(|s| s.numbering().is_some_and(|n| n.is_reference));
        let models: Vec<&Source> =
            self.configured.into_iter().chain(reference).chain(self.merged).collect();
        let tokenizer_sources: Vec<&Source> =
            self.tokenizer.into_iter().chain(models.iter().copied()).collect();
        select(&models, &tokenizer_sources, wanted)
    }
}

/// Writes the file `name` of `directory`; `name` may contain a subdirectory.
pub(super) fn write_side_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = directory.join(name);
    if let Some(parent) = path.parent().filter(|_| name.contains('/')) {
        std::fs::create_dir_all(parent).map_err(|e| Error::Io {
            action: "write",
            path: parent.into(),
            source: e,
        })?;
    }
    write_file(&path, bytes)
}

/// Returns the dtype called `name`.
pub(super) fn named(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Error::bad_value(
            "dtype",
            name,
            "f32, f16 or bf16; q8_0 needs a path that ends in .gguf",
        )),
    }
}

/// Returns the last part of a path, so that model cards do not disclose local directories.
pub(super) fn last(place: &str) -> String {
    Path::new(place).file_name().map_or(place.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// Returns the config.json of `source` with the dtype of the output.
fn config(source: &Source, bytes: &[u8], dtype: Dtype) -> Result<Vec<u8>> {
    let json = |e: serde_json::Error| Error::Json {
        file: source.path().join("config.json"),
        reason: e.to_string(),
    };
    let mut config: Map<String, Value> = serde_json::from_slice(bytes).map_err(json)?;
    let name = match dtype {
        Dtype::F16 => "float16",
        Dtype::BF16 => "bfloat16",
        _ => "float32",
    };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), name.into());
    // The parts of a multimodal model have a dtype entry each.
    for part in config.values_mut().filter_map(Value::as_object_mut) {
        for key in ["dtype", "torch_dtype"] {
            part.get_mut(key)
                .into_iter()
                .filter(|dtype| dtype.is_string())
                .for_each(|dtype| *dtype = name.into());
        }
    }
    config.remove("_name_or_path");
    serde_json::to_vec_pretty(&config).map_err(json)
}
