//! bake: the merge as an ordinary Hugging Face checkpoint.

use std::fmt::Write;
use std::path::Path;

use candle_core::{DType, Device};
use half::{bf16, f16};
use serde_json::{Map, Value};

use super::Session;
use crate::checkpoint::{Checkpoint, SIDE_FILES, Source, TensorSpec, Written, replace_directory, write_file};
use crate::error::{Error, Result};
use crate::ops::encode;

/// How to bake.
///
/// ```
/// use dam_prelude::{Bake, Columns, load};
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let directory = tempfile::tempdir()?;
/// let options = Bake { dtype: Some("f32".into()), shard_bytes: 1_000_000, ..Bake::default() };
/// let written = dam.bake_with(directory.path().join("merged"), &options)?;
/// assert!(written.path.join("model.safetensors.index.json").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bake {
    /// `f32`, `f16` or `bf16`; none: as the sources have each tensor (f32 where they differ).
    pub dtype: Option<String>,
    /// Bytes past which another file is begun.
    pub shard_bytes: u64,
    /// Replace a checkpoint that is there.
    pub force: bool,
}

impl Default for Bake {
    fn default() -> Self {
        Self { dtype: None, shard_bytes: 5_000_000_000, force: false }
    }
}

/// The dtype named `name`.
fn named(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Error::bad_value("dtype", name, "f32, f16 or bf16")),
    }
}

impl Session {
    pub(super) fn bake(&self, directory: &Path, options: &Bake) -> Result<Written> {
        let asked = options.dtype.as_deref().map(named).transpose()?;
        let target = directory.canonicalize().ok();
        let is_target = |s: &&Source| target.is_some() && s.path().canonicalize().ok() == target;
        if let Some(source) = self.models.sources.iter().find(is_target) {
            let what = format!("`{}` is the source `{}`", directory.display(), source.name());
            return Err(Error::Sources { what, hint: "bake into another directory" });
        }
        let stored = |spec: &TensorSpec| -> Result<DType> {
            let dtypes = self.sources.iter().map(|s| Ok(s.view(&spec.name)?.dtype)).collect::<Result<Vec<_>>>()?;
            Ok(if dtypes.iter().all(|d| *d == dtypes[0]) { dtypes[0] } else { DType::F32 })
        };
        let tensors = self.merge.tensors.iter().map(|t| Ok((t.spec.clone(), asked.map_or_else(|| stored(&t.spec), Ok)?)));
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let main = tensors.iter().max_by_key(|(s, _)| s.shape.iter().product::<usize>()).map_or(DType::F32, |(_, d)| *d);
        let checkpoint = Checkpoint { tensors, shard_bytes: options.shard_bytes };
        replace_directory(directory, options.force, |new| {
            checkpoint.write(new, |spec, dtype| {
                let weight = self
                    .merge
                    .weight(self.merge.tensor(&spec.name)?)?
                    .to_device(&Device::Cpu)?
                    .flatten_all()?
                    .to_vec1::<f32>()?;
                let too_large = |x: &f32| match dtype {
                    DType::F16 => !f16::from_f32(*x).is_finite(),
                    DType::BF16 => !bf16::from_f32(*x).is_finite(),
                    _ => !x.is_finite(),
                };
                if let Some(position) = weight.iter().position(too_large) {
                    let (tensor, value) = (spec.name.clone(), weight[position]);
                    return Err(Error::NotBaked { tensor, position, value, dtype: dtype.as_str() });
                }
                Ok(encode(&weight, dtype))
            })?;
            for name in SIDE_FILES {
                // Of the first source that has it: all have the same tokens.
                for source in &self.sources {
                    let Some(bytes) = source.side_file(name)? else { continue };
                    let bytes = if name == "config.json" { config(source, &bytes, main)? } else { bytes.to_vec() };
                    write_file(&new.join(name), &bytes)?;
                    break;
                }
            }
            write_file(&new.join("README.md"), self.card().as_bytes())
        })
    }

    /// The model card: what was merged, how, and how well it does.
    fn card(&self) -> String {
        let mut card = String::from("---\nlibrary_name: transformers\ntags:\n- merge\n- dam\n---\n\n# A DAM merge\n\n");
        let mut line = |text: String| writeln!(card, "{text}").unwrap_or(());
        line("Merged by Differentiable Adaptive Merging (arXiv 2410.08371): a coefficient per source and weight column,".into());
        line("learnt by making the merge agree with each source on that source's own data.\n".into());
        line("## Sources\n".into());
        // Where things lie on this machine is nobody else's business.
        let last = |spec: &str| Path::new(spec).file_name().map_or(spec.to_owned(), |n| n.to_string_lossy().into_owned());
        for source in &self.models.sources {
            let data = match self.models.data.get(source.name()) {
                Some(data) => format!("{} examples of `{}`", data.examples.len(), last(&data.spec)),
                None => "no data".into(),
            };
            let merged =
                if self.sources.iter().any(|s| s.name() == source.name()) { "" } else { " (the base, not merged itself)" };
            line(format!("- `{}`: `{}`, {data}{merged}", source.name(), last(source.spec())));
        }
        line("\n## Recipe\n\n```json".into());
        let recipe = serde_json::json!({"columns": self.merge.columns, "settings": self.models.settings, "steps": self.step});
        line(serde_json::to_string_pretty(&recipe).unwrap_or_default());
        line("```".into());
        if self.step == 0 {
            line("\nNot trained: this is the merge as it was wrapped.".into());
        }
        if let (Some(first), Some(last)) = (self.losses.first(), self.losses.last()) {
            line(format!("\nLoss at step 1: {first:.5}, at step {}: {last:.5}.", self.losses.len()));
        }
        if let Some(scores) = &self.scores {
            let held_out = if scores.held_out { "On held-out data." } else { "On the data that the merge learnt from." };
            line(format!("\n## Scores\n\n{held_out}"));
            line("\n| data | loss | perplexity | exact match |\n| --- | --- | --- | --- |".into());
            for (name, s) in &scores.data {
                let exact = s.exact_match.map_or("-".into(), |x| format!("{:.1}%", 100.0 * x));
                line(format!("| {name} | {:.4} | {:.3} | {exact} |", s.loss, s.perplexity));
            }
        }
        card
    }
}

/// config.json of `source`, naming the dtype that was written.
fn config(source: &Source, bytes: &[u8], dtype: DType) -> Result<Vec<u8>> {
    let json = |e: serde_json::Error| Error::Json { file: source.path().join("config.json"), reason: e.to_string() };
    let mut config: Map<String, Value> = serde_json::from_slice(bytes).map_err(json)?;
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(key.into(), name.into());
    config.remove("_name_or_path");
    serde_json::to_vec_pretty(&config).map_err(json)
}
