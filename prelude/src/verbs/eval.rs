//! `eval [FILE...]`

use serde_json::{Value, json};

use super::paths::{at_home, check_free};
use super::prelude::*;
use crate::Evaluation;
use crate::eval::{SPIDER_PREFIX, TASK_PREFIX, task_of};
use crate::show::{Scoreboard, Scores};

const RESULTS: NewFile = NewFile { place: "RESULTS", suffixes: &[".json"], suggested: None };

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[any(Kind::DataOrTask)],
        options: &[
            option("limit", Kind::Count("100")),
            option("max_length", Kind::Count("2048")),
            option("results", Kind::New(RESULTS)),
        ],
        flags: &["--all", "--chat", "--show"],
        ..Signature::EMPTY
    },
    is_exported: true,
    ..Verb::new(
        "eval",
        "score the merge on files, tasks (gsm8k, task:FILE.yaml) or held-out data; --all: also its sources and their average; --chat: through the chat template; --show: every question",
        "eval --all",
        |arguments| {
            let evaluation = Evaluation {
                files: arguments.words(0).iter().map(|file| task_at_home(file)).collect(),
                limit: arguments.count("limit"),
                max_length: arguments.count("max_length"),
                chat: arguments.has("--chat"),
            };
            Ok(Box::new(Eval {
                evaluation,
                results: arguments.option("results").map(at_home),
                all: arguments.has("--all"),
                show: arguments.has("--show"),
            }))
        },
    )
};

/// [`at_home`] of a file, of `task:FILE` or of `spider:DIRECTORY`.
pub(super) fn task_at_home(file: &str) -> String {
    let prefix = [TASK_PREFIX, SPIDER_PREFIX].into_iter().find(|own| file.starts_with(own));
    let prefix = prefix.unwrap_or_default();
    format!("{prefix}{}", at_home(&file[prefix.len()..]))
}

struct Eval {
    evaluation: Evaluation,
    /// The file of the tasks' results to write.
    results: Option<String>,
    /// Whether sources and their average are scored too.
    all: bool,
    /// Whether the questions of tasks are shown.
    show: bool,
}

impl Command for Eval {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let is_task = |file: &String| task_of(file).is_some();
        if !self.evaluation.files.iter().any(is_task) && (self.show || self.results.is_some()) {
            return refuse(
                "only tasks have questions to show and results to write",
                "name a task: eval task:FILE.yaml",
            );
        }
        self.results.iter().try_for_each(|file| check_free(file))?;
        let latest = context.latest()?;
        if !self.all {
            let scores = match latest {
                Latest::Dam(dam) => dam.eval_with(&self.evaluation)?,
                Latest::Merged(merged) => merged.eval_with(&self.evaluation)?,
            };
            let json = json!({"scores": scores.data, "held_out": scores.held_out});
            return self.finish(Reply::shown(&scores, with_rest(json, &scores)), &scores);
        }
        let board: Scoreboard = match latest {
            Latest::Dam(dam) => dam.scoreboard_with(&self.evaluation)?,
            Latest::Merged(merged) => merged.scoreboard_with(&self.evaluation)?,
        };
        let row = |(model, scores): &(String, Scores)| {
            let mut row = json!({"model": model, "scores": scores.data});
            if !scores.tasks.is_empty() {
                row["tasks"] = json!(scores.tasks);
            }
            row
        };
        let rows: Vec<Value> = board.rows.iter().map(row).collect();
        let paired: Value = board
            .paired()
            .into_iter()
            .map(|(model, paired)| (model, json!(paired)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        // The merge has the last row.
        let scores = board.rows.last().map(|(_, scores)| scores.clone()).unwrap_or_default();
        let json = json!({
            "scores": scores.data, "held_out": scores.held_out, "rows": rows, "paired": paired,
        });
        self.finish(Reply::shown(&board, with_rest(json, &scores)), &scores)
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        let files: Vec<String> =
            self.evaluation.files.iter().map(|file| format!("{file:?}.into()")).collect();
        let (latest, what) = (code.latest()?, if self.all { "scoreboard" } else { "eval" });
        let limits = [("limit", self.evaluation.limit), ("max_length", self.evaluation.max_length)];
        let given = limits.into_iter().filter_map(|(key, limit)| Some((key, limit?)));
        let mut given: Vec<(&str, String)> =
            given.map(|(key, limit)| (key, format!("Some({limit})"))).collect();
        if self.evaluation.chat {
            given.push(("chat", "true".into()));
        }
        let call = if given.is_empty() {
            call(&format!("{latest}.{what}(&["), &files, "])?")
        } else {
            given.insert(0, ("files", format!("vec![{}]", files.join(", "))));
            let rest = (given.len() < 4).then_some("Evaluation::default()");
            format!("{latest}.{what}_with(&{})?", fields("Evaluation", &given, rest))
        };
        code.show(call);
        Ok(())
    }

    /// Without the file, which exists by then.
    fn again(&self, statement: &Statement) -> Statement {
        let mut rest = statement.clone();
        rest.arguments.retain(|given| given.pair().is_none_or(|(key, _)| key != "results"));
        rest
    }
}

impl Eval {
    /// Shows the questions and writes the results, if that was asked for.
    fn finish(&self, mut reply: Reply, scores: &Scores) -> Result<Reply> {
        if self.show {
            let questions = scores.show_questions();
            let each = questions.rows.iter();
            let each = each.map(|(task, _, question)| json!({"task": task, "question": question}));
            let shown = Reply::shown(&questions, json!({"questions": each.collect::<Vec<_>>()}));
            reply.text = format!("{}\n\n{}", reply.text, shown.text);
            reply.html = reply.html.zip(shown.html).map(|(scores, questions)| scores + &questions);
            reply.json.extend(shown.json);
        }
        let Some(file) = &self.results else { return Ok(reply) };
        let written = scores.write_results(file, "merge")?;
        let path = written.path.display().to_string();
        reply.json.insert("path".into(), json!(path));
        Ok(reply.and(format!("written to {path}")))
    }
}

/// `json` with the scores of tasks and the columns that were not used, if any.
fn with_rest(mut json: Value, scores: &Scores) -> Value {
    if !scores.tasks.is_empty() {
        json["tasks"] = json!(scores.tasks);
    }
    if !scores.unused.is_empty() {
        json["unused"] = json!(scores.unused);
    }
    json
}
