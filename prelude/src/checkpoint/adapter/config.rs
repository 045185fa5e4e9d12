//! adapter_config.json, every key of it: what is followed, what changes nothing about the merged weights, and what is
//! refused by its name. The keys are those of PEFT 0.21.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::pattern::{ByPattern, Targets, strings};
use crate::error::{Error, Result};

/// How the base was changed before training, which the adapter is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Init {
    /// Not at all.
    Plain,
    /// PiSSA (arXiv 2404.02948): without the part with the largest singular values.
    Principal,
    /// The same, found by a random decomposition (`pissa_niter_N`).
    DrawnPrincipal,
    /// OLoRA (arXiv 2406.01775): without what the first steps of a QR decomposition give, times the scale.
    LeadingColumns,
}

/// Tokens whose rows are stored one by one.
pub(super) enum Tokens {
    None,
    /// Of the embedding.
    Of(Vec<u32>),
    /// Of the modules named.
    ByModule(Vec<(String, Vec<u32>)>),
}

/// What an adapter_config.json says.
pub(super) struct Config {
    pub file: PathBuf,
    /// The model that it was trained on.
    pub base: Option<String>,
    rank: Option<usize>,
    alpha: f64,
    ranks: ByPattern<usize>,
    alphas: ByPattern<f64>,
    has_root_scale: bool,
    pub init: Init,
    pub has_magnitudes: bool,
    pub has_biases: bool,
    targets: Targets,
    /// Modules that are stored whole.
    pub saved: Vec<String>,
    /// Whether what is done to the embedding is done to a tied output layer.
    pub keeps_tied: bool,
    /// Ranges of layers that are stacked anew.
    pub layers: Vec<(usize, usize)>,
    pub tokens: Tokens,
}

/// Keys that change nothing about the merged weights: where it comes from, how it was trained, how it is run.
const NOTHING: [&str; 23] = [
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
    // Its sampling is of training; PEFT merges without.
    "monteclora_config",
    "parent_library",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    // What its training keeps in memory.
    "velora_config",
    // What decides on the transposition is the base's layer, as in PEFT.
    "fan_in_fan_out",
    // The names of these, once saved, are those of the file.
    "modules_to_tie",
    "target_modules_to_tie",
    "_custom_modules",
];

/// Keys that are followed.
const FOLLOWED: [&str; 20] = [
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
    "token_indices",
    "trainable_token_indices",
    "use_dora",
    "use_rslora",
    "peft_type",
    "base_model_name_or_path",
];

/// Keys that no weights can follow, or that are not followed, with the reason.
const REFUSED: [(&str, &str, &str); 7] = [
    (
        "alora_invocation_tokens",
        "the adapter acts only after these tokens, so that no weights are those of base and adapter together",
        "merge an adapter that acts on all tokens",
    ),
    (
        "arrow_config",
        "adapters are chosen token by token, so that no weights are those of base and adapters together",
        "load the adapters that it chooses from, each on its own",
    ),
    ("kasa_config", "the base loses its smallest singular values before training, which is not done here", MERGE_IT),
    ("megatron_config", "its layers are those of Megatron", "convert it to an adapter of transformers' layers first"),
    ("target_parameters", "adapters of parameters that belong to no linear layer are not applied here", MERGE_IT),
    ("use_bdlora", "its factors are block-diagonal, which is not read here", MERGE_IT),
    ("use_qalora", "it belongs to weights that are quantised by GPTQ, and pools their inputs", MERGE_IT),
];

/// The remedy that always works, where PEFT can merge.
pub(super) const MERGE_IT: &str = "merge it with PEFT and load what that saves: PeftModel.from_pretrained(BASE, ADAPTER).merge_and_unload().save_pretrained(DIR)";

impl Config {
    /// Reads the bytes of `file`.
    ///
    /// # Errors
    /// No JSON object, or a key that cannot be followed, by its name.
    pub fn read(file: &Path, bytes: &[u8]) -> Result<Self> {
        let json = |reason: String| Error::Json { file: file.into(), reason };
        let map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| json(e.to_string()))?;
        let of = Of { file, map: &map };
        let kind = of.text("peft_type")?.unwrap_or("none");
        let is_tokens = kind == "TRAINABLE_TOKENS";
        if kind != "LORA" && !is_tokens {
            return Err(of.refused("peft_type", format!("`{kind}` is not LORA or TRAINABLE_TOKENS"), MERGE_IT));
        }
        of.check_keys()?;
        let rank = of.number("r")?.map(|r| r as usize);
        let alpha = of.number("lora_alpha")?.unwrap_or(8.0);
        let bad = |key: &str, reason: String| of.refused(key, reason, "correct it in the file");
        let tokens = match is_tokens {
            true => of.tokens("token_indices")?,
            false => of.tokens("trainable_token_indices")?,
        };
        if let Some(bias) = of.text("bias")?.filter(|bias| !["none", "all", "lora_only"].contains(bias)) {
            return Err(bad("bias", format!("`{bias}` is not none, all or lora_only")));
        }
        Ok(Self {
            file: file.into(),
            base: of.text("base_model_name_or_path")?.filter(|base| !base.is_empty()).map(str::to_owned),
            rank,
            alpha,
            ranks: serde_json::from_slice::<Ranks>(bytes).map_err(|e| bad("rank_pattern", e.to_string()))?.rank_pattern,
            alphas: serde_json::from_slice::<Alphas>(bytes).map_err(|e| bad("alpha_pattern", e.to_string()))?.alpha_pattern,
            has_root_scale: of.flag("use_rslora")?,
            init: of.init()?,
            has_magnitudes: of.flag("use_dora")?,
            has_biases: of.flag("lora_bias")?,
            targets: match is_tokens {
                true => Targets::default(),
                false => Targets::read(|key| of.value(key)).map_err(|(key, reason)| bad(key, reason))?,
            },
            saved: of.list("modules_to_save")?,
            keeps_tied: of.flag("ensure_weight_tying")?,
            layers: of.layers()?,
            tokens,
        })
    }

    /// An error at `key`.
    pub fn refused(&self, key: &str, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::AdapterKey { file: self.file.clone(), key: key.into(), reason: reason.into(), hint: hint.into() }
    }

    /// Whether PEFT gives `module` a low-rank part.
    pub fn targets(&self, module: &str) -> Result<bool> {
        self.targets.has(module).map_err(|reason| self.refused("target_modules", reason, "name the modules in a list"))
    }

    /// What the low-rank part of `module`, of rank `rank`, is multiplied by: `alpha / r`, or with rslora
    /// `alpha / sqrt(r)` (arXiv 2312.03732).
    pub fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let at = |key: &'static str| move |reason: String| self.refused(key, reason, "correct it in the file");
        let expected = self.ranks.get(module).map_err(at("rank_pattern"))?.or(self.rank);
        if let Some(r) = expected.filter(|r| *r != rank) {
            let reason = format!("`{r}` is not the rank `{rank}` of `{module}`");
            return Err(self.refused("r", reason, "use the adapter_config.json that was saved with these weights"));
        }
        let alpha = self.alphas.get(module).map_err(at("alpha_pattern"))?.unwrap_or(self.alpha);
        Ok(alpha / if self.has_root_scale { (rank as f64).sqrt() } else { rank as f64 })
    }
}

/// `rank_pattern`, in its order, which a map of JSON values does not keep.
#[derive(serde::Deserialize)]
struct Ranks {
    #[serde(default)]
    rank_pattern: ByPattern<usize>,
}

/// `alpha_pattern`, likewise.
#[derive(serde::Deserialize)]
struct Alphas {
    #[serde(default)]
    alpha_pattern: ByPattern<f64>,
}

/// The keys of a file, each checked where it is read.
struct Of<'a> {
    file: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Of<'a> {
    fn refused(&self, key: &str, reason: impl Into<String>, hint: &str) -> Error {
        Error::AdapterKey { file: self.file.into(), key: key.into(), reason: reason.into(), hint: hint.into() }
    }

    /// What is there; null is nothing.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn bad(&self, key: &str, expected: &str) -> Error {
        let value = self.value(key).unwrap_or(&Value::Null);
        self.refused(key, format!("`{value}` is not {expected}"), "correct it in the file")
    }

    fn flag(&self, key: &str) -> Result<bool> {
        self.value(key).map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.bad(key, "true or false")))
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.value(key).map(|v| v.as_str().ok_or_else(|| self.bad(key, "a text"))).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.value(key).map(|v| v.as_f64().ok_or_else(|| self.bad(key, "a number"))).transpose()
    }

    fn list(&self, key: &str) -> Result<Vec<String>> {
        self.value(key).map_or(Ok(Vec::new()), |v| strings(v).ok_or_else(|| self.bad(key, "a list of names")))
    }

    /// An error for the first key that asks for what is not done here.
    fn check_keys(&self) -> Result<()> {
        let is_empty = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        for (key, value) in self.map.iter().filter(|(_, value)| !is_empty(value)) {
            if let Some((_, reason, hint)) = REFUSED.iter().find(|(name, ..)| name == key) {
                return Err(self.refused(key, *reason, hint));
            }
            if !NOTHING.contains(&key.as_str()) && !FOLLOWED.contains(&key.as_str()) {
                let mut value = value.to_string();
                if let Some((end, _)) = value.char_indices().nth(60) {
                    value.truncate(end);
                }
                return Err(self.refused(
                    key,
                    format!("`{value}` may change the weights, and the key is not known here"),
                    MERGE_IT,
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
            // These begin with a product of zero, and leave the base as it is.
            "eva" | "orthogonal" => Ok(Init::Plain),
            _ if lower == "gaussian" || lower == "mica" => Ok(Init::Plain),
            _ => {
                let changes = ["corda", "loftq", "lora_ga"].iter().any(|start| lower.starts_with(start));
                let reason = match changes {
                    true => {
                        format!("`{name}` changes the base by what only its training knew, so the adapter alone is not enough")
                    }
                    false => format!("the initialisation `{name}` is not known here, and may change the base"),
                };
                let hint = "save the adapter anew relative to the unchanged base, with PEFT's \
                            save_pretrained(DIR, path_initial_model_for_weight_conversion=INITIAL), or merge it where it was trained";
                Err(self.refused(KEY, reason, hint))
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
            v.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
        };
        match self.value(key) {
            None => Ok(Tokens::None),
            Some(Value::Object(modules)) => {
                let each = modules.iter().map(|(module, v)| Some((module.clone(), ids(v)?)));
                each.collect::<Option<_>>().map(Tokens::ByModule).ok_or_else(|| self.bad(key, "lists of token ids by module"))
            }
            Some(list) => ids(list).map(Tokens::Of).ok_or_else(|| self.bad(key, "a list of token ids")),
        }
    }
}
