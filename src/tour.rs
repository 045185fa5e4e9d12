//! `dam tour`: the main job on the built-in models, told as it happens.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use dam_prelude::show::Scoreboard;
use dam_prelude::{Columns, Error, load};
use serde_json::json;

use crate::context::Reply;
use crate::progress;
use crate::render::Output;

/// Settings of the tour: small models take larger steps than real ones.
const SETTINGS: [(&str, &str); 5] =
    [("lr", "1e-2"), ("batch_size", "8"), ("schedule", "linear"), ("total_steps", "150"), ("warmup", "5")];
const STEPS: usize = 150;

/// Tells the tour and writes the merge to `directory`. Tells whether all went well.
pub fn tour(directory: &Path, force: bool, output: &Output) -> bool {
    match told(directory, force, output) {
        Ok(()) => true,
        Err(error) => {
            output.error("tour", &error);
            false
        }
    }
}

fn told(directory: &Path, force: bool, output: &Output) -> Result<()> {
    if directory.symlink_metadata().is_ok() && !force {
        return Err(Error::Exists { path: directory.into() }.into());
    }
    let start = Instant::now();
    let tell = |verb: &str, before: &str, reply: Reply| {
        if !output.json {
            output.say(&format!("\n{before}"));
        }
        output.reply(verb, start.elapsed().as_secs_f64(), &reply);
    };

    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    tell(
        "load",
        "LOAD. Three small specialists, tuned from one base: Japanese, arithmetic and SQL. Each is good at\n\
         its own skill and poor at the others'. We want one model that has all three.",
        Reply::new(&models, json!({"sources": models.report().0})),
    );
    for (key, value) in SETTINGS {
        models.settings.set(key, value)?;
    }
    let dam = models.wrap(Columns::default())?;
    let report = dam.report();
    tell(
        "wrap",
        "WRAP. A merged weight is W = sum_i c_i W_i, with one coefficient per source i and column. All start\n\
         at 1/3, so the merge starts as the plain average. Only these few numbers are trained:",
        Reply::new(&report, json!({"tensors": report.tensors, "coefficients": report.coefficients})),
    );
    let loss = dam.loss()?;
    tell(
        "loss",
        "LOSS. How far is the merge from each specialist, on that specialist's own questions? (KL divergence;\n\
         the cosine term pushes the sources towards different columns.)",
        Reply::new(&loss, json!({"total": loss.total, "terms": loss.terms})),
    );
    if !output.json {
        output.say(&format!("\nSTEP, {STEPS} times. Each step asks the specialists and moves the coefficients their way."));
    }
    let trained = progress::train(&dam, STEPS, output.json)?;
    tell("train", "", Reply::new(&trained, json!({"steps": trained.steps, "first": trained.first, "last": trained.last})));
    let inspected = dam.inspect("layers.1.*_proj.weight").or_else(|_| dam.inspect("layers.1"))?;
    tell(
        "inspect",
        "INSPECT. The coefficients have left 1/3, each column its own way: what came from whom, in one layer.",
        Reply::new(&inspected, json!({"tensors": inspected.tensors})),
    );
    let written = dam.bake_with(directory, &dam_prelude::Bake { force, ..Default::default() })?;
    tell(
        "bake",
        "BAKE. The merge becomes an ordinary Hugging Face checkpoint, as large as one source.",
        Reply::new(&written, json!({"path": written.path, "files": written.files, "bytes": written.bytes})),
    );
    let board = dam.scoreboard(&[])?;
    tell(
        "eval",
        "SCORES on questions nobody has seen. `japanese-math` is arithmetic asked in Japanese: no specialist\n\
         was tuned on it, and it needs two skills at once.",
        Reply::new(&board, json!({"rows": board.rows})),
    );
    if !output.json {
        output.say(&format!("\n{}", moral(&board)));
        output.say(&format!(
            "{:.0} seconds in all. Next: `dam` and then `help`, or `dam -c \"load ...\"` with models of your own.",
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(())
}

/// What the table says, in a sentence.
fn moral(board: &Scoreboard) -> String {
    let mean = |row| 100.0 * board.row(row).and_then(|s| s.mean_exact_match()).unwrap_or_default();
    let (average, dam) = (mean("average"), mean("DAM"));
    match dam > average {
        true => format!("Averaging answers {average:.1}% of all questions exactly, DAM {dam:.1}%, from the same three models."),
        false => format!("Averaging answers {average:.1}% of all questions exactly, DAM {dam:.1}%: here it did not pay."),
    }
}
