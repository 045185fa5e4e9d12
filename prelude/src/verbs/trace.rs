//! `trace "PROMPT"`, or `trace row=N of=SOURCE`

use serde_json::{Map, Value, json};

use super::prelude::*;
use crate::Trace;
use crate::show::TraceReport;
use crate::trace::{ModelTrace, Patch, Patched, stream_name};

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[optional(Kind::Text("PROMPT"))],
        options: &[
            option("like", Kind::Loaded),
            option("answer", Kind::Text("TEXT")),
            option("row", Kind::Count("N")),
            option("of", Kind::Loaded),
            option("tokens", Kind::Count("64")),
        ],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "trace",
        "why an answer is wrong: the merge's residual stream beside its sources', layer by layer, and the parts and tensors that bring the answer back when taken from a source; row= and of=: an example of a source's data",
        "trace \"Subtract 55 from 94.\" like=math",
        |arguments| Ok(Box::new(Traced { options: read(arguments)? })),
    )
};

struct Traced {
    options: Trace,
}

fn read(arguments: &Arguments) -> Result<Trace> {
    let text = |key: &str| arguments.option(key).map(str::to_owned);
    let (row, of, like) = (arguments.count("row"), text("of"), text("like"));
    let row = match (row, of.or_else(|| like.clone())) {
        (Some(number), Some(source)) => Some((source, number)),
        (Some(_), None) => {
            return refuse("no source for the row", "name it: trace row=3 of=SOURCE");
        }
        (None, _) if arguments.option("of").is_some() => {
            return refuse("`of` needs a row", "give its number: trace row=3 of=SOURCE");
        }
        (None, _) => None,
    };
    if row.is_none() && arguments.word(0).is_none() {
        return refuse(
            Kind::Text("PROMPT").missing(),
            format!("usage: {}", VERB.signature.usage(VERB.name)),
        );
    }
    let (prompt, answer) = (arguments.text(0), text("answer"));
    let tokens = arguments.count("tokens").unwrap_or(Trace::default().tokens);
    Ok(Trace { prompt, row, answer, like, tokens })
}

impl Command for Traced {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let report = match context.latest()? {
            Latest::Dam(dam) => dam.trace(self.options.clone())?,
            Latest::Merged(merged) => merged.trace(self.options.clone())?,
        };
        Ok(Reply::shown(&report, json(&report)))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let latest = code.latest()?;
        let Trace { prompt, row, answer, like, tokens } = &self.options;
        let default = Trace::default();
        let some = |text: &Option<String>| format!("{text:?}.map(String::from)");
        let row_text = row.as_ref().map(|(source, n)| format!("Some(({source:?}.into(), {n}))"));
        let given: Vec<_> = differing([
            ("prompt", *prompt != default.prompt, format!("{prompt:?}.into()")),
            ("row", row.is_some(), row_text.unwrap_or_default()),
            ("answer", answer.is_some(), some(answer)),
            ("like", like.is_some(), some(like)),
            ("tokens", *tokens != default.tokens, tokens.to_string()),
        ])
        .collect();
        let what = match given.as_slice() {
            [("prompt", _)] => format!("{prompt:?}"),
            _ => fields("Trace", &given, Some("Trace::default()")),
        };
        code.show(format!("{latest}.trace({what})?"));
        Ok(())
    }
}

fn json(report: &TraceReport) -> Value {
    let traced = &report.traced;
    let text = |token: u32| report.texts.get(&token);
    let model = |model: &ModelTrace| {
        let attribution = &model.attribution;
        let place = |reading: &crate::trace::Reading| json!({"probability": reading.probability(), "expects": text(reading.likeliest)});
        json!({
            "loss": model.answer().loss(), "probability": model.answer().probability(),
            "places": model.readings.iter().map(place).collect::<Vec<_>>(),
            "contributions": attribution.contributions,
            "contributions_sum": attribution.sum(), "normaliser": attribution.normaliser,
        })
    };
    let patch = |patched: &Patched| {
        let (key, name) = match &patched.patch {
            Patch::Stream(place) => ("after", stream_name(*place)),
            Patch::Part(part) => ("part", part.to_string()),
            Patch::Tensor(name) | Patch::Columns(name, _) => ("tensor", name.clone()),
        };
        json!({
            key: name, "probability": patched.reading.probability(),
            "recovered": traced.recovered(patched), "expects": text(patched.reading.likeliest),
        })
    };
    let patches = |all: &[Patched]| all.iter().map(patch).collect::<Vec<Value>>();
    let named = || report.sources.iter();
    let models: Map<_, _> =
        named().zip(&traced.sources).map(|(name, own)| (name.clone(), model(own))).collect();
    let drifts: Map<_, _> =
        named().zip(&traced.drifts).map(|(name, drift)| (name.clone(), json!(drift))).collect();
    let columns = traced.columns.as_ref().map(|(shares, patched)| {
        let column = |(column, share): &(usize, f64)| json!({"column": column, "share": share});
        json!({"shares": shares.iter().map(column).collect::<Vec<_>>(), "patched": patch(patched)})
    });
    json!({
        "answer": report.answer, "origin": report.origin, "token": report.token,
        "expects": text(traced.merge.answer().likeliest), "like": report.like(),
        "before": report.before, "loss": report.loss(), "gap": traced.gap(),
        "first": traced.first_place().map(stream_name), "tensor": report.tensor(),
        "merge": model(&traced.merge), "sources": models, "drift": drifts,
        "streams": patches(&traced.streams), "parts": patches(&traced.parts),
        "tensors": patches(&traced.tensors), "columns": columns,
    })
}
