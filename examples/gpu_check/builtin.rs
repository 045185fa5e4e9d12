//! The built-in models: solve, evaluation, generation, bake, and the merge of the tour.

use std::fs;
use std::path::Path;

use anyhow::Result;
use dam_prelude::candle_core::{Device, safetensors};
use dam_prelude::show::{Scoreboard, Scores};
use dam_prelude::{Bake, Columns, Models, Schedule, SolveSettings};

use crate::check::{Check, FUSED, How, Measure, both};
use crate::target::{Found, Target};

const SOURCES: [&str; 3] = ["builtin:japanese", "builtin:math", "builtin:sql"];

/// The questions of a quick run; a full one has the held-out data of the built-in models.
const QUESTIONS: [(&str, &str); 8] = [
    ("What is 12 plus 7?", "12 + 7 = 19"),
    ("What is 50 plus 40?", "50 + 40 = 90"),
    ("24 + 55 = ?", "24 + 55 = 79"),
    ("「tall sea」を日本語で言うと何ですか。", "高い海"),
    ("六十六を数字で書いてください。", "66"),
    ("「大きい駅を買う」を丁寧に言ってください。", "大きい駅を買います"),
    (
        "List the status of orders with price under 62.",
        "SELECT status FROM orders WHERE price < 62",
    ),
    ("Show the 1 books with the highest pages.", "SELECT * FROM books ORDER BY pages DESC LIMIT 1"),
];

const LOSS: &str = "loss";
const EXACT: &str = "exact match";
const ANSWERS: &str = "answers";
const WEIGHTS: &str = "weights";
const SHARE: &str = "share left";

pub fn checks(quick: bool) -> Vec<Check> {
    let measure = |name, how, tolerances: [f64; 2], half: bool| Measure {
        name,
        how,
        tolerance: tolerances[usize::from(half)],
    };
    // A question of the quick run is an eighth of the score.
    let questions = if quick { [0.13, 0.26] } else { [0.02, 0.05] };
    let (steps, batch) = if quick { (3, 2) } else { (150, 8) };
    let mut all = Vec::new();
    all.extend(both(
        "solve",
        FUSED,
        move |target| solve(target, quick),
        move |half| {
            vec![
                measure(SHARE, How::Absolute, [1e-3, 2e-2], half),
                measure(LOSS, How::Relative, [1e-2, 0.1], half),
            ]
        },
    ));
    all.extend(both(
        "evaluation",
        FUSED,
        move |target| evaluate(target, quick),
        move |half| {
            vec![
                measure(LOSS, How::Relative, [1e-4, 3e-2], half),
                measure(EXACT, How::Absolute, questions, half),
            ]
        },
    ));
    all.extend(both("greedy generation", FUSED, generate, move |half| {
        // In bf16 the logits of two tokens may be equal.
        vec![measure(ANSWERS, How::Equal, [0.0, 4.0], half)]
    }));
    all.extend(both("bake in f32", FUSED, bake, move |half| {
        vec![measure(WEIGHTS, How::Relative, [1e-6, 1e-6], half)]
    }));
    let tour_name = format!("the tour's merge, {steps} steps");
    all.extend(both(
        tour_name,
        FUSED,
        move |target| tour(target, steps, batch, quick),
        move |half| {
            vec![
                // Rounding grows from step to step.
                measure(LOSS, How::Relative, if quick { [1e-3, 5e-2] } else { [5e-2, 0.2] }, half),
                measure(EXACT, How::Absolute, questions, half),
            ]
        },
    ));
    all
}

fn models(target: &Target) -> Result<Models> {
    let mut models = target.load(&SOURCES.map(str::to_owned))?;
    (models.settings.lr, models.settings.batch_size) = (1e-2, 8);
    Ok(models)
}

/// Calls `f` with the files to score on; none for the held-out data.
fn with_questions<T>(quick: bool, f: impl FnOnce(&[String]) -> Result<T>) -> Result<T> {
    if !quick {
        return f(&[]);
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("questions.jsonl");
    let line = |(question, answer): (&str, &str)| {
        format!("{}\n", serde_json::json!({"question": question, "answer": answer}))
    };
    fs::write(&file, QUESTIONS.map(line).concat())?;
    f(&[file.display().to_string()])
}

fn add_scores(found: &mut Found, model: &str, scores: &Scores) -> Result<()> {
    for (data, score) in &scores.data {
        found.add_values(format!("{LOSS}/{model} on {data}"), vec![score.loss])?;
        if let Some(exact) = score.exact_match {
            found.add_values(format!("{EXACT}/{model} on {data}"), vec![exact])?;
        }
    }
    Ok(())
}

fn solve(target: &Target, quick: bool) -> Result<Found> {
    let dam = models(target)?.wrap(Columns::default())?;
    let default = SolveSettings::default();
    let examples = if quick { 2 } else { default.examples };
    let report = dam.solve(&SolveSettings { examples, ..default })?;
    let mut found = Found::default();
    for part in &report.parts {
        if let Some(share) = part.share() {
            found.add_values(format!("{SHARE}/{}", part.name()), vec![share])?;
        }
    }
    for (name, value) in dam.loss()?.terms {
        found.add_values(format!("{LOSS}/{name}"), vec![value])?;
    }
    Ok(found)
}

/// Scores the sources, their average and the merge.
fn evaluate(target: &Target, quick: bool) -> Result<Found> {
    let dam = models(target)?.wrap(Columns::default())?;
    let Scoreboard { rows } = with_questions(quick, |files| Ok(dam.scoreboard(files)?))?;
    let mut found = Found::default();
    for (model, scores) in &rows {
        add_scores(&mut found, model, scores)?;
    }
    Ok(found)
}

fn generate(target: &Target) -> Result<Found> {
    let dam = models(target)?.wrap(Columns::default())?;
    let mut found = Found::default();
    for (question, _) in QUESTIONS {
        for (model, text) in &dam.generate_all(question, 32)?.rows {
            found.add_text(format!("{ANSWERS}/{model} on {question}"), text.as_str());
        }
    }
    Ok(found)
}

/// Bakes a merge with arbitrary coefficients.
fn bake(target: &Target) -> Result<Found> {
    let models = models(target)?;
    let dam = models.wrap(Columns::default())?;
    for (seed, spec) in models.source("math")?.tensors().iter().enumerate() {
        let shape = dam.coefficients(&spec.name)?.dims().to_vec();
        let values = ((target.values(&shape, seed as u64)? * 0.1)? + 1.0 / 3.0)?;
        dam.set_coefficients(&spec.name, &values)?;
    }
    let directory = tempfile::tempdir()?;
    let options = Bake { dtype: Some("f32".into()), ..Bake::default() };
    let written = dam.bake_with(directory.path().join("merged"), &options)?;
    let mut found = Found::default();
    add_weights(&mut found, &written.path)?;
    Ok(found)
}

fn add_weights(found: &mut Found, directory: &Path) -> Result<()> {
    for (name, weight) in safetensors::load(directory.join("model.safetensors"), &Device::Cpu)? {
        found.add(format!("{WEIGHTS}/{name}"), &weight)?;
    }
    Ok(())
}

/// Trains the merge of `dam tour`, and scores it.
fn tour(target: &Target, steps: usize, batch: usize, quick: bool) -> Result<Found> {
    let mut models = models(target)?;
    let settings = &mut models.settings;
    (settings.schedule, settings.total_steps, settings.warmup) = (Schedule::Linear, steps, 5);
    settings.batch_size = batch;
    let dam = models.wrap(Columns::default())?;
    let mut found = Found::default();
    let report = dam.train(steps)?;
    found.add_values(format!("{LOSS}/first step"), vec![report.first])?;
    found.add_values(format!("{LOSS}/last step"), vec![report.last])?;
    for (data, score) in &with_questions(quick, |files| Ok(dam.eval(files)?))?.data {
        if let Some(exact) = score.exact_match {
            found.add_values(format!("{EXACT}/{data}"), vec![exact])?;
        }
    }
    Ok(found)
}
