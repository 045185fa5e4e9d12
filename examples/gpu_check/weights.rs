//! Models with random bf16 weights in the shapes of real ones, written to a directory.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dam_prelude::checkpoint::{Architecture, Kind, TensorSpec};
use dam_prelude::train::available_bytes;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// The shape of a model.
pub struct Shape {
    pub name: &'static str,
    pub config: Value,
    pub architecture: Architecture,
}

/// Of one bf16.
const BYTES: usize = 2;

/// Random weights are drawn once and repeated, from another target for every tensor.
const DRAWN: usize = 1 << 24;

impl Shape {
    /// The shapes of Llama 3.2 1B and Llama 3.1 8B, or small ones.
    pub fn all(quick: bool) -> Result<Vec<Self>> {
        // As in the models named, a key head for every four heads.
        let llama = |vocabulary: usize, hidden: usize, inner: usize, layers: usize, head: usize| {
            json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama",
                "torch_dtype": "bfloat16", "hidden_act": "silu", "rms_norm_eps": 1e-5,
                "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": inner,
                "num_hidden_layers": layers, "num_attention_heads": hidden / head,
                "num_key_value_heads": (hidden / head / 4).max(1), "head_dim": head,
                "max_position_embeddings": 131_072,
            })
        };
        let rope = |factor: f64| {
            json!({
                "rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            })
        };
        let mut small = llama(128_256, 2048, 8192, 16, 64);
        let mut large = llama(128_256, 4096, 14_336, 32, 128);
        if quick {
            (small, large) = (llama(256, 64, 128, 2, 16), llama(320, 96, 192, 3, 16));
        }
        (small["tie_word_embeddings"], small["rope_parameters"]) = (true.into(), rope(32.0));
        (large["tie_word_embeddings"], large["rope_parameters"]) = (false.into(), rope(8.0));
        let shape = |name, config: Value| -> Result<Self> {
            let file = Path::new("config.json");
            let architecture = Architecture::parse(file, config.to_string().as_bytes())?;
            Ok(Self { name, config, architecture })
        };
        Ok(vec![shape("1B", small)?, shape("8B", large)?])
    }

    /// The bytes of the weights of one model.
    pub fn bytes(&self) -> u64 {
        self.architecture.tensors().iter().map(|spec| (BYTES * elements(spec)) as u64).sum()
    }

    /// The weights in products with every token: without the embedding, but with the output layer.
    pub fn multiplied(&self) -> usize {
        let output = self.architecture.output();
        let tensors = self.architecture.tensors();
        let takes_part = |s: &&TensorSpec| s.kind == Kind::Linear || s.name == output;
        tensors.iter().filter(takes_part).map(elements).sum()
    }

    /// Returns why `count` models of this shape do not fit into free disk and memory, if so.
    /// `resident`: whether the sources are held in main memory.
    pub fn obstacle(&self, directory: &Path, count: u64, resident: bool) -> Result<Option<String>> {
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        let disk = rustix::fs::statvfs(directory)
            .with_context(|| format!("no free space known of {}", directory.display()))?;
        let free = disk.f_bavail * disk.f_frsize;
        let needed = count * self.bytes() + self.bytes() / 20;
        if free < needed {
            return Ok(Some(format!(
                "{count} models take {:.1} GB of disk, {:.1} GB is free: choose another --dir",
                gigabytes(needed),
                gigabytes(free)
            )));
        }
        let (needed, free) =
            (if resident { count + 1 } else { 1 } * self.bytes(), available_bytes());
        Ok((free < needed).then(|| {
            format!(
                "it takes {:.1} GB of main memory, {:.1} GB is free",
                gigabytes(needed),
                gigabytes(free)
            )
        }))
    }

    /// Writes a model with random weights.
    pub fn write(&self, directory: &Path, seed: u64) -> Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("config.json"), self.config.to_string())?;
        let (mut header, mut end) = (Map::new(), 0);
        let tensors = self.architecture.tensors();
        for spec in &tensors {
            let begin = end;
            end += BYTES * elements(spec);
            let about = json!({"dtype": "BF16", "shape": spec.shape, "data_offsets": [begin, end]});
            header.insert(spec.name.clone(), about);
        }
        let mut text = Value::Object(header).to_string();
        text += &" ".repeat((8 - text.len() % 8) % 8);
        let drawn = random(DRAWN.min(end), seed);
        let mut file =
            BufWriter::with_capacity(1 << 20, File::create(directory.join("model.safetensors"))?);
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(text.as_bytes())?;
        for (index, spec) in tensors.iter().enumerate() {
            let mut left = BYTES * elements(spec);
            if spec.kind == Kind::Norm {
                // 1, in bf16.
                file.write_all(&0x3f80_u16.to_le_bytes().repeat(left / BYTES))?;
                continue;
            }
            let mut from = index * 7919 * BYTES % drawn.len();
            while left > 0 {
                let count = left.min(drawn.len() - from);
                file.write_all(&drawn[from..from + count])?;
                (left, from) = (left - count, 0);
            }
        }
        file.flush()?;
        let written = file.get_ref().metadata()?.len();
        ensure!(written == (8 + text.len() + end) as u64, "a model was not written completely");
        Ok(())
    }
}

fn elements(spec: &TensorSpec) -> usize {
    spec.shape.iter().product()
}

/// Returns random bf16 values of either sign with magnitudes from 2^-11 to 2^-7, as bytes: random
/// bits for the sign, the fraction and the two lowest bits of the exponent.
fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut drawn = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut drawn);
    for value in drawn.as_chunks_mut::<BYTES>().0 {
        *value = (u16::from_le_bytes(*value) & 0x81ff | 0x3a00).to_le_bytes();
    }
    drawn
}
