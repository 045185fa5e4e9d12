//! Converts the metadata of a GGUF file to config.json.

use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device};
use serde_json::{Map, json};

use super::container::Container;
use super::metadata::{ARCHITECTURES, ENDS, Metadata, attention_scalar};
use crate::checkpoint::config::{Pairs, Rope, Scaling};
use crate::error::{Error, Result};

/// config.json as in transformers.
pub(super) fn config(container: &Container) -> Result<serde_json::Value> {
    let (file, m) = (container.path.clone(), container.metadata());
    let family = ARCHITECTURES
        .iter()
        .find(|(name, _)| *name == container.architecture)
        .map(|(_, family)| *family);
    let known = || ARCHITECTURES.map(|(name, _)| name).join(", ");
    let unknown = || Error::UnknownFamily {
        file: file.clone(),
        found: container.architecture.clone(),
        known: known(),
    };
    let family = family.ok_or_else(unknown)?;
    let missing = |key: &str| Error::Gguf {
        file: file.clone(),
        reason: format!("{}.{key} is missing", container.architecture),
    };
    let whole = |key: &str| m.own(key).and_then(Metadata::whole).ok_or_else(|| missing(key));
    let (hidden, heads) = (whole("embedding_length")?, whole("attention.head_count")?);
    let vocabulary = container
        .content
        .tensor_infos
        .get("token_embd.weight")
        .and_then(|t| t.shape.dims().first().copied());
    let head_dim =
        m.own("attention.key_length").and_then(Metadata::whole).unwrap_or(hidden / heads.max(1));
    let mut config = Map::new();
    let mut set = |key: &str, value: serde_json::Value| drop(config.insert(key.into(), value));
    let class = match family {
        "gemma3_text" => "Gemma3ForCausalLM".to_owned(),
        "smollm3" => "SmolLM3ForCausalLM".to_owned(),
        other => format!("{}{}ForCausalLM", other[..1].to_uppercase(), &other[1..]),
    };
    set("architectures", json!([class]));
    set("model_type", family.into());
    set("hidden_size", hidden.into());
    set("intermediate_size", whole("feed_forward_length")?.into());
    set("num_hidden_layers", whole("block_count")?.into());
    set("num_attention_heads", heads.into());
    set(
        "num_key_value_heads",
        m.own("attention.head_count_kv").and_then(Metadata::whole).unwrap_or(heads).into(),
    );
    set("head_dim", head_dim.into());
    set("max_position_embeddings", whole("context_length")?.into());
    set("vocab_size", vocabulary.ok_or_else(|| missing("vocab_size"))?.into());
    set(
        "tie_word_embeddings",
        (!container.content.tensor_infos.contains_key("output.weight")).into(),
    );
    let number = |key: &str| m.own(key).and_then(Metadata::number);
    set(
        "rms_norm_eps",
        number("attention.layer_norm_rms_epsilon")
            .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?
            .into(),
    );
    set("rope_theta", number("rope.freq_base").unwrap_or(10_000.0).into());
    if let Some(scaling) = rope_scaling(container, family)? {
        set("rope_scaling", scaling);
    }
    let original = m.own("rope.scaling.original_context_length").and_then(Metadata::whole);
    if let Some(original) =
        original.filter(|_| container.content.tensor_infos.contains_key("rope_factors_long.weight"))
    {
        set("original_max_position_embeddings", original.into());
    }
    let turned = m
        .own("rope.dimension_count")
        .and_then(Metadata::whole)
        .filter(|dims| family == "phi3" && *dims < head_dim);
    if let Some(dims) = turned {
        set("partial_rotary_factor", (dims as f64 / head_dim as f64).into());
    }
    // qwen2 always has its own biases.
    let has =
        |part: &str| container.content.tensor_infos.contains_key(&format!("blk.0.{part}.bias"));
    if matches!(family, "llama" | "qwen3" | "smollm3") {
        set("attention_bias", has("attn_q").into());
        set("mlp_bias", has("ffn_down").into());
    }
    let window = m.own("attention.sliding_window").and_then(Metadata::whole);
    match family {
        "gemma" | "gemma2" | "gemma3_text" => set("hidden_activation", "gelu_pytorch_tanh".into()),
        _ => set("hidden_act", "silu".into()),
    }
    if let Some(window) = window {
        set("sliding_window", window.into());
    }
    if let Some(cap) = number("final_logit_softcapping").filter(|_| family == "gemma3_text") {
        set("final_logit_softcapping", cap.into());
    }
    if family == "gemma2" {
        set("attn_logit_softcapping", number("attn_logit_softcapping").unwrap_or(50.0).into());
        set("final_logit_softcapping", number("final_logit_softcapping").unwrap_or(30.0).into());
    }
    if matches!(family, "gemma2" | "gemma3_text") {
        set(
            "query_pre_attn_scalar",
            attention_scalar(family, whole("block_count")?, hidden, heads, head_dim).into(),
        );
    }
    if family == "granite" {
        let scale = number("attention.scale").unwrap_or((head_dim as f64).sqrt().recip());
        set("attention_multiplier", scale.into());
        for (key, name) in [
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ] {
            set(key, number(name).unwrap_or(1.0).into());
        }
    }
    let id = |name: &str| m.id(&format!("tokenizer.ggml.{name}_token_id"));
    for (key, name) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
        if let Some(id) = id(name) {
            set(key, id.into());
        }
    }
    // The ends of a text, of a turn and of a message all end an answer.
    let mut ends: Vec<u64> = Vec::new();
    ENDS.iter().filter_map(|name| id(name)).for_each(|id| {
        if !ends.contains(&id) {
            ends.push(id)
        }
    });
    match ends.as_slice() {
        [] => {}
        [end] => set("eos_token_id", (*end).into()),
        ends => set("eos_token_id", json!(ends)),
    }
    set("dtype", "float32".into());
    Ok(config.into())
}

/// The rotary scaling in the form of config.json.
fn rope_scaling(container: &Container, family: &str) -> Result<Option<serde_json::Value>> {
    let (file, m) = (container.path.clone(), container.metadata());
    let number = |key: &str| m.own(key).and_then(Metadata::number);
    let kind = match m.own("rope.scaling.type").map(Value::to_string) {
        None => "none",
        Some(Ok(kind)) => kind.as_str(),
        Some(Err(_)) => {
            return Err(Error::Gguf { file, reason: "its rope.scaling.type is not text".into() });
        }
    };
    let factor = number("rope.scaling.factor").unwrap_or(1.0);
    let original = m.own("rope.scaling.original_context_length").and_then(Metadata::whole);
    // A factor per frequency, for short and for long sequences.
    if let (Some(short), Some(long)) = (
        factors(container, "rope_factors_short.weight")?,
        factors(container, "rope_factors_long.weight")?,
    ) {
        let mut scaling =
            json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
        if let Some(attention) = number("rope.scaling.attn_factor") {
            scaling["attention_factor"] = attention.into();
        }
        return Ok(Some(scaling));
    }
    match (kind, factors(container, "rope_freqs.weight")?) {
        ("linear", _) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        ("yarn", _) => {
            let mut scaling = json!({"rope_type": "yarn", "factor": factor});
            if let Some(original) = original {
                scaling["original_max_position_embeddings"] = original.into();
            }
            Ok(Some(scaling))
        }
        ("none", None) => Ok(None),
        ("none", Some(factors)) => stretched(container, family, &factors).map(Some),
        (other, _) => Err(Error::Gguf {
            file,
            reason: format!("its rope.scaling.type is `{other}`, not none, linear or yarn"),
        }),
    }
}

/// Llama 3's scaling, which llama.cpp stores as a tensor with one factor per frequency. The
/// largest factor belongs to the longest wavelengths. If the others do not match the published
/// models, each factor is written separately.
fn stretched(container: &Container, family: &str, factors: &[f64]) -> Result<serde_json::Value> {
    let m = container.metadata();
    let theta = m.own("rope.freq_base").and_then(Metadata::number).unwrap_or(10_000.0);
    let factor = factors.iter().copied().fold(1f64, f64::max);
    let scaling = Scaling::Llama3 { factor, low: 1.0, high: 4.0, original: 8192.0 };
    let [plain, llama3] = [Scaling::None, scaling].map(|scaling| Rope {
        theta,
        dims: 2 * factors.len(),
        scaling,
        pairs: Pairs::Halves,
    });
    let known = |(k, found): (usize, &f64)| {
        let expected = plain.frequency(k, 1) / llama3.frequency(k, 1);
        (expected - found).abs() <= 1e-4 * expected
    };
    if factors.iter().enumerate().all(known) {
        return Ok(
            json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}),
        );
    }
    match family {
        "gemma" | "gemma2" | "gemma3_text" => Err(Error::Gguf {
            file: container.path.clone(),
            reason: format!("`{family}` does not support rope_freqs"),
        }),
        _ => Ok(
            json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}),
        ),
    }
}

/// The positive values of a small tensor.
fn factors(container: &Container, name: &str) -> Result<Option<Vec<f64>>> {
    const MAX_FACTORS: usize = 1 << 12;
    let Some(info) = container.content.tensor_infos.get(name) else { return Ok(None) };
    let view = container.view(name, info)?;
    let bad = || Error::Gguf {
        file: container.path.clone(),
        reason: format!("tensor `{name}` does not contain rotary factors"),
    };
    if view.shape.iter().product::<usize>() > MAX_FACTORS {
        return Err(bad());
    }
    let values =
        view.to_tensor(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().all(|x| x.is_finite() && *x > 0.0) {
        Ok(Some(values.into_iter().map(f64::from).collect()))
    } else {
        Err(bad())
    }
}
