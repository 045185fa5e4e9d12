//! Figures as images, on terminals that support them.

use std::io::{IsTerminal, Write};

use dam_prelude::show::Figure;
use viuer::Config;

use crate::terminal::{image_query, screen};

/// The most columns of an image: a wider one is larger but not clearer.
const IMAGE_COLUMNS: u16 = 100;

/// The environment variable that overrides the detected image protocol.
const IMAGE_OVERRIDE: &str = "DAM_IMAGES";

/// Prints a figure on standard output as an image if the terminal supports images. Otherwise
/// returns it as text, in Braille or in plain ASCII.
pub fn show(figure: &Figure) -> Option<String> {
    let how = if std::io::stdout().is_terminal() { images() } else { None };
    match how {
        Some(how) if image(figure, &how).is_some() => None,
        _ => Some(figure.text(screen::width().min(160), screen::is_ascii())),
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
        || auto && !use_kitty && !use_iterm && !screen::is_dumb() && image_query::sixel();
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
    let columns = u16::try_from(screen::width()).unwrap_or(IMAGE_COLUMNS).min(IMAGE_COLUMNS);
    std::io::stdout().flush().ok()?;
    viuer::print(&picture, &Config { width: Some(columns.into()), ..*how }).ok().map(drop)
}
