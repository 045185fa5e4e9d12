//! The command line of `dam`.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use dam_prelude::Error;
use dam_prelude::verbs::VERBS;

use crate::repl::Keys;

/// Differentiable Adaptive Merging of language models, one step at a time
#[derive(Parser)]
#[command(name = "dam", version)]
#[command(after_help = "Without arguments, opens an interactive session; `help` lists its verbs.")]
pub struct Cli {
    /// Run the verbs of a file; the same as `dam run FILE`
    #[arg(value_name = "FILE.dam")]
    pub file: Option<PathBuf>,
    /// Run verbs, separated by `;`, and exit; stops at the first error
    #[arg(short = 'c', value_name = "VERBS", value_parser = Verbs, hide_possible_values = true)]
    pub commands: Option<String>,
    /// Print one JSON object per verb
    #[arg(long, global = true)]
    pub json: bool,
    /// Use vi key bindings; the same as DAM_EDIT=vi in the environment
    #[arg(long)]
    pub vi: bool,
    #[command(subcommand)]
    pub action: Option<Action>,
}

impl Cli {
    /// The key bindings: from the flag, or else from the environment.
    ///
    /// # Errors
    /// `DAM_EDIT` has an unknown value.
    pub fn keys(&self) -> Result<Keys, Error> {
        match std::env::var("DAM_EDIT").as_deref() {
            _ if self.vi => Ok(Keys::Vi),
            Ok("vi") => Ok(Keys::Vi),
            Ok("emacs" | "") | Err(std::env::VarError::NotPresent) => Ok(Keys::Emacs),
            Ok(other) => Err(Error::bad_value("DAM_EDIT", other, "vi or emacs")),
            Err(_) => Err(Error::bad_value("DAM_EDIT", "", "vi or emacs")),
        }
    }
}

/// Any text, for which shells suggest the verbs.
#[derive(Clone)]
struct Verbs;

impl TypedValueParser for Verbs {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(VERBS.iter().map(|verb| PossibleValue::new(verb.name).help(verb.about))))
    }
}

/// The subcommands of `dam`.
#[derive(Subcommand)]
pub enum Action {
    /// Run the verbs of a file, one per line; # starts a comment
    Run { file: PathBuf },
    /// Merge the built-in models, with every step explained
    Tour {
        /// The directory to write the merge to
        #[arg(default_value = "merged")]
        directory: PathBuf,
        /// Replace an existing checkpoint
        #[arg(long)]
        force: bool,
    },
    /// Merge in Jupyter notebooks: install, uninstall, doctor
    #[cfg(feature = "jupyter")]
    Jupyter {
        #[command(subcommand)]
        action: crate::kernel::Jupyter,
    },
    /// Merge in Jupyter notebooks (not included in this build)
    #[cfg(not(feature = "jupyter"))]
    Jupyter {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print shell completions: source them, or save them where the shell looks for them
    Completions { shell: clap_complete::Shell },
    /// Print the manual page: dam man > dam.1
    Man,
    /// The Jupyter kernel (started by Jupyter)
    #[command(hide = true)]
    Kernel { connection_file: PathBuf },
}
