//! Writes the files of an adapter: adapter_model.safetensors, adapter_config.json, the tokenizer,
//! licences, and a model card.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use serde_json::{Value, json};

use super::super::output::{Output, last};
use super::super::side_files::SideFiles;
use super::super::write::write_side_file;
use crate::checkpoint::{
    Checkpoint, Content, Entry, Group, HubRef, Kind, RetainedShare, Source, TensorSpec, Values,
    Written, map, record, replace_directory, write_file,
};
use crate::error::{Error, Result};
use crate::ops::Truncated;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// The change of one tensor.
pub(super) struct TensorChange {
    /// The module that owns the tensor.
    pub module: String,
    pub spec: TensorSpec,
    /// The sum of squares of the difference from the base.
    pub difference_squares: f64,
    pub change: Change,
}

/// How a tensor changes.
pub(super) enum Change {
    /// By low-rank factors.
    LowRank { factors: Truncated, embedding: bool },
    /// By the values of the merge's tensor `of`.
    Whole { of: String },
}

impl TensorChange {
    /// A tensor stored whole.
    pub fn whole(spec: &TensorSpec, difference_squares: f64) -> Self {
        let module = spec.name.rsplit_once('.').map_or(spec.name.as_str(), |(module, _)| module);
        Self {
            module: module.into(),
            spec: spec.clone(),
            difference_squares,
            change: Change::Whole { of: spec.name.clone() },
        }
    }

    fn is_low_rank(&self) -> bool {
        matches!(self.change, Change::LowRank { .. })
    }
}

/// A tensor of the file: its name, its shape and its values.
struct Stored<'a> {
    name: String,
    shape: Vec<usize>,
    made: StoredValues<'a>,
}

enum StoredValues<'a> {
    /// These values.
    Of(Vec<f32>),
    /// The merge's tensor of this name.
    Merged(&'a str),
}

/// Writes the adapter of `base` that consists of `parts` to the new directory `directory`.
pub(super) fn write<'s>(
    output: &Output<'_>,
    directory: &Path,
    base: &Source,
    parts: Vec<TensorChange>,
    kept: RetainedShare,
    dtype: DType,
    values: &(impl Fn(&str) -> Result<Values<'s>> + ?Sized),
) -> Result<Written> {
    output.check_target(directory)?;
    // PEFT saves norms and tied layers as whole modules; the bias of a linear layer is saved alone.
    let matrices: Vec<&str> = base
        .tensors()
        .iter()
        .filter(|t| t.shape.len() == 2)
        .filter_map(|t| module(&t.name))
        .collect();
    let is_bias = |part: &TensorChange| {
        part.spec.name.ends_with(".bias") && matrices.contains(&part.module.as_str())
    };
    let saved: Vec<&str> =
        unique(parts.iter().filter(|p| !p.is_low_rank() && !is_bias(p)).map(|p| p.module.as_str()));
    let factored: Vec<&str> =
        parts.iter().filter(|part| part.is_low_rank()).map(|part| part.module.as_str()).collect();
    if factored.is_empty() {
        let what = if parts.is_empty() {
            "the merge equals its base, so the adapter would be empty"
        } else {
            "the merge differs from its base in norms and biases only, and an adapter needs at least one matrix"
        };
        return Err(Error::Sources {
            what: what.into(),
            hint: "write a full checkpoint: bake without as=adapter",
        });
    }
    let config = config(output, base, &parts, &kept, &saved, is_bias);
    let stored: Vec<Stored<'_>> =
        parts.iter().flat_map(|part| stored(part, &factored, is_bias(part))).collect();
    let by_name: BTreeMap<&str, &Stored<'_>> =
        stored.iter().map(|s| (s.name.as_str(), s)).collect();
    let entry = |s: &Stored<'_>| {
        Entry::new(
            &TensorSpec { name: s.name.clone(), kind: Kind::Linear, shape: s.shape.clone() },
            s.name.clone(),
            dtype,
        )
    };
    let checkpoint =
        Checkpoint { tensors: stored.iter().map(entry).collect(), shard_bytes: u64::MAX };
    let SideFiles { files, left_out } =
        output.side_files(|group| matches!(group, Group::Tokenizer | Group::Licence));
    let from: Vec<(String, String)> =
        files.iter().map(|f| (f.source.name().to_owned(), f.name.clone())).collect();
    // The values of the merge are computed again while they are written.
    let merged: BTreeMap<&str, Values<'_>> = stored
        .iter()
        .filter_map(|s| match s.made {
            StoredValues::Merged(name) => {
                Some(values(name).map(|values| (s.name.as_str(), values)))
            }
            StoredValues::Of(_) => None,
        })
        .collect::<Result<_>>()?;
    let written = replace_directory(directory, output.options.force, |new| {
        checkpoint.write_one(&new.join(WEIGHTS), |entry| {
            let values: Values<'_> = match (
                merged.get(entry.name.as_str()),
                by_name.get(entry.name.as_str()).map(|s| &s.made),
            ) {
                (Some(values), _) => Box::new(move |start, out: &mut [f32]| values(start, out)),
                (None, Some(StoredValues::Of(values))) => {
                    Box::new(move |start, out: &mut [f32]| {
                        out.copy_from_slice(&values[start..start + out.len()])
                    })
                }
                (None, _) => return Err(Error::NoMatch { pattern: entry.name.clone() }),
            };
            Ok(Content::Values(values))
        })?;
        write_file(&new.join(CONFIG), format!("{config:#}").as_bytes())?;
        for file in &files {
            write_side_file(new, &file.name, &file.bytes()?)?;
        }
        write_file(&new.join("README.md"), card(output, base, &kept, &from).as_bytes())
    })?;
    let copied = files.iter().map(|file| file.name.clone()).collect();
    Ok(Written { copied, left_out, retained: Some(kept), ..written })
}

/// Returns the stored tensors of `part`; `factored` lists the modules with factors.
fn stored<'a>(part: &'a TensorChange, factored: &[&str], is_bias: bool) -> Vec<Stored<'a>> {
    let module = format!("base_model.model.{}", part.module);
    match &part.change {
        Change::Whole { of } => {
            // PEFT wraps a layer that has factors and names the original `base_layer`.
            let inner = if is_bias && factored.contains(&part.module.as_str()) {
                ".base_layer"
            } else {
                ""
            };
            let kind = part.spec.name.rsplit_once('.').map_or("", |(_, kind)| kind);
            let name = format!("{module}{inner}.{kind}");
            vec![Stored { name, shape: part.spec.shape.clone(), made: StoredValues::Merged(of) }]
        }
        Change::LowRank { factors, embedding } => {
            let Truncated { rank, left, right, values, .. } = factors;
            let rows = part.spec.shape[0];
            let columns = part.spec.shape[1];
            let roots: Vec<f32> = values.iter().map(|s| s.sqrt() as f32).collect();
            // left = U diag(s), rows x rank; right = V^T, rank x columns.
            let left: Vec<f32> = left
                .chunks(*rank)
                .flat_map(|row| row.iter().zip(&roots).map(|(x, root)| x / root))
                .collect();
            let right: Vec<f32> = right
                .chunks(columns)
                .zip(&roots)
                .flat_map(|(row, root)| row.iter().map(move |x| x * root))
                .collect();
            let store = |kind: &str, shape: [usize; 2], values| Stored {
                name: format!("{module}.{kind}"),
                shape: shape.to_vec(),
                made: StoredValues::Of(values),
            };
            if *embedding {
                // A row is a token: rows come from A, columns from B.
                let (rows_of, columns_of) = (transposed(&left, *rank), transposed(&right, columns));
                vec![
                    store("lora_embedding_A", [*rank, rows], rows_of),
                    store("lora_embedding_B", [columns, *rank], columns_of),
                ]
            } else {
                vec![
                    store("lora_A.weight", [*rank, columns], right),
                    store("lora_B.weight", [rows, *rank], left),
                ]
            }
        }
    }
}

/// Transposes a matrix with `columns` columns.
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns.max(1);
    (0..matrix.len()).map(|i| matrix[i % rows * columns + i / rows]).collect()
}

/// Returns the contents of adapter_config.json.
fn config(
    output: &Output<'_>,
    base: &Source,
    parts: &[TensorChange],
    kept: &RetainedShare,
    saved: &[&str],
    is_bias: impl Fn(&TensorChange) -> bool,
) -> Value {
    let mut ranks = BTreeMap::new();
    for part in parts {
        if let Change::LowRank { factors, .. } = &part.change
            && factors.rank < kept.rank
        {
            ranks.insert(part.module.as_str(), factors.rank);
        }
    }
    let biases = if parts.iter().any(is_bias) { "all" } else { "none" };
    let (name, revision) = base_name(output, base);
    json!({
        "peft_type": "LORA",
        "task_type": task(base),
        "base_model_name_or_path": name,
        "revision": revision,
        "inference_mode": true,
        "r": kept.rank.max(1),
        "lora_alpha": kept.rank.max(1),
        "lora_dropout": 0.0,
        "bias": biases,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
        "target_modules": targets(base, parts),
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "layers_to_transform": null,
        "layers_pattern": null,
    })
}

/// Returns PEFT's task type for the base model.
fn task(base: &Source) -> Value {
    let config = base.side_file("config.json").ok().flatten();
    let config: Value =
        config.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let tasks = [
        ("ForCausalLM", "CAUSAL_LM"),
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
    ];
    tasks.iter().find(|(end, _)| class.ends_with(end)).map_or(Value::Null, |(_, task)| json!(task))
}

/// Returns the name and revision of the base: the Hub name that the sources' own adapters agree on,
/// or else the path it was loaded from.
fn base_name(output: &Output<'_>, base: &Source) -> (String, Option<String>) {
    if let Some(place) = base.hub_ref() {
        return (place.repo, Some(place.revision).filter(|revision| revision != "main"));
    }
    let named = |directory: &str| {
        let bytes = map(&Path::new(directory).join(CONFIG)).ok()?;
        let config: Value = serde_json::from_slice(&bytes).ok()?;
        let name = config["base_model_name_or_path"].as_str()?.to_owned();
        HubRef::parse(&name, false)
            .filter(|place| place.file.is_none() && !Path::new(&name).exists())?;
        Some(name)
    };
    let of_base = output
        .merged
        .iter()
        .map(Source::base_and_adapters)
        .filter(|(place, _)| *place == base.spec());
    let names: Vec<Option<String>> =
        of_base.flat_map(|(_, adapters)| adapters).map(named).collect();
    match names.as_slice() {
        [Some(first), rest @ ..] if rest.iter().all(|name| name.as_ref() == Some(first)) => {
            (first.clone(), None)
        }
        _ => (base.spec().to_owned(), None),
    }
}

/// Returns the modules that have factors: by the last part of their names if every module of that
/// name has factors.
fn targets(base: &Source, parts: &[TensorChange]) -> Vec<String> {
    let factored: Vec<&str> =
        parts.iter().filter(|part| part.is_low_rank()).map(|part| part.module.as_str()).collect();
    let others = base
        .tensors()
        .iter()
        .map(|t| t.name.as_str())
        .chain(base.unused().iter().map(String::as_str));
    let others: Vec<&str> =
        unique(others.filter_map(module).filter(|module| !factored.contains(module)));
    let end = |module: &str| module.rsplit('.').next().unwrap_or_default().to_owned();
    let spared: Vec<String> = others.into_iter().map(end).collect();
    let names = factored
        .into_iter()
        .map(|module| if spared.contains(&end(module)) { module.to_owned() } else { end(module) });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

fn module(name: &str) -> Option<&str> {
    name.rsplit_once('.').map(|(module, _)| module)
}

/// Returns each string once, in order.
fn unique<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    all.for_each(|name| {
        if !found.contains(&name) {
            found.push(name);
        }
    });
    found
}

/// Returns the model card of the merge with a section about the adapter.
fn card(
    output: &Output<'_>,
    base: &Source,
    kept: &RetainedShare,
    copied: &[(String, String)],
) -> String {
    let of =
        base.hub_ref().map(|place| format!("\nbase_model: {}", place.repo)).unwrap_or_default();
    let card =
        output.card.replacen("library_name: transformers", &format!("library_name: peft{of}"), 1);
    format!(
        "{card}\n## Adapter\n\nA LoRA adapter of `{}`: {kept}.\n{}",
        last(base.spec()),
        record(copied)
    )
}
