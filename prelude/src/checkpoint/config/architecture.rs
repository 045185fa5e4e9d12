//! The architecture of a decoder as described by config.json, in one form, and its tensors.
//! Differences between families are data here; only the reader of config.json knows families by
//! name.

use super::rope::Rope;

/// The architecture of a decoder. Two sources can be merged if theirs are equal except for the
/// vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `model_type`: `llama`, `qwen3`, ...; for a multimodal model, that of the whole model.
    pub family: String,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// The hidden size.
    pub hidden: usize,
    /// The intermediate size of the MLP.
    pub intermediate: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; each serves `heads / key_value_heads` query heads.
    pub key_value_heads: usize,
    /// Features per head.
    pub head_dim: usize,
    /// The epsilon of RMS norms, added to the mean square.
    pub norm_eps: f64,
    /// The offset added to RMS norm weights: 1 for gemma, otherwise 0.
    pub norm_offset: f64,
    /// The norms of queries and keys.
    pub qk_norm: QkNorm,
    /// The norms before and after attention and MLP.
    pub norms: Norms,
    /// The multiplier of embeddings.
    pub embedding_scale: f64,
    /// The multiplier of attention and MLP outputs before they are added.
    pub residual_scale: f64,
    /// The multiplier of logits.
    pub logit_scale: f64,
    /// The activation of the MLP.
    pub activation: Activation,
    /// Whether query, key and value projections are one weight.
    pub fused_qkv: bool,
    /// Whether gate and up projections are one weight.
    pub fused_gate_up: bool,
    /// The multiplier of attention scores.
    pub attention_scale: f64,
    /// The soft cap `c` of attention scores, `c tanh(s / c)`.
    pub attention_cap: Option<f64>,
    /// The soft cap of logits.
    pub logit_cap: Option<f64>,
    /// Rotary position embeddings; layers refer to them by index.
    pub ropes: Vec<Rope>,
    /// The attention of each layer.
    pub attention: Vec<LayerAttention>,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// The maximum sequence length.
    pub max_positions: usize,
    /// End-of-sequence token ids.
    pub eos: Vec<u32>,
}

/// The attention of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerAttention {
    /// The number of positions a token attends to, including itself; `None`: all previous ones.
    pub window: Option<usize>,
    /// The index of its rotary embedding in [`Architecture::ropes`]; `None`: no position
    /// information.
    pub rope: Option<usize>,
}

impl LayerAttention {
    /// A description for messages.
    pub(crate) fn describe(&self) -> String {
        let window =
            self.window.map_or_else(|| "all positions".to_owned(), |w| format!("{w} positions"));
        let rope = match self.rope {
            None => " without rotary embedding".to_owned(),
            Some(0) => String::new(),
            Some(other) => format!(" with rotary embedding {}", other + 1),
        };
        window + &rope
    }
}

/// The norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// One per head, with shared weights.
    Heads,
    /// One over all heads.
    Whole,
}

/// The names of a layer's norms: `x += after(f(before(x)))` for attention and MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norms {
    /// On the input of attention.
    pub before_attention: Option<&'static str>,
    /// On the output of attention.
    pub after_attention: Option<&'static str>,
    /// On the input of the MLP.
    pub before_mlp: Option<&'static str>,
    /// On the output of the MLP.
    pub after_mlp: Option<&'static str>,
}

/// The activation of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`
    GeluTanh,
}

impl Activation {
    fn name(self) -> &'static str {
        match self {
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_tanh",
        }
    }
}

/// The kind of a tensor, which determines its coefficients: one per column of a weight, or a single
/// one for a bias.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A matrix, out x in.
    Linear,
    /// One row per token.
    Embedding,
    /// One scale per feature.
    Norm,
    /// The bias of a linear layer; trained if linear layers are.
    Bias,
}

impl Kind {
    /// The name used in reports and settings.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Linear => "linear",
            Kind::Embedding => "embedding",
            Kind::Norm => "norm",
            Kind::Bias => "bias",
        }
    }
}

/// A tensor of an architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name used by the decoder; the files of multimodal models may use another.
    pub name: String,
    /// The kind.
    pub kind: Kind,
    /// The shape in the checkpoint.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// The name of the embedding.
    pub const EMBEDDING: &str = "model.embed_tokens.weight";

    /// The index of its layer; `None` for the embedding, the final norm and the output layer.
    pub fn layer(&self) -> Option<usize> {
        Self::layer_of(&self.name)
    }

    /// The index of the layer of the tensor `name`; `None` outside the layers.
    pub(crate) fn layer_of(name: &str) -> Option<usize> {
        name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
    }

    /// Its name with `*` in place of the layer index.
    pub fn role(&self) -> String {
        self.layer().map_or_else(
            || self.name.clone(),
            |layer| self.name.replacen(&format!(".{layer}."), ".*.", 1),
        )
    }
}

impl Architecture {
    /// The name of the output layer's weight; the embedding if they are tied.
    pub fn output(&self) -> &'static str {
        if self.tied { TensorSpec::EMBEDDING } else { "lm_head.weight" }
    }

    /// All tensors of a model of this architecture, in the order of computation.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |name: &str, kind, shape| TensorSpec { name: name.into(), kind, shape };
        let rows = vec![self.vocabulary, self.hidden];
        let mut specs = vec![spec(TensorSpec::EMBEDDING, Kind::Embedding, rows.clone())];
        specs.extend((0..self.layers).flat_map(|layer| self.layer_tensors(layer)));
        specs.push(spec("model.norm.weight", Kind::Norm, vec![self.hidden]));
        if !self.tied {
            specs.push(spec("lm_head.weight", Kind::Linear, rows));
        }
        specs
    }

    /// Returns the tensors of layer `layer`, in the order of computation.
    pub(crate) fn layer_tensors(&self, layer: usize) -> Vec<TensorSpec> {
        let prefix = format!("model.layers.{layer}");
        let norm =
            |name: &'static str| (format!("{prefix}.{name}.weight"), Kind::Norm, vec![self.hidden]);
        let part = |before: Option<&'static str>, inner: Vec<_>, after: Option<&'static str>| {
            before.map(norm).into_iter().chain(inner).chain(after.map(norm))
        };
        let norms = &self.norms;
        let attention = self.attention_tensors(&prefix);
        part(norms.before_attention, attention, norms.after_attention)
            .chain(part(norms.before_mlp, self.mlp_tensors(&prefix), norms.after_mlp))
            .map(|(name, kind, shape)| TensorSpec { name, kind, shape })
            .collect()
    }

    /// The tensors of a layer's attention, without norms around it.
    fn attention_tensors(&self, prefix: &str) -> Vec<(String, Kind, Vec<usize>)> {
        let (queries, keys) = (self.heads * self.head_dim, self.key_value_heads * self.head_dim);
        let linear = |name, rows, columns, bias| {
            linear(format!("{prefix}.self_attn.{name}"), rows, columns, bias)
        };
        let mut all = if self.fused_qkv {
            linear("qkv_proj", queries + 2 * keys, self.hidden, self.qkv_bias)
        } else {
            let parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
            parts
                .into_iter()
                .flat_map(|(name, rows)| linear(name, rows, self.hidden, self.qkv_bias))
                .collect()
        };
        all.extend(linear("o_proj", self.hidden, queries, self.output_bias));
        let widths = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some([("q_norm", self.head_dim), ("k_norm", self.head_dim)]),
            QkNorm::Whole => Some([("q_norm", queries), ("k_norm", keys)]),
        };
        let norm =
            |(name, width)| (format!("{prefix}.self_attn.{name}.weight"), Kind::Norm, vec![width]);
        all.extend(widths.into_iter().flatten().map(norm));
        all
    }

    /// The tensors of a layer's MLP, without norms around it.
    fn mlp_tensors(&self, prefix: &str) -> Vec<(String, Kind, Vec<usize>)> {
        let inner = if self.fused_gate_up {
            vec![("gate_up_proj", 2 * self.intermediate, self.hidden)]
        } else {
            vec![
                ("gate_proj", self.intermediate, self.hidden),
                ("up_proj", self.intermediate, self.hidden),
            ]
        };
        let all = inner.into_iter().chain([("down_proj", self.hidden, self.intermediate)]);
        all.flat_map(|(name, rows, columns)| {
            linear(format!("{prefix}.mlp.{name}"), rows, columns, self.mlp_bias)
        })
        .collect()
    }

    /// A description of the attention windows and rotary embeddings of all layers.
    fn describe_attention(&self) -> String {
        let mut runs: Vec<(LayerAttention, usize)> = Vec::new();
        for attention in &self.attention {
            match runs.last_mut() {
                Some((last, count)) if last == attention => *count += 1,
                _ => runs.push((*attention, 1)),
            }
        }
        let one = |(a, count): (LayerAttention, usize)| match count {
            1 => format!("1 layer attends to {}", a.describe()),
            _ => format!("{count} layers attend to {}", a.describe()),
        };
        runs.into_iter().map(one).collect::<Vec<_>>().join(", ")
    }

    fn describe_norms(&self) -> String {
        let Norms { before_attention, after_attention, before_mlp, after_mlp } = self.norms;
        let of_layers =
            [before_attention, after_attention, before_mlp, after_mlp].into_iter().flatten();
        let of_queries = match self.qk_norm {
            QkNorm::None => None,
            QkNorm::Heads => Some("queries and keys, per head"),
            QkNorm::Whole => Some("queries and keys, over all heads"),
        };
        let offset = if self.norm_offset == 0.0 {
            String::new()
        } else {
            format!(", weights + {}", self.norm_offset)
        };
        of_layers.chain(of_queries).collect::<Vec<_>>().join(", ") + &offset
    }

    fn describe_biases(&self) -> String {
        let all = [
            (self.qkv_bias, "queries, keys and values"),
            (self.output_bias, "attention's output"),
            (self.mlp_bias, "MLP"),
        ];
        let there: Vec<&str> =
            all.into_iter().filter(|(is_there, _)| *is_there).map(|(_, name)| name).collect();
        if there.is_empty() { "none".into() } else { there.join(", ") }
    }

    /// The first field in which two architectures differ, as `NAME is A and B`. Vocabularies may
    /// differ, and one output layer may be tied.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let other = &Self { vocabulary: self.vocabulary, tied: self.tied, ..other.clone() };
        let cap = |cap: Option<f64>| cap.map_or_else(|| "none".to_owned(), |cap| cap.to_string());
        let fields = |a: &Self| {
            [
                ("family", a.family.clone()),
                ("hidden size", a.hidden.to_string()),
                ("intermediate size", a.intermediate.to_string()),
                ("layers", a.layers.to_string()),
                ("heads", a.heads.to_string()),
                ("key-value heads", a.key_value_heads.to_string()),
                ("head dimension", a.head_dim.to_string()),
                ("norm epsilon", a.norm_eps.to_string()),
                (
                    "rotary embedding",
                    a.ropes.iter().map(Rope::describe).collect::<Vec<_>>().join(" and "),
                ),
                ("attention", a.describe_attention()),
                ("norms", a.describe_norms()),
                ("activation", a.activation.name().to_owned()),
                (
                    "scales",
                    format!(
                        "embeddings {}, attention {}, residuals {}, logits {}",
                        a.embedding_scale, a.attention_scale, a.residual_scale, a.logit_scale
                    ),
                ),
                (
                    "caps",
                    format!("attention {}, logits {}", cap(a.attention_cap), cap(a.logit_cap)),
                ),
                ("biases", a.describe_biases()),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other));
        pairs.into_iter().find(|(a, b)| a != b).map(|((name, a), (_, b))| {
            let tensor = self.tensors().into_iter().zip(other.tensors()).find(|(x, y)| x != y);
            let tensor = tensor
                .map(|(x, y)| format!(" (tensor `{}`: {:?} and {:?})", x.name, x.shape, y.shape));
            format!("{name} is `{a}` and `{b}`{}", tensor.unwrap_or_default())
        })
    }
}

/// A linear layer's weight, and its bias if it has one.
fn linear(
    name: String,
    rows: usize,
    columns: usize,
    bias: bool,
) -> Vec<(String, Kind, Vec<usize>)> {
    let bias = bias.then(|| (format!("{name}.bias"), Kind::Bias, vec![rows]));
    [(format!("{name}.weight"), Kind::Linear, vec![rows, columns])]
        .into_iter()
        .chain(bias)
        .collect()
}
