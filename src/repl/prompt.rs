//! The prompt, which summarises the session: `dam 3 sources · step 120 · loss 0.43 > `.

use dam_prelude::checkpoint::BASE;
use dam_prelude::verbs::Context;

use crate::terminal::screen;

use super::colour::{Colour, Style};

/// Columns reserved for input.
const ROOM: usize = 32;

/// A prompt, without and with colour codes.
pub struct Prompt {
    pub plain: String,
    pub coloured: String,
}

/// The prompt of a session, for a terminal with `columns` columns.
pub fn prompt(context: &Context, columns: usize, colour: Colour) -> Prompt {
    of(&parts(context), columns, if screen::is_ascii() { " | " } else { " · " }, colour)
}

/// The parts of the prompt, the most informative last.
fn parts(context: &Context) -> Vec<String> {
    let Some(models) = context.known() else { return Vec::new() };
    let mut count = models.names().filter(|name| *name != BASE).count();
    let status = context.dam.as_ref().and_then(|dam| dam.status());
    if let Some(status) = &status {
        count = status.sources;
    }
    let mut parts = match (count, models.names().next()) {
        (0, None) => return Vec::new(),
        (0, Some(_)) => vec!["base".to_owned()],
        (1, _) => vec!["1 source".to_owned()],
        (count, _) => vec![format!("{count} sources")],
    };
    match (&context.merged, status) {
        (Some(merged), _) => parts.push(merged.report().method),
        (None, Some(status)) => {
            parts.push(format!("step {}", status.steps));
            parts.extend(status.loss.map(|loss| format!("loss {}", short(loss))));
        }
        (None, None) => {}
    }
    let timeline = context.timeline();
    if timeline.branches().len() > 1 {
        parts.push(timeline.branch().to_owned());
    }
    parts
}

/// `loss` with two decimals, or two significant digits below 0.1.
fn short(loss: f64) -> String {
    let digits = if loss > 0.0 && loss < 0.1 {
        (1.0 - loss.log10().floor()).clamp(2.0, 8.0) as usize
    } else {
        2
    };
    format!("{loss:.digits$}")
}

fn of(parts: &[String], columns: usize, between: &str, colour: Colour) -> Prompt {
    // Parts are dropped from the front until the prompt fits.
    let width =
        |parts: &[String]| parts.iter().map(|part| part.chars().count() + 3).sum::<usize>() + 4;
    let fits = (0..=parts.len())
        .find(|from| width(&parts[*from..]) + ROOM <= columns)
        .unwrap_or(parts.len());
    let parts = &parts[fits..];
    if parts.is_empty() {
        return Prompt {
            plain: "dam> ".into(),
            coloured: format!("{}> ", colour.paint(Style::Bold, "dam")),
        };
    }
    Prompt {
        plain: format!("dam {} > ", parts.join(between)),
        coloured: format!(
            "{} {} > ",
            colour.paint(Style::Bold, "dam"),
            parts.join(&colour.paint(Style::Dim, between))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shortens_the_prompt() {
        let parts = ["3 sources", "step 120", "loss 0.43"].map(str::to_owned);
        let at = |columns| of(&parts, columns, " · ", Colour::Off).plain;
        assert_eq!(at(80), "dam 3 sources · step 120 · loss 0.43 > ");
        assert_eq!(at(65), "dam step 120 · loss 0.43 > ");
        assert_eq!(at(50), "dam loss 0.43 > ");
        assert_eq!(at(40), "dam> ");
        assert_eq!(of(&[], 80, " · ", Colour::Off).plain, "dam> ");
        assert_eq!(
            of(&parts[..1], 80, " | ", Colour::On).coloured,
            "\x1b[1mdam\x1b[0m 3 sources > "
        );
    }

    #[test]
    fn losses_have_at_least_two_significant_digits() {
        assert_eq!(
            [12.3456, 0.4321, 0.0432, 0.00432, 0.0].map(short),
            ["12.35", "0.43", "0.043", "0.0043", "0.00"]
        );
    }

    #[test]
    fn the_prompt_summarises_the_session() {
        let mut context = Context::default();
        assert!(parts(&context).is_empty());
        context.models =
            dam_prelude::load(["base=builtin:base", "builtin:japanese", "builtin:math"]).unwrap();
        assert_eq!(parts(&context), ["2 sources"]);
        context.wrapped(context.models.wrap(dam_prelude::Columns::default()).unwrap());
        assert_eq!(parts(&context), ["2 sources", "step 0"]);
    }
}
