//! Reads adapter_config.json: which keys are supported, which have no effect on the merged weights,
//! and which are unsupported. The keys are those of PEFT 0.21.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::pattern::{ByPattern, Targets, strings};
use crate::error::{Error, Result};

/// How the base was changed before training. The adapter is relative to the changed base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Init {
    /// Unchanged.
    Plain,
    /// PiSSA (arXiv 2404.02948): the part with the largest singular values is removed.
    Principal,
    /// PiSSA with a randomized SVD (`pissa_niter_N`).
    DrawnPrincipal,
    /// OLoRA (arXiv 2406.01775): the scaled leading part of a QR decomposition is removed.
    LeadingColumns,
}

/// Tokens whose rows are trained and stored individually.
pub(super) enum Tokens {
    None,
    /// Tokens of the embedding.
    OfEmbedding(Vec<u32>),
    /// Tokens per module.
    ByModule(Vec<(String, Vec<u32>)>),
}

/// The contents of an adapter_config.json.
pub(super) struct Config {
    pub file: PathBuf,
    /// The model it was trained on.
    pub base: Option<String>,
    /// The task of the class it was trained with, such as `SEQ_CLS`.
    pub task: Option<String>,
    rank: Option<usize>,
    alpha: f64,
    ranks: ByPattern<usize>,
    alphas: ByPattern<f64>,
    has_root_scale: bool,
    pub init: Init,
    pub has_magnitudes: bool,
    pub has_biases: bool,
    targets: Targets,
    /// Modules that are stored in full.
    pub saved: Vec<String>,
    /// Whether changes to the embedding also apply to a tied output layer.
    pub keeps_tied: bool,
    /// Ranges of layers for layer replication.
    pub layers: Vec<(usize, usize)>,
    pub tokens: Tokens,
}

/// Keys that do not affect the merged weights: provenance, training and runtime settings.
const NO_EFFECT: [&str; 22] = [
    "auto_mapping",
    "base_model_class",
    "corda_config",
    "eva_config",
    "inference_mode",
    "init_weights",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "merge_weights",
    // Its sampling happens in training only; PEFT merges without it.
    "monteclora_config",
    "parent_library",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    // It only saves memory in training.
    "velora_config",
    // As in PEFT, the base's layer decides on the transposition.
    "fan_in_fan_out",
    // The weight file already has the names that these keys produce.
    "modules_to_tie",
    "target_modules_to_tie",
    "_custom_modules",
];

/// Supported keys.
const SUPPORTED: [&str; 21] = [
    "alpha_pattern",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "init_lora_weights",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "modules_to_save",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "token_indices",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
    "peft_type",
    "base_model_name_or_path",
];

/// Unsupported keys, with the reason and the hint.
const UNSUPPORTED: [(&str, &str, &str); 7] = [
    (
        "alora_invocation_tokens",
        "the adapter acts only after these tokens, so it cannot be merged into weights",
        "use an adapter that acts on all tokens",
    ),
    (
        "arrow_config",
        "adapters are selected per token, so they cannot be merged into weights",
        "load the individual adapters separately",
    ),
    (
        "kasa_config",
        "it removes the smallest singular values of the base before training, which is not supported",
        MERGE_HINT,
    ),
    (
        "megatron_config",
        "it uses Megatron layers",
        "convert it to an adapter for transformers layers first",
    ),
    (
        "target_parameters",
        "adapters of parameters outside linear layers are not supported",
        MERGE_HINT,
    ),
    ("use_bdlora", "block-diagonal factors are not supported", MERGE_HINT),
    ("use_qalora", "it belongs to GPTQ-quantized weights and pools their inputs", MERGE_HINT),
];

/// The hint that always works if PEFT can merge the adapter.
pub(super) const MERGE_HINT: &str = "merge it with PEFT and load the result: PeftModel.from_pretrained(BASE, ADAPTER).merge_and_unload().save_pretrained(DIR)";

impl Config {
    /// Parses the bytes of `file`.
    ///
    /// # Errors
    /// Invalid JSON, or an unsupported key.
    pub fn read(file: &Path, bytes: &[u8]) -> Result<Self> {
        let json = |reason: String| Error::Json { file: file.into(), reason };
        let map: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| json(e.to_string()))?;
        let keys = Keys { file, map: &map };
        let kind = keys.text("peft_type")?.unwrap_or("none");
        let is_tokens = kind == "TRAINABLE_TOKENS";
        if kind != "LORA" && !is_tokens {
            return Err(keys.key_error(
                "peft_type",
                format!("`{kind}` is not LORA or TRAINABLE_TOKENS"),
                MERGE_HINT,
            ));
        }
        keys.check_keys()?;
        let rank = keys.number("r")?.map(|r| r as usize);
        let alpha = keys.number("lora_alpha")?.unwrap_or(8.0);
        let bad = |key: &str, reason: String| keys.key_error(key, reason, "correct it in the file");
        let tokens = if is_tokens {
            keys.tokens("token_indices")?
        } else {
            keys.tokens("trainable_token_indices")?
        };
        if let Some(bias) =
            keys.text("bias")?.filter(|bias| !["none", "all", "lora_only"].contains(bias))
        {
            return Err(bad("bias", format!("`{bias}` is not none, all or lora_only")));
        }
        Ok(Self {
            file: file.into(),
            base: keys
                .text("base_model_name_or_path")?
                .filter(|base| !base.is_empty())
                .map(str::to_owned),
            task: keys.text("task_type")?.map(str::to_owned),
            rank,
            alpha,
            ranks: serde_json::from_slice::<Ranks>(bytes)
                .map_err(|e| bad("rank_pattern", e.to_string()))?
                .rank_pattern,
            alphas: serde_json::from_slice::<Alphas>(bytes)
                .map_err(|e| bad("alpha_pattern", e.to_string()))?
                .alpha_pattern,
            has_root_scale: keys.flag("use_rslora")?,
            init: keys.init()?,
            has_magnitudes: keys.flag("use_dora")?,
            has_biases: keys.flag("lora_bias")?,
            targets: if is_tokens {
                Targets::default()
            } else {
                Targets::read(|key| keys.value(key)).map_err(|(key, reason)| bad(key, reason))?
            },
            saved: keys.list("modules_to_save")?,
            keeps_tied: keys.flag("ensure_weight_tying")?,
            layers: keys.layers()?,
            tokens,
        })
    }

    /// The error for `key`.
    pub fn key_error(
        &self,
        key: &str,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        Error::AdapterKey {
            file: self.file.clone(),
            key: key.into(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    /// Whether PEFT adds a low-rank part to `module`.
    pub fn targets(&self, module: &str) -> Result<bool> {
        self.targets.has(module).map_err(|reason| {
            self.key_error("target_modules", reason, "name the modules in a list")
        })
    }

    /// The scale of the low-rank part of `module` with rank `rank`: `alpha / r`, or with rslora
    /// `alpha / sqrt(r)` (arXiv 2312.03732).
    pub fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let at = |key: &'static str| {
            move |reason: String| self.key_error(key, reason, "correct it in the file")
        };
        let expected = self.ranks.get(module).map_err(at("rank_pattern"))?.or(self.rank);
        // A principal part has at most as many ranks as the weight has rows or columns.
        let is_cut = |r: &usize| self.init != Init::Plain && *r > rank;
        if let Some(r) = expected.filter(|r| *r != rank && !is_cut(r)) {
            let reason = format!("`{r}` is not the rank `{rank}` of `{module}`");
            return Err(self.key_error(
                "r",
                reason,
                "use the adapter_config.json that was saved with these weights",
            ));
        }
        let alpha = self.alphas.get(module).map_err(at("alpha_pattern"))?.unwrap_or(self.alpha);
        let rank = expected.unwrap_or(rank) as f64;
        Ok(alpha / if self.has_root_scale { rank.sqrt() } else { rank })
    }
}

/// `rank_pattern` in file order, which a map of JSON values does not preserve.
#[derive(serde::Deserialize)]
struct Ranks {
    #[serde(default)]
    rank_pattern: ByPattern<usize>,
}

/// `alpha_pattern` in file order.
#[derive(serde::Deserialize)]
struct Alphas {
    #[serde(default)]
    alpha_pattern: ByPattern<f64>,
}

/// The keys of the file, each checked when it is read.
struct Keys<'a> {
    file: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn key_error(&self, key: &str, reason: impl Into<String>, hint: &str) -> Error {
        Error::AdapterKey {
            file: self.file.into(),
            key: key.into(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    /// The value of `key`; null counts as missing.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn bad(&self, key: &str, expected: &str) -> Error {
        let value = self.value(key).unwrap_or(&Value::Null);
        self.key_error(key, format!("`{value}` is not {expected}"), "correct it in the file")
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.value(key)
            .map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.bad(key, "true or false")))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.value(key).map(|v| v.as_str().ok_or_else(|| self.bad(key, "text"))).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.value(key).map(|v| v.as_f64().ok_or_else(|| self.bad(key, "a number"))).transpose()
    }

    fn list(&self, key: &str) -> Result<Vec<String>> {
        self.value(key)
            .map_or(Ok(Vec::new()), |v| strings(v).ok_or_else(|| self.bad(key, "a list of names")))
    }

    /// Returns an error for the first unsupported key.
    fn check_keys(&self) -> Result<()> {
        let is_empty = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        for (key, value) in self.map.iter().filter(|(_, value)| !is_empty(value)) {
            if let Some((_, reason, hint)) = UNSUPPORTED.iter().find(|(name, ..)| name == key) {
                return Err(self.key_error(key, *reason, hint));
            }
            if !NO_EFFECT.contains(&key.as_str()) && !SUPPORTED.contains(&key.as_str()) {
                let mut value = value.to_string();
                if let Some((end, _)) = value.char_indices().nth(60) {
                    value.truncate(end);
                }
                return Err(self.key_error(
                    key,
                    format!("the key is unknown and its value `{value}` may change the weights"),
                    MERGE_HINT,
                ));
            }
        }
        Ok(())
    }

    fn init(&self) -> Result<Init> {
        const KEY: &str = "init_lora_weights";
        let name = match self.value(KEY) {
            None | Some(Value::Bool(_)) => return Ok(Init::Plain),
            Some(value) => value.as_str().ok_or_else(|| self.bad(KEY, "true, false or a name"))?,
        };
        let iterations = name.strip_prefix("pissa_niter_").map(|n| n.parse::<u32>().is_ok());
        let lower = name.to_lowercase();
        match name {
            "pissa" => Ok(Init::Principal),
            _ if iterations == Some(true) => Ok(Init::DrawnPrincipal),
            _ if lower == "olora" => Ok(Init::LeadingColumns),
            // These start with a product of zero and leave the base unchanged.
            "eva" | "orthogonal" => Ok(Init::Plain),
            _ if lower == "gaussian" || lower == "mica" => Ok(Init::Plain),
            _ => {
                let changes =
                    ["corda", "loftq", "lora_ga"].iter().any(|start| lower.starts_with(start));
                let reason = if changes {
                    format!("`{name}` changes the base in a way that the adapter does not record")
                } else {
                    format!("the initialization `{name}` is unknown and may change the base")
                };
                let hint = "save the adapter again relative to the unchanged base, with PEFT's \
                            save_pretrained(DIR, path_initial_model_for_weight_conversion=INITIAL), or merge it where it was trained";
                Err(self.key_error(KEY, reason, hint))
            }
        }
    }

    fn layers(&self) -> Result<Vec<(usize, usize)>> {
        const KEY: &str = "layer_replication";
        let Some(value) = self.value(KEY) else { return Ok(Vec::new()) };
        let pair = |v: &Value| match v.as_array().map(Vec::as_slice) {
            Some([from, to]) => Some((from.as_u64()? as usize, to.as_u64()? as usize)),
            _ => None,
        };
        let pairs = value.as_array().and_then(|all| all.iter().map(pair).collect());
        pairs.ok_or_else(|| self.bad(KEY, "a list of [from, to]"))
    }

    fn tokens(&self, key: &str) -> Result<Tokens> {
        let ids = |v: &Value| -> Option<Vec<u32>> {
            v.as_array()?
                .iter()
                .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
                .collect()
        };
        match self.value(key) {
            None => Ok(Tokens::None),
            Some(Value::Object(modules)) => {
                let each = modules.iter().map(|(module, v)| Some((module.clone(), ids(v)?)));
                each.collect::<Option<_>>()
                    .map(Tokens::ByModule)
                    .ok_or_else(|| self.bad(key, "lists of token ids by module"))
            }
            Some(list) => ids(list)
                .map(Tokens::OfEmbedding)
                .ok_or_else(|| self.bad(key, "a list of token ids")),
        }
    }
}
