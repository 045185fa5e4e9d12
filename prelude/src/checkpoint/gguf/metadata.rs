//! The metadata of GGUF files, and llama.cpp's names for what Hugging Face names differently.

use candle_core::quantized::gguf_file::{Content, Value};

/// Architectures: llama.cpp's name and Hugging Face's.
pub(crate) const ARCHITECTURES: [(&str, &str); 10] = [
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3_text"),
    ("phi3", "phi3"),
    ("smollm3", "smollm3"),
    ("olmo2", "olmo2"),
    ("granite", "granite"),
];

/// Parts of tensor names: llama.cpp's and Hugging Face's.
pub(crate) const NAMES: [(&str, &str); 17] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    // In gemma2 and gemma3, which have four norms per layer.
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// End-of-sequence tokens: the `NAME` in `tokenizer.ggml.NAME_token_id`.
pub(crate) const ENDS: [&str; 3] = ["eos", "eot", "eom"];

/// The metadata of a file.
pub(crate) struct Metadata<'a> {
    content: &'a Content,
    architecture: &'a str,
}

impl<'a> Metadata<'a> {
    pub fn new(content: &'a Content, architecture: &'a str) -> Self {
        Self { content, architecture }
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    /// An architecture-specific key.
    pub fn own(&self, key: &str) -> Option<&'a Value> {
        self.get(&format!("{}.{key}", self.architecture))
    }

    pub fn whole(value: &Value) -> Option<u64> {
        match value {
            Value::I8(x) => u64::try_from(*x).ok(),
            Value::I16(x) => u64::try_from(*x).ok(),
            Value::I32(x) => u64::try_from(*x).ok(),
            Value::I64(x) => u64::try_from(*x).ok(),
            other => other.to_u64().ok(),
        }
    }

    pub fn number(value: &Value) -> Option<f64> {
        match value {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            other => Self::whole(other).map(|x| x as f64),
        }
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.to_string().ok().map(String::as_str)
    }

    pub fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Self::whole)
    }
}

/// `query_pre_attn_scalar` of gemma2 and gemma3, which is not in the metadata: the head dimension;
/// in the 27B models, which llama.cpp too recognizes by their number of layers, the hidden size
/// divided by the number of heads.
pub(crate) fn attention_scalar(
    family: &str,
    layers: u64,
    hidden: u64,
    heads: u64,
    head_dim: u64,
) -> u64 {
    match (family, layers) {
        ("gemma2", 46) | ("gemma3_text", 62) => hidden / heads.max(1),
        _ => head_dim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in the published configurations: gemma-2 9B and 27B, gemma-3 12B and 27B.
    #[test]
    fn the_largest_gemmas_scale_scores_differently() {
        assert_eq!(attention_scalar("gemma2", 42, 3584, 16, 256), 256);
        assert_eq!(attention_scalar("gemma2", 46, 4608, 32, 128), 144);
        assert_eq!(attention_scalar("gemma3_text", 48, 3840, 16, 256), 256);
        assert_eq!(attention_scalar("gemma3_text", 62, 5376, 32, 128), 168);
    }
}
