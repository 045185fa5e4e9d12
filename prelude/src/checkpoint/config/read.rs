//! Reads config.json: families by name, both spellings of transformers 4 and 5, every value checked.
//!
//! What would change the logits and is not done here is refused by its key, never passed over.

use std::path::Path;

use serde_json::{Map, Value};

use super::values::Config;
use super::{Activation, Architecture};
use crate::error::{Error, Result};

/// The families that can be run, by `model_type`.
const FAMILIES: [&str; 9] = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3"];

/// Layers of the deepest decoder that is read; the deepest known ones have fewer than 200.
const MOST_LAYERS: usize = 4096;

impl Architecture {
    /// The `model_type` of config.json, whether it can be run or not.
    ///
    /// # Errors
    /// A file that is not a JSON object.
    pub fn family_of(file: &Path, bytes: &[u8]) -> Result<String> {
        let map: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| Error::Json { file: file.into(), reason: e.to_string() })?;
        Ok(map.get("model_type").and_then(Value::as_str).unwrap_or("unnamed").to_owned())
    }

    /// Reads config.json. Defaults where a key is missing are those of transformers.
    ///
    /// # Errors
    /// Unknown families, and values that are missing, of the wrong type, or do not fit each other.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        let json = |reason: String| Error::Json { file: file.into(), reason };
        let map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| json(e.to_string()))?;
        let config = Config { file, map: &map };
        let family = config.value("model_type").and_then(Value::as_str).unwrap_or("unnamed").to_owned();
        if !FAMILIES.contains(&family.as_str()) {
            return Err(Error::UnknownFamily { file: file.into(), found: family });
        }
        let name = family.as_str();
        let gemma = name.starts_with("gemma");
        let (hidden, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
        let key_value_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
        if heads % key_value_heads != 0 {
            return Err(config.bad("num_key_value_heads", format!("`{key_value_heads}` does not divide `{heads}` heads")));
        }
        let head_dim = match config.size("head_dim")? {
            Some(dim) => dim,
            None if gemma => 256,
            None if name == "qwen3" => 128,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(config.bad("hidden_size", format!("`{hidden}` is not a multiple of `{heads}` heads"))),
        };
        let layers = config.required("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(config.bad("num_hidden_layers", format!("`{layers}` is more than `{MOST_LAYERS}`")));
        }
        let (ropes, attends) = config.attention(name, layers, head_dim)?;
        // qwen2 has biases of its own, whatever `attention_bias` says.
        let attention_bias = config.bias("attention_bias", name, !matches!(name, "mistral" | "phi3"))? && name != "qwen2";
        let two = matches!(name, "gemma2" | "gemma3_text");
        let scalar = if two { config.number("query_pre_attn_scalar", 256.0)? } else { head_dim as f64 };
        Ok(Self {
            vocabulary: config.required("vocab_size")?,
            hidden,
            intermediate: config.required("intermediate_size")?,
            layers,
            heads,
            key_value_heads,
            head_dim,
            norm_eps: config.number("rms_norm_eps", if name == "phi3" { 1e-5 } else { 1e-6 })?,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            qk_norm: matches!(name, "qwen3" | "gemma3_text"),
            post_norms: two,
            embedding_scale: if gemma { (hidden as f64).sqrt() } else { 1.0 },
            activation: config.activation(gemma)?,
            fused: name == "phi3",
            attention_scale: scalar.sqrt().recip(),
            attention_cap: match name {
                "gemma2" => config.switchable("attn_logit_softcapping", Some(50.0))?,
                _ => config.without("attn_logit_softcapping", name)?,
            },
            logit_cap: match name {
                "gemma2" => config.switchable("final_logit_softcapping", Some(30.0))?,
                "gemma3_text" => config.switchable("final_logit_softcapping", None)?,
                _ => config.without("final_logit_softcapping", name)?,
            },
            ropes,
            attends,
            qkv_bias: attention_bias || name == "qwen2",
            output_bias: attention_bias,
            mlp_bias: config.bias("mlp_bias", name, matches!(name, "llama" | "smollm3"))?,
            tied: config.flag("tie_word_embeddings", gemma || name == "smollm3")?,
            max_positions: config.max_positions(name)?,
            eos: config.ids("eos_token_id")?,
            family,
        })
    }
}

impl Config<'_> {
    /// The longest sequence that the model is made for.
    pub(super) fn max_positions(&self, family: &str) -> Result<usize> {
        let default = match family {
            "mistral" | "gemma3_text" => 131_072,
            "qwen2" | "qwen3" | "smollm3" => 32_768,
            "gemma" | "gemma2" => 8192,
            "phi3" => 4096,
            _ => 2048,
        };
        Ok(self.size("max_position_embeddings")?.unwrap_or(default))
    }

    /// Whether `key` asks for biases, which not all families can have.
    fn bias(&self, key: &str, family: &str, known: bool) -> Result<bool> {
        match self.flag(key, false)? {
            true if !known => Err(self.bad(key, format!("no {family} has it"))),
            bias => Ok(bias),
        }
    }

    /// Nothing, as the family does not know `key`.
    fn without(&self, key: &str, family: &str) -> Result<Option<f64>> {
        self.value(key).map_or(Ok(None), |_| Err(self.bad(key, format!("no {family} has it"))))
    }

    fn activation(&self, gemma: bool) -> Result<Activation> {
        if !gemma {
            return match self.value("hidden_act").map_or(Some("silu"), Value::as_str) {
                Some("silu") => Ok(Activation::Silu),
                Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
                _ => Err(self.unknown_activation("hidden_act", "silu or gelu_pytorch_tanh")),
            };
        }
        // The first gemma's `hidden_act: gelu` means the approximation, which `hidden_activation` names.
        for (key, known) in
            [("hidden_activation", &["gelu_pytorch_tanh"][..]), ("hidden_act", &["gelu_pytorch_tanh", "gelu"][..])]
        {
            if self.value(key).is_some_and(|v| !v.as_str().is_some_and(|name| known.contains(&name))) {
                return Err(self.unknown_activation(key, "gelu_pytorch_tanh"));
            }
        }
        Ok(Activation::GeluTanh)
    }

    fn unknown_activation(&self, key: &str, known: &str) -> Error {
        self.bad(key, format!("`{}` is not {known}", self.value(key).unwrap_or(&Value::Null)))
    }
}
