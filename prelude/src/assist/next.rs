//! The line that makes sense next in a session.

use crate::Models;
use crate::checkpoint::BASE;
use crate::syntax::{quoted, statements};
use crate::timeline::Context;
use crate::verbs::find;

/// The first line for someone without models.
const BEGIN: &str = "load base=builtin:base ja=builtin:japanese math=builtin:math sql=builtin:sql";

/// The suggested outputs of `bake`, `save` and `export`.
const DIRECTORY: &str = "merged";
const FILE: &str = "merge.dam.safetensors";
const NOTEBOOK: &str = "merge.ipynb";

/// The suggested number of steps: enough for the loss of the built-in models to fall visibly.
const STEPS: usize = 100;

/// The line that makes sense next, from `load` to `bake`; empty if none stands out.
///
/// ```
/// use dam_prelude::assist::next;
/// use dam_prelude::verbs::Context;
///
/// let mut context = Context::default();
/// assert!(next(&context).starts_with("load "));
/// context.models = dam_prelude::load(["builtin:japanese", "builtin:math"])?;
/// assert_eq!(next(&context), "wrap");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
pub fn next(context: &Context) -> String {
    if context.merged.is_some() {
        return written(String::new());
    }
    let status = match &context.dam {
        Some(dam) => dam.status(),
        None => return loaded(&context.models),
    };
    match status {
        // Another thread is training it.
        None => String::new(),
        Some(status) => match lacks_data(&status.models) {
            Some(data) => data,
            None if status.steps == 0 => format!("train {STEPS}"),
            None if !status.is_scored => "eval --all".into(),
            None => written(if context.timeline().lacks_saving() {
                format!("save {FILE}")
            } else {
                String::new()
            }),
        },
    }
}

/// `bake`, unless its output exists; then `otherwise`, or else `export`.
fn written(otherwise: String) -> String {
    let is_there = |path: &str| std::fs::symlink_metadata(path).is_ok();
    if !is_there(DIRECTORY) {
        format!("bake {DIRECTORY}")
    } else if otherwise.is_empty() && !is_there(NOTEBOOK) {
        format!("export {NOTEBOOK}")
    } else {
        otherwise
    }
}

/// Whether `line` could be run now: before anything is loaded, few verbs can.
pub fn is_possible(context: &Context, line: &str) -> bool {
    let first = statements(line).unwrap_or_default().into_iter().next();
    context.loaded().is_ok()
        || first.is_none_or(|first| find(&first.verb).is_ok_and(|verb| verb.needs_nothing))
}

fn loaded(models: &Models) -> String {
    match models.names().filter(|name| *name != BASE).count() {
        0 if models.names().next().is_none() => BEGIN.into(),
        0 | 1 => "load ".into(),
        _ => lacks_data(models).unwrap_or_else(|| "wrap".into()),
    }
}

/// The line that gives data to the first source without any.
fn lacks_data(models: &Models) -> Option<String> {
    let name = models.names().find(|name| *name != BASE && !models.has_data(name))?;
    Some(format!("data {}", quoted(&format!("{name}="))))
}
