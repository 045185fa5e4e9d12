//! Writes a merge as one GGUF file for llama.cpp and programs based on it.

use std::fs;
use std::io::Read;
use std::path::Path;

use candle_core::DType;
use candle_core::quantized::gguf_file::Value;

use super::format::Q8_0;
use super::output::Output;
use crate::checkpoint::{
    Content, Encoding, Entry, GgufFile, GgufKeys, GgufTensor, Source, TensorData, TokenizerInput,
    Written, encoding, fill_file, token_id_keys, tokenizer_keys,
};
use crate::error::{Error, Result};

impl Output<'_> {
    /// Writes `tensors`, whose values `content` returns, to the file `path`.
    ///
    /// # Errors
    /// A model or tokenizer that llama.cpp does not support; a file that exists and may not be
    /// replaced, or cannot be written. No partial output remains.
    pub fn write_gguf<'c>(
        &self,
        path: &Path,
        tensors: &[Entry],
        content: impl Fn(&Entry) -> Result<Content<'c>> + Sync,
    ) -> Result<Written> {
        self.check_place(path)?;
        let reference = self.loaded.iter().find(|s| s.numbering().is_some_and(|n| n.is_reference));
        let models: Vec<&Source> = reference.into_iter().chain(self.merged).collect();
        let Some(first) = models.first() else {
            return Err(Error::GgufExport { reason: "nothing is merged".into() });
        };
        if let Some(rest) = first.describe_rest() {
            return Err(Error::GgufExport {
                reason: format!(
                    "it is a multimodal model: {rest} do not fit into the GGUF file of the text model"
                ),
            });
        }
        let keys = match self.restacked {
            Some(restacked) => GgufKeys::new(&first.path().join("config.json"), &restacked.config)?,
            None => GgufKeys::new(
                &first.path().join("config.json"),
                first.side_file("config.json")?.as_deref().unwrap_or(b"{}"),
            )?,
        };
        let wanted = |entry: &Entry| match self.options.dtype.as_deref() {
            Some(Q8_0) => Encoding::Q8_0,
            _ => Encoding::Plain(entry.encoding()),
        };
        let mut all = Vec::with_capacity(tensors.len());
        for entry in tensors {
            let mapping = keys.map_tensor(&entry.name)?;
            let shape = entry.shape.clone();
            let data = TensorData::Merged(&entry.name);
            all.push(GgufTensor {
                mapping,
                encoding: encoding(&shape, wanted(entry)),
                shape,
                data,
            });
        }
        let made = keys.factors.iter().map(|(name, values)| GgufTensor {
            mapping: keys.map_generated(name),
            shape: vec![values.len()],
            encoding: Encoding::Plain(DType::F32),
            data: TensorData::Generated(values),
        });
        all.extend(made);
        let mut notes = keys.notes.clone();
        let coarse =
            all.iter().filter(|t| t.shape.len() > 1 && t.encoding != Encoding::Q8_0).count();
        if self.options.dtype.as_deref() == Some(Q8_0) && coarse > 0 {
            notes.push(format!(
                "{coarse} tensors are stored as f16: their row length is not a multiple of 32"
            ));
        }
        let mut values = general(path, &keys, &all, self.license(&models));
        values.extend(keys.values.iter().cloned());
        let tokenizer_sources = self.tokenizer.into_iter().chain(models.iter().copied());
        match tokenizer_sources.into_iter().find(|s| s.tokenizer().is_some()) {
            Some(tokenizer_source) => {
                let (tokenizer, more) = self.tokenizer_of(tokenizer_source, all_rows(tensors))?;
                values.extend(tokenizer);
                notes.extend(more);
            }
            None => {
                let config = first.side_file("config.json")?;
                values.extend(token_id_keys(
                    &serde_json::from_slice(config.as_deref().unwrap_or(b"null"))
                        .unwrap_or_default(),
                ));
                notes.push(
                    "no source has a tokenizer, so the file has none and works with token ids only"
                        .into(),
                );
            }
        }
        let file = GgufFile { keys: values, tensors: all };
        let by_name = |name: &str| match tensors.iter().find(|entry| entry.name == name) {
            Some(entry) => content(entry),
            None => Err(Error::GgufExport { reason: format!("there is no tensor `{name}`") }),
        };
        let written = fill_file(path, self.options.force, |out| file.write(out, path, by_name))?;
        Ok(Written { notes, ..written })
    }

    /// Returns an error if `path` exists and may not be replaced.
    fn check_place(&self, path: &Path) -> Result<()> {
        let Ok(found) = path.symlink_metadata() else { return Ok(()) };
        if !self.options.force {
            return Err(Error::Exists { path: path.into() });
        }
        let mut magic = [0; 4];
        let is_one = found.is_file()
            && fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok()
            && &magic == b"GGUF";
        if is_one {
            Ok(())
        } else {
            Err(Error::NotReplaced { path: path.into(), what: "a GGUF file" })
        }
    }

    fn tokenizer_of(
        &self,
        tokenizer_source: &Source,
        rows: usize,
    ) -> Result<(crate::checkpoint::KeyValues, Vec<String>)> {
        let file = tokenizer_source.path().join("tokenizer.json");
        let bytes = tokenizer_source
            .side_file("tokenizer.json")?
            .unwrap_or_else(|| crate::checkpoint::Bytes::Static(b"{}"));
        // The end-of-answer tokens, from either configuration.
        let mut ends: Vec<u32> = Vec::new();
        for name in ["config.json", "generation_config.json"] {
            let Some(bytes) = tokenizer_source.side_file(name)? else { continue };
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let found = &json["eos_token_id"];
            let found = found.as_array().map_or(std::slice::from_ref(found), Vec::as_slice).iter();
            ends.extend(found.filter_map(|id| u32::try_from(id.as_u64()?).ok()));
        }
        tokenizer_keys(&TokenizerInput {
            file: &file,
            bytes: &bytes,
            chat: tokenizer_source.chat(),
            ends: &ends,
            rows,
        })
    }

    /// The licence named by the model cards of all `models`.
    fn license(&self, models: &[&Source]) -> Option<String> {
        let of = |source: &&Source| -> Option<String> {
            let card = source.side_file("README.md").ok().flatten()?;
            let text = std::str::from_utf8(&card).ok()?;
            let front = text.strip_prefix("---")?.split("\n---").next()?;
            let line = front.lines().find_map(|line| line.strip_prefix("license:"))?;
            Some(line.trim().trim_matches(['"', '\'']).to_owned())
                .filter(|name| !name.is_empty() && name.len() < 100)
        };
        let first = of(models.first()?)?;
        models.iter().all(|source| of(source).as_ref() == Some(&first)).then_some(first)
    }
}

/// The number of rows of the embedding.
fn all_rows(tensors: &[Entry]) -> usize {
    let embedding =
        tensors.iter().find(|entry| entry.name == crate::checkpoint::TensorSpec::EMBEDDING);
    embedding.and_then(|entry| entry.shape.first().copied()).unwrap_or(0)
}

/// The general metadata of every GGUF file.
fn general(
    path: &Path,
    keys: &GgufKeys,
    tensors: &[GgufTensor<'_>],
    license: Option<String>,
) -> Vec<(String, Value)> {
    let name = path
        .file_stem()
        .map_or_else(|| "merge".to_owned(), |name| name.to_string_lossy().into_owned());
    let text = |key: &str, value: &str| (format!("general.{key}"), Value::String(value.into()));
    let mut values =
        vec![text("architecture", keys.architecture()), text("type", "model"), text("name", &name)];
    values.extend(license.map(|license| text("license", &license)));
    // The file type is that of most tensors.
    let most = tensors.iter().max_by_key(|t| t.shape.iter().product::<usize>()).map(|t| t.encoding);
    let kind: u32 = match most {
        Some(Encoding::Plain(DType::F16)) => 1,
        Some(Encoding::Q8_0) => 7,
        Some(Encoding::Plain(DType::BF16)) => 32,
        _ => 0,
    };
    values.push(("general.file_type".into(), Value::U32(kind)));
    values.push(("general.quantization_version".into(), Value::U32(2)));
    values
}
