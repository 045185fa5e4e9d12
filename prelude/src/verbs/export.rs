//! `export FILE`: what was done, as a notebook, a script or a Rust program.

use std::path::Path;

use super::find;
use super::paths::at_home;
use super::prelude::*;
use crate::checkpoint::{new_file, replace_file};
use crate::export::{Block, notebook, program, script};
use crate::syntax::line;

const FILE: NewFile =
    NewFile { place: "NAME", suffixes: &[".ipynb", ".dam", ".rs"], suggested: Some("merge") };

pub const VERB: Verb = Verb {
    signature: Signature {
        words: &[one(Kind::New(FILE))],
        flags: &["--force"],
        ..Signature::EMPTY
    },
    ..Verb::new(
        "export",
        "write the session as a notebook, a script or a Rust program that repeats it; --force replaces a file",
        "export merge.ipynb",
        |arguments| {
            let file = at_home(&arguments.text(0));
            Ok(Box::new(Export { file, force: arguments.has("--force") }))
        },
    )
};

struct Export {
    file: String,
    force: bool,
}

impl Command for Export {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let done = context.done()?;
        if done.is_empty() {
            return refuse("nothing to export yet", "load ja=builtin:japanese math=builtin:math");
        }
        let names: Vec<String> = context.current().names().map(str::to_owned).collect();
        let file = Path::new(&self.file);
        let text = match file.extension().and_then(|end| end.to_str()) {
            Some(end) if end.eq_ignore_ascii_case("dam") => script(&lines(&done)?),
            Some(end) if end.eq_ignore_ascii_case("rs") => program(&code(&done, names)?),
            _ => notebook(&code(&done, names)?)?,
        };
        let write = if self.force { replace_file } else { new_file };
        Ok(Reply::written(&write(file, text.as_bytes())?))
    }
}

/// The lines of a script that runs where this session has run.
fn lines(done: &[Statement]) -> Result<Vec<String>> {
    let one = |statement: &Statement| {
        let command = find(&statement.verb)?.command(&statement.arguments)?;
        Ok(line(&command.again(statement)))
    };
    done.iter().map(one).collect()
}

/// The statements in Rust, for sources that are called `names` in the end.
fn code(done: &[Statement], names: Vec<String>) -> Result<Code> {
    let mut code = Code::new(names);
    for statement in done {
        let verb = find(&statement.verb)?;
        if verb.is_exported {
            code.begin(Block::new(verb.name, verb.about, line(statement)));
            verb.command(&statement.arguments)?.rust(&mut code)?;
            code.end();
        }
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::statements;

    #[test]
    fn a_script_can_run_where_it_ran() {
        let done = "load a b; evolve linear best.yml; merge ties density=0.5; \
                    merge ties density=0.5 out; wrap; train 3; wrap; bake dir; \
                    bake other --force; save x; compare dam on=x.md t.md";
        let expected = [
            "load a b",
            "evolve linear",
            "merge ties density=0.5",
            "merge ties density=0.5 out --force",
            "wrap",
            "train 3",
            "wrap",
            "bake dir --force",
            "bake other --force",
            "save x --force",
            "compare dam on=x.md",
        ];
        assert_eq!(lines(&statements(done).unwrap()).unwrap(), expected);
    }
}
