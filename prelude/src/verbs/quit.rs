//! `quit`

use serde_json::json;

use super::prelude::*;

pub const VERB: Verb = Verb {
    needs_nothing: true,
    at_prompt: Some(AtPrompt::Quit),
    ..Verb::new("quit", "quit (or Ctrl-D)", "quit", |_| Ok(Box::new(Quit)))
};

struct Quit;

impl Command for Quit {
    fn run(&self, _: &mut Context) -> Result<Reply> {
        Ok(Reply::new("", json!({})))
    }
}
