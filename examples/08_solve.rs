//! Coefficients from linear algebra: one sweep through the layers, then a few steps of training.
//!
//! ```text
//! cargo run --release --example 08_solve
//! ```

use std::ops::ControlFlow;
use std::time::Instant;

use dam_prelude::show::{Scores, Table};
use dam_prelude::{Columns, Dam, Result, Rows, RowsColumns, SolveSettings, Wrap, load};

fn main() -> Result<()> {
    let models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    let mut table = Table::new("exact match (loss) on held-out data", ["merge", "seconds", "mean"]);
    let mut add = |name: &str, seconds: f64, dam: &Dam| -> Result<()> {
        let scores = dam.eval(&[])?;
        let (exact, loss) = means(&scores);
        let row = [
            name.to_owned(),
            format!("{seconds:.1}"),
            format!("{:.1}% ({loss:.3})", 100.0 * exact),
        ];
        table.rows.push(row.into());
        Ok(())
    };
    add("average", 0.0, &models.wrap(Columns::default())?)?;
    let settings = SolveSettings::default();
    let compare = SolveSettings { unrestricted: true, ..settings.clone() };
    for (name, how) in [
        ("columns", Wrap::from(Columns::default())),
        ("rows", Wrap::from(Rows)),
        ("rows_columns", Wrap::from(RowsColumns)),
    ] {
        let dam = models.wrap(how)?;
        let start = Instant::now();
        // The average's error that remains, layer by layer, as it is solved.
        dam.solve_with(&compare, |part| {
            println!("{name}: {part}");
            ControlFlow::Continue(())
        })?;
        add(&format!("{name}, solved"), start.elapsed().as_secs_f64(), &dam)?;
    }
    for relative in [SolveSettings::regmean(), SolveSettings::regmean_plus_plus()] {
        let dam = models.wrap(Columns::default())?;
        let seconds = dam.solve(&relative)?.seconds;
        add(
            &format!(
                "columns, target={}, inputs={}",
                relative.target.name(),
                relative.inputs.name()
            ),
            seconds,
            &dam,
        )?;
    }
    let dam = models.wrap(Columns::default())?;
    let mut seconds = dam.solve(&SolveSettings { unrestricted: false, ..settings })?.seconds;
    add("columns, solved without comparison", seconds, &dam)?;
    seconds += dam.train(50)?.seconds;
    add("and trained for 50 steps", seconds, &dam)?;
    println!("\n{table}");
    Ok(())
}

/// The mean exact match and loss over data sets.
fn means(scores: &Scores) -> (f64, f64) {
    let count = scores.data.len() as f64;
    let exact: f64 = scores.data.values().filter_map(|s| s.exact_match).sum();
    (exact / count, scores.data.values().map(|s| s.loss).sum::<f64>() / count)
}
