//! The only file that prints: replies and errors, as text for a person or JSON for a program.

use std::io::Write;

use dam_prelude::show::printable;
use dam_prelude::verbs::Reply;
use serde_json::{Map, Value, json};

use crate::terminal;

/// Where replies go.
#[derive(Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Shows a verb's reply.
    pub fn reply(&self, verb: &str, seconds: f64, reply: &Reply) {
        if !self.json {
            match (&reply.figure, reply.ansi.as_deref().filter(|_| terminal::has_colours())) {
                (Some(figure), _) => terminal::show(figure).inspect(|text| self.say(text)).map_or((), drop),
                (None, Some(ansi)) => self.line(ansi),
                (None, None) => self.say(&reply.text),
            }
            return;
        }
        let mut object = Map::from_iter([("verb".into(), json!(verb)), ("seconds".into(), json!(seconds))]);
        object.extend(reply.json.clone());
        self.line(&Value::Object(object).to_string());
    }

    /// Shows what was done: text for a person, `fields` for a program.
    #[cfg(feature = "jupyter")]
    pub fn object(&self, what: &str, text: &str, mut fields: Value) {
        if self.json {
            fields["verb"] = json!(what);
            self.line(&fields.to_string());
        } else {
            self.say(text);
        }
    }

    /// Shows an error: on standard error for a person, on standard output for a program.
    pub fn error(&self, verb: &str, error: &anyhow::Error) {
        let hint = hint(error);
        if self.json {
            self.line(&json!({"verb": verb, "error": error.to_string(), "hint": hint}).to_string());
            return;
        }
        let hint = hint.map(|h| format!("\nhint: {h}")).unwrap_or_default();
        note(&format!("error: {error}{hint}"));
    }

    /// Shows text for a person; nothing if there is none.
    pub fn say(&self, text: &str) {
        if !text.is_empty() {
            self.line(&printable(text));
        }
    }

    fn line(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        // A closed pipe (`dam ... | head`) ends quietly, as everywhere.
        if writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_err() {
            std::process::exit(0);
        }
    }
}

/// Prints a line on standard error.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.downcast_ref::<dam_prelude::Error>().and_then(dam_prelude::Error::hint)
}
