//! The `dam` program: runs verbs at a prompt, from a script, or in a Jupyter kernel.

mod cli;
mod interrupt;
#[cfg(feature = "jupyter")]
mod kernel;
mod man;
mod process;
mod repl;
mod run;
mod terminal;
mod tour;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::run::End;
use crate::terminal::{images, progress, render};

fn main() -> ExitCode {
    process::configure();
    images::apply_image_override();
    #[cfg(feature = "jupyter")]
    {
        if let Some(code) = kernel::hook() {
            return code;
        }
        kernel::forget_cargo();
    }
    let cli = cli::Cli::parse();
    let output = render::Output { json: cli.json };
    interrupt::install();
    if !cli.json {
        progress::watch(repl::save_step);
    }
    let keys = cli.keys();
    if let (Some(file), true) = (&cli.file, cli.action.is_some() || cli.commands.is_some()) {
        let message = format!(
            "script `{}` cannot be combined with a command or -c; run it alone: dam FILE.dam",
            file.display()
        );
        cli::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
    }
    let end =
        match (cli.commands, cli.action.or_else(|| cli.file.map(|file| cli::Action::Run { file })))
        {
            (Some(_), _) | (_, Some(_)) if cli.vi => {
                let message = "--vi applies only to an interactive session";
                cli::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
            }
            (Some(_), Some(_)) => {
                let message = "-c cannot be combined with a command";
                cli::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
            }
            (Some(text), None) => run::script(&text, &output),
            (None, Some(cli::Action::Run { file })) => run::file(&file, &output),
            (None, Some(cli::Action::Completions { shell })) => {
                let mut text = Vec::new();
                clap_complete::generate(shell, &mut cli::Cli::command(), "dam", &mut text);
                output.write(&text);
                End::Done
            }
            (None, Some(cli::Action::Man)) => {
                let page = man::page();
                page.iter().for_each(|text| output.write(text));
                End::of(page.is_ok())
            }
            (None, Some(cli::Action::Tour { directory, force })) => {
                tour::tour(&directory, force, &output)
            }
            (None, Some(action @ (cli::Action::Jupyter { .. } | cli::Action::Kernel { .. }))) => {
                End::of(
                    jupyter(&action, &output)
                        .map_err(with_causes)
                        .inspect_err(|error| output.error("jupyter", error))
                        .is_ok(),
                )
            }
            (None, None) => match keys {
                Ok(keys) => repl::repl(keys, &output),
                Err(error) => {
                    output.error("", &error.into());
                    End::Failed
                }
            },
        };
    end.code()
}

/// `error` with its causes in the message, as in errors of the library.
fn with_causes(error: anyhow::Error) -> anyhow::Error {
    if error.is::<dam_prelude::Error>() { error } else { anyhow::anyhow!("{error:#}") }
}

#[cfg(feature = "jupyter")]
fn jupyter(action: &cli::Action, output: &render::Output) -> anyhow::Result<()> {
    match action {
        cli::Action::Jupyter { action } => kernel::jupyter(action, output),
        cli::Action::Kernel { connection_file } => kernel::kernel(connection_file),
        _ => Ok(()),
    }
}

#[cfg(not(feature = "jupyter"))]
fn jupyter(_: &cli::Action, _: &render::Output) -> anyhow::Result<()> {
    let (message, hint) = (
        "this `dam` was built without notebook support",
        "cargo install --locked --path . --features jupyter",
    );
    Err(dam_prelude::Error::Refused { message: message.into(), hint: hint.into() }.into())
}
