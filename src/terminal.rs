//! What the terminal can show: columns, letters, colours, pictures.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use dam_prelude::show::{COLUMNS, Figure};
use dam_prelude::verbs::columns;
use viuer::Config;

use crate::pictures;

/// Pictures are so wide at most, in columns: more makes them large, not clear.
const PICTURE: u16 = 100;

/// The environment variable that says how pictures are drawn, where the terminal does not say it right.
const IMAGES: &str = "DAM_IMAGES";

/// Columns.
pub fn width() -> usize {
    columns().unwrap_or(COLUMNS)
}

/// Rows.
pub fn rows() -> usize {
    usize::from(console::Term::stdout().size().0)
}

/// Whether letters beyond ASCII would not be shown.
pub fn is_ascii() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    // The first that is set counts; a terminal that is told nothing is a bare one.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_lowercase();
    !(locale.contains("utf-8") || locale.contains("utf8")) || is_dumb()
}

/// Whether it obeys nothing but line ends.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// Where this program keeps what it needs to go on: the history of lines, sessions that run.
pub fn state_directory() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set.or_else(|| Some(std::env::home_dir()?.join(".local").join("state")))?;
    Some(state.join("dam"))
}

/// Whether standard output shows colours and a person wants them (no-color.org).
pub fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted && !is_dumb()
}

/// Shows a picture on standard output: as an image where the terminal draws them, in Braille otherwise, in plain
/// ASCII where it must.
pub fn show(figure: &Figure) -> Option<String> {
    let how = if std::io::stdout().is_terminal() { images() } else { None };
    match how {
        Some(how) if image(figure, &how).is_some() => None,
        _ => Some(figure.text(width().min(160), is_ascii())),
    }
}

/// Lets `DAM_IMAGES=iterm` be believed by what draws, which knows terminals by a variable that ssh does not bring along.
///
/// Called while no other thread runs.
pub fn believe() {
    if std::env::var_os(IMAGES).is_some_and(|asked| asked == "iterm") {
        // SAFETY: no other thread runs.
        unsafe { std::env::set_var("LC_TERMINAL", "iTerm2") };
    }
}

/// How the terminal draws pictures, by what it says of itself: in its environment, and of sixel by its answer.
fn images() -> Option<Config> {
    let is = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|value| values.iter().any(|v| value.contains(v)));
    let asked = std::env::var(IMAGES).unwrap_or_default();
    // In tmux and screen pictures would be drawn over what else is there.
    let auto = asked.is_empty() && std::env::var_os("TMUX").is_none() && !is("TERM", &["screen", "tmux"]);
    let use_kitty = asked == "kitty" || auto && (is("TERM", &["kitty", "ghostty"]) || is("TERM_PROGRAM", &["ghostty"]));
    let use_iterm = asked == "iterm" || auto && viuer::is_iterm_supported();
    let use_sixel = asked == "sixel" || auto && !use_kitty && !use_iterm && !is_dumb() && pictures::sixel();
    let config = Config { use_kitty, use_iterm, use_sixel, absolute_offset: false, ..Config::default() };
    (config.use_kitty || config.use_iterm || config.use_sixel).then_some(config)
}

/// Draws `figure` as `how` says; none where that does not work after all.
fn image(figure: &Figure, how: &Config) -> Option<()> {
    // Half blocks, which viuer would draw where the terminal denies what was said of it, show less than Braille.
    let able =
        how.use_kitty && pictures::kitty() || how.use_iterm && viuer::is_iterm_supported() || how.use_sixel && pictures::sixel();
    if !able {
        return None;
    }
    let png = figure.png().ok()?;
    let picture = image::load_from_memory_with_format(&png, image::ImageFormat::Png).ok()?;
    let columns = u16::try_from(width()).unwrap_or(PICTURE).min(PICTURE);
    std::io::stdout().flush().ok()?;
    viuer::print(&picture, &Config { width: Some(columns.into()), ..*how }).ok().map(drop)
}
