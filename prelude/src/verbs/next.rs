//! What makes sense next in a session, as a line that one could run.

use super::{Context, quoted};
use crate::Models;
use crate::checkpoint::BASE;

/// What one who has nothing of their own begins with.
const BEGIN: &str = "load base=builtin:base ja=builtin:japanese math=builtin:math sql=builtin:sql";

/// Where `bake` and `save` are suggested to write.
const DIRECTORY: &str = "merged";
const FILE: &str = "merge.dam.safetensors";

/// Steps that are suggested: enough that the loss of the built-in models is seen to fall.
const STEPS: usize = 100;

/// What makes sense next, from `load` to `bake`; empty where nothing stands out.
///
/// ```
/// use dam_prelude::verbs::{Context, next};
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
    let glance = match &context.dam {
        Some(dam) => dam.glance(),
        None => return loaded(&context.models),
    };
    match glance {
        // What works on it does not say how far it is.
        None => String::new(),
        Some(glance) => match lacks_data(&glance.models) {
            Some(data) => data,
            None if glance.steps == 0 => format!("train {STEPS}"),
            None if !glance.is_scored => "eval --all".into(),
            None => written(if context.unsaved() > 0 { format!("save {FILE}") } else { String::new() }),
        },
    }
}

/// `bake`, unless something is there.
fn written(otherwise: String) -> String {
    if std::fs::symlink_metadata(DIRECTORY).is_ok() { otherwise } else { format!("bake {DIRECTORY}") }
}

fn loaded(models: &Models) -> String {
    match models.names().filter(|name| *name != BASE).count() {
        0 if models.names().next().is_none() => BEGIN.into(),
        0 | 1 => "load ".into(),
        _ => lacks_data(models).unwrap_or_else(|| "wrap".into()),
    }
}

/// What gives data to the first source that has none.
fn lacks_data(models: &Models) -> Option<String> {
    let name = models.names().find(|name| *name != BASE && !models.has_data(name))?;
    Some(format!("data {}", quoted(&format!("{name}="))))
}
