//! `wrap [SCHEME] [f=...] [train=...] [init=...] [bias=...] [base=...] [a setting of the scheme]`

use crate::Result;
use crate::coefficients::{Builtin, COLUMNS, SCHEMES, find};
use crate::methods::METHODS;
use crate::train::choose;
use crate::{BiasStart, Error, Init, Kind, Nonlinearity, Options, Rest, Wrap};
use serde_json::json;

use super::Verb;
use super::arguments::{Arguments, at_home, is_recipe};
use super::context::{Context, Reply};
use super::export::{Code, fields, path};

pub const VERB: Verb = Verb {
    name: "wrap",
    usage: "wrap [columns|rows|rows_columns|tensor|layer|heads|softmax|task|low_rank] [f=none|tanh|sigmoid|relu] [train=linear,embedding,norm] [init=uniform|random|METHOD|RECIPE.yml] [bias=one|same] [base=off|on] [rest=average|base|first] [rank=4 of low_rank]",
    about: "make coefficients: one per source and weight column, or as a scheme says",
    example: "wrap columns f=tanh train=linear,norm",
    rust: Some(rust),
    run,
};

/// The keys of every scheme.
const OPTIONS: [&str; 6] = ["f", "train", "init", "bias", "base", "rest"];

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let Asked { builtin, mut options, settings, start } = asked(arguments)?;
    let models = context.current();
    options.seed = models.settings.seed;
    let scheme = (builtin.build)(&settings)?;
    context.loaded()?;
    let how = Wrap { scheme, options };
    let dam = match start {
        None => models.wrap(how)?,
        Some(recipe) if is_recipe(recipe) => {
            models.wrap_from(how, &models.merge_recipe(at_home(recipe))?)?
        }
        Some(name) => {
            let known = ["uniform", "random"].into_iter().chain(METHODS.iter().map(|m| m.name));
            if !known.clone().any(|k| k == name) {
                return Err(Error::unknown("init", name, known));
            }
            models.wrap_from(how, &models.merge_named(name, &[])?)?
        }
    };
    let report = dam.report();
    context.wrapped(dam);
    let share = report.coefficients as f64 / report.parameters.max(1) as f64;
    Ok(Reply::shown(
        &report,
        json!({
            "sources": report.sources, "scheme": report.scheme, "tensors": report.tensors, "coefficients": report.coefficients,
            "trainable": report.trainable, "share": share, "forecast": report.forecast, "notes": report.notes,
        }),
    ))
}

/// What is asked for.
struct Asked<'a> {
    builtin: &'static Builtin,
    options: Options,
    settings: Vec<(&'a str, &'a str)>,
    /// The method or recipe that coefficients start at.
    start: Option<&'a str>,
}

fn asked(arguments: &[String]) -> Result<Asked<'_>> {
    let keys: Vec<&str> =
        OPTIONS.into_iter().chain(SCHEMES.iter().flat_map(|s| s.keys.iter().copied())).collect();
    let arguments = Arguments::read(arguments, &keys, &[])?;
    let builtin = find(arguments.optional(VERB.usage)?.unwrap_or(COLUMNS))?;
    let known = |key: &str| OPTIONS.contains(&key) || builtin.keys.contains(&key);
    if let Some((key, _)) = arguments.pairs.iter().find(|(key, _)| !known(key)) {
        return Err(Error::unknown(
            "key",
            key,
            OPTIONS.into_iter().chain(builtin.keys.iter().copied()),
        ));
    }
    let (mut options, mut settings, mut start) = (Options::default(), Vec::new(), None);
    for (key, value) in arguments.pairs {
        match key {
            "f" => options.f = choose(key, value, &Nonlinearity::ALL.map(|f| (f.name(), f)))?,
            "train" => {
                let kinds =
                    [Kind::Linear, Kind::Embedding, Kind::Norm].map(|kind| (kind.name(), kind));
                options.train = value
                    .split(',')
                    .map(|kind| choose(key, kind, &kinds))
                    .collect::<Result<_>>()?;
            }
            "init" => match value {
                "uniform" => options.init = Init::Uniform,
                "random" => options.init = Init::Random,
                _ => start = Some(value),
            },
            "bias" => {
                options.bias =
                    choose(key, value, &[("one", BiasStart::One), ("same", BiasStart::Same)])?
            }
            "base" => options.with_base = choose(key, value, &[("off", false), ("on", true)])?,
            "rest" => {
                options.rest = choose(key, value, &Rest::ALL.map(|rest| (rest.name(), rest)))?
            }
            _ => settings.push((key, value)),
        }
    }
    Ok(Asked { builtin, options, settings, start })
}

fn rust(code: &mut Code, arguments: &[String]) -> Result<()> {
    let Asked { builtin, options, settings, start } = asked(arguments)?;
    let default = Options::default();
    let mut given = Vec::new();
    let mut put = |field: &'static str, differs: bool, value: String| {
        if differs {
            given.push((field, value));
        }
    };
    put("f", options.f != default.f, format!("Nonlinearity::{:?}", options.f));
    let kinds: Vec<String> = options.train.iter().map(|kind| format!("Kind::{kind:?}")).collect();
    put("train", options.train != default.train, format!("vec![{}]", kinds.join(", ")));
    put("init", options.init != default.init, format!("Init::{:?}", options.init));
    put("bias", options.bias != default.bias, format!("BiasStart::{:?}", options.bias));
    put("with_base", options.with_base != default.with_base, options.with_base.to_string());
    put("rest", options.rest != default.rest, format!("Rest::{:?}", options.rest));
    let models = code.models();
    given.extend(code.seed());
    let with = |name: &str| {
        fields(name, &given, (given.len() < 7).then_some(&format!("{name}::default()")))
    };
    let settings: Vec<(&str, String)> = (builtin.build)(&settings)?.settings();
    let scheme = if settings.is_empty() {
        builtin.rust.to_owned()
    } else {
        fields(builtin.rust, &settings, None)
    };
    let how = match (builtin.name, given.is_empty()) {
        (COLUMNS, true) => "Columns::default()".to_owned(),
        (COLUMNS, false) => with("Columns"),
        (_, true) => scheme,
        (_, false) => format!("{scheme}.with({})", with("Options")),
    };
    let start = start.map(|start| match is_recipe(start) {
        true => format!("merge_recipe({})", path(start)),
        false => format!("merge_named({start:?}, &[])"),
    });
    code.let_dam(&match start {
        None => format!("{models}.wrap({how})?"),
        Some(start) => format!("{models}.wrap_from({how}, &{models}.{start}?)?"),
    });
    code.show("dam");
    Ok(())
}
