//! Writes the metadata of a GGUF file, and maps tensor names and row orders: the inverse of
//! `read.rs` and `read_config.rs`. What llama.cpp would compute differently is an error.

use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde_json::{Map, Value as Json};

use super::metadata::{ARCHITECTURES, NAMES, attention_scalar};
use crate::checkpoint::config::{Activation, Architecture, LayerAttention, Rope, Scaling};
use crate::error::{Error, Result};

/// The metadata of a model.
pub(crate) struct GgufKeys {
    /// llama.cpp's name of the architecture.
    architecture: &'static str,
    /// Metadata values by key.
    pub values: Vec<(String, Value)>,
    /// Tensors that checkpoints do not have: factors of rotary frequencies.
    pub factors: Vec<(&'static str, Vec<f32>)>,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// Rows per head, if queries and keys are interleaved.
    head: Option<usize>,
    /// The offset added to norms.
    offset: f32,
}

/// How one tensor is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorMapping {
    /// llama.cpp's name.
    pub name: String,
    /// Rows per head, if the halves of each head are interleaved.
    pub interleaved: Option<usize>,
    /// The offset added to its values.
    pub added: f32,
}

/// The error for a model that cannot be written.
pub(crate) fn refused(reason: impl Into<String>) -> Error {
    Error::GgufExport { reason: reason.into() }
}

impl GgufKeys {
    /// The metadata for `config`, the contents of the config.json at `file`.
    ///
    /// # Errors
    /// A family that llama.cpp or this library does not support, or that llama.cpp computes
    /// differently.
    pub fn new(file: &Path, config: &[u8]) -> Result<Self> {
        let a = Architecture::parse(file, config)?;
        let json = |e: serde_json::Error| Error::Json { file: file.into(), reason: e.to_string() };
        let config: Map<String, Json> = serde_json::from_slice(config).map_err(json)?;
        let family = if a.family == "mistral" { "llama" } else { a.family.as_str() };
        // These can be read but not written.
        let written =
            || ARCHITECTURES.iter().filter(|(_, family)| !["olmo2", "granite"].contains(family));
        let architecture = written().find(|(_, known)| *known == family).map(|(name, _)| *name);
        let architecture = architecture.ok_or_else(|| {
            let known: Vec<&str> =
                written().map(|(_, family)| *family).chain(["mistral"]).collect();
            refused(format!("its family is `{}`, not one of {}", a.family, known.join(", ")))
        })?;
        let mut keys = Self {
            architecture,
            values: Vec::new(),
            factors: Vec::new(),
            notes: Vec::new(),
            head: ["llama", "smollm3"].contains(&architecture).then_some(a.head_dim),
            offset: a.norm_offset as f32,
        };
        keys.check_supported(&a)?;
        keys.add_sizes(&a);
        keys.add_rotary(&a, &config)?;
        Ok(keys)
    }

    /// Adds an architecture-specific key.
    fn own(&mut self, key: &str, value: Value) {
        self.values.push((format!("{}.{key}", self.architecture), value));
    }

    fn count(&mut self, key: &str, value: usize) {
        self.own(key, Value::U32(u32::try_from(value).unwrap_or(u32::MAX)));
    }

    fn number(&mut self, key: &str, value: f64) {
        self.own(key, Value::F32(value as f32));
    }

    /// Returns an error if llama.cpp only supports a different variant of the model.
    fn check_supported(&mut self, a: &Architecture) -> Result<()> {
        let gemma = self.architecture.starts_with("gemma");
        let gate = if gemma { Activation::GeluTanh } else { Activation::Silu };
        if a.activation != gate {
            return Err(refused(format!(
                "its MLP activation is {:?}, but llama.cpp only supports {gate:?} for `{}`",
                a.activation, a.family
            )));
        }
        let family = if self.architecture == "gemma3" { "gemma3_text" } else { self.architecture };
        let two = matches!(family, "gemma2" | "gemma3_text");
        let [layers, hidden, heads, head_dim] =
            [a.layers, a.hidden, a.heads, a.head_dim].map(|n| n as u64);
        let scalar =
            if two { attention_scalar(family, layers, hidden, heads, head_dim) } else { head_dim };
        if (a.attention_scale - (scalar as f64).sqrt().recip()).abs() > 1e-9 {
            return Err(refused(format!(
                "its query_pre_attn_scalar is not `{scalar}`, which llama.cpp assumes"
            )));
        }
        let window = a.attention.iter().find_map(|attention| attention.window);
        let expected = |layer: usize| match self.architecture {
            "gemma2" => {
                LayerAttention { window: window.filter(|_| layer.is_multiple_of(2)), rope: Some(0) }
            }
            "gemma3" => {
                let slides = !(layer + 1).is_multiple_of(6);
                LayerAttention {
                    window: window.filter(|_| slides),
                    rope: Some(if slides { 1 } else { 0 }),
                }
            }
            "smollm3" => {
                LayerAttention { window: None, rope: (!(layer + 1).is_multiple_of(4)).then_some(0) }
            }
            "phi3" => LayerAttention { window, rope: Some(0) },
            "llama" if a.family == "mistral" => LayerAttention { window, rope: Some(0) },
            _ => LayerAttention { window: None, rope: Some(0) },
        };
        let differs =
            |(layer, attention): &(usize, &LayerAttention)| **attention != expected(*layer);
        if let Some((layer, attention)) = a.attention.iter().enumerate().find(differs) {
            let (ours, theirs) = (attention.describe(), expected(layer).describe());
            let reason = format!("layer {layer} attends to {ours}, but to {theirs} in llama.cpp");
            return Err(refused(reason));
        }
        Ok(())
    }

    fn add_sizes(&mut self, a: &Architecture) {
        let window = a.attention.iter().find_map(|attention| attention.window);
        // llama.cpp ignores mistral's window; within it, both compute the same.
        let context = match (a.family.as_str(), window) {
            ("mistral", Some(window)) if window < a.max_positions => {
                self.notes.push(format!(
                    "llama.cpp has no sliding window for mistral: the context length is set to {window} positions, within which the results are the same"
                ));
                window
            }
            _ => a.max_positions,
        };
        if self.architecture == "phi3" && window.is_some_and(|window| window < a.max_positions) {
            self.notes.push("llama.cpp may ignore the sliding window of phi3".into());
        }
        self.count("block_count", a.layers);
        self.count("context_length", context);
        self.count("embedding_length", a.hidden);
        self.count("feed_forward_length", a.intermediate);
        self.count("attention.head_count", a.heads);
        self.count("attention.head_count_kv", a.key_value_heads);
        self.count("attention.key_length", a.head_dim);
        self.count("attention.value_length", a.head_dim);
        self.number("attention.layer_norm_rms_epsilon", a.norm_eps);
        self.count("vocab_size", a.vocabulary);
        if let Some(window) =
            window.filter(|_| ["gemma2", "gemma3", "phi3"].contains(&self.architecture))
        {
            self.count("attention.sliding_window", window);
        }
        if let Some(cap) = a.attention_cap {
            self.number("attn_logit_softcapping", cap);
        }
        if let Some(cap) = a.logit_cap {
            self.number("final_logit_softcapping", cap);
        }
    }

    /// Adds the rotary embedding.
    fn add_rotary(&mut self, a: &Architecture, config: &Map<String, Json>) -> Result<()> {
        let Some(rope) = a.ropes.first() else { return Err(refused("it has no rotary embedding")) };
        if let Some(local) = a.ropes.get(1)
            && *local
                != (Rope {
                    theta: 10_000.0,
                    dims: rope.dims,
                    scaling: Scaling::None,
                    pairs: rope.pairs,
                })
        {
            return Err(refused(
                "the rotary embedding of its sliding-window layers is not the default one with theta 10000",
            ));
        }
        self.count("rope.dimension_count", rope.dims);
        self.number("rope.freq_base", rope.theta);
        let setting = |key: &str| {
            ["rope_parameters", "rope_scaling"]
                .iter()
                .find_map(|part| config.get(*part)?.get(key)?.as_f64())
        };
        let original = setting("original_max_position_embeddings")
            .or_else(|| config.get("original_max_position_embeddings")?.as_f64())
            .unwrap_or(a.max_positions as f64);
        let gemma = self.architecture.starts_with("gemma");
        match &rope.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => {
                self.own("rope.scaling.type", Value::String("linear".into()));
                self.number("rope.scaling.factor", *factor);
            }
            Scaling::Llama3 { .. } if !gemma => {
                let plain = Rope { scaling: Scaling::None, ..rope.clone() };
                let factor = |k: usize| (plain.frequency(k, 1) / rope.frequency(k, 1)) as f32;
                self.factors.push(("rope_freqs.weight", (0..rope.dims / 2).map(factor).collect()));
            }
            Scaling::Yarn { factor, attention, .. } if !gemma => {
                let usual = [("beta_fast", 32.0), ("beta_slow", 1.0)]
                    .iter()
                    .all(|(key, value)| setting(key).is_none_or(|x| x == *value));
                let warmth = 0.1 * factor.ln() + 1.0;
                let truncates = ["rope_parameters", "rope_scaling"].iter().all(|part| {
                    config.get(*part).and_then(|part| part.get("truncate"))
                        != Some(&Json::Bool(false))
                });
                if !usual || !truncates || (attention - warmth).abs() > 1e-6 {
                    return Err(refused(
                        "its YaRN scaling uses a non-default beta_fast, beta_slow or attention_factor",
                    ));
                }
                self.own("rope.scaling.type", Value::String("yarn".into()));
                self.number("rope.scaling.factor", *factor);
                self.count("rope.scaling.original_context_length", original as usize);
            }
            Scaling::Long { short, long, original, attention } if self.architecture == "phi3" => {
                let factors = |factors: &[f64]| factors.iter().map(|x| *x as f32).collect();
                self.factors.push(("rope_factors_long.weight", factors(long)));
                self.factors.push(("rope_factors_short.weight", factors(short)));
                self.number("rope.scaling.attn_factor", *attention);
                self.count("rope.scaling.original_context_length", *original);
            }
            other => {
                let name = format!("{other:?}")
                    .split([' ', '{'])
                    .next()
                    .unwrap_or_default()
                    .to_lowercase();
                return Err(refused(format!(
                    "llama.cpp does not support {name} rotary scaling for `{}`",
                    a.family
                )));
            }
        }
        Ok(())
    }

    /// Maps the checkpoint tensor `name` to its GGUF name and layout.
    ///
    /// # Errors
    /// A tensor that llama.cpp does not have.
    pub fn map_tensor(&self, name: &str) -> Result<TensorMapping> {
        let unknown = || refused(format!("llama.cpp has no tensor for `{name}`"));
        let (path, kind) = name.rsplit_once('.').ok_or_else(unknown)?;
        let layer = path.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let part = layer.map_or(path, |(_, part)| part);
        let found = match (self.architecture, part) {
            ("gemma2" | "gemma3", "pre_feedforward_layernorm") => "ffn_norm",
            ("gemma2" | "gemma3", "post_attention_layernorm") => "post_attention_norm",
            ("phi3", "mlp.gate_up_proj") => "ffn_up",
            _ => NAMES
                .iter()
                .find(|(_, to)| *to == part)
                .map(|(from, _)| *from)
                .ok_or_else(unknown)?,
        };
        let new = match layer {
            Some((layer, _)) => format!("blk.{layer}.{found}.{kind}"),
            None => format!("{found}.{kind}"),
        };
        let turned = self.head.filter(|_| matches!(found, "attn_q" | "attn_k"));
        let added = if found.ends_with("norm") { self.offset } else { 0.0 };
        Ok(TensorMapping { name: new, interleaved: turned, added })
    }

    /// The mapping of a generated tensor, by llama.cpp's name.
    pub fn map_generated(&self, name: &str) -> TensorMapping {
        TensorMapping { name: name.to_owned(), interleaved: None, added: 0.0 }
    }

    /// llama.cpp's name of the architecture.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }
}
