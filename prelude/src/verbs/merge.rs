//! `merge METHOD KEY=VALUE... [DIR|FILE.gguf]`, `merge RECIPE.yml [DIR|FILE.gguf]`, `merge`

use serde_json::{Value, json};

use super::bake::{OPTIONS, Output};
use super::kind::is_recipe;
use super::paths::at_home;
use super::prelude::*;
use super::solve;
use crate::methods::{self, GREEDY_SOUP, METHODS};
use crate::show::Table;
use crate::solve::{SOLVED_METHODS, SolvedMethod};
use crate::{Compare, Merged, SolveSettings};

/// Methods without training that need no data.
pub(super) const METHOD: Kind = Kind::OneOf(Words {
    what: "method",
    place: Some("METHOD"),
    all: || METHODS.iter().map(|method| (method.name, method.about)).collect(),
});

/// What the greedy soup is, and its parameter.
pub(super) const SOUP: (&str, &str) = (
    GREEDY_SOUP,
    "the average of sources, each added only if the loss on tuning data does not rise",
);
pub(super) const SOUP_USAGE: &str = "[data=FILE,...]";

/// All methods without training.
const STATIC_METHOD: Kind =
    Kind::OneOf(Words { what: "method", place: Some("METHOD"), all: static_methods });

/// All methods without training, each with its description.
pub(super) fn static_methods() -> Vec<(&'static str, &'static str)> {
    let solved = SOLVED_METHODS.iter().map(|method| (method.name, method.about));
    let all = METHODS.iter().map(|method| (method.name, method.about));
    all.chain([SOUP]).chain(solved).collect()
}

/// The parameters of a method that solves for weights.
pub(super) fn solved_usage(method: &SolvedMethod) -> String {
    let options = solve::options_of(method).into_iter();
    let usage = options.map(|Opt { key, kind }| format!("[{key}={}]", kind.usage()));
    usage.collect::<Vec<_>>().join(" ")
}

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[
            optional(Kind::Either(&[STATIC_METHOD, Kind::Recipe])),
            optional(super::bake::PLACE).after(|words| !words.is_empty()),
        ],
        options: OPTIONS,
        more: Some(More { usage: || "[KEY=VALUE...]".into(), options: parameters_of }),
        options_after: 2,
        flags: &["--force"],
    },
    is_exported: true,
    rebuilds: Some(Rebuild::Merge),
    ..Verb::new(
        "merge",
        "merge the sources by a static method or a mergekit recipe, in memory or into DIR or FILE.gguf; without arguments: list methods",
        "merge ties density=0.5 weight=1,0.5,0.5",
        read,
    )
};

/// The parameters of the method in `words`; of a recipe or an unknown method, nothing is known.
fn parameters_of(words: &[&str]) -> Option<Vec<Opt>> {
    match words.first()? {
        name if *name == GREEDY_SOUP => Some(vec![option("data", Kind::List(&Kind::Data))]),
        name => {
            if let Some(method) = SolvedMethod::find(name) {
                return Some(solve::options_of(method));
            }
            let entry = methods::find(name).ok()?;
            let names = entry.keys.iter().map(|key| key.name);
            // The plural is an alias.
            let alias = names.clone().any(|name| name == "weight").then_some("weights");
            let names = names.chain(alias);
            Some(names.map(|name| option(name, Kind::Parameter(entry, name))).collect())
        }
    }
}

/// Without a method: lists all.
struct List;

struct Merge {
    way: Way,
    /// The directory or file to write, and how.
    output: Option<Output>,
}

/// What makes the merge.
enum Way {
    Recipe(String),
    /// Scored on these files, or else on the data that sources were tuned on.
    GreedySoup(Vec<String>),
    Method(&'static methods::MethodEntry, Vec<(String, String)>),
    Solved(&'static SolvedMethod, SolveSettings),
}

fn read(arguments: &Arguments) -> Result<Box<dyn Command>> {
    let is_output = |key: &str| OPTIONS.iter().any(|option| option.key == key);
    let (writing, parameters): (Vec<_>, Vec<_>) =
        arguments.options().partition(|(key, _)| is_output(key));
    let Some(name) = arguments.word(0) else {
        if arguments.options().next().is_none() && !arguments.has("--force") {
            return Ok(Box::new(List));
        }
        return refuse("no method given", format!("usage: {}", VERB.usage()));
    };
    let force = arguments.has("--force").then_some("--force");
    let output = match arguments.word(1) {
        Some(place) => Some(Output::read(place, arguments)?),
        None => {
            if let Some(key) = writing.first().map(|(key, _)| *key).or(force) {
                return refuse(
                    format!("`{key}` needs an output directory"),
                    "add a directory, or use: bake DIR",
                );
            }
            None
        }
    };
    let way = if is_recipe(name) {
        if let Some((key, _)) = parameters.first() {
            return refuse(
                format!("`{key}` does not apply to a recipe"),
                "set parameters in the recipe",
            );
        }
        Way::Recipe(at_home(name))
    } else if name == GREEDY_SOUP {
        Way::GreedySoup(arguments.list("data").map(at_home).collect())
    } else if let Some(method) = SolvedMethod::find(name) {
        Way::Solved(method, solve::with_options((method.settings)(), arguments))
    } else {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Way::Method(methods::find(name)?, parameters.into_iter().map(owned).collect())
    };
    Ok(Box::new(Merge { way, output }))
}

impl Way {
    fn merge(&self, context: &Context) -> Result<Merged> {
        let models = context.current();
        match self {
            Way::Recipe(file) => models.merge_recipe(file),
            Way::GreedySoup(files) => {
                context.loaded()?;
                models.greedy_soup(|candidate| {
                    Ok(-if files.is_empty() {
                        candidate.training_loss(Compare::default().examples)?
                    } else {
                        candidate.eval(files)?.mean_loss()
                    })
                })
            }
            Way::Solved(_, settings) => {
                context.loaded()?;
                models.merge_solved(settings)
            }
            Way::Method(entry, parameters) => {
                context.loaded()?;
                let parameters =
                    parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                models.merge_named(entry.name, &parameters.collect::<Vec<_>>())
            }
        }
    }

    fn rust(&self, models: &str) -> String {
        match self {
            Way::Recipe(file) => format!("{models}.merge_recipe({file:?})?"),
            Way::GreedySoup(files) => {
                let files: Vec<String> =
                    files.iter().map(|file| format!("{file:?}.into()")).collect();
                let score = if files.is_empty() {
                    format!("candidate.training_loss({})?", Compare::default().examples)
                } else {
                    call("candidate.eval(&[", &files, "])?.mean_loss()")
                };
                format!("{models}.greedy_soup(|candidate| Ok(-{score}))?")
            }
            Way::Solved(method, settings) => {
                let settings = solve::settings_rust(settings, method.name);
                format!("{models}.merge_solved(&{settings})?")
            }
            Way::Method(entry, parameters) => {
                let pairs: Vec<String> =
                    parameters.iter().map(|(key, value)| format!("({key:?}, {value:?})")).collect();
                call(&format!("{models}.merge_named({:?}, &[", entry.name), &pairs, "])?")
            }
        }
    }
}

impl Command for Merge {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let merged = self.way.merge(context)?;
        let mut report = merged.report();
        let mut fields = json!({
            "method": report.method, "sources": report.sources, "base": report.base,
            "tensors": report.tensors, "parameters": report.parameters,
            "copied_tensors": report.copied, "notes": report.notes,
        });
        match &self.output {
            Some(output) => {
                let written = merged.bake_with(&output.place, &output.how)?;
                if let (Value::Object(fields), Value::Object(of)) = (&mut fields, written.json()) {
                    fields.extend(of);
                }
                report.written = Some(written);
            }
            None => context.merged = Some(merged),
        }
        let note =
            if self.output.is_none() { context.current().settings.driver_note() } else { None };
        Ok(Reply::shown(&report, fields).and(note.unwrap_or_default()))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let models = code.models();
        let merged = self.way.rust(models);
        match &self.output {
            Some(output) => code.show(format!("{merged}.{}?", output.rust())),
            None => {
                code.let_merged(&merged);
                code.show("merged");
            }
        }
        Ok(())
    }

    fn again(&self, statement: &Statement) -> Statement {
        if self.output.is_some() { statement.with_force() } else { statement.clone() }
    }
}

impl Command for List {
    fn run(&self, _: &mut Context) -> Result<Reply> {
        let mut table = Table::new("", ["method", "what it makes", "parameters"]);
        table.rows = (METHODS.iter())
            .map(|m| vec![m.name.to_owned(), m.about.to_owned(), m.usage()])
            .collect();
        let soup = [SOUP.0, SOUP.1, SOUP_USAGE];
        table.rows.insert(1, soup.map(str::to_owned).to_vec());
        let solved = (SOLVED_METHODS.iter())
            .map(|m| vec![m.name.to_owned(), m.about.to_owned(), solved_usage(m)]);
        table.rows.extend(solved);
        let one = |row: &Vec<String>| json!({"name": row[0], "about": row[1], "usage": row[2]});
        let all: Vec<Value> = table.rows.iter().map(one).collect();
        Ok(Reply::shown(&table, json!({"methods": all})))
    }
}
