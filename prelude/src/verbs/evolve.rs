//! `evolve [METHOD] [budget=N] [groups=N] [examples=N] [RECIPE.yml]`

use std::ops::ControlFlow;

use crate::Evolve;
use crate::Result;
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, count, free, is_recipe};
use super::context::{Context, Reply, refuse};
use super::export::{Code, fields, path};

pub const VERB: Verb = Verb {
    name: "evolve",
    usage: "evolve [METHOD] [budget=200] [groups=4] [examples=48] [RECIPE.yml]",
    about: "search weights and densities per source and group of layers (CMA-ES) on the sources' own data; Ctrl-C keeps the best",
    example: "evolve dare_ties budget=100 best.yml",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &["budget", "groups", "examples"], &[])?;
    context.loaded()?;
    let models = context.current();
    let mut search = Evolve { seed: models.settings.seed, ..Evolve::default() };
    let mut file = None;
    for word in &arguments.words {
        match *word {
            word if is_recipe(word) && file.is_none() => file = Some(free(word)?),
            word if search.method.is_empty() && !is_recipe(word) => search.method = word.into(),
            _ => return refuse("too many arguments", format!("usage: {}", VERB.usage)),
        }
    }
    for (key, value) in &arguments.pairs {
        let number = count(key, value)?;
        match *key {
            "budget" => search.budget = number,
            "groups" => search.groups = number,
            _ => search.examples = number,
        }
    }
    let evolved = models.evolve(&search, |_| ControlFlow::Continue(()))?;
    context.merged = Some(evolved.merged.clone());
    let report = &evolved.report;
    let mut fields = json!({
        "method": report.method, "candidates": report.tried, "first": report.first, "best": report.best,
        "tokens": report.tokens, "dimensions": report.dimensions, "stopped": report.stopped, "recipe": evolved.recipe,
    });
    let mut at = String::new();
    if let Some(file) = file {
        let written = evolved.write(file)?;
        fields["path"] = json!(written.path.display().to_string());
        at = format!("written to {}", written.path.display());
    }
    Ok(Reply::shown(report, fields)
        .and(at)
        .and("try the best merge: eval, generate, inspect, bake DIR"))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &["budget", "groups", "examples"], &[])?;
    let models = code.models();
    let mut given = Vec::new();
    for word in arguments.words.iter().filter(|word| !is_recipe(word)) {
        given.push(("method", format!("{word:?}.into()")));
    }
    for (key, value) in &arguments.pairs {
        let field =
            ["budget", "groups"].into_iter().find(|field| field == key).unwrap_or("examples");
        given.push((field, count(key, value)?.to_string()));
    }
    given.extend(code.seed());
    let rest = (given.len() < 5).then_some("Evolve::default()");
    code.line(format!("let search = {};", fields("Evolve", &given, rest)));
    code.line(format!(
        "let evolved = {models}.evolve(&search, |_| std::ops::ControlFlow::Continue(()))?;"
    ));
    for file in arguments.words.iter().filter(|word| is_recipe(word)).map(|file| path(file)) {
        code.line(format!(
            "if !std::path::Path::new({file}).exists() {{\n    evolved.write({file})?;\n}}"
        ));
    }
    code.made("evolved.merged");
    code.show("evolved");
    Ok(())
}
