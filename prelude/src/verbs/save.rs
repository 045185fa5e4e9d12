//! `save FILE`

use super::paths::at_home;
use super::prelude::*;

pub const VERB: Verb = Verb {
    signature: Signature { words: &[one(Kind::Session)], flags: &["--force"], ..Signature::EMPTY },
    is_exported: true,
    ..Verb::new(
        "save",
        "save coefficients, settings, optimiser state and source locations to a file; the session's own file is replaced",
        "save merge.dam.safetensors",
        |arguments| {
            let file = at_home(&arguments.text(0));
            Ok(Box::new(Save { file, force: arguments.has("--force") }))
        },
    )
};

struct Save {
    file: String,
    /// Whether a file that this session did not write is replaced.
    force: bool,
}

impl Command for Save {
    fn run(&self, context: &mut Context) -> Result<Reply> {
        let dam = context.dam()?;
        let file = std::path::absolute(&self.file).ok();
        let own = context.file.as_ref().filter(|(path, _)| file.as_ref() == Some(path));
        let written = match own {
            _ if self.force => dam.save(&self.file)?,
            Some((path, stamp)) if path.exists() => {
                if stamp.check(path).is_err() {
                    let message = format!(
                        "`{}` was changed by another program since this session saved it",
                        path.display()
                    );
                    return refuse(message, "use another name, or replace it: save FILE --force");
                }
                dam.save(&self.file)?
            }
            _ => dam.save_new(&self.file)?,
        };
        context.is_in(&written.path);
        Ok(Reply::written(&written))
    }

    fn rust(&self, code: &mut Code) -> Result<()> {
        code.dam()?;
        code.show(format!("dam.save({:?})?", self.file));
        Ok(())
    }

    fn again(&self, statement: &Statement) -> Statement {
        statement.with_force()
    }
}
