//! Properties of the terminal: size, character set, colours.

use std::io::IsTerminal;

use dam_prelude::show::COLUMNS;
use dam_prelude::verbs::columns;

/// The number of columns.
pub fn width() -> usize {
    columns().unwrap_or(COLUMNS)
}

/// The number of rows.
pub fn rows() -> usize {
    usize::from(console::Term::stdout().size().0)
}

/// Whether the terminal is limited to ASCII.
pub fn is_ascii() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    // The first variable that is set decides; without any, the terminal is assumed to be limited to
    // ASCII.
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
    !(locale.contains("utf-8") || locale.contains("utf8")) || is_dumb()
}

/// Whether the terminal has no control sequences.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Whether standard output supports colours and the user wants them (no-color.org).
pub fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted && !is_dumb()
}
