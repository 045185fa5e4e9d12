//! The supported decoder families as data: how each differs from llama, and the defaults of
//! transformers for missing keys.

use super::architecture::{Norms, QkNorm};
use super::rope::Pairs;

/// A family.
pub(super) struct Family {
    /// `model_type` of config.json.
    pub name: &'static str,
    /// Defaults in nested configurations: vocabulary, hidden, intermediate, layers, heads.
    pub sizes: [usize; 5],
    /// Key-value heads; `None`: as many as heads.
    pub key_value_heads: Option<usize>,
    /// Features per head; `None`: the hidden size divided by the number of heads.
    pub head_dim: Option<usize>,
    pub norm_eps: f64,
    pub theta: f64,
    /// The rotary base of sliding-window layers if they have their own and config.json does not
    /// give it: [`Local`].
    pub local: Option<Local>,
    pub max_positions: usize,
    pub tied: bool,
    /// Default end-of-sequence tokens in nested configurations.
    pub eos: &'static [u32],
    /// Whether norms use `1 + w`, embeddings are scaled by the root of the hidden size, and the
    /// activation is gelu.
    pub gemma: bool,
    pub norms: Norms,
    pub qk_norm: QkNorm,
    /// Whether query, key and value projections are one weight.
    pub fused_qkv: bool,
    /// Whether gate and up projections are one weight.
    pub fused_gate_up: bool,
    pub biases: Biases,
    /// Whether `mlp_bias` is supported.
    pub mlp_bias: bool,
    pub pairs: Pairs,
    /// The default fraction of a head that is rotated, if it may be partial_rotary.
    pub partial_rotary: Option<f64>,
    /// Whether longrope is the only scaling, also under its former names.
    pub longrope_only: bool,
    /// Whether positions may have time, height and width, which are equal for text.
    pub mrope: bool,
    pub windows: Windows,
    /// The default window.
    pub window: Option<usize>,
    /// Which layers have no rotary embedding.
    pub no_rope: NoRope,
    /// Whether scores are scaled by `query_pre_attn_scalar`.
    pub query_scalar: bool,
    /// The default of `attn_logit_softcapping`; `None`: the family does not have this key.
    pub attention_cap: Option<Option<f64>>,
    /// The default of `final_logit_softcapping`; `None`: the family does not have this key.
    pub logit_cap: Option<Option<f64>>,
    /// Whether embeddings, scores, residuals and logits have their own multipliers.
    pub multipliers: bool,
}

/// The rotary base of sliding-window layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Local {
    /// `rope_local_base_freq`, or 10000.
    OwnBase,
    /// `rope_theta`, without scaling.
    SameBase,
}

/// Which projections have biases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Biases {
    /// None.
    Never,
    /// All of attention, if `attention_bias` is true.
    Attention,
    /// Queries, keys and values, regardless of `attention_bias`.
    Qkv,
    /// Queries, keys and values, unless `attention_bias` is false.
    QkvUnlessDisabled,
    /// All of attention and MLP, if `use_bias` is true.
    All,
}

/// Which layers have a sliding window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Windows {
    /// None.
    Never,
    /// All.
    All,
    /// With `use_sliding_window`: from layer `max_window_layers` (or this default) on.
    FromLayer(usize),
    /// With `use_sliding_window`: those without rotary embedding.
    NoRopeLayers,
    /// All but every n-th; `sliding_window_pattern` overrides n.
    Pattern(usize),
}

/// Which layers have no rotary embedding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRope {
    /// None.
    Never,
    /// Every fourth, or according to `no_rope_layers` and `no_rope_layer_interval`.
    Listed,
    /// Those without a window, if other layers have one.
    FullAttention,
}

const BEFORE: Norms = Norms {
    before_attention: Some("input_layernorm"),
    after_attention: None,
    before_mlp: Some("post_attention_layernorm"),
    after_mlp: None,
};
const AFTER: Norms = Norms {
    before_attention: None,
    after_attention: Some("post_attention_layernorm"),
    before_mlp: None,
    after_mlp: Some("post_feedforward_layernorm"),
};
const AROUND: Norms = Norms {
    before_attention: Some("input_layernorm"),
    after_attention: Some("post_attention_layernorm"),
    before_mlp: Some("pre_feedforward_layernorm"),
    after_mlp: Some("post_feedforward_layernorm"),
};

const LLAMA: Family = Family {
    name: "llama",
    sizes: [32_000, 4096, 11_008, 32, 32],
    key_value_heads: None,
    head_dim: None,
    norm_eps: 1e-6,
    theta: 10_000.0,
    local: None,
    max_positions: 2048,
    tied: false,
    eos: &[2],
    gemma: false,
    norms: BEFORE,
    qk_norm: QkNorm::None,
    fused_qkv: false,
    fused_gate_up: false,
    biases: Biases::Attention,
    mlp_bias: true,
    pairs: Pairs::Halves,
    partial_rotary: None,
    longrope_only: false,
    mrope: false,
    windows: Windows::Never,
    window: Some(4096),
    no_rope: NoRope::Never,
    query_scalar: false,
    attention_cap: None,
    logit_cap: None,
    multipliers: false,
};
const MISTRAL: Family = Family {
    name: "mistral",
    sizes: [32_000, 4096, 14_336, 32, 32],
    key_value_heads: Some(8),
    max_positions: 131_072,
    biases: Biases::Never,
    mlp_bias: false,
    windows: Windows::All,
    ..LLAMA
};
const QWEN2: Family = Family {
    name: "qwen2",
    sizes: [151_936, 4096, 22_016, 32, 32],
    key_value_heads: Some(32),
    max_positions: 32_768,
    eos: &[],
    biases: Biases::Qkv,
    mlp_bias: false,
    windows: Windows::FromLayer(28),
    ..LLAMA
};
const QWEN3: Family = Family {
    name: "qwen3",
    head_dim: Some(128),
    biases: Biases::Attention,
    qk_norm: QkNorm::Heads,
    ..QWEN2
};
const GEMMA: Family = Family {
    name: "gemma",
    sizes: [256_000, 3072, 24_576, 28, 16],
    key_value_heads: Some(16),
    head_dim: Some(256),
    max_positions: 8192,
    tied: true,
    eos: &[1],
    gemma: true,
    mlp_bias: false,
    ..LLAMA
};
const GEMMA2: Family = Family {
    name: "gemma2",
    sizes: [256_000, 2304, 9216, 26, 8],
    key_value_heads: Some(4),
    norms: AROUND,
    windows: Windows::Pattern(2),
    query_scalar: true,
    attention_cap: Some(Some(50.0)),
    logit_cap: Some(Some(30.0)),
    ..GEMMA
};
const GEMMA3: Family = Family {
    name: "gemma3_text",
    sizes: [262_208, 2304, 9216, 26, 8],
    theta: 1_000_000.0,
    local: Some(Local::OwnBase),
    max_positions: 131_072,
    qk_norm: QkNorm::Heads,
    windows: Windows::Pattern(6),
    attention_cap: None,
    logit_cap: Some(None),
    ..GEMMA2
};
const PHI3: Family = Family {
    name: "phi3",
    sizes: [32_064, 3072, 8192, 32, 32],
    norm_eps: 1e-5,
    max_positions: 4096,
    eos: &[32_000],
    fused_qkv: true,
    fused_gate_up: true,
    biases: Biases::Never,
    mlp_bias: false,
    partial_rotary: Some(1.0),
    longrope_only: true,
    windows: Windows::All,
    window: None,
    ..LLAMA
};
const SMOLLM3: Family = Family {
    name: "smollm3",
    sizes: [128_256, 2048, 11_008, 36, 16],
    key_value_heads: Some(4),
    theta: 2_000_000.0,
    max_positions: 32_768,
    tied: true,
    eos: &[128_001],
    windows: Windows::NoRopeLayers,
    window: None,
    no_rope: NoRope::Listed,
    ..LLAMA
};
const OLMO2: Family = Family {
    name: "olmo2",
    sizes: [50_304, 4096, 11_008, 32, 32],
    norm_eps: 1e-5,
    eos: &[50_279],
    norms: AFTER,
    qk_norm: QkNorm::Whole,
    mlp_bias: false,
    ..LLAMA
};
const OLMO3: Family = Family {
    name: "olmo3",
    theta: 500_000.0,
    local: Some(Local::SameBase),
    windows: Windows::Pattern(4),
    ..OLMO2
};
const EXAONE4: Family = Family {
    name: "exaone4",
    sizes: [102_400, 4096, 16_384, 32, 32],
    key_value_heads: Some(32),
    norm_eps: 1e-5,
    norms: AFTER,
    qk_norm: QkNorm::Heads,
    biases: Biases::Never,
    mlp_bias: false,
    windows: Windows::Pattern(4),
    no_rope: NoRope::FullAttention,
    ..LLAMA
};
const GRANITE: Family = Family { name: "granite", multipliers: true, ..LLAMA };
const GLM: Family = Family {
    name: "glm",
    sizes: [151_552, 4096, 13_696, 40, 32],
    key_value_heads: Some(2),
    head_dim: Some(128),
    norm_eps: 1.5625e-7,
    max_positions: 131_072,
    eos: &[151_329, 151_336, 151_338],
    fused_gate_up: true,
    biases: Biases::QkvUnlessDisabled,
    mlp_bias: false,
    pairs: Pairs::Neighbours,
    partial_rotary: Some(0.5),
    ..LLAMA
};
const GLM4: Family = Family {
    name: "glm4",
    norms: Norms {
        before_attention: Some("input_layernorm"),
        after_attention: Some("post_self_attn_layernorm"),
        before_mlp: Some("post_attention_layernorm"),
        after_mlp: Some("post_mlp_layernorm"),
    },
    ..GLM
};
const ERNIE: Family = Family {
    name: "ernie4_5",
    sizes: [103_424, 1024, 3072, 18, 16],
    key_value_heads: Some(2),
    head_dim: Some(128),
    norm_eps: 1e-5,
    theta: 500_000.0,
    max_positions: 131_072,
    tied: true,
    biases: Biases::All,
    mlp_bias: false,
    pairs: Pairs::Neighbours,
    ..LLAMA
};

/// Families that are loaded on their own or within a multimodal model.
pub(super) const FAMILIES: [Family; 16] = [
    LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3, PHI3, SMOLLM3, OLMO2, OLMO3, EXAONE4,
    GRANITE, GLM, GLM4, ERNIE,
];

const QWEN2_VL: Family = Family {
    name: "qwen2_vl_text",
    sizes: [152_064, 8192, 29_568, 80, 64],
    key_value_heads: Some(8),
    norm_eps: 1e-5,
    theta: 1_000_000.0,
    eos: &[151_645],
    mrope: true,
    windows: Windows::FromLayer(80),
    ..QWEN2
};

/// Families that occur only as the text model of a multimodal model.
pub(super) const NESTED: [Family; 3] = [
    QWEN2_VL,
    Family { name: "qwen2_5_vl_text", ..QWEN2_VL },
    Family {
        name: "qwen3_vl_text",
        theta: 500_000.0,
        max_positions: 128_000,
        mrope: true,
        windows: Windows::Never,
        ..QWEN3
    },
];
