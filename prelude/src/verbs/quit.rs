//! `quit`

use crate::Result;
use serde_json::json;

use super::Verb;
use super::context::{Context, Reply};

pub const VERB: Verb = Verb {
    name: "quit",
    usage: "quit",
    about: "quit (or Ctrl-D)",
    example: "quit",
    rust: None,
    run,
};

fn run(_: &mut Context, _: &[String]) -> Result<Reply> {
    Ok(Reply::new("", json!({})))
}
