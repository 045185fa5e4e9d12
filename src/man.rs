//! The manual page: clap's account of the command line, then the verbs by their signatures.

use std::io;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use dam_prelude::verbs::VERBS;

use crate::cli::Cli;

/// Returns the page in roff.
///
/// # Errors
/// None: it is written to memory.
pub fn page() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    let man = Man::new(Cli::command());
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    let mut rest = Roff::new();
    rest.control("SH", ["COMMANDS"]);
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        let usage = sub.render_usage().to_string();
        let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        entry(&mut rest, usage, [about]);
    }
    rest.control("SH", ["VERBS"]);
    rest.text([roman("At the prompt, after -c, and in the lines of a script:")]);
    for verb in VERBS {
        let about = [verb.about.to_owned(), format!("Example: {}", verb.example)];
        entry(&mut rest, verb.usage(), about);
    }
    rest.to_writer(&mut text)?;
    man.render_version_section(&mut text)?;
    Ok(text)
}

/// Adds an entry with its explanation, a paragraph each.
fn entry<const N: usize>(page: &mut Roff, name: String, about: [String; N]) {
    page.control("TP", []).text([bold(name)]);
    for (i, text) in about.into_iter().enumerate() {
        if i > 0 {
            page.control("br", []);
        }
        page.text([roman(text)]);
    }
}
