//! Reads config.json: families by name, the keys of transformers 4 and 5, every value checked.
//!
//! Settings that would change the logits but are not supported are errors that name the key; they
//! are never ignored.

use std::path::Path;

use serde_json::{Map, Value};

use super::architecture::{Activation, Architecture};
use super::family::{Biases, FAMILIES, Family};
use super::values::Config;
use super::wrapper::{WRAPPERS, decoder};
use crate::error::{Error, Result};

/// The maximum number of layers; the deepest known decoders have fewer than 200.
const MAX_LAYERS: usize = 4096;

impl Architecture {
    /// The `model_type` of each supported text family.
    pub fn families() -> impl Iterator<Item = &'static str> {
        FAMILIES.iter().map(|family| family.name)
    }

    /// The `model_type` of each multimodal model whose text decoder is supported.
    pub fn multimodal() -> impl Iterator<Item = &'static str> {
        WRAPPERS.iter().map(|(name, _)| *name)
    }

    /// The error for the unsupported family `found`.
    pub(crate) fn unknown(file: &Path, found: &str) -> Error {
        let known = Self::families().chain(Self::multimodal()).collect::<Vec<_>>().join(", ");
        Error::UnknownFamily { file: file.into(), found: found.into(), known }
    }

    /// The `model_type` of config.json, supported or not.
    ///
    /// # Errors
    /// A file that is not a JSON object.
    pub fn family_of(file: &Path, bytes: &[u8]) -> Result<String> {
        let map: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|e| Error::Json { file: file.into(), reason: e.to_string() })?;
        Ok(map.get("model_type").and_then(Value::as_str).unwrap_or("unnamed").to_owned())
    }

    /// Reads config.json, with the defaults of transformers for missing keys. For a multimodal
    /// model, this reads its text decoder.
    ///
    /// # Errors
    /// Unsupported families; values that are missing, of the wrong type or inconsistent.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        let json = |reason: String| Error::Json { file: file.into(), reason };
        let map: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| json(e.to_string()))?;
        let root = Config { file, map: &map, within: None };
        let name = root.value("model_type").and_then(Value::as_str).unwrap_or("unnamed").to_owned();
        let (config, family) = decoder(&root, &name)?;
        let [vocabulary, hidden, intermediate, layers, heads] = family.sizes;
        let (hidden, heads) =
            (config.sized("hidden_size", hidden)?, config.sized("num_attention_heads", heads)?);
        let key_value_heads = match config.size("num_key_value_heads")? {
            Some(count) => count,
            // An explicit null means as many as heads.
            None if config.map.contains_key("num_key_value_heads") => heads,
            None => family.key_value_heads.unwrap_or(heads),
        };
        if heads % key_value_heads != 0 {
            return Err(config.bad(
                "num_key_value_heads",
                format!("`{key_value_heads}` does not divide `{heads}` heads"),
            ));
        }
        let head_dim = match config.size("head_dim")?.or(family.head_dim) {
            Some(dim) => dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(config.bad(
                    "hidden_size",
                    format!("`{hidden}` is not a multiple of `{heads}` heads"),
                ));
            }
        };
        let layers = config.sized("num_hidden_layers", layers)?;
        if layers > MAX_LAYERS {
            return Err(
                config.bad("num_hidden_layers", format!("`{layers}` is more than `{MAX_LAYERS}`"))
            );
        }
        let (ropes, attention) = config.attention(family, layers, head_dim)?;
        let [qkv_bias, output_bias, mlp_bias] = config.biases(family)?;
        let query_scalar = if family.query_scalar {
            config.number("query_pre_attn_scalar", 256.0)?
        } else {
            head_dim as f64
        };
        let multiplier =
            |key: &str| if family.multipliers { config.number(key, 1.0) } else { Ok(1.0) };
        Ok(Self {
            vocabulary: config.sized("vocab_size", vocabulary)?,
            hidden,
            intermediate: config.sized("intermediate_size", intermediate)?,
            layers,
            heads,
            key_value_heads,
            head_dim,
            norm_eps: config.number("rms_norm_eps", family.norm_eps)?,
            norm_offset: if family.gemma { 1.0 } else { 0.0 },
            qk_norm: family.qk_norm,
            norms: family.norms,
            embedding_scale: if family.gemma {
                (hidden as f64).sqrt()
            } else {
                multiplier("embedding_multiplier")?
            },
            residual_scale: multiplier("residual_multiplier")?,
            logit_scale: multiplier("logits_scaling")?.recip(),
            activation: config.activation(family.gemma)?,
            fused_qkv: family.fused_qkv,
            fused_gate_up: family.fused_gate_up,
            attention_scale: if family.multipliers {
                multiplier("attention_multiplier")?
            } else {
                query_scalar.sqrt().recip()
            },
            attention_cap: config.cap("attn_logit_softcapping", family.attention_cap, family)?,
            logit_cap: config.cap("final_logit_softcapping", family.logit_cap, family)?,
            ropes,
            attention,
            qkv_bias,
            output_bias,
            mlp_bias,
            tied: config.tied(family)?,
            max_positions: config.max_positions(family)?,
            eos: config.eos(family)?,
            family: name,
        })
    }
}

impl Config<'_> {
    /// A size that only nested configurations may omit.
    fn sized(&self, key: &str, default: usize) -> Result<usize> {
        match self.size(key)? {
            Some(size) => Ok(size),
            None if self.within.is_some() => Ok(default),
            None => Err(self.bad(key, "it is missing")),
        }
    }

    /// The maximum sequence length.
    pub(super) fn max_positions(&self, family: &Family) -> Result<usize> {
        Ok(self.size("max_position_embeddings")?.unwrap_or(family.max_positions))
    }

    /// Whether the output layer is the embedding. In a multimodal model, the key may be at the top
    /// level or in the text configuration: releases of transformers differ, and either counts.
    fn tied(&self, family: &Family) -> Result<bool> {
        const KEY: &str = "tie_word_embeddings";
        let own = self.value(KEY).map(|_| self.flag(KEY, false)).transpose()?;
        let Some(root) = self.within else { return Ok(own.unwrap_or(family.tied)) };
        let beside = Config { file: self.file, map: root, within: None };
        let beside = beside.value(KEY).map(|_| beside.flag(KEY, false)).transpose()?;
        Ok([own, beside].into_iter().flatten().reduce(|a, b| a || b).unwrap_or(family.tied))
    }

    /// End-of-sequence tokens from the text configuration, or else from the top level.
    fn eos(&self, family: &Family) -> Result<Vec<u32>> {
        const KEY: &str = "eos_token_id";
        let own = self.ids(KEY)?;
        let Some(root) = self.within.filter(|_| own.is_empty()) else { return Ok(own) };
        let beside = Config { file: self.file, map: root, within: None }.ids(KEY)?;
        Ok(if beside.is_empty() { family.eos.to_vec() } else { beside })
    }

    /// Which projections have biases: queries, keys and values; the attention output; the MLP.
    fn biases(&self, family: &Family) -> Result<[bool; 3]> {
        let mlp = self.bias("mlp_bias", family, family.mlp_bias)?;
        let attention = || self.bias("attention_bias", family, family.biases != Biases::Never);
        Ok(match family.biases {
            Biases::Never | Biases::Attention => {
                let bias = attention()?;
                [bias, bias, mlp]
            }
            Biases::Qkv => {
                attention()?;
                [true, false, mlp]
            }
            Biases::QkvUnlessDisabled => [self.flag("attention_bias", true)?, false, mlp],
            Biases::All => [self.flag("use_bias", false)?; 3],
        })
    }

    /// Whether `key` enables biases, which not all families support.
    fn bias(&self, key: &str, family: &Family, known: bool) -> Result<bool> {
        match self.flag(key, false)? {
            true if !known => Err(self.bad(key, format!("`{}` does not support it", family.name))),
            bias => Ok(bias),
        }
    }

    /// A soft cap that null disables; the default is `None` if the family does not support `key`.
    fn cap(&self, key: &str, default: Option<Option<f64>>, family: &Family) -> Result<Option<f64>> {
        match default {
            Some(default) => self.switchable(key, default),
            None => self.value(key).map_or(Ok(None), |_| {
                Err(self.bad(key, format!("`{}` does not support it", family.name)))
            }),
        }
    }

    fn activation(&self, gemma: bool) -> Result<Activation> {
        if !gemma {
            return match self.value("hidden_act").map_or(Some("silu"), Value::as_str) {
                Some("silu") => Ok(Activation::Silu),
                Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
                _ => Err(self.unknown_activation("hidden_act", "silu or gelu_pytorch_tanh")),
            };
        }
        // In the first gemma, `hidden_act: gelu` means the tanh approximation, as named by
        // `hidden_activation`.
        for (key, known) in [
            ("hidden_activation", &["gelu_pytorch_tanh"][..]),
            ("hidden_act", &["gelu_pytorch_tanh", "gelu"][..]),
        ] {
            if self
                .value(key)
                .is_some_and(|v| !v.as_str().is_some_and(|name| known.contains(&name)))
            {
                return Err(self.unknown_activation(key, "gelu_pytorch_tanh"));
            }
        }
        Ok(Activation::GeluTanh)
    }

    fn unknown_activation(&self, key: &str, known: &str) -> Error {
        self.bad(key, format!("`{}` is not {known}", self.value(key).unwrap_or(&Value::Null)))
    }
}
