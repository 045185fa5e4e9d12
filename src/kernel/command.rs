//! `dam jupyter`: install, uninstall and doctor.

use anyhow::Result;
use dam_prelude::Error;
use serde_json::{Value, json};

use super::doctor::doctor;
use super::install::{Built, Place, install, uninstall};
use super::installing;
use crate::render::Output;

/// The subcommands of `dam jupyter`.
#[derive(clap::Subcommand)]
pub enum Jupyter {
    /// Install the kernel in Jupyter, and build the prelude for notebooks once
    Install {
        #[command(flatten)]
        place: Place,
    },
    /// Uninstall the kernel
    Uninstall {
        #[command(flatten)]
        place: Place,
    },
    /// Report what is missing for notebooks, and how to get it
    Doctor {
        #[command(flatten)]
        place: Place,
    },
}

/// Runs a subcommand.
///
/// # Errors
/// A directory is not writable, the prelude does not build, or something is missing.
pub fn jupyter(action: &Jupyter, output: &Output) -> Result<()> {
    match action {
        Jupyter::Install { place } => {
            let directory = installing::shown(|| install(place, installing::announce))?;
            let said = format!("installed the kernel in {}; open a notebook with: jupyter lab", directory.display());
            output.object("install", &said, json!({"path": directory}));
        }
        Jupyter::Uninstall { place } => {
            let (directory, built) = uninstall(place)?;
            let rest = match &built {
                Built::Removed => "the prelude built for notebooks was removed too".to_owned(),
                Built::Needed(others) => {
                    let others: Vec<String> = others.iter().map(|other| other.display().to_string()).collect();
                    format!("the prelude built for notebooks stays, because it is used by {}", others.join(", "))
                }
                Built::Running(count) => {
                    let kernels = if *count == 1 { "1 running kernel".to_owned() } else { format!("{count} running kernels") };
                    format!("build files in use by {kernels} stay until the next installation")
                }
            };
            let others = if let Built::Needed(others) = &built { others.as_slice() } else { &[] };
            output.object(
                "uninstall",
                &format!("removed {}; {rest}", directory.display()),
                json!({"path": directory, "others": others}),
            );
        }
        Jupyter::Doctor { place } => {
            let findings = doctor(place)?;
            let lines: Vec<String> = findings.iter().map(super::doctor::Finding::line).collect();
            let json: Vec<Value> = findings.iter().map(super::doctor::Finding::json).collect();
            output.object("doctor", &lines.join("\n"), json!({"findings": json}));
            let missing = findings.iter().filter(|f| f.found.is_none() && !f.optional).count();
            if missing > 0 {
                return Err(Error::Refused { message: lacks(missing), hint: "see the lines above for how to get it".into() }.into());
            }
        }
    }
    Ok(())
}

/// The message for `missing` missing requirements.
fn lacks(missing: usize) -> String {
    match missing {
        1 => "1 requirement of notebooks is missing".into(),
        _ => format!("{missing} requirements of notebooks are missing"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn missing_requirements_are_counted() {
        assert_eq!(super::lacks(1), "1 requirement of notebooks is missing");
        assert_eq!(super::lacks(5), "5 requirements of notebooks are missing");
    }
}
