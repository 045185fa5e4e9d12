//! What config.json says of a decoder, in one spelling, and the tensors that follow from it. What sets
//! families apart is data here: only the reader of config.json knows them by name.

mod attention;
mod read;
mod rope;
mod values;

pub use rope::{Rope, Scaling};

/// The shape of a decoder. Two sources can be merged when theirs are equal but for the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// `model_type`: `llama`, `qwen3`, ...
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
    /// What RMS norms add to their weights: 1 for gemma, else 0.
    pub norm_offset: f64,
    /// Whether queries and keys are normed, head by head.
    pub qk_norm: bool,
    /// Whether attention and MLP are followed by norms of their own, as in gemma2 and gemma3.
    pub post_norms: bool,
    /// What embeddings are multiplied by.
    pub embedding_scale: f64,
    /// The gate of the MLP.
    pub activation: Activation,
    /// Whether query, key and value projections are one weight, and gate and up another.
    pub fused: bool,
    /// What attention scores are multiplied by.
    pub attention_scale: f64,
    /// `c` of `c tanh(s / c)`, which attention scores go through.
    pub attention_cap: Option<f64>,
    /// The same for logits.
    pub logit_cap: Option<f64>,
    /// Rotary position embeddings; layers name theirs by its index.
    pub ropes: Vec<Rope>,
    /// How each layer attends.
    pub attends: Vec<Attends>,
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

/// How a layer attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attends {
    /// Positions a token sees, itself included; none: all before it.
    pub window: Option<usize>,
    /// Its rotary embedding among [`Architecture::ropes`]; none: positions are not told.
    pub rope: Option<usize>,
}

/// The gate of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`
    GeluTanh,
}

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

impl Architecture {
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
            let mut linear = |name: &str, rows, columns, bias| {
                add(format!("{prefix}.{name}.weight"), Kind::Linear, &[rows, columns]);
                if bias {
                    add(format!("{prefix}.{name}.bias"), Kind::Bias, &[rows]);
                }
            };
            match self.fused {
                true => linear("self_attn.qkv_proj", queries + 2 * keys, self.hidden, self.qkv_bias),
                false => {
                    linear("self_attn.q_proj", queries, self.hidden, self.qkv_bias);
                    linear("self_attn.k_proj", keys, self.hidden, self.qkv_bias);
                    linear("self_attn.v_proj", keys, self.hidden, self.qkv_bias);
                }
            }
            linear("self_attn.o_proj", self.hidden, queries, self.output_bias);
            if self.qk_norm {
                add(format!("{prefix}.self_attn.q_norm.weight"), Kind::Norm, &[self.head_dim]);
                add(format!("{prefix}.self_attn.k_norm.weight"), Kind::Norm, &[self.head_dim]);
            }
            add(format!("{prefix}.post_attention_layernorm.weight"), Kind::Norm, &[self.hidden]);
            if self.post_norms {
                add(format!("{prefix}.pre_feedforward_layernorm.weight"), Kind::Norm, &[self.hidden]);
            }
            let mut linear = |name: &str, rows, columns| {
                add(format!("{prefix}.mlp.{name}.weight"), Kind::Linear, &[rows, columns]);
                if self.mlp_bias {
                    add(format!("{prefix}.mlp.{name}.bias"), Kind::Bias, &[rows]);
                }
            };
            match self.fused {
                true => linear("gate_up_proj", 2 * self.intermediate, self.hidden),
                false => {
                    linear("gate_proj", self.intermediate, self.hidden);
                    linear("up_proj", self.intermediate, self.hidden);
                }
            }
            linear("down_proj", self.hidden, self.intermediate);
            if self.post_norms {
                add(format!("{prefix}.post_feedforward_layernorm.weight"), Kind::Norm, &[self.hidden]);
            }
        }
        add("model.norm.weight".into(), Kind::Norm, &[self.hidden]);
        if !self.tied {
            add("lm_head.weight".into(), Kind::Linear, &[self.vocabulary, self.hidden]);
        }
        specs
    }

    /// The windows of its layers and which of them have which rotary embedding.
    fn describe_attention(&self) -> String {
        let mut runs: Vec<(Attends, usize)> = Vec::new();
        for attends in &self.attends {
            match runs.last_mut() {
                Some((last, count)) if last == attends => *count += 1,
                _ => runs.push((*attends, 1)),
            }
        }
        let one = |(a, count): (Attends, usize)| {
            let window = a.window.map_or_else(|| "all positions".to_owned(), |w| format!("{w} positions"));
            let rope = match a.rope {
                None => " without rotary embedding".to_owned(),
                Some(0) => String::new(),
                Some(other) => format!(" with rotary embedding {}", other + 1),
            };
            format!("{count} layers see {window}{rope}")
        };
        runs.into_iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The first field in which two architectures differ, as `name: this and that`. Vocabularies may, and one output
    /// layer may be tied.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let other = &Self { vocabulary: self.vocabulary, tied: self.tied, ..other.clone() };
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
                ("rotary embedding", a.ropes.iter().map(Rope::describe).collect::<Vec<_>>().join(" and ")),
                ("attention", a.describe_attention()),
                ("norms", format!("{:?}", (a.norm_offset, a.qk_norm, a.post_norms))),
                ("activation", format!("{:?}", a.activation)),
                ("scales", format!("{:?}", (a.embedding_scale, a.attention_scale, a.attention_cap, a.logit_cap))),
                ("biases", format!("{:?}", [a.qkv_bias, a.output_bias, a.mlp_bias])),
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
