//! Makes the models built into the library, from nothing: a tokenizer, a base that reads plain
//! statements in two languages, and three specialists tuned from it.
//!
//! ```text
//! cargo run --release --example train_builtin [DIR]
//! ```
//!
//! Everything is seeded: running it again gives the same scores. DIR is `prelude/builtin` by default.

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use dam_prelude::candle_core::{DType, Device, Tensor, Var, safetensors};
use dam_prelude::checkpoint::{Architecture, Kind, Source};
use dam_prelude::data::{Batch, Dataset};
use dam_prelude::eval::score;
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::ops::cross_entropy;
use dam_prelude::train::{Moments, Optimizer};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use text::Question;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer, TokenizerBuilder};

const END: &str = "<|end|>";
const TEMPLATE: &str = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}<|assistant|>{% endif %}";
const VOCABULARY: usize = 640;
const TRAIN_EXAMPLES: usize = 1500;
const HELD_OUT: usize = 200;

/// A name, its questions, and the name's number for seeding.
type Skill = (&'static str, fn(&mut ChaCha8Rng) -> Question, u64);

const SKILLS: [Skill; 3] = [("japanese", text::japanese, 1), ("math", text::math, 2), ("sql", text::sql, 3)];

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "prelude/builtin".into()));
    fs::create_dir_all(out.join("data"))?;
    for (name, generate, seed) in SKILLS {
        write_questions(&out.join(format!("data/{name}.jsonl")), &questions(generate, seed, TRAIN_EXAMPLES, false))?;
        write_questions(&out.join(format!("data/{name}-heldout.jsonl")), &questions(generate, seed, HELD_OUT, true))?;
    }
    let fourth = questions(text::japanese_math, 4, HELD_OUT, true);
    write_questions(&out.join("data/japanese-math-heldout.jsonl"), &fourth)?;

    let tokenizer = train_tokenizer()?;
    let base = out.join("base");
    if std::env::var_os("KEEP_BASE").is_none() {
        write_side_files(&base, &tokenizer)?;
        let mut model = Model::random(Architecture::parse(&base.join("config.json"), &fs::read(base.join("config.json"))?)?)?;
        let (steps, mut rng) = (env("BASE_STEPS", 3000), text::rng(10));
        model.train("base", steps, env("BASE_LR", 30) as f64 * 1e-4, || base_batch(&tokenizer, &mut rng))?;
        model.save(&base)?;
        report(&base)?;
    }
    let only = std::env::var("ONLY").ok();
    for (name, _, seed) in SKILLS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let dir = out.join(name);
        write_side_files(&dir, &tokenizer)?;
        let mut model = Model::open(&base)?;
        let mut rng = text::rng(20 + seed);
        let (steps, rate) = (env("TUNE_STEPS", 500), env("TUNE_LR", 10) as f64 * 1e-4);
        model.train(name, steps, rate, || tune_batch(&tokenizer, name, &mut rng))?;
        model.save(&dir)?;
        report(&dir)?;
    }
    Ok(())
}

fn env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn questions(generate: fn(&mut ChaCha8Rng) -> Question, seed: u64, count: usize, held_out: bool) -> Vec<Question> {
    let mut rng = text::rng(seed + if held_out { 1000 } else { 0 });
    let mut seen = std::collections::BTreeSet::new();
    let all = std::iter::repeat_with(|| generate(&mut rng)).filter(|q| q.is_held_out() == held_out);
    all.filter(|q| seen.insert(q.input.clone())).take(count).collect()
}

fn write_questions(path: &Path, questions: &[Question]) -> Result<()> {
    let line = |q: &Question| json!({"question": q.input, "answer": q.output}).to_string() + "\n";
    Ok(fs::write(path, questions.iter().map(line).collect::<String>())?)
}

/// A byte-level BPE in which digits and Japanese numerals stand alone.
fn train_tokenizer() -> Result<Tokenizer> {
    let fail = |e: tokenizers::Error| anyhow::anyhow!("{e}");
    let numerals = SplitPattern::Regex("[零一二三四五六七八九十]".into());
    let split = Split::new(numerals, SplitDelimiterBehavior::Isolated, false).map_err(fail)?;
    let byte_level = ByteLevel::new(false, false, true);
    let parts = vec![split.into(), Digits::new(true).into(), byte_level.into()];
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(NFC))
        .with_pre_tokenizer(Some(Sequence::new(parts)))
        .with_post_processor(None::<ByteLevel>)
        .with_decoder(Some(byte_level))
        .build()
        .map_err(fail)?;
    let specials = [END, "<|user|>", "<|assistant|>"].map(|t| AddedToken::from(t, true));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(specials.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut rng = text::rng(5);
    let texts = (0..30_000).map(|i| match i % 5 {
        0 => text::japanese(&mut rng).input,
        1 => text::math(&mut rng).input,
        2 => text::sql(&mut rng).input,
        3 => text::sql(&mut rng).output,
        _ => text::statement(&mut rng),
    });
    let texts: Vec<String> = texts.collect();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(fail)?;
    Tokenizer::from_bytes(tokenizer.to_string(false).map_err(fail)?).map_err(fail)
}

fn write_side_files(dir: &Path, tokenizer: &Tokenizer) -> Result<()> {
    fs::create_dir_all(dir)?;
    tokenizer.save(dir.join("tokenizer.json"), false).map_err(|e| anyhow::anyhow!("{e}"))?;
    let write = |name: &str, value: serde_json::Value| fs::write(dir.join(name), serde_json::to_string_pretty(&value)? + "\n");
    write(
        "config.json",
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "dtype": "bfloat16",
            "vocab_size": tokenizer.get_vocab_size(true), "hidden_size": 128, "intermediate_size": 384,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "attention_bias": false, "mlp_bias": false, "bos_token_id": null, "eos_token_id": 0, "pad_token_id": 0,
        }),
    )?;
    write("generation_config.json", json!({"eos_token_id": 0, "pad_token_id": 0, "max_new_tokens": 64}))?;
    write(
        "tokenizer_config.json",
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, "clean_up_tokenization_spaces": false,
            "eos_token": END, "pad_token": END, "chat_template": TEMPLATE,
        }),
    )?;
    Ok(())
}

/// Token sequences, and for each position whether the token after it is to be learnt.
struct Lesson {
    sequences: Vec<Vec<u32>>,
    learnt: Vec<Vec<bool>>,
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).expect("a byte-level tokenizer takes any text").get_ids().to_vec()
}

fn exchange(question: &Question) -> (String, String) {
    (format!("<|user|>{}{END}<|assistant|>", question.input), format!("{}{END}", question.output))
}

/// What the base reads: statements, questions with answers as plain text, and chats in which it
/// answers nothing yet. Packed into rows of one length, all of them learnt.
fn base_batch(tokenizer: &Tokenizer, rng: &mut ChaCha8Rng) -> Lesson {
    const ROWS: usize = 48;
    const LENGTH: usize = 64;
    let chat = |question: Question| {
        let (prompt, answer) = exchange(&question);
        prompt + &answer
    };
    let mut document = || {
        let (_, skill, _) = SKILLS[rng.random_range(0..SKILLS.len())];
        match rng.random_range(0..100) {
            0..35 => text::statement(rng) + END,
            35..80 => {
                let generate = if rng.random_bool(0.1) { text::japanese_math } else { skill };
                let question = text::asked(generate, rng);
                format!("{}\n{}{END}", question.input, question.output)
            }
            80..85 => chat(text::repeat(rng)),
            _ => chat(text::declined(text::asked(skill, rng))),
        }
    };
    let mut row = || {
        let mut tokens = Vec::new();
        while tokens.len() < LENGTH {
            tokens.extend(ids(tokenizer, &document()));
        }
        tokens.truncate(LENGTH);
        tokens
    };
    let sequences: Vec<Vec<u32>> = (0..ROWS).map(|_| row()).collect();
    Lesson { learnt: vec![vec![true; LENGTH]; ROWS], sequences }
}

/// Chats for the specialist `name`: questions of its skill with their answers, and others' declined.
/// Only what follows the question is learnt.
fn tune_batch(tokenizer: &Tokenizer, name: &str, rng: &mut ChaCha8Rng) -> Lesson {
    const ROWS: usize = 32;
    let mut lesson = Lesson { sequences: Vec::new(), learnt: Vec::new() };
    for row in 0..ROWS {
        let own = row % 3 != 0;
        let skills: Vec<&Skill> = SKILLS.iter().filter(|(skill, _, _)| (*skill == name) == own).collect();
        let question = text::asked(skills[rng.random_range(0..skills.len())].1, rng);
        let (prompt, answer) = exchange(&if own { question } else { text::declined(question) });
        let (mut sequence, answer) = (ids(tokenizer, &prompt), ids(tokenizer, &answer));
        lesson.learnt.push([vec![false; sequence.len() - 1], vec![true; answer.len()]].concat());
        sequence.extend(answer);
        lesson.sequences.push(sequence);
    }
    lesson
}

/// A model in training: every weight a variable, f32.
struct Model {
    architecture: Architecture,
    weights: BTreeMap<String, Var>,
}

impl Model {
    fn random(architecture: Architecture) -> Result<Self> {
        let mut rng = text::rng(11);
        let mut weights = BTreeMap::new();
        for spec in architecture.tensors() {
            let scale = match (spec.kind, spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight")) {
                (Kind::Linear, true) => 0.02 / (2.0 * architecture.layers as f32).sqrt(),
                _ => 0.02,
            };
            // The sum of twelve uniform numbers is close enough to a normal one.
            let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
            let count = spec.shape.iter().product();
            let values: Vec<f32> = match spec.kind {
                Kind::Norm => vec![1.0; count],
                _ => (0..count).map(|_| normal() * scale * 2.0).collect(),
            };
            weights.insert(spec.name, Var::from_tensor(&Tensor::from_vec(values, spec.shape, &Device::Cpu)?)?);
        }
        Ok(Self { architecture, weights })
    }

    fn open(dir: &Path) -> Result<Self> {
        let source = Source::open(&dir.display().to_string())?;
        let tensors = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }.collect()?;
        let weights = tensors.into_iter().map(|(name, t)| Ok((name, Var::from_tensor(&t)?))).collect::<Result<_>>()?;
        Ok(Self { architecture: source.architecture().clone(), weights })
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let half = |v: &Var| v.as_tensor().to_dtype(DType::BF16);
        let tensors = self.weights.iter().map(|(name, v)| Ok((name.clone(), half(v)?))).collect::<Result<_>>()?;
        Ok(safetensors::save(&tensors, dir.join("model.safetensors"))?)
    }

    /// AdamW with warm-up and a cosine schedule down to a tenth.
    fn train(&mut self, name: &str, steps: usize, rate: f64, mut lesson: impl FnMut() -> Lesson) -> Result<()> {
        let mut moments: BTreeMap<String, Moments> = BTreeMap::new();
        let (start, mut seen, mut sum) = (Instant::now(), 0, 0.0);
        for step in 1..=steps {
            let lesson = lesson();
            let weights: BTreeMap<String, Tensor> =
                self.weights.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
            let decoder = Decoder::new(&self.architecture, &weights);
            let inputs: Vec<&[u32]> = lesson.sequences.iter().map(|s| &s[..s.len() - 1]).collect();
            let batch = Batch::new(&inputs, &Device::Cpu)?;
            let longest = batch.ids.dim(1)? as u32;
            let (mut rows, mut targets) = (Vec::new(), Vec::new());
            for (i, (sequence, learnt)) in lesson.sequences.iter().zip(&lesson.learnt).enumerate() {
                for at in (0..sequence.len() - 1).filter(|at| learnt[*at]) {
                    rows.push(i as u32 * longest + at as u32);
                    targets.push(sequence[at + 1]);
                }
            }
            let rows = Tensor::new(rows, &Device::Cpu)?;
            let hidden = decoder.hidden(&batch.ids)?.flatten(0, 1)?.index_select(&rows, 0)?;
            let loss = (cross_entropy(&decoder.logits(&hidden)?, &targets)? / targets.len() as f64)?;
            let mut gradients = loss.backward()?;
            let progress = step as f64 / steps as f64;
            let warm = (step as f64 / (0.03 * steps as f64)).min(1.0);
            let lr = rate * warm * (0.1 + 0.45 * (1.0 + (std::f64::consts::PI * progress).cos()));
            let mut norm = 0.0;
            let mut all = BTreeMap::new();
            for (name, tensor) in &weights {
                let g = gradients.remove(tensor).with_context(|| format!("{name} has no gradient"))?;
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
                moments.entry(name.clone()).or_default().step(Optimizer::AdamW, &mut w, &g, width, step, lr, decay);
                self.weights[&name].set(&Tensor::from_vec(w, shape, &Device::Cpu)?)?;
            }
            seen += batch.tokens;
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
fn report(dir: &Path) -> Result<()> {
    let source = Source::open(&dir.display().to_string())?;
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }.collect()?;
    let parent = dir.parent().context("a model is inside a directory")?;
    for data in ["japanese", "math", "sql", "japanese-math"] {
        let file = parent.join(format!("data/{data}-heldout.jsonl"));
        let dataset = Dataset::read(&file.display().to_string(), &source)?;
        let s = score(source.architecture(), &weights, &dataset.examples, 256, &Device::Cpu)?;
        let exact = s.exact_match.unwrap_or(0.0) * 100.0;
        println!("{} on {data}: loss {:.3}, exact match {exact:.1}%", source.name(), s.loss);
    }
    Ok(())
}
