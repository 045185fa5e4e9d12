//! A custom scheme: checked, trained next to columns, and scored on held-out questions.
//!
//! ```text
//! cargo run --release --example 07_scheme
//! ```

use std::cmp::Ordering;

use dam_prelude::show::{Scores, Table};
use dam_prelude::{
    Columns, Parameter, Result, Scheme, Site, Tensor, Wrap, candle_core, check_scheme, load,
};

/// A feature of the residual stream is the same in every layer. So all weights that read it share
/// its coefficients, and each weight shifts them by one number of its own.
struct Stream;

impl Scheme for Stream {
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let reads = site.columns() == site.architecture.hidden && !site.name().contains("o_proj");
        let columns = site.parameter(if reads { "stream" } else { site.name() }, 1, site.columns());
        vec![
            columns,
            Parameter::filled(format!("{} shift", site.name()), &[site.sources, 1, 1], 0.0),
        ]
    }

    fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
        parameters[0].broadcast_add(&parameters[1])
    }
}

const STEPS: usize = 40;

fn main() -> Result<()> {
    let mut models = load(["builtin:japanese", "builtin:math", "builtin:sql"])?;
    models.settings.lr = 1e-2;
    models.settings.batch_size = 8;
    println!("{}\n", check_scheme(&Stream, &models)?);

    // The same models, data, settings and seed for both.
    let mut results: Vec<(String, usize, Scores)> = Vec::new();
    for scheme in [Wrap::from(Columns::default()), Wrap::from(Stream)] {
        let dam = models.wrap(scheme)?;
        dam.train(STEPS)?;
        results.push((dam.report().scheme, dam.report().trainable, dam.eval(&[])?));
    }

    let data: Vec<&String> = results[0].2.data.keys().collect();
    let header =
        ["scheme", "parameters"].into_iter().chain(data.iter().map(|d| d.as_str())).chain(["mean"]);
    let mut table =
        Table::new(format!("exact match (loss) on held-out data after {STEPS} steps"), header);
    for (name, parameters, scores) in &results {
        let cell = |exact: f64, loss: f64| format!("{:.1}% ({loss:.3})", 100.0 * exact);
        let each = scores.data.values().map(|s| cell(s.exact_match.unwrap_or(0.0), s.loss));
        let mean = cell(exact(scores), loss(scores));
        table.rows.push(
            [name.clone(), parameters.to_string()].into_iter().chain(each).chain([mean]).collect(),
        );
    }
    println!("{table}\n");

    let [(_, _, columns), (name, _, own)] = results.as_slice() else { return Ok(()) };
    let verdict = match exact(own).total_cmp(&exact(columns)) {
        Ordering::Greater => "beats",
        Ordering::Less => "loses to",
        Ordering::Equal => "answers as many as",
    };
    println!(
        "{name} {verdict} columns, at a mean loss of {:.3} where theirs is {:.3}.",
        loss(own),
        loss(columns)
    );
    Ok(())
}

fn exact(scores: &Scores) -> f64 {
    scores.mean_accuracy().unwrap_or(0.0)
}

fn loss(scores: &Scores) -> f64 {
    scores.data.values().map(|s| s.loss).sum::<f64>() / scores.data.len().max(1) as f64
}
