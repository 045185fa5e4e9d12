//! A model in training, with every weight a variable, and its scores.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use dam_prelude::candle_core::{DType, Device, Tensor, Var, safetensors};
use dam_prelude::checkpoint::{Architecture, Kind, Source};
use dam_prelude::data::{Batch, Dataset};
use dam_prelude::eval::score;
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::ops::cross_entropy;
use dam_prelude::train::{Moments, Optimizer, Update};
use rand::Rng;

use crate::text;

/// Token sequences, and for each position whether the next token is a target.
pub struct TrainingBatch {
    pub sequences: Vec<Vec<u32>>,
    pub targets: Vec<Vec<bool>>,
}

/// A model in training: every weight is a variable, f32.
pub struct Model {
    architecture: Architecture,
    weights: BTreeMap<String, Var>,
}

impl Model {
    /// Draws weights from a normal distribution; norms are 1.
    pub fn random(architecture: Architecture) -> Result<Self> {
        let mut rng = text::rng(11);
        let mut weights = BTreeMap::new();
        for spec in architecture.tensors() {
            let scale = match (
                spec.kind,
                spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight"),
            ) {
                (Kind::Linear, true) => 0.02 / (2.0 * architecture.layers as f32).sqrt(),
                _ => 0.02,
            };
            // The sum of twelve uniform numbers is close enough to a normal distribution.
            let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            let count = spec.shape.iter().product();
            let values: Vec<f32> = match spec.kind {
                Kind::Norm => vec![1.0; count],
                _ => (0..count).map(|_| normal() * scale * 2.0).collect(),
            };
            weights.insert(
                spec.name,
                Var::from_tensor(&Tensor::from_vec(values, spec.shape, &Device::Cpu)?)?,
            );
        }
        Ok(Self { architecture, weights })
    }

    /// Loads the weights of a checkpoint.
    pub fn open(dir: &Path) -> Result<Self> {
        let source = Source::open(&dir.display().to_string())?;
        let tensors =
            SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }.collect()?;
        let weights = tensors
            .into_iter()
            .map(|(name, t)| Ok((name, Var::from_tensor(&t)?)))
            .collect::<Result<_>>()?;
        Ok(Self { architecture: source.architecture()?.clone(), weights })
    }

    /// Writes the weights in bf16.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let half = |v: &Var| v.as_tensor().to_dtype(DType::BF16);
        let tensors = self
            .weights
            .iter()
            .map(|(name, v)| Ok((name.clone(), half(v)?)))
            .collect::<Result<_>>()?;
        Ok(safetensors::save(&tensors, dir.join("model.safetensors"))?)
    }

    /// Trains with AdamW, warm-up, and a cosine schedule down to a tenth of the learning rate.
    pub fn train(
        &mut self,
        name: &str,
        steps: usize,
        rate: f64,
        mut next_batch: impl FnMut() -> TrainingBatch,
    ) -> Result<()> {
        let mut moments: BTreeMap<String, Moments> = BTreeMap::new();
        let (start, mut seen, mut sum) = (Instant::now(), 0, 0.0);
        for step in 1..=steps {
            let sample = next_batch();
            let weights: BTreeMap<String, Tensor> = self
                .weights
                .iter()
                .map(|(name, v)| (name.clone(), v.as_tensor().clone()))
                .collect();
            let decoder = Decoder::new(&self.architecture, &weights);
            let inputs: Vec<&[u32]> = sample.sequences.iter().map(|s| &s[..s.len() - 1]).collect();
            let batch = Batch::new(inputs, &Device::Cpu)?;
            let (mut rows, mut targets, mut first) = (Vec::new(), Vec::new(), 0);
            for (sequence, is_target) in sample.sequences.iter().zip(&sample.targets) {
                for at in (0..sequence.len() - 1).filter(|at| is_target[*at]) {
                    rows.push((first + at) as u32);
                    targets.push(sequence[at + 1]);
                }
                first += sequence.len() - 1;
            }
            let rows = Tensor::new(rows, &Device::Cpu)?;
            let hidden = decoder.hidden(&batch)?.index_select(&rows, 0)?;
            let loss =
                (cross_entropy(&decoder.logits(&hidden)?, &targets)? / targets.len() as f64)?;
            let mut gradients = loss.backward()?;
            let progress = step as f64 / steps as f64;
            let warm = (step as f64 / (0.03 * steps as f64)).min(1.0);
            let lr = rate * warm * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * progress).cos()));
            let mut norm = 0.0;
            let mut all = BTreeMap::new();
            for (name, tensor) in &weights {
                let g =
                    gradients.remove(tensor).with_context(|| format!("{name} has no gradient"))?;
                let g: Vec<f32> = g.flatten_all()?.to_vec1()?;
                norm += g.iter().map(|g| f64::from(g * g)).sum::<f64>();
                all.insert(name.clone(), g);
            }
            let clip = (1.0 / norm.sqrt()).min(1.0) as f32;
            for (name, mut g) in all {
                g.iter_mut().for_each(|g| *g *= clip);
                let mut w: Vec<f32> = weights[&name].flatten_all()?.to_vec1()?;
                let (width, shape) = (w.len(), weights[&name].dims());
                let decay = if shape.len() > 1 { 0.05 } else { 0.0 };
                let update = Update { optimizer: Optimizer::AdamW, step, lr, weight_decay: decay };
                moments.entry(name.clone()).or_default().update(update, &mut w, &g, width);
                self.weights[&name].set(&Tensor::from_vec(w, shape, &Device::Cpu)?)?;
            }
            seen += batch.tokens();
            sum += f64::from(loss.to_scalar::<f32>()?);
            if step % 50 == 0 {
                let rate = seen as f64 / start.elapsed().as_secs_f64();
                println!("{name} step {step}: loss {:.4}, {rate:.0} tokens a second", sum / 50.0);
                sum = 0.0;
            }
        }
        Ok(())
    }
}

/// Prints the held-out scores of a saved model.
pub fn report(dir: &Path) -> Result<()> {
    let source = Source::open(&dir.display().to_string())?;
    let weights =
        SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }.collect()?;
    let parent = dir.parent().context("a model is inside a directory")?;
    for data in ["japanese", "math", "sql", "japanese-math"] {
        let file = parent.join(format!("data/{data}-heldout.jsonl"));
        let dataset = Dataset::read(&file.display().to_string(), &source)?;
        let s = score(source.architecture()?, &weights, &dataset.examples, 256, &Device::Cpu)?;
        let exact = s.exact_match.unwrap_or(0.0) * 100.0;
        println!("{} on {data}: loss {:.3}, exact match {exact:.1}%", source.name(), s.loss);
    }
    Ok(())
}
