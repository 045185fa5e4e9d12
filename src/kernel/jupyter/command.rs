//! `dam jupyter`: install, uninstall and doctor.

use anyhow::Result;
use dam_prelude::Error;
use serde_json::{Value, json};

use super::build_progress;
use super::doctor::{Finding, doctor};
use super::install::{PreludeState, install, uninstall};
use super::spec::InstallTarget;
use crate::terminal::render::Output;

/// The subcommands of `dam jupyter`.
#[derive(clap::Subcommand)]
pub enum Jupyter {
    /// Install the kernel in Jupyter, and build the prelude for notebooks once
    Install {
        #[command(flatten)]
        target: InstallTarget,
    },
    /// Uninstall the kernel
    Uninstall {
        #[command(flatten)]
        target: InstallTarget,
    },
    /// Report what is missing for notebooks, and how to get it
    Doctor {
        #[command(flatten)]
        target: InstallTarget,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// A directory is not writable, the prelude does not build, or something is missing.
pub fn jupyter(action: &Jupyter, output: &Output) -> Result<()> {
    match action {
        Jupyter::Install { target } => {
            let directory =
                build_progress::with_progress(|| install(target, build_progress::announce))?;
            let message = format!(
                "installed the kernel in {}; open a notebook with: jupyter lab",
                directory.display()
            );
            output.object("install", &message, json!({"path": directory}));
        }
        Jupyter::Uninstall { target } => {
            let (directory, prelude) = uninstall(target)?;
            let rest = match &prelude {
                PreludeState::Removed => {
                    "the prelude built for notebooks was removed too".to_owned()
                }
                PreludeState::Needed(others) => {
                    let others: Vec<String> =
                        others.iter().map(|other| other.display().to_string()).collect();
                    format!(
                        "the prelude built for notebooks stays, because it is used by {}",
                        others.join(", ")
                    )
                }
                PreludeState::Running(count) => {
                    let kernels = if *count == 1 {
                        "1 running kernel".to_owned()
                    } else {
                        format!("{count} running kernels")
                    };
                    format!("build files in use by {kernels} stay until the next installation")
                }
            };
            let others =
                if let PreludeState::Needed(others) = &prelude { others.as_slice() } else { &[] };
            output.object(
                "uninstall",
                &format!("removed {}; {rest}", directory.display()),
                json!({"path": directory, "others": others}),
            );
        }
        Jupyter::Doctor { target } => {
            let findings = doctor(target)?;
            let lines: Vec<String> = findings.iter().map(Finding::line).collect();
            let json: Vec<Value> = findings.iter().map(Finding::json).collect();
            output.object("doctor", &lines.join("\n"), json!({"findings": json}));
            let missing = findings.iter().filter(|f| f.found.is_none() && !f.optional).count();
            if missing > 0 {
                return Err(Error::Refused {
                    message: missing_message(missing),
                    hint: "see the lines above for how to get it".into(),
                }
                .into());
            }
        }
    }
    Ok(())
}

/// The message for `missing` missing requirements.
fn missing_message(missing: usize) -> String {
    match missing {
        1 => "1 requirement of notebooks is missing".into(),
        _ => format!("{missing} requirements of notebooks are missing"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn missing_requirements_are_counted() {
        assert_eq!(super::missing_message(1), "1 requirement of notebooks is missing");
        assert_eq!(super::missing_message(5), "5 requirements of notebooks are missing");
    }
}
