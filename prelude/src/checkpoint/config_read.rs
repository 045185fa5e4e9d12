//! Reads config.json: families by name, both spellings of transformers 4 and 5, every value checked.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{Activation, Architecture, Attends};
use super::rope::{Rope, Scaling};
use crate::error::{Error, Result};

/// Layers of the deepest decoder that is read; the deepest known ones have fewer than 200.
const MOST_LAYERS: usize = 4096;

/// One value of config.json, checked.
struct Config<'a> {
    file: &'a Path,
    map: &'a Map<String, Value>,
}

impl Config<'_> {
    fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Config { file: self.file.into(), key: key.into(), reason: reason.into() }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        const MAX: u64 = 1 << 24;
        match self.value(key) {
            None => Ok(None),
            Some(v) => match v.as_u64() {
                Some(n) if (1..=MAX).contains(&n) => Ok(Some(n as usize)),
                _ => Err(self.bad(key, format!("`{v}` is not a whole number from 1 to {MAX}"))),
            },
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.bad(key, "it is missing"))
    }

    fn number(&self, map: &Map<String, Value>, key: &str, default: f64) -> Result<f64> {
        match map.get(key).filter(|v| !v.is_null()) {
            None => Ok(default),
            Some(v) => v
                .as_f64()
                .filter(|x| x.is_finite() && *x > 0.0)
                .ok_or_else(|| self.bad(key, format!("`{v}` is not a positive number"))),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.bad(key, format!("`{v}` is not true or false"))),
        }
    }

    /// An object, where there is one.
    fn map(&self, key: &str) -> Result<Option<&Map<String, Value>>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.bad(key, format!("`{other}` is not an object"))),
        }
    }

    /// What is said of layers of `kind`: in both spellings, `rope_theta` and `rope_scaling` (transformers 4),
    /// `rope_parameters` (5), which may have a part for each kind of layer. `theta` where nothing is said.
    fn rope(&self, kind: &str, theta: f64, dims: usize) -> Result<Rope> {
        let empty = Map::new();
        let parameters = self.map("rope_parameters")?.or(self.map("rope_scaling")?).unwrap_or(&empty);
        let parameters = match parameters.get(kind) {
            Some(Value::Object(own)) => own,
            _ => parameters,
        };
        let theta = self.number(parameters, "rope_theta", theta)?;
        let name = match parameters.get("rope_type").or_else(|| parameters.get("type")) {
            None | Some(Value::Null) => "default",
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(self.bad("rope_type", format!("`{other}` is not a name"))),
        };
        let scaling = match name {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: self.number(parameters, "factor", 1.0)? },
            "llama3" => Scaling::Llama3 {
                factor: self.number(parameters, "factor", 8.0)?,
                low: self.number(parameters, "low_freq_factor", 1.0)?,
                high: self.number(parameters, "high_freq_factor", 4.0)?,
                original: self.number(parameters, "original_max_position_embeddings", 8192.0)?,
            },
            "longrope" | "su" => self.long(parameters, dims)?,
            other => return Err(self.bad("rope_type", format!("`{other}` is not default, linear, llama3 or longrope"))),
        };
        Ok(Rope { theta, dims, scaling })
    }

    fn long(&self, parameters: &Map<String, Value>, dims: usize) -> Result<Scaling> {
        let factors = |key: &str| {
            let list = parameters.get(key).and_then(Value::as_array);
            let list: Option<Vec<f64>> = list.and_then(|l| l.iter().map(|v| v.as_f64().filter(|x| *x > 0.0)).collect());
            list.filter(|l| l.len() == dims / 2).ok_or_else(|| self.bad(key, format!("it is not {} positive numbers", dims / 2)))
        };
        let longest = self.size("max_position_embeddings")?.unwrap_or(4096) as f64;
        let original = self.number(self.map, "original_max_position_embeddings", 4096.0)?;
        let original = self.number(parameters, "original_max_position_embeddings", original)?;
        let factor = self.number(parameters, "factor", longest / original)?;
        let known = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        let attention = self.number(parameters, "attention_factor", known)?;
        Ok(Scaling::Long {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original: original as usize,
            attention,
        })
    }

    /// A whole number from 0.
    fn whole(&self, key: &str, default: usize) -> Result<usize> {
        match self.value(key) {
            None => Ok(default),
            Some(v) => {
                let n = v.as_u64().and_then(|n| usize::try_from(n).ok());
                n.ok_or_else(|| self.bad(key, format!("`{v}` is not a whole number from 0")))
            }
        }
    }

    /// Whether each layer slides: as `layer_types` says, else as `known` does. Where both speak, they must agree.
    fn slides(&self, layers: usize, known: impl Fn(usize) -> bool, binding: bool) -> Result<Vec<bool>> {
        let expected: Vec<bool> = (0..layers).map(known).collect();
        let Some(found) = self.value("layer_types") else { return Ok(expected) };
        let one = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let types: Option<Vec<bool>> = found.as_array().and_then(|types| types.iter().map(one).collect());
        match types {
            Some(types) if types.len() == layers && (!binding || types == expected) => Ok(types),
            _ => Err(self.bad("layer_types", format!("`{found}` does not agree with the sliding window or the layers"))),
        }
    }

    /// A number that may be switched off with null.
    fn cap(&self, key: &str, default: f64) -> Result<Option<f64>> {
        if self.map.get(key).is_some_and(Value::is_null) { Ok(None) } else { self.number(self.map, key, default).map(Some) }
    }

    fn eos(&self) -> Result<Vec<u32>> {
        let Some(value) = self.value("eos_token_id") else { return Ok(Vec::new()) };
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        ids.iter()
            .map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<_>>()
            .ok_or_else(|| self.bad("eos_token_id", format!("`{value}` is not a token id")))
    }
}

/// The families that can be run, by `model_type`.
const FAMILIES: [&str; 9] = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3"];

impl Architecture {
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
        let gemma = family.starts_with("gemma");
        let (hidden, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
        let key_value_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
        if heads % key_value_heads != 0 {
            return Err(config.bad("num_key_value_heads", format!("`{key_value_heads}` does not divide `{heads}` heads")));
        }
        let head_dim = match config.size("head_dim")? {
            Some(dim) => dim,
            None if gemma => 256,
            None if family == "qwen3" => 128,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(config.bad("hidden_size", format!("`{hidden}` is not a multiple of `{heads}` heads"))),
        };
        let layers = config.required("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(config.bad("num_hidden_layers", format!("`{layers}` is more than `{MOST_LAYERS}`")));
        }
        let (ropes, attends) = config.attention(&family, layers, head_dim)?;
        let attention_bias = config.flag("attention_bias", false)?;
        let (llama, smollm) = (family == "llama", family == "smollm3");
        if attention_bias && !(llama || smollm || family == "qwen3") {
            return Err(config.bad("attention_bias", format!("no {family} has it")));
        }
        let two = matches!(family.as_str(), "gemma2" | "gemma3_text");
        let scalar = if two { config.number(&map, "query_pre_attn_scalar", 256.0)? } else { head_dim as f64 };
        let capped = family == "gemma2";
        let own_cap = |key: &str, default: f64| match capped {
            true => config.cap(key, default),
            false if config.value(key).is_some() => Err(config.bad(key, format!("no {family} has it"))),
            false => Ok(None),
        };
        Ok(Self {
            vocabulary: config.required("vocab_size")?,
            hidden,
            intermediate: config.required("intermediate_size")?,
            layers,
            heads,
            key_value_heads,
            head_dim,
            norm_eps: config.number(&map, "rms_norm_eps", if family == "phi3" { 1e-5 } else { 1e-6 })?,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            qk_norm: matches!(family.as_str(), "qwen3" | "gemma3_text"),
            post_norms: two,
            embedding_scale: if gemma { (hidden as f64).sqrt() } else { 1.0 },
            activation: config.activation(gemma)?,
            fused: family == "phi3",
            attention_scale: scalar.sqrt().recip(),
            attention_cap: own_cap("attn_logit_softcapping", 50.0)?,
            logit_cap: own_cap("final_logit_softcapping", 30.0)?,
            ropes,
            attends,
            qkv_bias: attention_bias || family == "qwen2",
            output_bias: attention_bias,
            mlp_bias: (llama || smollm) && config.flag("mlp_bias", false)?,
            tied: config.flag("tie_word_embeddings", gemma || smollm)?,
            max_positions: config.size("max_position_embeddings")?.unwrap_or(2048),
            eos: config.eos()?,
            family,
        })
    }
}

impl Config<'_> {
    fn activation(&self, gemma: bool) -> Result<Activation> {
        // Gemma's `hidden_act: gelu` was always run as its approximation, which `hidden_activation` names.
        let (key, default) = if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
        match self.value(key).map_or(Some(default), Value::as_str) {
            Some("silu") => Ok(Activation::Silu),
            Some("gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            _ => Err(self.bad(key, format!("`{}` is not silu or gelu_pytorch_tanh", self.value(key).unwrap_or(&Value::Null)))),
        }
    }

    /// The rotary embeddings, and how every layer attends.
    fn attention(&self, family: &str, layers: usize, head_dim: usize) -> Result<(Vec<Rope>, Vec<Attends>)> {
        let window =
            |default| if self.map.contains_key("sliding_window") { self.size("sliding_window") } else { Ok(Some(default)) };
        let used = self.flag("use_sliding_window", false)?;
        let from = self.whole("max_window_layers", 28)?;
        let pattern = self.size("sliding_window_pattern")?.unwrap_or(if family == "gemma2" { 2 } else { 6 });
        let (window, slides) = match family {
            "mistral" => {
                (window(4096)?, self.slides(layers, |_| self.map.get("sliding_window").is_none_or(|w| !w.is_null()), true)?)
            }
            "phi3" => (self.size("sliding_window")?, vec![true; layers]),
            "qwen2" | "qwen3" if used => (window(4096)?, self.slides(layers, |layer| layer >= from, true)?),
            "smollm3" if used => (self.size("sliding_window")?, self.slides(layers, |_| false, false)?),
            "gemma2" | "gemma3_text" => (window(4096)?, self.slides(layers, |layer| (layer + 1) % pattern != 0, false)?),
            _ => (None, self.slides(layers, |_| false, true)?),
        };
        let partial = self.number(self.map, "partial_rotary_factor", 1.0)?;
        let partial = match self.map("rope_parameters")? {
            Some(parameters) => self.number(parameters, "partial_rotary_factor", partial)?,
            None => partial,
        };
        let dims = (head_dim as f64 * partial) as usize;
        if partial > 1.0 || (partial < 1.0 && family != "phi3") {
            return Err(self.bad("partial_rotary_factor", format!("`{partial}` is not 1")));
        }
        if !dims.is_multiple_of(2) || dims == 0 {
            return Err(self.bad("head_dim", format!("`{dims}` is odd, rotary embedding turns pairs")));
        }
        let theta = match family {
            "gemma3_text" => 1_000_000.0,
            "smollm3" => 2_000_000.0,
            _ => 10_000.0,
        };
        let theta = self.number(self.map, "rope_theta", theta)?;
        let mut ropes = vec![self.rope("full_attention", theta, dims)?];
        if family == "gemma3_text" {
            let local = self.number(self.map, "rope_local_base_freq", 10_000.0)?;
            let nested = self.map("rope_parameters")?.and_then(|p| p.get("sliding_attention")).is_some();
            ropes.push(match nested {
                true => self.rope("sliding_attention", local, dims)?,
                false => Rope { theta: local, dims, scaling: Scaling::None },
            });
        }
        let turns = self.turns(family, layers)?;
        let attends = slides.iter().zip(turns).map(|(slides, turns)| Attends {
            window: window.filter(|_| *slides),
            rope: turns.then_some(if *slides && ropes.len() > 1 { 1 } else { 0 }),
        });
        let attends = attends.collect();
        Ok((ropes, attends))
    }

    /// Which layers have rotary embeddings: all but smollm3's every fourth.
    fn turns(&self, family: &str, layers: usize) -> Result<Vec<bool>> {
        if family != "smollm3" {
            return Ok(vec![true; layers]);
        }
        let interval = self.size("no_rope_layer_interval")?.unwrap_or(4);
        let Some(list) = self.value("no_rope_layers") else {
            return Ok((0..layers).map(|layer| (layer + 1) % interval != 0).collect());
        };
        let turns: Option<Vec<bool>> = list.as_array().and_then(|l| l.iter().map(|v| v.as_u64().map(|x| x != 0)).collect());
        turns.filter(|t| t.len() == layers).ok_or_else(|| self.bad("no_rope_layers", format!("`{list}` is not {layers} numbers")))
    }
}
