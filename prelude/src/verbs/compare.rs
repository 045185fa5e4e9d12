//! `compare [METHOD...] [TABLE]`

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::eval::task_at_home;
use super::merge::static_methods;
use super::paths::{at_home, check_free};
use super::prelude::*;
use crate::Compare;
use crate::session::{DAM, EVOLVE, SOLVE};
use crate::show::Comparison;

const METHOD: Kind = Kind::OneOf(Words {
    what: "method",
    place: Some("METHOD"),
    all: || {
        let own = [
            (DAM, "trained coefficients"),
            (SOLVE, "coefficients by least squares, without training"),
            (EVOLVE, "weights found by evolutionary search"),
        ];
        own.into_iter().chain(static_methods()).collect()
    },
});
const TABLE: NewFile = NewFile { place: "TABLE", suffixes: &Comparison::FORMATS, suggested: None };

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[any(METHOD), optional(Kind::New(TABLE))],
        options: &[
            option("steps", Kind::Count("150")),
            option("budget", Kind::Count("200")),
            option("examples", Kind::Count("48")),
            option("on", Kind::List(&Kind::DataOrTask)),
            option("limit", Kind::Count("100")),
            option("seeds", Kind::Count("3")),
        ],
        flags: &["--chat"],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "compare",
        "merge with each method, tuned on the sources' own data, and compare scores and cost; --chat: tasks through the chat template",
        "compare dam linear ties dare_ties evolve",
        |arguments| {
            let default = Compare::default();
            let number = |key: &str, default: usize| arguments.count(key).unwrap_or(default);
            let methods = arguments.words(0);
            let contest = Compare {
                steps: number("steps", default.steps),
                budget: number("budget", default.budget),
                examples: number("examples", default.examples),
                files: arguments.list("on").map(task_at_home).collect(),
                limit: arguments.count("limit"),
                chat: arguments.has("--chat"),
                seeds: number("seeds", default.seeds),
                methods: if methods.is_empty() { default.methods } else { methods.to_vec() },
            };
            Ok(Box::new(Contest { contest, file: arguments.word(1).map(at_home) }))
        },
    )
};

struct Contest {
    contest: Compare,
    /// The table to write.
    file: Option<String>,
}

impl Command for Contest {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        context.loaded()?;
        self.file.iter().try_for_each(|file| check_free(file))?;
        let table = context.current().compare(&self.contest, |_| ControlFlow::Continue(()))?;
        let rows: Vec<Value> = (table.rows.iter())
            .map(|row| {
                json!({
                    "method": row.method, "chosen": row.chosen,
                    "scores": row.scores.as_ref().map(|s| &s.data), "mean": row.mean(),
                    "seconds": row.cost.map(|c| c.seconds), "tokens": row.cost.map(|c| c.tokens),
                    "peak_bytes": row.cost.map(|c| c.peak_bytes), "refused": row.refused,
                    "tasks": row.scores.as_ref().map(|s| &s.tasks), "stderr": row.stderr(),
                    "seeds": row.seeds,
                })
            })
            .collect();
        let paired = table.paired().into_iter();
        let paired = paired.map(
            |(first, second, paired)| json!({"first": first, "second": second, "paired": paired}),
        );
        let paired: Vec<Value> = paired.collect();
        let mut fields = json!({"rows": rows, "notes": table.notes, "paired": paired});
        let mut at = String::new();
        if let Some(file) = &self.file {
            let written = table.write(file)?;
            at = format!("written to {}", written.path.display());
            fields["path"] = json!(written.path.display().to_string());
        }
        Ok(Reply::shown(&table, fields).and(at))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let (contest, default) = (&self.contest, Compare::default());
        let list =
            |texts: &[String]| format!("[{}].map(String::from).into()", strings(texts).join(", "));
        let mut given = Vec::new();
        if contest.methods != default.methods {
            given.push(("methods", list(&contest.methods)));
        }
        if !contest.files.is_empty() {
            given.push(("files", list(&contest.files)));
        }
        if let Some(limit) = contest.limit {
            given.push(("limit", format!("Some({limit})")));
        }
        if contest.chat {
            given.push(("chat", "true".into()));
        }
        given.extend(changed([
            ("steps", contest.steps, default.steps),
            ("budget", contest.budget, default.budget),
            ("examples", contest.examples, default.examples),
            ("seeds", contest.seeds, default.seeds),
        ]));
        let rest = (given.len() < 8).then_some("Compare::default()");
        let models = code.models();
        code.line(format!("let contest = {};", fields("Compare", &given, rest)));
        code.line(format!(
            "let table = {models}.compare(&contest, |_| std::ops::ControlFlow::Continue(()))?;"
        ));
        code.write_new(self.file.as_deref(), "table");
        code.show("table");
        Ok(())
    }

    /// Without the file, which exists by then.
    fn again(&self, statement: &Statement) -> Statement {
        statement.without(|argument| Kind::New(TABLE).recognises(&argument.text))
    }
}
