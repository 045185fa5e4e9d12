//! What config.json says of a decoder, in one spelling, and the tensors that follow from it.
//!
//! Families: llama, mistral (sliding window) and qwen2 (biases on q, k and v).

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The shape of a decoder. Two sources can be merged when theirs are equal.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `model_type`: `llama`, `mistral` or `qwen2`.
    pub family: String,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Features of a hidden state.
    pub hidden: usize,
    /// Features inside an MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; each serves `heads / key_value_heads` query heads.
    pub key_value_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// What RMS norms add to the mean square.
    pub norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Positions a token sees, itself included; `None`: all before it.
    pub sliding_window: Option<usize>,
    /// The first layer with a sliding window (qwen2's `max_window_layers`).
    pub sliding_from: usize,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// The output layer is the embedding.
    pub tied: bool,
    /// The longest sequence it was made for.
    pub max_positions: usize,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
}

/// Rotary position embedding: `theta` and how frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: Scaling,
}

impl Rope {
    fn describe(&self) -> String {
        let Self { theta, scaling } = self;
        match scaling {
            Scaling::None => format!("theta {theta}"),
            Scaling::Linear { factor } => format!("theta {theta}, linear by {factor}"),
            Scaling::Llama3 { factor, low, high, original } => {
                format!("theta {theta}, llama3 by {factor} from {low} to {high} over {original}")
            }
        }
    }
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// How much longer the context is.
        factor: f64,
    },
    /// Llama 3.1's: only long wavelengths are divided.
    Llama3 {
        /// What long wavelengths are divided by.
        factor: f64,
        /// Turns over the original context up to which a wavelength is long.
        low: f64,
        /// Turns from which it is short.
        high: f64,
        /// The original context, in positions.
        original: f64,
    },
}

/// Layers of the deepest decoder that is read; the deepest known ones have fewer than 200.
const MOST_LAYERS: usize = 4096;

/// What a tensor is, which decides its coefficients: columns of a weight, or one number for a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A matrix, out x in.
    Linear,
    /// A row a token.
    Embedding,
    /// A scale a feature.
    Norm,
    /// Of a linear layer; trains when linear layers do.
    Bias,
}

impl Kind {
    /// The name in reports and settings.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Linear => "linear",
            Kind::Embedding => "embedding",
            Kind::Norm => "norm",
            Kind::Bias => "bias",
        }
    }
}

/// A tensor that an architecture has.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// As in the checkpoint.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// As in the checkpoint.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The name of the embedding.
    pub const EMBEDDING: &str = "model.embed_tokens.weight";

    /// The layer that it belongs to; none: the embedding, the last norm or the output layer.
    pub fn layer(&self) -> Option<usize> {
        self.name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
    }

    /// Its name with `*` for the number of its layer: what it does there.
    pub fn role(&self) -> String {
        self.layer().map_or_else(|| self.name.clone(), |layer| self.name.replacen(&format!(".{layer}."), ".*.", 1))
    }
}

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

    /// Both spellings: `rope_theta` and `rope_scaling` (transformers 4), `rope_parameters` (5).
    fn rope(&self) -> Result<Rope> {
        let empty = Map::new();
        let map = |key: &str| match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(self.bad(key, format!("`{other}` is not an object"))),
        };
        let parameters = map("rope_parameters")?.or(map("rope_scaling")?).unwrap_or(&empty);
        let theta = self.number(parameters, "rope_theta", self.number(self.map, "rope_theta", 10_000.0)?)?;
        let kind = match parameters.get("rope_type").or_else(|| parameters.get("type")) {
            None | Some(Value::Null) => "default",
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(self.bad("rope_type", format!("`{other}` is not a name"))),
        };
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: self.number(parameters, "factor", 1.0)? },
            "llama3" => Scaling::Llama3 {
                factor: self.number(parameters, "factor", 8.0)?,
                low: self.number(parameters, "low_freq_factor", 1.0)?,
                high: self.number(parameters, "high_freq_factor", 4.0)?,
                original: self.number(parameters, "original_max_position_embeddings", 8192.0)?,
            },
            other => return Err(self.bad("rope_type", format!("`{other}` is not default, linear or llama3"))),
        };
        Ok(Rope { theta, scaling })
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

    /// `layer_types`, where it is there, must say what the other keys say.
    fn check_layer_types(&self, layers: usize, slides: impl Fn(usize) -> bool) -> Result<()> {
        let Some(found) = self.value("layer_types") else { return Ok(()) };
        let kind = |layer| if slides(layer) { "sliding_attention" } else { "full_attention" };
        let expected: Value = (0..layers).map(kind).collect();
        match *found == expected {
            true => Ok(()),
            false => Err(self.bad("layer_types", format!("`{found}` does not agree with the sliding window"))),
        }
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

impl Architecture {
    /// Reads config.json.
    ///
    /// # Errors
    /// Unknown families, and values that are missing, of the wrong type, or do not fit each other.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        let json = |reason: String| Error::Json { file: file.into(), reason };
        let map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| json(e.to_string()))?;
        let config = Config { file, map: &map };
        let family = config.value("model_type").and_then(Value::as_str).unwrap_or("unnamed").to_owned();
        if !["llama", "mistral", "qwen2"].contains(&family.as_str()) {
            return Err(Error::UnknownFamily { file: file.into(), found: family });
        }
        if let Some(other) = config.value("hidden_act").filter(|v| *v != "silu") {
            return Err(config.bad("hidden_act", format!("`{other}` is not silu")));
        }
        if let Some(other) = config.value("partial_rotary_factor").filter(|v| v.as_f64() != Some(1.0)) {
            return Err(config.bad("partial_rotary_factor", format!("`{other}` is not 1")));
        }
        let (hidden, heads) = (config.required("hidden_size")?, config.required("num_attention_heads")?);
        let key_value_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
        if heads % key_value_heads != 0 {
            return Err(config.bad("num_key_value_heads", format!("`{key_value_heads}` does not divide `{heads}` heads")));
        }
        let head_dim = match config.size("head_dim")? {
            Some(dim) => dim,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(config.bad("hidden_size", format!("`{hidden}` is not a multiple of `{heads}` heads"))),
        };
        if head_dim % 2 != 0 {
            return Err(config.bad("head_dim", format!("`{head_dim}` is odd, rotary embedding turns pairs")));
        }
        let layers = config.required("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            return Err(config.bad("num_hidden_layers", format!("`{layers}` is more than `{MOST_LAYERS}`")));
        }
        // Defaults where a key is missing are those of transformers.
        let window = |default| if map.contains_key("sliding_window") { config.size("sliding_window") } else { Ok(Some(default)) };
        let (sliding_window, sliding_from) = match family.as_str() {
            "mistral" => (window(4096)?, 0),
            "qwen2" if config.flag("use_sliding_window", false)? => (window(4096)?, config.whole("max_window_layers", 28)?),
            _ => (None, 0),
        };
        config.check_layer_types(layers, |layer| sliding_window.is_some() && layer >= sliding_from)?;
        let llama = family == "llama";
        let attention_bias = llama && config.flag("attention_bias", false)?;
        Ok(Self {
            vocabulary: config.required("vocab_size")?,
            hidden,
            intermediate: config.required("intermediate_size")?,
            layers,
            heads,
            key_value_heads,
            head_dim,
            norm_eps: config.number(&map, "rms_norm_eps", 1e-6)?,
            rope: config.rope()?,
            sliding_window,
            sliding_from,
            qkv_bias: attention_bias || family == "qwen2",
            output_bias: attention_bias,
            mlp_bias: llama && config.flag("mlp_bias", false)?,
            tied: config.flag("tie_word_embeddings", false)?,
            max_positions: config.size("max_position_embeddings")?.unwrap_or(2048),
            eos: config.eos()?,
            family,
        })
    }

    /// The name of the output layer's weight: the embedding where they are tied.
    pub fn output(&self) -> &'static str {
        if self.tied { TensorSpec::EMBEDDING } else { "lm_head.weight" }
    }

    /// Every tensor of a model of this architecture, in the order of computation.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut specs = Vec::new();
        let mut add = |name: String, kind, shape: &[usize]| specs.push(TensorSpec { name, kind, shape: shape.to_vec() });
        add(TensorSpec::EMBEDDING.into(), Kind::Embedding, &[self.vocabulary, self.hidden]);
        let (queries, keys) = (self.heads * self.head_dim, self.key_value_heads * self.head_dim);
        for layer in 0..self.layers {
            let prefix = format!("model.layers.{layer}");
            add(format!("{prefix}.input_layernorm.weight"), Kind::Norm, &[self.hidden]);
            let linears = [
                ("self_attn.q_proj", queries, self.hidden, self.qkv_bias),
                ("self_attn.k_proj", keys, self.hidden, self.qkv_bias),
                ("self_attn.v_proj", keys, self.hidden, self.qkv_bias),
                ("self_attn.o_proj", self.hidden, queries, self.output_bias),
                ("mlp.gate_proj", self.intermediate, self.hidden, self.mlp_bias),
                ("mlp.up_proj", self.intermediate, self.hidden, self.mlp_bias),
                ("mlp.down_proj", self.hidden, self.intermediate, self.mlp_bias),
            ];
            for (name, rows, columns, bias) in linears {
                if name == "mlp.gate_proj" {
                    add(format!("{prefix}.post_attention_layernorm.weight"), Kind::Norm, &[self.hidden]);
                }
                add(format!("{prefix}.{name}.weight"), Kind::Linear, &[rows, columns]);
                if bias {
                    add(format!("{prefix}.{name}.bias"), Kind::Bias, &[rows]);
                }
            }
        }
        add("model.norm.weight".into(), Kind::Norm, &[self.hidden]);
        if !self.tied {
            add("lm_head.weight".into(), Kind::Linear, &[self.vocabulary, self.hidden]);
        }
        specs
    }

    /// The first field in which two architectures differ, as `name: this and that`.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let fields = |a: &Self| {
            [
                ("family", a.family.clone()),
                ("vocabulary", a.vocabulary.to_string()),
                ("hidden size", a.hidden.to_string()),
                ("intermediate size", a.intermediate.to_string()),
                ("layers", a.layers.to_string()),
                ("heads", a.heads.to_string()),
                ("key-value heads", a.key_value_heads.to_string()),
                ("head dimension", a.head_dim.to_string()),
                ("norm epsilon", a.norm_eps.to_string()),
                ("rotary embedding", a.rope.describe()),
                ("sliding window", format!("{:?} from layer {}", a.sliding_window, a.sliding_from)),
                ("biases", format!("{:?}", [a.qkv_bias, a.output_bias, a.mlp_bias])),
                ("tied output layer", a.tied.to_string()),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other));
        pairs.into_iter().find(|(a, b)| a != b).map(|((name, a), (_, b))| {
            let tensor = self.tensors().into_iter().zip(other.tensors()).find(|(x, y)| x != y);
            let tensor = tensor.map(|(x, y)| format!(" (tensor `{}`: {:?} and {:?})", x.name, x.shape, y.shape));
            format!("{name} is `{a}` and `{b}`{}", tensor.unwrap_or_default())
        })
    }
}
