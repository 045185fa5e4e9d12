//! `solve [examples=16] [ridge=0.1] [target=own|merged] [inputs=merged|own] [data=none] ...`

use serde_json::json;

use super::paths::at_home;
use super::prelude::*;
use crate::SolveSettings;
use crate::solve::{Inputs, SolvedMethod, Target};

/// The options of every solution.
pub(super) const EXAMPLES: Opt = option("examples", Kind::Count("16"));
pub(super) const RIDGE: Opt = option("ridge", Kind::Number("0.1"));

const SWITCH: Kind = plain!("switch", ["on", "off"]);

pub const VERB: Verb = Verb {
    signature: Signature {
        options: &[
            EXAMPLES,
            RIDGE,
            option("target", plain!("target", Target::ALL.map(Target::name))),
            option("inputs", plain!("inputs", INPUTS.map(Inputs::name))),
            option("data", plain!("data", ["none"])),
            option("residual", SWITCH),
            option("unrestricted", SWITCH),
            option("layers", Kind::Count("N")),
            option("other", Kind::List(&Kind::Data)),
        ],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "solve",
        "compute the coefficients by least squares, layer by layer, without gradients; Ctrl-C keeps the layers solved so far",
        "solve examples=8 layers=2",
        |arguments| Ok(Box::new(Solve { settings: read(arguments)? })),
    )
};

/// The inputs of a layer, where there is data.
const INPUTS: [Inputs; 2] = [Inputs::Merged, Inputs::Own];

struct Solve {
    settings: SolveSettings,
}

fn read(arguments: &Arguments) -> Result<SolveSettings> {
    let is_without_data = arguments.option("data").is_some();
    if is_without_data
        && let Some(key) =
            ["examples", "target", "inputs"].iter().find(|key| arguments.option(key).is_some())
    {
        return refuse(
            format!("`{key}` does not apply to data=none"),
            format!("leave out {key}: data=none uses task vectors instead of examples"),
        );
    }
    let default = if is_without_data { SolveSettings::wudi() } else { SolveSettings::default() };
    let switch = |key: &str, default: bool| {
        arguments.choice(key, &[("on", true), ("off", false)]).unwrap_or(default)
    };
    let has_own_target = !is_without_data
        && arguments.option("target") != Some("merged")
        && arguments.option("inputs") != Some("own");
    if arguments.option("residual") == Some("on") && !has_own_target {
        return refuse(
            "`residual` needs target=own and inputs=merged",
            "leave out residual, or the option that excludes it",
        );
    }
    if arguments.option("inputs") == Some("own") && arguments.option("target") == Some("merged") {
        return refuse(
            "`target=merged` does not apply to inputs=own",
            "with inputs=own, the target is what the source gives: leave out target",
        );
    }
    let target = arguments.choice("target", &Target::ALL.map(|x| (x.name(), x)));
    let inputs = arguments.choice("inputs", &INPUTS.map(|x| (x.name(), x)));
    Ok(SolveSettings {
        target: target.unwrap_or(default.target),
        inputs: inputs.unwrap_or(default.inputs),
        residual: switch("residual", default.residual),
        unrestricted: switch("unrestricted", default.unrestricted),
        layers: arguments.count("layers"),
        other: arguments.list("other").map(at_home).collect(),
        ..with_options(default, arguments)
    })
}

/// The options of a method that solves for whole weights.
pub(super) fn options_of(method: &SolvedMethod) -> Vec<Opt> {
    let has_data = (method.settings)().inputs != Inputs::Tasks;
    has_data.then_some(EXAMPLES).into_iter().chain([RIDGE]).collect()
}

/// `settings` with the options that every solution has.
pub(super) fn with_options(settings: SolveSettings, arguments: &Arguments) -> SolveSettings {
    SolveSettings {
        examples: arguments.count(EXAMPLES.key).unwrap_or(settings.examples),
        ridge: arguments.number_of(RIDGE.key).unwrap_or(settings.ridge),
        ..settings
    }
}

/// Writes `settings` as Rust: the fields that differ from those of the constructor `default`, the
/// name of a method or `default`.
pub(super) fn settings_rust(settings: &SolveSettings, default: &str) -> String {
    let of = SolvedMethod::find(default).map_or_else(SolveSettings::default, |m| (m.settings)());
    let module = "dam_prelude::solve";
    let other = strings(&settings.other).join(", ");
    let given: Vec<_> = differing([
        ("examples", settings.examples != of.examples, settings.examples.to_string()),
        ("ridge", settings.ridge != of.ridge, format!("{:?}", settings.ridge)),
        (
            "target",
            settings.target != of.target,
            format!("{module}::Target::{:?}", settings.target),
        ),
        (
            "inputs",
            settings.inputs != of.inputs,
            format!("{module}::Inputs::{:?}", settings.inputs),
        ),
        ("residual", settings.residual != of.residual, settings.residual.to_string()),
        (
            "unrestricted",
            settings.unrestricted != of.unrestricted,
            settings.unrestricted.to_string(),
        ),
        ("layers", settings.layers != of.layers, format!("{:?}", settings.layers)),
        ("other", settings.other != of.other, format!("[{other}].map(String::from).into()")),
    ])
    .collect();
    let default = format!("SolveSettings::{default}()");
    if given.is_empty() { default } else { fields("SolveSettings", &given, Some(&default)) }
}

impl Command for Solve {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let merged = context.merged.clone();
        let dam = context.trainee()?.clone();
        let report = dam.solve(&self.settings).inspect_err(|_| context.merged = merged)?;
        let parts: Vec<_> = (report.parts.iter())
            .map(|part| {
                json!({
                    "name": part.name(), "share": part.share(),
                    "unrestricted": part.unrestricted_share(),
                })
            })
            .collect();
        let json = json!({
            "scheme": report.scheme, "share": report.share(),
            "unrestricted": report.unrestricted_share(), "parts": parts,
            "examples": report.examples, "tokens": report.tokens, "seconds": report.seconds,
            "stopped": report.stopped, "layers": report.layers(), "other": report.other, "lr": report.lr,
        });
        Ok(Reply::shown(&report, json))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.dam()?;
        code.solves();
        let default = if self.settings.inputs == Inputs::Tasks { "wudi" } else { "default" };
        code.show(format!("dam.solve(&{})?", settings_rust(&self.settings, default)));
        Ok(())
    }

    /// After a stop, with the layers that are solved.
    fn record(&self, statement: &Statement, _: usize, reply: Option<&Reply>) -> Statement {
        let mut done = statement.clone();
        if let Some(reply) = reply
            && reply.json["stopped"] == true
        {
            done.arguments
                .retain(|argument| argument.pair().is_none_or(|(key, _)| key != "layers"));
            done.arguments.push(format!("layers={}", reply.json["layers"]).into());
        }
        done
    }
}
