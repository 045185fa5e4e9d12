//! Reads GGUF files: converts tensors, names, configuration and tokenizer to those of a Hugging
//! Face checkpoint. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use serde_json::{Map, json};

use super::read_tokenizer::tokenizer_files;
use crate::checkpoint::config::{Pairs, Rope, Scaling};
use crate::checkpoint::source::{Bytes, map};
use crate::checkpoint::storage::{Stored, View, interleaved};
use crate::error::{Error, Result};
use crate::guard::guarded;

/// An open GGUF file.
pub(crate) struct Gguf {
    pub path: PathBuf,
    /// config.json and the tokenizer files, generated from the metadata.
    pub side_files: BTreeMap<&'static str, Arc<Vec<u8>>>,
    /// What could not be converted.
    pub note: Option<String>,
    content: Content,
    bytes: Bytes,
    architecture: String,
}

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
    fn own(&self, key: &str) -> Option<&'a Value> {
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

    fn number(value: &Value) -> Option<f64> {
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

/// The maximum size of the metadata in bytes; each may become a value of 32 bytes. Large
/// vocabularies take 15 MB.
const MAX_METADATA_BYTES: usize = 32 << 20;

impl Gguf {
    /// Opens and validates a file, and generates the side files of a checkpoint.
    pub fn open(path: PathBuf) -> Result<Self> {
        let mut gguf = Self::read(path)?;
        let mut side_files = BTreeMap::from([("config.json", gguf.config()?)]);
        match tokenizer_files(&gguf.metadata(), &gguf.path)? {
            Ok(files) => side_files.extend(files),
            Err(reason) => gguf.note = Some(format!("no tokenizer: {reason}")),
        }
        let bad =
            |e: serde_json::Error| Error::Gguf { file: gguf.path.clone(), reason: e.to_string() };
        let pretty = |value| serde_json::to_vec_pretty(&value).map_err(bad);
        gguf.side_files = side_files
            .into_iter()
            .map(|(name, v)| Ok((name, Arc::new(pretty(v)?))))
            .collect::<Result<_>>()?;
        Ok(gguf)
    }

    /// Reads the metadata.
    fn read(path: PathBuf) -> Result<Self> {
        let bytes = map(&path)?;
        let bad = |reason: String| Error::Gguf { file: path.clone(), reason };
        if !bytes.starts_with(b"GGUF") {
            return Err(bad("it does not begin with the bytes GGUF".into()));
        }
        // candle's reader checks every count and length against the available bytes, but may still
        // panic.
        let head = &bytes[..bytes.len().min(MAX_METADATA_BYTES)];
        let read =
            || Content::read(&mut Cursor::new(head)).map_err(|e| crate::error::first_line(&e));
        let content = guarded(read).map_err(bad)?;
        let architecture = match content.metadata.get("general.architecture").map(Value::to_string)
        {
            Some(Ok(name)) => name.clone(),
            _ => return Err(bad("general.architecture is missing".into())),
        };
        Ok(Self { path, side_files: BTreeMap::new(), note: None, content, bytes, architecture })
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata { content: &self.content, architecture: &self.architecture }
    }

    /// config.json as in transformers.
    fn config(&self) -> Result<serde_json::Value> {
        let (file, m) = (self.path.clone(), self.metadata());
        let family = ARCHITECTURES
            .iter()
            .find(|(name, _)| *name == self.architecture)
            .map(|(_, family)| *family);
        let known = || ARCHITECTURES.map(|(name, _)| name).join(", ");
        let unknown = || Error::UnknownFamily {
            file: file.clone(),
            found: self.architecture.clone(),
            known: known(),
        };
        let family = family.ok_or_else(unknown)?;
        let missing = |key: &str| Error::Gguf {
            file: file.clone(),
            reason: format!("{}.{key} is missing", self.architecture),
        };
        let whole = |key: &str| m.own(key).and_then(Metadata::whole).ok_or_else(|| missing(key));
        let (hidden, heads) = (whole("embedding_length")?, whole("attention.head_count")?);
        let vocabulary = self
            .content
            .tensor_infos
            .get("token_embd.weight")
            .and_then(|t| t.shape.dims().first().copied());
        let head_dim = m
            .own("attention.key_length")
            .and_then(Metadata::whole)
            .unwrap_or(hidden / heads.max(1));
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
            (!self.content.tensor_infos.contains_key("output.weight")).into(),
        );
        let number = |key: &str| m.own(key).and_then(Metadata::number);
        set(
            "rms_norm_eps",
            number("attention.layer_norm_rms_epsilon")
                .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?
                .into(),
        );
        set("rope_theta", number("rope.freq_base").unwrap_or(10_000.0).into());
        if let Some(scaling) = self.rope_scaling(family)? {
            set("rope_scaling", scaling);
        }
        let original = m.own("rope.scaling.original_context_length").and_then(Metadata::whole);
        if let Some(original) =
            original.filter(|_| self.content.tensor_infos.contains_key("rope_factors_long.weight"))
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
            |part: &str| self.content.tensor_infos.contains_key(&format!("blk.0.{part}.bias"));
        if matches!(family, "llama" | "qwen3" | "smollm3") {
            set("attention_bias", has("attn_q").into());
            set("mlp_bias", has("ffn_down").into());
        }
        let window = m.own("attention.sliding_window").and_then(Metadata::whole);
        match family {
            "gemma" | "gemma2" | "gemma3_text" => {
                set("hidden_activation", "gelu_pytorch_tanh".into())
            }
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
            set(
                "final_logit_softcapping",
                number("final_logit_softcapping").unwrap_or(30.0).into(),
            );
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
    fn rope_scaling(&self, family: &str) -> Result<Option<serde_json::Value>> {
        let (file, m) = (self.path.clone(), self.metadata());
        let number = |key: &str| m.own(key).and_then(Metadata::number);
        let kind = match m.own("rope.scaling.type").map(Value::to_string) {
            None => "none",
            Some(Ok(kind)) => kind.as_str(),
            Some(Err(_)) => {
                return Err(Error::Gguf {
                    file,
                    reason: "its rope.scaling.type is not text".into(),
                });
            }
        };
        let factor = number("rope.scaling.factor").unwrap_or(1.0);
        let original = m.own("rope.scaling.original_context_length").and_then(Metadata::whole);
        // A factor per frequency, for short and for long sequences.
        if let (Some(short), Some(long)) =
            (self.factors("rope_factors_short.weight")?, self.factors("rope_factors_long.weight")?)
        {
            let mut scaling =
                json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
            if let Some(attention) = number("rope.scaling.attn_factor") {
                scaling["attention_factor"] = attention.into();
            }
            return Ok(Some(scaling));
        }
        match (kind, self.factors("rope_freqs.weight")?) {
            ("linear", _) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
            ("yarn", _) => {
                let mut scaling = json!({"rope_type": "yarn", "factor": factor});
                if let Some(original) = original {
                    scaling["original_max_position_embeddings"] = original.into();
                }
                Ok(Some(scaling))
            }
            ("none", None) => Ok(None),
            ("none", Some(factors)) => self.stretched(family, &factors).map(Some),
            (other, _) => Err(Error::Gguf {
                file,
                reason: format!("its rope.scaling.type is `{other}`, not none, linear or yarn"),
            }),
        }
    }

    /// Llama 3's scaling, which llama.cpp stores as a tensor with one factor per frequency. The
    /// largest factor belongs to the longest wavelengths. If the others do not match the published
    /// models, each factor is written separately.
    fn stretched(&self, family: &str, factors: &[f64]) -> Result<serde_json::Value> {
        let m = self.metadata();
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
                file: self.path.clone(),
                reason: format!("`{family}` does not support rope_freqs"),
            }),
            _ => Ok(
                json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}),
            ),
        }
    }

    /// The positive values of a small tensor.
    fn factors(&self, name: &str) -> Result<Option<Vec<f64>>> {
        const MAX_FACTORS: usize = 1 << 12;
        let Some(info) = self.content.tensor_infos.get(name) else { return Ok(None) };
        let view = self.view(name, info)?;
        let bad = || Error::Gguf {
            file: self.path.clone(),
            reason: format!("tensor `{name}` does not contain rotary factors"),
        };
        if view.shape.iter().product::<usize>() > MAX_FACTORS {
            return Err(bad());
        }
        let values = view
            .to_tensor(&candle_core::Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        match values.iter().all(|x| x.is_finite() && *x > 0.0) {
            true => Ok(Some(values.into_iter().map(f64::from).collect())),
            false => Err(bad()),
        }
    }

    /// A view of a stored tensor.
    fn view(&self, name: &str, info: &TensorInfo) -> Result<View> {
        let bad = |reason: String| Error::Gguf {
            file: self.path.clone(),
            reason: format!("tensor `{name}` {reason}"),
        };
        let shape = info.shape.dims().to_vec();
        let (per, size, columns) = (
            info.ggml_dtype.block_size(),
            info.ggml_dtype.type_size(),
            shape.last().copied().unwrap_or(0),
        );
        let elements = shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))
            .filter(|n| *n > 0 && columns % per == 0);
        let elements = elements.ok_or_else(|| {
            bad(format!("has shape {shape:?}, which does not fit blocks of {per}"))
        })?;
        let start = self
            .content
            .tensor_data_offset
            .checked_add(info.offset)
            .and_then(|s| usize::try_from(s).ok());
        let end = start.and_then(|s| s.checked_add((elements / per).checked_mul(size)?));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= self.bytes.len())) else {
            return Err(bad(format!("ends beyond the file's {} bytes", self.bytes.len())));
        };
        let (dtype, stored) = match info.ggml_dtype {
            GgmlDType::F32 => (DType::F32, Stored::Plain),
            GgmlDType::F16 => (DType::F16, Stored::Plain),
            GgmlDType::BF16 => (DType::BF16, Stored::Plain),
            kind => (DType::F32, Stored::Blocks(kind)),
        };
        let (file, bytes) = (self.path.clone(), self.bytes.clone());
        Ok(View { dtype, shape, file, bytes, range: start..end, stored, deltas: Vec::new() })
    }

    /// All tensors with the names and row order of Hugging Face.
    pub fn tensors(&self) -> Result<BTreeMap<String, View>> {
        let mut tensors = BTreeMap::new();
        let gemma = self.architecture.starts_with("gemma");
        for (name, info) in &self.content.tensor_infos {
            let mut view = self.view(name, info)?;
            let Some(new) = self.rename(name) else { continue };
            // Heads of queries and keys; llama.cpp interleaves the halves of each head for its
            // rotation.
            let rotated =
                [("attn_q.", "attention.head_count"), ("attn_k.", "attention.head_count_kv")];
            let turned = rotated
                .iter()
                .find(|(part, _)| name.contains(part))
                .filter(|_| ["llama", "smollm3", "granite"].contains(&self.architecture.as_str()));
            if let Some((_, key)) = turned {
                let heads =
                    self.metadata().own(key).and_then(Metadata::whole).unwrap_or(1).max(1) as usize;
                let (rows, kind) = (view.shape[0], info.ggml_dtype);
                if !rows.is_multiple_of(2 * heads) {
                    let reason = format!("tensor `{name}` has {rows} rows for {heads} heads");
                    return Err(Error::Gguf { file: self.path.clone(), reason });
                }
                view.stored = Stored::Interleaved(kind, rows / heads);
            }
            if view.shape.len() == 1 {
                view = self.small(name, &new, view, gemma)?;
            }
            tensors.insert(new, view);
        }
        Ok(tensors)
    }

    /// Copies a norm or bias. llama.cpp adds 1 to gemma's norms and permutes biases like their
    /// weights.
    fn small(&self, name: &str, new: &str, view: View, gemma: bool) -> Result<View> {
        let shape = view.shape.clone();
        let turned = match &view.stored {
            Stored::Interleaved(_, head) => Some(*head),
            _ => None,
        };
        let added = gemma && new.contains("norm");
        if turned.is_none() && !added {
            return Ok(view);
        }
        if !matches!(
            &view.stored,
            Stored::Plain
                | Stored::Interleaved(GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16, _)
        ) {
            return Err(Error::Gguf {
                file: self.path.clone(),
                reason: format!("tensor `{name}` must not be stored in blocks"),
            });
        }
        let plain = View { stored: Stored::Plain, ..view };
        let values =
            plain.to_tensor(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let stored = |row: usize| turned.map_or(row, |head| interleaved(row, head));
        let one = if added { 1.0 } else { 0.0 };
        let values =
            (0..values.len()).flat_map(|row| (values[stored(row)] - one).to_le_bytes()).collect();
        Ok(View::owned(self.path.clone(), values, DType::F32, &shape))
    }

    /// Hugging Face's name; `None` for tensors that its checkpoints do not store.
    fn rename(&self, name: &str) -> Option<String> {
        if name.starts_with("rope_f") {
            return None;
        }
        let find = |part: &str| NAMES.iter().find(|(from, _)| *from == part).map(|(_, to)| *to);
        if let Some(rest) = name.strip_prefix("blk.") {
            let (layer, rest) = rest.split_once('.')?;
            let (part, kind) = rest.rsplit_once('.')?;
            let to = match (self.architecture.as_str(), part) {
                ("gemma2" | "gemma3", "ffn_norm") => "pre_feedforward_layernorm",
                // Gate and up projections in one tensor.
                ("phi3", "ffn_up") => "mlp.gate_up_proj",
                _ => find(part).unwrap_or(part),
            };
            return Some(format!("model.layers.{layer}.{to}.{kind}"));
        }
        let (part, kind) = name.rsplit_once('.')?;
        Some(format!("{}.{kind}", find(part).unwrap_or(part)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, safetensors};

    use super::*;

    /// As in the published configurations: gemma-2 9B and 27B, gemma-3 12B and 27B.
    #[test]
    fn the_largest_gemmas_scale_scores_differently() {
        assert_eq!(attention_scalar("gemma2", 42, 3584, 16, 256), 256);
        assert_eq!(attention_scalar("gemma2", 46, 4608, 32, 128), 144);
        assert_eq!(attention_scalar("gemma3_text", 48, 3840, 16, 256), 256);
        assert_eq!(attention_scalar("gemma3_text", 62, 5376, 32, 128), 168);
    }

    /// The file and the numbers were made by `tests/data/gguf/make.py`.
    #[test]
    fn every_block_format_is_decoded_like_the_reference() {
        let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/gguf");
        let gguf = Gguf::read(data.join("formats.gguf")).unwrap();
        let expected = safetensors::load(data.join("expected.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(gguf.content.tensor_infos.len(), 13);
        for (name, info) in &gguf.content.tensor_infos {
            let view = gguf.view(name, info).unwrap();
            let found: Vec<f32> = view
                .to_tensor(&Device::Cpu)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let expected: Vec<f32> = expected[name].flatten_all().unwrap().to_vec1().unwrap();
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{name}: {a} and {b}");
            }
            // Pieces with arbitrary boundaries.
            let mut piece = vec![0.0; 901];
            view.read(333, &mut piece);
            assert_eq!(piece, found[333..1234], "{name}");
        }
    }
}
