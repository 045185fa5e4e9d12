//! `export FILE`: what was done, as a notebook, a script or a Rust program.
//!
//! ```text
//! statements --- script.rs ------------------------> NAME.dam
//!            --- Verb::rust, into code.rs --- program.rs ---> NAME.rs
//!                                         --- notebook.rs --> NAME.ipynb
//! ```

mod code;
mod notebook;
mod program;
mod script;

use std::path::Path;

use crate::Result;
use crate::checkpoint::{new_file, replace_file};

use super::arguments::{Arguments, at_home};
use super::context::{Context, Reply, refuse};
use super::{Statement, Verb};

pub use code::Code;
pub(super) use code::{call, fields, path, strings};

pub const VERB: Verb = Verb {
    name: "export",
    usage: "export NAME.ipynb|NAME.dam|NAME.rs [--force]",
    about: "write the session as a notebook, a script or a Rust program that repeats it; --force replaces a file",
    example: "export merge.ipynb",
    rust: None,
    run,
};

/// What writes the statements that were done to sources of these names.
type Writer = fn(&[Statement], &[String]) -> Result<String>;

/// The ends of files, each with what writes it.
const FORMS: [(&str, Writer); 3] =
    [("ipynb", notebook::notebook), ("dam", script::script), ("rs", program::program)];

fn run(context: &mut Context, arguments: &[String]) -> Result<Reply> {
    let arguments = Arguments::read(arguments, &[], &["--force"])?;
    let file = at_home(arguments.word(VERB.usage)?);
    let file = Path::new(&file);
    let end = file.extension().map(|end| end.to_string_lossy().to_lowercase());
    let Some((_, write)) = FORMS.iter().find(|(known, _)| end.as_deref() == Some(known)) else {
        return refuse(
            format!("`{}` is not a notebook, script or program", file.display()),
            "use NAME.ipynb, NAME.dam or NAME.rs",
        );
    };
    let done = context.done()?;
    if done.is_empty() {
        return refuse("nothing to export yet", "load ja=builtin:japanese math=builtin:math");
    }
    let names: Vec<String> = context.current().names().map(str::to_owned).collect();
    let text = write(&done, &names)?;
    let written = if arguments.force() {
        replace_file(file, text.as_bytes())?
    } else {
        new_file(file, text.as_bytes())?
    };
    Ok(Reply::written(&written))
}
