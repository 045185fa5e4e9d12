//! `dam tour`: a complete run on the built-in models, explained step by step in the verbs a user
//! would type.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use dam_prelude::Error;
use dam_prelude::show::{AVERAGE, MERGED};
use dam_prelude::verbs::{self, Argument, Context, Reply, Statement, statements};
use serde_json::Value;

use crate::interrupt;
use crate::run::{self, End};
use crate::terminal::render::Output;

/// The explanations, each with the verbs that follow. The last is the evaluation.
const TOUR: [(&str, &str); 6] = [
    (
        "Three small models, tuned from one base: for Japanese, for arithmetic, for\n\
         SQL. Each is good at its own skill and declines the rest. We want one model\n\
         that has all three.",
        "load builtin:japanese builtin:math builtin:sql",
    ),
    (
        "A merged weight is W = c1 W1 + c2 W2 + c3 W3, with a coefficient per source\n\
         and column. All start at 1/3, so the merge starts as the plain average. Only\n\
         these few numbers will be trained.",
        "wrap",
    ),
    (
        "How far is the merge from each specialist on that specialist's own questions,\n\
         8 of each? The KL divergence between their answers says. The cosine term\n\
         pushes sources towards different columns.",
        "set batch_size=8; loss",
    ),
    (
        "Each step asks every specialist 8 questions and moves the coefficients towards\n\
         its answers; nobody has to know which answers are right. Small models take\n\
         larger steps than real ones, so lr is high.",
        "set lr=1e-2 schedule=linear total_steps=150 warmup=5; train 150",
    ),
    (
        "The coefficients have left 1/3, each column its own way. This is how much each\n\
         source contributes to the second layer.",
        "inspect layers.1.*_proj.weight",
    ),
    (
        "Held-out questions: the share answered exactly right, and the loss.\n\
         `japanese-math` is arithmetic asked in Japanese, which takes two skills and no\n\
         specialist was tuned on.",
        "eval --all",
    ),
];

/// The explanation before the merge is written.
const BAKE: &str = "The merge becomes an ordinary Hugging Face checkpoint, as large as one source.";

/// Runs the tour and writes the merge to `directory`. An interrupt ends it.
pub fn tour(directory: &Path, force: bool, output: &Output) -> End {
    interrupt::clear();
    let start = Instant::now();
    match run_tour(directory, force, output) {
        Ok(_) if interrupt::requested() => End::Stopped,
        Ok(conclusion) => {
            if !output.json {
                let seconds = start.elapsed().as_secs_f64();
                output.print(&format!("\n{conclusion}\nThat took {seconds:.0} s. Next: run it without `tour`, and type `help`."));
            }
            End::Done
        }
        Err(error) => {
            output.error("tour", &error);
            if interrupt::requested() { End::Stopped } else { End::Failed }
        }
    }
}

fn run_tour(directory: &Path, force: bool, output: &Output) -> Result<String> {
    if directory.symlink_metadata().is_ok() && !force {
        return Err(Error::Exists { path: directory.into() }.into());
    }
    let mut context = Context::default();
    let mut scores = None;
    for (words, line) in TOUR {
        scores = step(words, line, statements(line)?, &mut context, output)?;
    }
    let mut arguments = vec![Argument::path(directory.display().to_string())];
    arguments.extend(force.then(|| "--force".into()));
    let bake = Statement::new("bake", arguments);
    step(BAKE, &verbs::line(&bake), vec![bake], &mut context, output)?;
    Ok(scores.map_or_else(String::new, |reply| conclusion(&reply.json["rows"])))
}

/// Explains and runs `all`, which `line` shows, and returns the last reply; text has no others.
/// Runs nothing after an interrupt.
fn step(
    words: &str,
    line: &str,
    all: Vec<Statement>,
    context: &mut Context,
    output: &Output,
) -> Result<Option<Reply>> {
    let mut last = None;
    let count = all.len();
    for (i, statement) in all.into_iter().enumerate() {
        if interrupt::requested() {
            return Ok(None);
        }
        if i == 0 && !output.json {
            output.print(&format!("\n{words}\n\ndam> {line}"));
        }
        let (reply, seconds) = run::reply(&statement, context)?;
        if output.json || i + 1 == count {
            output.reply(&statement.verb, seconds, &reply);
        }
        last = Some(reply);
    }
    Ok(last)
}

/// The conclusion from the table, in one sentence.
fn conclusion(rows: &Value) -> String {
    let mean = |model: &str| {
        let row = rows.as_array().into_iter().flatten().find(|row| row["model"] == model);
        let scores: Vec<&Value> = row
            .and_then(|r| r["scores"].as_object())
            .into_iter()
            .flat_map(|s| s.values())
            .collect();
        let exact: f64 = scores.iter().filter_map(|s| s["exact_match"].as_f64()).sum();
        100.0 * exact / scores.len().max(1) as f64
    };
    let (average, dam) = (mean(AVERAGE), mean(MERGED));
    let verdict =
        if dam > average { "the same three models, better combined" } else { "no gain here" };
    format!("Averaging answers {average:.1}% of all questions exactly,\nDAM {dam:.1}%: {verdict}.")
}
