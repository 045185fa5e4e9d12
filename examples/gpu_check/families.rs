//! One step of every family: the loss by terms, the gradients and the coefficients after it, of two
//! small models with random weights.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use dam_prelude::candle_core::{DType, Device, Tensor, safetensors};
use dam_prelude::checkpoint::{Architecture, Kind};
use dam_prelude::train::TermWeights;
use dam_prelude::{Columns, Dam, Nonlinearity};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::check::{Check, FUSED, How, Measure, both};
use crate::compare::GRADIENTS;
use crate::target::{Found, Target};

/// Decoders that occur only within a multimodal model; the others are families of their own.
const NESTED: [&str; 3] = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"];

/// The first-moment factor of AdamW: after one step without clipping, the moment is this times the
/// gradient.
const FIRST: f64 = 0.1;

const VOCABULARY: u32 = 64;

pub fn checks() -> Vec<Check> {
    let families = Architecture::families().chain(NESTED);
    families
        .flat_map(|family| both(family, FUSED, move |target| step(target, family), measures))
        .collect()
}

fn measures(half: bool) -> Vec<Measure> {
    let [loss, gradients, moved] = if half { [1e-2, 4e-2, 1e-4] } else { [1e-4, 1e-4, 1e-5] };
    vec![
        Measure { name: "loss", tolerance: loss, how: How::Relative },
        Measure { name: GRADIENTS, tolerance: gradients, how: How::RelativeToAll },
        Measure {
            name: "coefficients",
            tolerance: moved,
            how: How::WhereGradient(if half { 0.2 } else { 1e-2 }),
        },
    ]
}

fn step(target: &Target, family: &str) -> Result<Found> {
    let directory = tempfile::tempdir()?;
    let config = config(family).with_context(|| format!("no configuration of {family} here"))?;
    let mut sources = Vec::new();
    for (seed, name) in ["a", "b"].into_iter().enumerate() {
        let path = directory.path().join(name);
        // One source in each dtype that sources usually have.
        let dtype = [DType::BF16, DType::F32][seed];
        write_model(&path, &config, dtype, seed as u64)?;
        sources.push(format!("{name}={}", path.display()));
    }
    let mut models = target.load(&sources)?;
    for (seed, name) in ["a", "b"].into_iter().enumerate() {
        let file = directory.path().join(format!("{name}.jsonl"));
        write_data(&file, VOCABULARY, &[12, 5], seed as u64)?;
        models.data(name, &file.display().to_string())?;
    }
    let settings = &mut models.settings;
    (settings.batch_size, settings.lr, settings.clip, settings.shuffle) = (2, 1e-2, 0.0, false);
    settings.weights = TermWeights {
        kl: 1.0,
        mse: 0.1,
        entropy: 0.1,
        cosine: 0.01,
        l1: 0.01,
        l2: 0.01,
        overlap: 0.01,
        weighted_overlap: 0.0,
    };
    let dam = models.wrap(Columns { f: Nonlinearity::Tanh, ..Columns::default() })?;
    let report = dam.step()?;
    let mut found = Found::default();
    for (name, value) in &report.terms {
        found.add_values(format!("loss/{name}"), vec![*value])?;
    }
    add_step(&mut found, &dam, &directory.path().join("session"))?;
    Ok(found)
}

/// Adds the gradients of the first step and the coefficients after it. A saved session has both:
/// the library gives out no gradients.
fn add_step(found: &mut Found, dam: &Dam, file: &Path) -> Result<()> {
    dam.save(file)?;
    for (name, tensor) in safetensors::load(file, &Device::Cpu)? {
        // Frozen variables have no moments.
        if tensor.elem_count() == 0 {
            continue;
        }
        match name.split_once('.') {
            Some(("c", key)) => found.add(format!("coefficients/{key}"), &tensor.flatten_all()?)?,
            Some(("m", key)) => found.add(format!("{GRADIENTS}/{key}"), &(tensor / FIRST)?)?,
            _ => {}
        }
    }
    Ok(())
}

/// Writes a model with random weights.
fn write_model(directory: &Path, config: &Value, dtype: DType, seed: u64) -> Result<()> {
    fs::create_dir_all(directory)?;
    let (file, text) = (directory.join("config.json"), config.to_string());
    fs::write(&file, &text)?;
    let architecture = Architecture::parse(&file, text.as_bytes())?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = HashMap::new();
    for spec in architecture.tensors() {
        // Norms that do not add 1 to their weights are near 1.
        let one = if spec.kind == Kind::Norm { 1.0 - architecture.norm_offset as f32 } else { 0.0 };
        let values: Vec<f32> =
            (0..spec.shape.iter().product()).map(|_| one + rng.random_range(-0.25..0.25)).collect();
        let values = Tensor::from_vec(values, spec.shape, &Device::Cpu)?.to_dtype(dtype)?;
        tensors.insert(spec.name, values);
    }
    Ok(safetensors::save(&tensors, directory.join("model.safetensors"))?)
}

/// Writes an example of each length.
pub fn write_data(file: &Path, vocabulary: u32, lengths: &[usize], seed: u64) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut example = |length: usize| {
        let ids: Vec<u32> = (0..length).map(|_| rng.random_range(0..vocabulary)).collect();
        format!("{}\n", json!({"input_ids": ids}))
    };
    Ok(fs::write(file, lengths.iter().map(|length| example(*length)).collect::<String>())?)
}

/// config.json of a small model that uses what is particular to the family.
fn config(family: &str) -> Option<Value> {
    let window = json!({"sliding_window": 5});
    let mixed =
        json!({"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]});
    let yarn = json!({
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
        "original_max_position_embeddings": 32,
    });
    let plain = json!({"rope_type": "default", "rope_theta": 1e4});
    let own = match family {
        "llama" => vec![json!({
            "attention_bias": true, "mlp_bias": true, "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
            },
        })],
        "mistral" => vec![window],
        "qwen2" => vec![json!({"tie_word_embeddings": true})],
        "qwen3" => vec![
            window,
            json!({
                "attention_bias": true, "use_sliding_window": true, "max_window_layers": 1,
                "rope_parameters": yarn,
            }),
        ],
        "gemma" => vec![json!({"tie_word_embeddings": true})],
        "gemma2" => vec![
            mixed,
            json!({
                "tie_word_embeddings": true, "query_pre_attn_scalar": 24,
                "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0,
            }),
        ],
        "gemma3_text" => vec![
            mixed,
            json!({
                "tie_word_embeddings": true, "query_pre_attn_scalar": 24, "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
                    "sliding_attention": plain,
                },
            }),
        ],
        "phi3" => vec![json!({
            "original_max_position_embeddings": 8, "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
                "original_max_position_embeddings": 8,
                "short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.25, 3.0, 3.5, 4.0],
            },
        })],
        "smollm3" => {
            vec![window, json!({"no_rope_layers": [1, 0], "use_sliding_window": true})]
        }
        "olmo3" => vec![
            mixed,
            json!({"rope_parameters": {"full_attention": yarn, "sliding_attention": plain}}),
        ],
        "exaone4" => vec![window, json!({"sliding_window_pattern": 2})],
        "granite" => vec![json!({
            "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.2,
            "logits_scaling": 4.0,
        })],
        "ernie4_5" => vec![json!({"use_bias": true})],
        "olmo2" | "glm" | "glm4" | "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl" => Vec::new(),
        _ => return None,
    };
    let mut config = json!({
        "model_type": family, "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
    });
    for (key, value) in own.iter().filter_map(Value::as_object).flatten() {
        config[key] = value.clone();
    }
    Some(config)
}
