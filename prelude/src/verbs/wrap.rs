//! `wrap [SCHEME] [f=...] [train=...] [init=...] [bias=...] [base=...] [rest=...]`, and settings of
//! the scheme.

use serde_json::json;

use super::kind::is_recipe;
use super::merge::METHOD;
use super::paths::at_home;
use super::prelude::*;
use super::solve;
use crate::coefficients::{Builtin, COLUMNS, SCHEMES, find};
use crate::show::rate_hint;
use crate::{
    BiasStart, Init, Kind as TensorKind, Nonlinearity, Options, Rest, SolveSettings, Wrap,
};

const SCHEME: Kind = Kind::OneOf(Words {
    what: "scheme",
    place: None,
    all: || SCHEMES.iter().map(|scheme| (scheme.name, scheme.about)).collect(),
});
const KINDS: [TensorKind; 3] = [TensorKind::Linear, TensorKind::Embedding, TensorKind::Norm];
const KIND: Kind = plain!("kind", KINDS.map(TensorKind::name));
const INIT: Kind =
    Kind::Either(&[plain!("init", ["uniform", "random", SOLVE]), METHOD, Kind::Recipe]);

/// The value of `init` for coefficients that are solved.
const SOLVE: &str = "solve";

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[optional(SCHEME)],
        options: &[
            option("f", plain!("f", Nonlinearity::ALL.map(Nonlinearity::name))),
            option("train", Kind::List(&KIND)),
            option("init", INIT),
            option("bias", plain!("bias", ["one", "same"])),
            option("base", plain!("base", ["off", "on"])),
            option("rest", plain!("rest", Rest::ALL.map(|rest| rest.name()))),
            solve::EXAMPLES,
            solve::RIDGE,
        ],
        more: Some(More { usage: settings_usage, options: settings_of }),
        ..Signature::EMPTY
    },
    is_exported: true,
    wraps: true,
    ..Verb::new(
        "wrap",
        "create the coefficients: one per source and weight column, or as a scheme defines",
        "wrap columns f=tanh train=linear,norm",
        read,
    )
};

/// The settings of all schemes, each with its scheme.
fn settings_usage() -> String {
    let with_settings = SCHEMES.iter().filter(|scheme| !scheme.usage.is_empty());
    let one = |s: &Builtin| format!("[{} ({})]", s.usage.trim_matches(['[', ']']), s.name);
    with_settings.map(one).collect::<Vec<_>>().join(" ")
}

/// The settings of the scheme that `words` name.
fn settings_of(words: &[&str]) -> Option<Vec<Opt>> {
    let scheme = find(words.first().copied().unwrap_or(COLUMNS)).ok();
    let setting = |scheme: &'static Builtin| {
        scheme.keys.iter().map(move |key| option(key, Kind::SchemeSetting(scheme)))
    };
    Some(scheme.into_iter().flat_map(setting).collect())
}

struct WrapSources {
    builtin: &'static Builtin,
    options: Options,
    settings: Vec<(String, String)>,
    start: Start,
}

/// Where coefficients start.
enum Start {
    /// As the options say.
    Options,
    /// At the merge of this method.
    Method(String),
    /// At the merge of this recipe.
    Recipe(String),
    /// At their solution.
    Solve(SolveSettings),
}

fn read(arguments: &Arguments) -> Result<Box<dyn Command>> {
    let builtin = find(arguments.word(0).unwrap_or(COLUMNS))?;
    let default = Options::default();
    let f = Nonlinearity::ALL.map(|f| (f.name(), f));
    let rest = Rest::ALL.map(|rest| (rest.name(), rest));
    let kind = |name: &str| KINDS.into_iter().find(|kind| kind.name() == name);
    let train: Vec<TensorKind> = arguments.list("train").filter_map(kind).collect();
    let init = arguments.choice("init", &[("uniform", Init::Uniform), ("random", Init::Random)]);
    let options = Options {
        f: arguments.choice("f", &f).unwrap_or(default.f),
        train: if train.is_empty() { default.train } else { train },
        init: init.unwrap_or(default.init),
        bias: arguments
            .choice("bias", &[("one", BiasStart::One), ("same", BiasStart::Same)])
            .unwrap_or(default.bias),
        with_base: arguments
            .choice("base", &[("off", false), ("on", true)])
            .unwrap_or(default.with_base),
        rest: arguments.choice("rest", &rest).unwrap_or(default.rest),
        ..default
    };
    let settings = arguments.options().filter(|(key, _)| builtin.keys.contains(key));
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let start = match arguments.option("init") {
        Some(SOLVE) => Start::Solve(solve::with_options(SolveSettings::default(), arguments)),
        Some(recipe) if is_recipe(recipe) => Start::Recipe(at_home(recipe)),
        Some(method) if init.is_none() => Start::Method(method.to_owned()),
        _ => Start::Options,
    };
    if !matches!(start, Start::Solve(_)) {
        for Opt { key, .. } in [solve::EXAMPLES, solve::RIDGE] {
            if arguments.option(key).is_some() {
                return refuse(
                    format!("`{key}` needs init=solve"),
                    format!("add init=solve, or leave out {key}"),
                );
            }
        }
    }
    Ok(Box::new(WrapSources { builtin, options, settings, start }))
}

impl WrapSources {
    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

impl Command for WrapSources {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let models = context.current();
        let options = Options { seed: models.settings.seed, ..self.options.clone() };
        let scheme = (self.builtin.build)(&self.settings())?;
        context.loaded()?;
        let how = Wrap { scheme, options };
        let dam = match &self.start {
            Start::Options => models.wrap(how)?,
            Start::Recipe(recipe) => models.wrap_from(how, &models.merge_recipe(recipe)?)?,
            Start::Method(method) => models.wrap_from(how, &models.merge_named(method, &[])?)?,
            Start::Solve(settings) => models.wrap_solved(how, settings)?,
        };
        let mut report = dam.report();
        if let (Start::Solve(_), Some(lr)) = (&self.start, dam.lr_after_solving()) {
            report.notes.push(rate_hint(lr));
        }
        context.wrapped(dam);
        let share = report.coefficients as f64 / report.parameters.max(1) as f64;
        let json = json!({
            "sources": report.sources, "scheme": report.scheme, "tensors": report.tensors,
            "coefficients": report.coefficients, "trainable": report.trainable, "share": share,
            "forecast": report.forecast, "notes": report.notes,
        });
        Ok(Reply::shown(&report, json))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let (options, default) = (&self.options, Options::default());
        let kinds: Vec<String> =
            options.train.iter().map(|kind| format!("Kind::{kind:?}")).collect();
        let mut given: Vec<_> = differing([
            ("f", options.f != default.f, format!("Nonlinearity::{:?}", options.f)),
            ("train", options.train != default.train, format!("vec![{}]", kinds.join(", "))),
            ("init", options.init != default.init, format!("Init::{:?}", options.init)),
            ("bias", options.bias != default.bias, format!("BiasStart::{:?}", options.bias)),
            ("with_base", options.with_base != default.with_base, options.with_base.to_string()),
            ("rest", options.rest != default.rest, format!("Rest::{:?}", options.rest)),
        ])
        .collect();
        let models = code.models();
        given.extend(code.seed());
        let with = |name: &str| {
            fields(name, &given, (given.len() < 7).then_some(&format!("{name}::default()")))
        };
        let settings: Vec<(&str, String)> = (self.builtin.build)(&self.settings())?.settings();
        let scheme = if settings.is_empty() {
            self.builtin.rust.to_owned()
        } else {
            fields(self.builtin.rust, &settings, None)
        };
        let how = match (self.builtin.name, given.is_empty()) {
            (COLUMNS, true) => "Columns::default()".to_owned(),
            (COLUMNS, false) => with("Columns"),
            (_, true) => scheme,
            (_, false) => format!("{scheme}.with({})", with("Options")),
        };
        code.let_dam(&match &self.start {
            Start::Options => format!("{models}.wrap({how})?"),
            Start::Recipe(recipe) => {
                format!("{models}.wrap_from({how}, &{models}.merge_recipe({recipe:?})?)?")
            }
            Start::Method(method) => {
                format!("{models}.wrap_from({how}, &{models}.merge_named({method:?}, &[])?)?")
            }
            Start::Solve(settings) => {
                let settings = solve::settings_rust(settings, "default");
                format!("{models}.wrap_solved({how}, &{settings})?")
            }
        });
        code.show("dam");
        Ok(())
    }
}
