//! The `dam` program: a merge, one verb at a time.

mod cli;
mod interrupt;
#[cfg(feature = "jupyter")]
mod kernel;
mod progress;
mod render;
mod repl;
mod run;
mod tour;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    // candle's own threads wait in a busy loop between operations, on the cores that products run on.
    if std::env::var_os("CANDLE_BARRIER_POOL_SPIN_LIMIT").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("CANDLE_BARRIER_POOL_SPIN_LIMIT", "0") };
    }
    #[cfg(feature = "jupyter")]
    if let Some(code) = kernel::hook() {
        return code;
    }
    let cli = cli::Cli::parse();
    let output = render::Output { json: cli.json };
    interrupt::install();
    if !cli.json {
        progress::watch();
    }
    let ok = match (cli.commands, cli.action) {
        (Some(_), Some(_)) => {
            let message = "-c runs verbs and needs no command beside it";
            cli::Cli::command().error(clap::error::ErrorKind::ArgumentConflict, message).exit()
        }
        (Some(text), None) => run::script(&text, &output),
        (None, Some(cli::Action::Run { file })) => run::file(&file, &output),
        (None, Some(cli::Action::Tour { directory, force })) => tour::tour(&directory, force, &output),
        (None, Some(cli::Action::Kernel { connection_file })) => kernel(&connection_file, &output),
        (None, None) => repl::repl(&output),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the kernel, where this program has one.
fn kernel(connection_file: &std::path::Path, output: &render::Output) -> bool {
    #[cfg(feature = "jupyter")]
    let done = kernel::kernel(connection_file);
    #[cfg(not(feature = "jupyter"))]
    let done = Err(dam_prelude::Error::Refused {
        message: format!("this `dam` has no kernel to connect to `{}`", connection_file.display()),
        hint: "build it with the kernel: cargo install --locked --path . --features jupyter".into(),
    }
    .into());
    done.inspect_err(|error| output.error("kernel", error)).is_ok()
}
