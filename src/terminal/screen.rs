//! The capabilities of the terminal: size, character set, colours, images.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use dam_prelude::show::{COLUMNS, Figure};
use dam_prelude::verbs::columns;
use viuer::Config;

use crate::terminal::image_query;

/// The most columns of an image: a wider one is larger but not clearer.
const IMAGE_COLUMNS: u16 = 100;

/// The environment variable that overrides the detected image protocol.
const IMAGE_OVERRIDE: &str = "DAM_IMAGES";

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
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// The directory for state between runs: the line history and the autosaves.
pub fn state_directory() -> Option<PathBuf> {
    let set =
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set.or_else(|| Some(std::env::home_dir()?.join(".local").join("state")))?;
    Some(state.join("dam"))
}

/// Whether standard output supports colours and the user wants them (no-color.org).
pub fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted && !is_dumb()
}

/// Prints a figure on standard output as an image if the terminal supports images. Otherwise
/// returns it as text, in Braille or in plain ASCII.
pub fn show(figure: &Figure) -> Option<String> {
    let how = if std::io::stdout().is_terminal() { images() } else { None };
    match how {
        Some(how) if image(figure, &how).is_some() => None,
        _ => Some(figure.text(width().min(160), is_ascii())),
    }
}

/// Applies `DAM_IMAGES=iterm`: the image library recognises iTerm2 by a variable that ssh does not
/// forward.
///
/// Must be called while no other thread runs.
pub fn apply_image_override() {
    if std::env::var_os(IMAGE_OVERRIDE).is_some_and(|value| value == "iterm") {
        // SAFETY: no other thread runs.
        unsafe { std::env::set_var("LC_TERMINAL", "iTerm2") };
    }
}

/// The image protocol of the terminal, from its environment and, for sixel, its reply to a query.
fn images() -> Option<Config> {
    let is = |name: &str, values: &[&str]| {
        std::env::var(name).is_ok_and(|value| values.iter().any(|v| value.contains(v)))
    };
    let protocol = std::env::var(IMAGE_OVERRIDE).unwrap_or_default();
    // In tmux and screen, images would overwrite other panes.
    let auto = protocol.is_empty()
        && std::env::var_os("TMUX").is_none()
        && !is("TERM", &["screen", "tmux"]);
    let use_kitty = protocol == "kitty"
        || auto && (is("TERM", &["kitty", "ghostty"]) || is("TERM_PROGRAM", &["ghostty"]));
    let use_iterm = protocol == "iterm" || auto && viuer::is_iterm_supported();
    let use_sixel = protocol == "sixel"
        || auto && !use_kitty && !use_iterm && !is_dumb() && image_query::sixel();
    let config =
        Config { use_kitty, use_iterm, use_sixel, absolute_offset: false, ..Config::default() };
    (config.use_kitty || config.use_iterm || config.use_sixel).then_some(config)
}

/// Draws `figure` in the protocol of `how`; none if the terminal does not support it after all.
fn image(figure: &Figure, how: &Config) -> Option<()> {
    // viuer would fall back to half blocks, which show less than Braille.
    let able = how.use_kitty && image_query::kitty()
        || how.use_iterm && viuer::is_iterm_supported()
        || how.use_sixel && image_query::sixel();
    if !able {
        return None;
    }
    let png = figure.png().ok()?;
    let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).ok()?;
    let columns = u16::try_from(width()).unwrap_or(IMAGE_COLUMNS).min(IMAGE_COLUMNS);
    std::io::stdout().flush().ok()?;
    viuer::print(&picture, &Config { width: Some(columns.into()), ..*how }).ok().map(drop)
}
