//! `wrap [columns] [f=...] [train=...] [init=...] [bias=...] [base=...]`

use anyhow::Result;
use dam_prelude::methods::METHODS;
use dam_prelude::train::choose;
use dam_prelude::{BiasStart, Columns, Error, Init, Kind, Nonlinearity};
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home, is_recipe};
use crate::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "wrap",
    usage: "wrap [columns] [f=none|tanh|sigmoid|relu] [train=linear,embedding,norm] [init=uniform|random|METHOD|RECIPE.yml] [bias=one|same] [base=off|on] [--force]",
    about: "give every weight column of every source its coefficient",
    example: "wrap columns f=tanh train=linear,norm",
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &["f", "train", "init", "bias", "base"], &["--force"])?;
    if let Some(scheme) = arguments.optional(VERB.usage)? {
        choose("scheme", scheme, &[("columns", ())])?;
    }
    context.may_discard(arguments.force())?;
    let models = context.current();
    let mut start = None;
    let mut columns = Columns { seed: models.settings.seed, ..Columns::default() };
    for (key, value) in arguments.pairs {
        match key {
            "f" => columns.f = choose(key, value, &Nonlinearity::ALL.map(|f| (f.name(), f)))?,
            "train" => {
                let kinds = [Kind::Linear, Kind::Embedding, Kind::Norm].map(|kind| (kind.name(), kind));
                columns.train = value.split(',').map(|kind| choose(key, kind, &kinds)).collect::<Result<_, _>>()?;
            }
            "init" => match value {
                "uniform" => columns.init = Init::Uniform,
                "random" => columns.init = Init::Random,
                _ => start = Some(value),
            },
            "bias" => columns.bias = choose(key, value, &[("one", BiasStart::One), ("same", BiasStart::Same)])?,
            _ => columns.with_base = choose(key, value, &[("off", false), ("on", true)])?,
        }
    }
    context.loaded()?;
    let dam = match start {
        None => models.wrap(columns)?,
        Some(recipe) if is_recipe(recipe) => models.wrap_from(columns, &models.merge_recipe(at_home(recipe))?)?,
        Some(name) => {
            let known = ["uniform", "random"].into_iter().chain(METHODS.iter().map(|m| m.name));
            if !known.clone().any(|k| k == name) {
                return Err(Error::unknown("init", name, known).into());
            }
            models.wrap_from(columns, &models.merge_named(name, &[])?)?
        }
    };
    let report = dam.report();
    context.dam = Some(dam);
    context.merged = None;
    context.saved = 0;
    let share = report.coefficients as f64 / report.parameters.max(1) as f64;
    Ok(Reply::new(
        &report,
        json!({
            "sources": report.sources, "tensors": report.tensors, "coefficients": report.coefficients,
            "trainable": report.trainable, "share": share, "forecast": report.forecast, "notes": report.notes,
        }),
    ))
}
