//! Writes a merge: a directory with a checkpoint, or a GGUF file.

use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value};

use super::format::{Q8_0, is_gguf};
use super::output::Output;
use super::side_files::SideFiles;
use crate::checkpoint::{
    Checkpoint, Content, Entry, Group, Source, Written, record, replace_directory, write_file,
};
use crate::error::{Error, Result};

impl Output<'_> {
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
