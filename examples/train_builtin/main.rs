//! Trains the models built into the library from scratch: a tokenizer, a base that has read
//! statements and questions with answers as plain text but answers no questions, and three
//! specialists tuned from it to answer questions of one skill and to decline the others.
//!
//! ```text
//! cargo run --release --example train_builtin [DIR]
//! ```
//!
//! Everything is seeded: another run gives the same scores. DIR is `prelude/builtin` by default. It
//! takes about 20 minutes on two cores.

mod files;
mod model;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use dam_prelude::checkpoint::Architecture;
use files::{END, train_tokenizer, write_side_files};
use model::{Model, TrainingBatch, report};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use text::Question;
use tokenizers::Tokenizer;

/// The base trains slowly. Tuning is short, with a low learning rate, so that specialists stay
/// close to it: models with small, mostly separate differences merge well.
const BASE: Training = Training { steps: 2200, rate: 3e-3 };
const TUNING: Training = Training { steps: 300, rate: 5e-4 };
const TRAIN_EXAMPLES: usize = 1500;
const HELD_OUT: usize = 200;

/// The number of optimiser steps, and the peak learning rate.
struct Training {
    steps: usize,
    rate: f64,
}

/// A name, its questions, and its seed.
type Skill = (&'static str, fn(&mut ChaCha8Rng) -> Question, u64);

const SKILLS: [Skill; 3] =
    [("japanese", text::japanese, 1), ("math", text::math, 2), ("sql", text::sql, 3)];

fn main() -> Result<()> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "prelude/builtin".into()));
    fs::create_dir_all(out.join("data"))?;
    for (name, generate, seed) in SKILLS {
        write_questions(
            &out.join(format!("data/{name}.jsonl")),
            &questions(generate, seed, TRAIN_EXAMPLES, false),
        )?;
        write_questions(
            &out.join(format!("data/{name}-heldout.jsonl")),
            &questions(generate, seed, HELD_OUT, true),
        )?;
    }
    let fourth = questions(text::japanese_math, 4, HELD_OUT, true);
    write_questions(&out.join("data/japanese-math-heldout.jsonl"), &fourth)?;

    let tokenizer = train_tokenizer()?;
    let base = out.join("base");
    write_side_files(&base, &tokenizer)?;
    let config = base.join("config.json");
    let mut model = Model::random(Architecture::parse(&config, &fs::read(&config)?)?)?;
    let mut rng = text::rng(10);
    model.train("base", BASE.steps, BASE.rate, || base_batch(&tokenizer, &mut rng))?;
    model.save(&base)?;
    report(&base)?;
    for (name, _, seed) in SKILLS {
        let dir = out.join(name);
        write_side_files(&dir, &tokenizer)?;
        let (mut model, mut rng) = (Model::open(&base)?, text::rng(20 + seed));
        model.train(name, TUNING.steps, TUNING.rate, || tune_batch(&tokenizer, name, &mut rng))?;
        model.save(&dir)?;
        report(&dir)?;
    }
    Ok(())
}

fn questions(
    generate: fn(&mut ChaCha8Rng) -> Question,
    seed: u64,
    count: usize,
    held_out: bool,
) -> Vec<Question> {
    let mut rng = text::rng(seed + if held_out { 1000 } else { 0 });
    let mut seen = std::collections::BTreeSet::new();
    let all = std::iter::repeat_with(|| generate(&mut rng)).filter(|q| q.is_held_out() == held_out);
    all.filter(|q| seen.insert(q.input.clone())).take(count).collect()
}

fn write_questions(path: &Path, questions: &[Question]) -> Result<()> {
    let line = |q: &Question| json!({"question": q.input, "answer": q.output}).to_string() + "\n";
    Ok(fs::write(path, questions.iter().map(line).collect::<String>())?)
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer
        .encode_fast(text, false)
        .expect("a byte-level tokenizer takes any text")
        .get_ids()
        .to_vec()
}

fn exchange(question: &Question) -> (String, String) {
    (format!("<|user|>{}{END}<|assistant|>", question.input), format!("{}{END}", question.output))
}

/// The training data of the base: statements, questions with answers as plain text, and chats
/// without questions. Packed into rows of equal length; every token is a target.
fn base_batch(tokenizer: &Tokenizer, rng: &mut ChaCha8Rng) -> TrainingBatch {
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
    TrainingBatch { targets: vec![vec![true; LENGTH]; ROWS], sequences }
}

/// Chats for the specialist `name`: questions of its skill with their answers, and other questions,
/// which it declines. Only tokens after the question are targets.
fn tune_batch(tokenizer: &Tokenizer, name: &str, rng: &mut ChaCha8Rng) -> TrainingBatch {
    const ROWS: usize = 32;
    let mut batch = TrainingBatch { sequences: Vec::new(), targets: Vec::new() };
    for row in 0..ROWS {
        let own = row % 3 != 0;
        let skills: Vec<&Skill> =
            SKILLS.iter().filter(|(skill, _, _)| (*skill == name) == own).collect();
        let question = text::asked(skills[rng.random_range(0..skills.len())].1, rng);
        let (prompt, answer) = exchange(&if own { question } else { text::declined(question) });
        let (mut sequence, answer) = (ids(tokenizer, &prompt), ids(tokenizer, &answer));
        batch.targets.push([vec![false; sequence.len() - 1], vec![true; answer.len()]].concat());
        sequence.extend(answer);
        batch.sequences.push(sequence);
    }
    batch
}
