//! `merge METHOD KEY=VALUE... [DIR]`, `merge RECIPE.yml [DIR]`

use crate::Result;
use crate::methods::{self, GREEDY_SOUP, METHODS};
use crate::show::Table;
use crate::{Compare, Error, Merged};
use serde_json::{Value, json};

use super::Verb;
use super::arguments::{Arguments, at_home, is_recipe};
use super::bake::{KEYS, check_options, options, written};
use super::context::{Context, Reply, refuse};
use super::export::{Code, call, path};

pub const VERB: Verb = Verb {
    name: "merge",
    usage: "merge [METHOD|RECIPE.yml] [KEY=VALUE...] [DIR|FILE.gguf] [dtype=f32|f16|bf16|q8_0] [shard=5GB] [as=adapter] [rank=16] [--force]",
    about: "merge the sources without training, by a method or a mergekit recipe, to try it or into DIR or FILE.gguf; alone: list methods",
    example: "merge ties density=0.5 weight=1,0.5,0.5",
    rust: Some(rust),
    run,
};

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &keys(), &["--force"])?;
    let (name, directory) = match arguments.words.as_slice() {
        [] if arguments.pairs.is_empty() => return Ok(list()),
        [name] => (*name, None),
        [name, directory] => (*name, Some(at_home(directory))),
        [] => return refuse("no method given", format!("usage: {}", VERB.usage)),
        _ => return refuse("too many arguments", format!("usage: {}", VERB.usage)),
    };
    let (writing, parameters): (Vec<_>, Vec<_>) =
        arguments.pairs.iter().copied().partition(|(key, _)| KEYS.contains(key));
    if let (Some((key, _)), None) = (writing.first(), &directory) {
        return refuse(
            format!("`{key}` needs an output directory"),
            "add a directory, or use: bake DIR",
        );
    }
    if let Some(directory) = &directory {
        check_options(directory, &arguments.pairs)?;
    }
    let options = options(&writing, arguments.force())?;
    let merged = match is_recipe(name) {
        true if !parameters.is_empty() => {
            return refuse(
                format!("`{}` is not for a recipe", parameters[0].0),
                "a recipe has its own parameters",
            );
        }
        true => context.current().merge_recipe(at_home(name))?,
        false if name == GREEDY_SOUP => soup(context, &parameters)?,
        false => {
            methods::find(name)?;
            context.loaded()?;
            context.current().merge_named(name, &parameters)?
        }
    };
    let mut report = merged.report();
    let mut fields = json!({
        "method": report.method, "sources": report.sources, "base": report.base, "tensors": report.tensors,
        "parameters": report.parameters, "copied_tensors": report.copied, "notes": report.notes,
    });
    match directory {
        Some(directory) => {
            let written = merged.bake_with(directory, &options)?;
            if let (Value::Object(fields), Value::Object(of)) = (&mut fields, written.json()) {
                fields.extend(of);
            }
            report.written = Some(written);
        }
        None => context.merged = Some(merged),
    }
    Ok(Reply::shown(&report, fields))
}

/// The average of sources that are added while the mean loss does not rise, on the files of `data=`
/// or on the data that the sources were tuned on.
fn soup(context: &Context, parameters: &[(&str, &str)]) -> Result<Merged> {
    let mut files = Vec::new();
    for (key, value) in parameters {
        match *key {
            "data" => files = value.split(',').map(at_home).collect(),
            key => return Err(Error::unknown("key", key, ["data"])),
        }
    }
    context.loaded()?;
    context.current().greedy_soup(|candidate| match files.is_empty() {
        true => Ok(-candidate.training_loss(Compare::default().examples)?),
        false => Ok(-candidate.eval(&files)?.mean_loss()),
    })
}

/// All methods with their parameters.
fn list() -> Reply {
    let mut table = Table::new("", ["method", "what it makes", "parameters"]);
    table.rows =
        METHODS.iter().map(|m| vec![m.name.to_owned(), m.about.to_owned(), m.usage()]).collect();
    let soup = [
        "the average of sources that are added while the loss on their data does not rise",
        "[data=FILE,...]",
    ];
    table.rows.insert(1, [GREEDY_SOUP, soup[0], soup[1]].map(str::to_owned).to_vec());
    let all =
        table.rows.iter().map(|row| json!({"name": row[0], "about": row[1], "usage": row[2]}));
    let all: Vec<Value> = all.collect();
    Reply::shown(&table, json!({"methods": all}))
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let arguments = Arguments::read(arguments, &keys(), &["--force"])?;
    let Some(name) = arguments.words.first() else { return Ok(()) };
    let (baked, parameters): (Vec<_>, Vec<_>) =
        arguments.pairs.iter().copied().partition(|(key, _)| KEYS.contains(key));
    let models = code.models();
    let merged = match *name {
        recipe if is_recipe(recipe) => format!("{models}.merge_recipe({})?", path(recipe)),
        GREEDY_SOUP => {
            let files = parameters
                .iter()
                .flat_map(|(_, files)| files.split(','))
                .map(|file| format!("{}.into()", path(file)));
            let files: Vec<String> = files.collect();
            let score = match files.is_empty() {
                true => format!("candidate.training_loss({})?", Compare::default().examples),
                false => call("candidate.eval(&[", &files, "])?.mean_loss()"),
            };
            format!("{models}.greedy_soup(|candidate| Ok(-{score}))?")
        }
        name => {
            let pairs: Vec<String> =
                parameters.iter().map(|(key, value)| format!("({key:?}, {value:?})")).collect();
            call(&format!("{models}.merge_named({name:?}, &["), &pairs, "])?")
        }
    };
    match arguments.words.get(1) {
        Some(directory) => code.show(format!("{merged}.{}?", written(directory, &baked)?)),
        None => {
            code.let_merged(&merged);
            code.show("merged");
        }
    }
    Ok(())
}

/// All that may be given: how it is written, and the parameters of all methods.
fn keys() -> Vec<&'static str> {
    let keys = METHODS.iter().flat_map(|m| m.keys.iter().map(|key| key.name));
    KEYS.into_iter().chain(["weights", "data"]).chain(keys).collect()
}
