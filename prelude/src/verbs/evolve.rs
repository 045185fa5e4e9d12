//! `evolve [METHOD] [RECIPE.yml]`

use std::ops::ControlFlow;

use serde_json::json;

use super::kind::RECIPES;
use super::merge::METHOD;
use super::paths::{at_home, check_free};
use super::prelude::*;
use crate::Evolve;

const RECIPE: NewFile = NewFile { place: "RECIPE", suffixes: RECIPES, suggested: None };

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[optional(METHOD), optional(Kind::New(RECIPE))],
        options: &[
            option("budget", Kind::Count("200")),
            option("groups", Kind::Count("4")),
            option("examples", Kind::Count("48")),
        ],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "evolve",
        "search weights and densities per source and group of layers (CMA-ES) on the sources' own data; Ctrl-C keeps the best",
        "evolve dare_ties budget=100 best.yml",
        |arguments| {
            let default = Evolve::default();
            let number = |key: &str, default: usize| arguments.count(key).unwrap_or(default);
            let search = Evolve {
                method: arguments.word(0).map_or(default.method, str::to_owned),
                budget: number("budget", default.budget),
                groups: number("groups", default.groups),
                examples: number("examples", default.examples),
                ..default
            };
            Ok(Box::new(Search { search, file: arguments.word(1).map(at_home) }))
        },
    )
};

struct Search {
    search: Evolve,
    /// The recipe to write.
    file: Option<String>,
}

impl Command for Search {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.loaded()?;
        let models = context.current();
        self.file.iter().try_for_each(|file| check_free(file))?;
        let search = Evolve { seed: models.settings.seed, ..self.search.clone() };
        let evolved = models.evolve(&search, |_| ControlFlow::Continue(()))?;
        context.merged = Some(evolved.merged.clone());
        let report = &evolved.report;
        let mut fields = json!({
            "method": report.method, "candidates": report.tried, "first": report.first,
            "best": report.best, "tokens": report.tokens, "dimensions": report.dimensions,
            "stopped": report.stopped, "recipe": evolved.recipe,
        });
        let mut at = String::new();
        if let Some(file) = &self.file {
            let written = evolved.write(file)?;
            fields["path"] = json!(written.path.display().to_string());
            at = format!("written to {}", written.path.display());
        }
        Ok(Reply::shown(report, fields)
            .and(at)
            .and("try the best merge: eval, generate, inspect, bake DIR"))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let models = code.models();
        let (search, default) = (&self.search, Evolve::default());
        let mut given = Vec::new();
        if search.method != default.method {
            given.push(("method", format!("{:?}.into()", search.method)));
        }
        given.extend(changed([
            ("budget", search.budget, default.budget),
            ("groups", search.groups, default.groups),
            ("examples", search.examples, default.examples),
        ]));
        given.extend(code.seed());
        let rest = (given.len() < 5).then_some("Evolve::default()");
        code.line(format!("let search = {};", fields("Evolve", &given, rest)));
        code.line(format!(
            "let evolved = {models}.evolve(&search, |_| std::ops::ControlFlow::Continue(()))?;"
        ));
        code.write_new(self.file.as_deref(), "evolved");
        code.made("evolved.merged");
        code.show("evolved");
        Ok(())
    }

    /// A search that was stopped is recorded as one of as many candidates as it tried.
    fn record(&self, statement: &Statement, _: usize, reply: Option<&Reply>) -> Statement {
        let fields = reply.map(|reply| &reply.json);
        let stopped = fields.filter(|fields| fields.get("stopped") == Some(&true.into()));
        let mut recorded = statement.clone();
        if let Some(tried) = stopped.and_then(|fields| fields.get("candidates")) {
            let is_budget = |pair: (&str, &str)| pair.0 == "budget";
            recorded.arguments.retain(|argument| !argument.pair().is_some_and(is_budget));
            recorded.arguments.push(format!("budget={tried}").into());
        }
        recorded
    }

    /// Without the file, which exists by then.
    fn again(&self, statement: &Statement) -> Statement {
        statement.without(|argument| Kind::New(RECIPE).recognises(&argument.text))
    }
}
