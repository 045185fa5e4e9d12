//! The flags of `dam`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use dam_prelude::Error;

use crate::repl::Keys;

/// Differentiable Adaptive Merging of language models, one step at a time
#[derive(Parser)]
#[command(name = "dam", version)]
#[command(after_help = "Without arguments: an interactive session. `help` in it lists the verbs.")]
pub struct Cli {
    /// Run the verbs of a file, as `dam run FILE` does
    #[arg(value_name = "FILE.dam")]
    pub file: Option<PathBuf>,
    /// Run verbs, separated by `;`, and exit; the first error ends it
    #[arg(short = 'c', value_name = "VERBS")]
    pub commands: Option<String>,
    /// Print one JSON object a verb
    #[arg(long, global = true)]
    pub json: bool,
    /// Edit lines with the keys of vi; the environment can say so too: DAM_EDIT=vi
    #[arg(long)]
    pub vi: bool,
    #[command(subcommand)]
    pub action: Option<Action>,
}

impl Cli {
    /// The keys that edit lines: as the flag says, or else the environment.
    ///
    /// # Errors
    /// A value of the environment that names no keys.
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

/// What `dam` does instead of an interactive session.
#[derive(Subcommand)]
pub enum Action {
    /// Run the verbs of a file, one a line; # begins a comment
    Run { file: PathBuf },
    /// Merge the built-in models, explaining every step
    Tour {
        /// Where the merge is written
        #[arg(default_value = "merged")]
        directory: PathBuf,
        /// Replace a checkpoint that is there
        #[arg(long)]
        force: bool,
    },
    /// Merge in Jupyter notebooks: install, uninstall, doctor
    #[cfg(feature = "jupyter")]
    Jupyter {
        #[command(subcommand)]
        action: crate::kernel::Jupyter,
    },
    /// Merge in Jupyter notebooks; this program was built without that
    #[cfg(not(feature = "jupyter"))]
    Jupyter {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print completions for a shell: source them, or put them where it looks
    Completions { shell: clap_complete::Shell },
    /// Print the manual page: dam man > dam.1
    Man,
    /// The Jupyter kernel; Jupyter starts it
    #[command(hide = true)]
    Kernel { connection_file: PathBuf },
}
