//! LoRA adapters of PEFT: `W + scale B A` (arXiv 2106.09685), added as a weight is decoded.
//!
//! `scale` is `alpha / r`, or with rslora `alpha / sqrt(r)` (arXiv 2312.03732); `r` and `alpha` may differ by
//! layer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use super::archive::read;
use super::files::map;
use super::hub::{Hub, Place, Wanted};
use super::view::View;
use crate::error::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// What an adapter adds to one weight (out x in).
pub(super) struct LowRank {
    rank: usize,
    columns: usize,
    /// `scale B`: out x rank.
    b: Vec<f32>,
    /// `A`: rank x in.
    a: Vec<f32>,
}

impl LowRank {
    /// Adds elements of row `row` from column `column` on to `into`.
    #[inline(always)]
    pub fn add(&self, row: usize, column: usize, into: &mut [f32]) {
        let b = &self.b[row * self.rank..][..self.rank];
        let n = into.len();
        let a = |r: usize| &self.a[r * self.columns + column..][..n];
        // Four at a time, so that what is added to is read and written a quarter as often.
        let (fours, rest) = b.as_chunks::<4>();
        for (i, b) in fours.iter().enumerate() {
            let a = [a(4 * i), a(4 * i + 1), a(4 * i + 2), a(4 * i + 3)];
            for (j, x) in into.iter_mut().enumerate() {
                *x += b[0] * a[0][j] + b[1] * a[1][j] + b[2] * a[2][j] + b[3] * a[3][j];
            }
        }
        for (i, b) in rest.iter().enumerate() {
            into.iter_mut().zip(a(4 * fours.len() + i)).for_each(|(x, a)| *x += b * a);
        }
    }

    /// Its numbers, for a fingerprint.
    pub fn parts(&self) -> impl Iterator<Item = u32> {
        self.b.iter().chain(&self.a).map(|x| x.to_bits())
    }
}

/// The keys of adapter_config.json that matter here.
#[derive(Deserialize)]
struct Config {
    peft_type: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    use_rslora: bool,
    bias: Option<String>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

/// Variants that change more than `W + scale B A`, by their switch in the configuration.
const VARIANTS: [&str; 8] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
];

/// One adapter: what it adds to which tensors, and which it replaces.
pub(super) struct Adapter {
    pub path: PathBuf,
    deltas: BTreeMap<String, LowRank>,
    replaced: BTreeMap<String, View>,
}

impl Adapter {
    /// Opens the directory of a PEFT adapter, or one on the hub.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut path = std::path::absolute(directory).map_err(|e| Error::io("read", directory, e))?;
        if !path.exists()
            && let Some(place) = directory.to_str().and_then(|spec| Place::parse(spec, false))
        {
            path = Hub::from_env()?.snapshot(&place, Wanted::Adapter)?.directory;
        }
        let missing = |file: &str| Error::MissingFile { directory: path.clone(), file: file.into() };
        let open = |name: &str| match map(&path.join(name)) {
            Err(Error::NotFound { .. }) if path.is_dir() => Err(missing(name)),
            other => other,
        };
        let file = path.join(CONFIG);
        let bad = |key: &str, reason: String| Error::Config { file: file.clone(), key: key.into(), reason };
        let config: Config =
            serde_json::from_slice(&open(CONFIG)?).map_err(|e| Error::Json { file: file.clone(), reason: e.to_string() })?;
        match config.peft_type.as_deref() {
            Some("LORA") => {}
            other => return Err(bad("peft_type", format!("`{}` is not LORA", other.unwrap_or("none")))),
        }
        let on = |v: &serde_json::Value| !(v.is_null() || *v == false || v.as_array().is_some_and(Vec::is_empty));
        if let Some(variant) = VARIANTS.into_iter().find(|key| config.other.get(*key).is_some_and(on)) {
            return Err(bad(variant, "this variant of LoRA cannot be applied".into()));
        }
        if let Some(bias) = config.bias.as_deref().filter(|b| *b != "none") {
            return Err(bad("bias", format!("`{bias}` is not none: biases cannot be applied")));
        }
        let keys = config.rank_pattern.keys().chain(config.alpha_pattern.keys());
        if let Some(key) = keys.into_iter().find(|key| key.contains(['*', '[', '(', '|', '+', '?', '{'])) {
            return Err(bad("rank_pattern", format!("`{key}` is a regular expression, only names of modules are read")));
        }
        let weights = path.join(WEIGHTS);
        let tensors = read(&weights, open(WEIGHTS)?)?.tensors;
        let mut adapter = Self { path: path.clone(), deltas: BTreeMap::new(), replaced: BTreeMap::new() };
        let mut used = BTreeSet::new();
        for (key, a) in &tensors {
            let Some((name, embedding)) = part(key, "lora_A") else { continue };
            let partner = key.replacen("lora_A", "lora_B", 1).replacen("lora_embedding_A", "lora_embedding_B", 1);
            let b =
                tensors.get(&partner).ok_or_else(|| Error::MissingTensor { file: weights.clone(), tensor: partner.clone() })?;
            let (&[rank, columns], &[out, other]) = (a.shape.as_slice(), b.shape.as_slice()) else {
                return Err(Error::Shape { file: weights, tensor: key.clone(), expected: vec![0, 0], found: a.shape.clone() });
            };
            if rank != other || rank == 0 {
                let (expected, found) = (vec![out, rank], b.shape.clone());
                return Err(Error::Shape { file: weights, tensor: partner, expected, found });
            }
            a.check_finite(key)?;
            b.check_finite(&partner)?;
            let expected = pattern(&config.rank_pattern, &name).or(config.r);
            if let Some(r) = expected.filter(|r| *r != rank) {
                return Err(bad("r", format!("`{r}` is not the rank `{rank}` of `{key}`")));
            }
            let alpha = pattern(&config.alpha_pattern, &name).or(config.lora_alpha).unwrap_or(8.0);
            let scale = alpha / if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            let (a_values, b_values) = (floats(a)?, (floats(b)? * scale)?);
            let values = |t: Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
            // An embedding's row is a token: its rows come from A, its columns from B.
            let delta = match embedding {
                false => LowRank { rank, columns, b: values(b_values)?, a: values(a_values)? },
                true => LowRank { rank, columns: out, b: values(a_values.t()?)?, a: values(b_values.t()?)? },
            };
            used.extend([key.clone(), partner]);
            adapter.deltas.insert(format!("{name}.weight"), delta);
        }
        for (key, view) in tensors.iter().filter(|(key, _)| !used.contains(*key)) {
            // modules_to_save: whole tensors.
            let name = stem(key);
            if key.contains("lora_") || !(name.ends_with(".weight") || name.ends_with(".bias")) {
                return Err(bad("peft_type", format!("tensor `{key}` is of no known part of LoRA")));
            }
            adapter.replaced.insert(name.replace(".modules_to_save.default", "").replace(".base_layer.", "."), view.clone());
        }
        match adapter.deltas.is_empty() && adapter.replaced.is_empty() {
            true => Err(Error::MissingTensor { file: weights, tensor: "*.lora_A.weight".into() }),
            false => Ok(adapter),
        }
    }

    /// The adapter with the names of tensors that `new` gives.
    pub fn renamed(self, new: impl Fn(&str) -> String) -> Self {
        let Self { path, deltas, replaced } = self;
        let deltas = deltas.into_iter().map(|(name, delta)| (new(&name), delta)).collect();
        Self { path, deltas, replaced: replaced.into_iter().map(|(name, view)| (new(&name), view)).collect() }
    }

    /// Puts the adapter on top of `tensors`.
    pub fn apply(self, tensors: &mut BTreeMap<String, View>) -> Result<()> {
        let file = self.path.join(WEIGHTS);
        tensors.extend(self.replaced);
        for (name, delta) in self.deltas {
            let missing = || Error::Config {
                file: self.path.join(CONFIG),
                key: "target_modules".into(),
                reason: format!("the model that it is put on has no tensor `{name}`"),
            };
            let view = tensors.get_mut(&name).ok_or_else(missing)?;
            let found = vec![delta.b.len() / delta.rank, delta.columns];
            if view.shape != found {
                return Err(Error::Shape { file, tensor: name, expected: view.shape.clone(), found });
            }
            view.deltas.push(Arc::new(delta));
        }
        Ok(())
    }
}

/// The module that `key` belongs to, if it is its `lora_A` (or `lora_embedding_A`: true).
fn part(key: &str, kind: &str) -> Option<(String, bool)> {
    let key = stem(key);
    let ends = [(format!(".{kind}.weight"), false), (format!(".{kind}.default.weight"), false)];
    let embedding = kind.replace("lora_", ".lora_embedding_");
    let ends = ends.into_iter().chain([(embedding.clone(), true), (format!("{embedding}.default"), true)]);
    ends.into_iter().find_map(|(end, embedding)| Some((key.strip_suffix(&end)?.to_owned(), embedding)))
}

/// `key` as the base model names it.
fn stem(key: &str) -> &str {
    key.strip_prefix("base_model.model.").unwrap_or(key)
}

/// What a pattern says of `module`: of a key that is its name or the last parts of it.
fn pattern<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Option<T> {
    let fits = |key: &str| {
        let key = key.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
        module == key || module.strip_suffix(key.as_str()).is_some_and(|rest| rest.ends_with('.'))
    };
    patterns.iter().find(|(key, _)| fits(key)).map(|(_, value)| *value)
}

fn floats(view: &View) -> Result<Tensor> {
    Ok(view.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?)
}
