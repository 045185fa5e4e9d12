//! `dam jupyter`: install, uninstall and doctor.

use anyhow::Result;
use dam_prelude::Error;
use serde_json::{Value, json};

use super::doctor::doctor;
use super::install::{Built, Place, install, uninstall};
use super::installing;
use crate::render::Output;

/// What is done about Jupyter.
#[derive(clap::Subcommand)]
pub enum Jupyter {
    /// Put the kernel into Jupyter, and build the prelude for notebooks once
    Install {
        #[command(flatten)]
        place: Place,
    },
    /// Take it out again
    Uninstall {
        #[command(flatten)]
        place: Place,
    },
    /// Say what is missing for notebooks, and how to get it
    Doctor {
        #[command(flatten)]
        place: Place,
    },
}

/// Does it.
///
/// # Errors
/// A place that may not be written, a prelude that does not build, something that is missing.
pub fn jupyter(action: &Jupyter, output: &Output) -> Result<()> {
    match action {
        Jupyter::Install { place } => {
            let directory = installing::shown(|| install(place, installing::announce))?;
            let said = format!("{} is a kernel of Jupyter now; open a notebook with: jupyter lab", directory.display());
            output.object("install", &said, json!({"path": directory}));
        }
        Jupyter::Uninstall { place } => {
            let (directory, built) = uninstall(place)?;
            let rest = match &built {
                Built::Removed => "what was built for notebooks too".to_owned(),
                Built::Needed(others) => {
                    let others: Vec<String> = others.iter().map(|other| other.display().to_string()).collect();
                    format!("what was built for notebooks stays for {}", others.join(", "))
                }
                Built::Running(count) => {
                    let kernels = if *count == 1 { "1 kernel that runs".to_owned() } else { format!("{count} kernels that run") };
                    format!("what {kernels} works with stays, and goes with the next installation")
                }
            };
            let others = if let Built::Needed(others) = &built { others.as_slice() } else { &[] };
            output.object(
                "uninstall",
                &format!("{} is removed; {rest}", directory.display()),
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
                return Err(Error::Refused { message: lacks(missing), hint: "the lines above say how to get it".into() }.into());
            }
        }
    }
    Ok(())
}

/// That notebooks lack `missing` things, in words.
fn lacks(missing: usize) -> String {
    match missing {
        1 => "1 thing that notebooks need is missing".into(),
        _ => format!("{missing} things that notebooks need are missing"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_missing_is_counted() {
        assert_eq!(super::lacks(1), "1 thing that notebooks need is missing");
        assert_eq!(super::lacks(5), "5 things that notebooks need are missing");
    }
}
