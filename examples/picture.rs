//! Draws the README's figures: the scores of the first merge, and the coefficients it learnt.
//!
//! ```text
//! cargo run --release --example picture [DIR]
//! ```

use std::path::PathBuf;

use dam_prelude::{Columns, Result, Schedule, load};

fn main() -> Result<()> {
    let directory = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "examples".into()));
    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    models.settings.lr = 1e-2;
    models.settings.batch_size = 8;
    models.settings.schedule = Schedule::Linear;
    models.settings.warmup = 5;
    models.settings.total_steps = 150;
    let dam = models.wrap(Columns::default())?;
    println!("{}", dam.train(150)?);
    let scores = dam.scoreboard(&[])?.plot();
    println!("{scores}\n{}", scores.save(directory.join("first_merge.svg"))?);
    let coefficients = dam.plot("coefficients layers.1.self_attn.o_proj")?;
    println!("{coefficients}\n{}", coefficients.save(directory.join("first_coefficients.svg"))?);
    Ok(())
}
