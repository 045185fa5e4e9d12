//! The result of `ask`: answers to one prompt, the likelihood of the merge's answer under each
//! source, and the source that favours each token, marked by a letter below the token or by colour.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::answers::{STOPPED, full};
use super::evcxr::cell;
use super::figure::palette;
use super::lines::COLUMNS;
use super::lines::{or_nothing, printable, side_by_side, wrap_cells};
use super::numbers::perplexity;
use super::render::Render;
use super::table::Table;
use super::table::{escape, paragraph};
use crate::eval::{Likelihood, MARGIN, favoured};

/// The result of `ask`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AskReport {
    /// The prompt.
    pub prompt: String,
    /// The name of the merge: `DAM`, or its method.
    pub model: String,
    /// The merge's answer, without special tokens.
    pub text: String,
    /// The likelihood of the answer under the merge itself.
    pub likelihood: Likelihood,
    /// All loaded sources, the base last.
    pub sources: Vec<SourceAnswer>,
    /// The tokens of the merge's answer, without the end token.
    pub tokens: Vec<AnswerToken>,
    /// Whether generation was interrupted.
    pub stopped: bool,
    /// The model's positions, if an answer ended because they were all used.
    pub full: Option<usize>,
}

/// One source's answer, and the likelihood of the merge's answer under it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceAnswer {
    /// The source's name.
    pub name: String,
    /// Its own answer, without special tokens.
    pub answer: String,
    /// The likelihood of the merge's answer under this source, without tokens missing from its
    /// vocabulary.
    pub likelihood: Likelihood,
    /// Whether it is merged, so that it can favour tokens; a base model usually is not.
    pub is_merged: bool,
    /// The number of prompt tokens missing from its vocabulary.
    pub lacks_of_prompt: usize,
}

/// A token of the merge's answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnswerToken {
    /// The text this token completes. If a character consists of several tokens, the last has its
    /// text and the others are empty.
    pub text: String,
    /// The token's log-probability in nats under each source, given the prompt and the tokens
    /// before it; `None` if it is not in the source's vocabulary. Empty if a stop came first.
    pub log_probs: Vec<Option<f64>>,
    /// The source that favours the token: the merged source with the highest log-probability, by
    /// more than [`MARGIN`]. `None` if there is none: when all sources expect the token, their
    /// differences are noise.
    pub favours: Option<usize>,
}

/// Which source favours a token.
#[derive(Clone, Copy, PartialEq)]
enum TokenMark {
    Source(usize),
    /// No source favours it.
    None,
    /// Fewer than two merged sources have it in their vocabulary.
    Unknown,
}

impl AskReport {
    /// Returns the number of tokens that source `i` favours.
    pub fn favours(&self, i: usize) -> usize {
        self.tokens.iter().filter(|token| token.favours == Some(i)).count()
    }

    /// Returns the tokens as displayed. The tokens of one character are joined, and their
    /// log-probabilities are summed, because the first may already determine the character.
    pub fn pieces(&self) -> Vec<AnswerToken> {
        let mut pieces = Vec::new();
        let mut begun: Option<Vec<Option<f64>>> = None;
        for token in &self.tokens {
            let piece = match begun.take() {
                None => token.clone(),
                Some(before) => {
                    let sum = |(a, b): (&Option<f64>, &Option<f64>)| Some((*a)? + (*b)?);
                    let log_probs: Vec<Option<f64>> =
                        before.iter().zip(&token.log_probs).map(sum).collect();
                    let merged = log_probs
                        .iter()
                        .zip(&self.sources)
                        .map(|(x, source)| x.filter(|_| source.is_merged));
                    let favours = favoured(&merged.collect::<Vec<_>>());
                    AnswerToken { text: token.text.clone(), log_probs, favours }
                }
            };
            if piece.text.is_empty() { begun = Some(piece.log_probs) } else { pieces.push(piece) }
        }
        pieces
    }

    /// Formats the report in lines of at most `width` columns, if the table of likelihoods fits.
    /// Without colours, a letter below each token marks the source that favours it.
    pub fn lines(&self, width: usize) -> String {
        let letters = self.letters();
        let letter = |mark: TokenMark| match mark {
            TokenMark::Source(i) => letters.get(i).copied().unwrap_or('?'),
            TokenMark::None => '.',
            TokenMark::Unknown => '?',
        };
        let mut lines = self.head(width);
        for line in self.marked(width) {
            let (mut text, mut below) = (String::new(), String::new());
            for (c, mark) in line {
                text.push(c);
                let width =
                    if c == ' ' && mark == TokenMark::None { 0 } else { c.width().unwrap_or(0) };
                below.extend(std::iter::repeat_n(letter(mark), width));
                below.extend(std::iter::repeat_n(' ', c.width().unwrap_or(0) - width));
            }
            lines.push(text.trim_end().to_owned());
            lines.push(below.trim_end().to_owned());
        }
        let entry = |mark: TokenMark, name: String| format!("{} {name}", letter(mark));
        let legend: Vec<String> =
            self.legend().into_iter().map(|(mark, name)| entry(mark, name)).collect();
        lines.extend((!legend.is_empty()).then(|| legend.join("   ")));
        lines.extend(self.notes());
        lines.join("\n")
    }

    /// Like [`AskReport::lines`], with tokens in the colour of the source that favours them
    /// (256-colour ANSI codes) instead of letters. Control characters in names and texts are
    /// replaced.
    pub fn coloured(&self, width: usize) -> String {
        let painted = |text: &str, mark: TokenMark| match mark {
            TokenMark::Source(i) => format!("\x1b[1;38;5;{}m{text}\x1b[0m", ansi(palette(i))),
            TokenMark::None => text.to_owned(),
            TokenMark::Unknown => format!("\x1b[4m{text}\x1b[0m"),
        };
        let mut lines = self.head(width);
        for line in self.marked(width) {
            let runs = line.chunk_by(|(_, a), (_, b)| a == b);
            let run = |run: &[(char, TokenMark)]| {
                let text: String = run.iter().map(|(c, _)| *c).collect();
                run.first().map(|(_, mark)| painted(&text, *mark)).unwrap_or_default()
            };
            lines.push(runs.map(run).collect());
        }
        let legend: Vec<String> =
            self.legend().into_iter().map(|(mark, name)| painted(&name, mark)).collect();
        lines.extend((!legend.is_empty()).then(|| legend.join("   ")));
        lines.extend(self.notes());
        lines.join("\n")
    }

    /// The part above the marked answer: the table, which includes the answers if they are short.
    fn head(&self, width: usize) -> Vec<String> {
        let mut table = self.numbers();
        let answers: Vec<(&str, &str)> = [(self.model.as_str(), self.text.as_str())]
            .into_iter()
            .chain(self.sources.iter().map(|s| (s.name.as_str(), s.answer.as_str())))
            .collect();
        let untitled = Table { title: String::new(), ..table.clone() }.to_string();
        let used = untitled.lines().map(UnicodeWidthStr::width).max().unwrap_or(0);
        let fits = |text: &str| !text.contains(['\n', '\t']) && text.width() + used + 3 <= width;
        let mut lines = Vec::new();
        if answers.iter().all(|(_, text)| fits(&printable(text))) {
            self.with_answers(&mut table);
        } else {
            lines.extend([side_by_side(&answers, width), String::new()]);
        }
        lines.push(printable(&table.lines(Some(width))));
        lines.extend((!self.pieces().is_empty() && self.is_scored()).then(String::new));
        lines
    }

    /// Returns the table of the answer's likelihood under each model.
    fn numbers(&self) -> Table {
        let title = format!("log-likelihood of the answer of {}, in nats", self.model);
        let mut table = Table::new(title, ["model", "sum", "per token", "perplexity", "favours"]);
        let mut row = |name: &str, x: &Likelihood, favours: Option<usize>| {
            let number = |x: Option<f64>, digits: i32| {
                // Rounded here to avoid negative zeros.
                let unit = 10f64.powi(digits);
                x.map_or("-".into(), |x| {
                    format!("{:.*}", digits as usize, (x * unit).round() / unit + 0.0)
                })
            };
            table.rows.push(vec![
                printable(name),
                number((x.tokens > 0).then_some(x.log_likelihood), 2),
                number(x.nats_per_token(), 3),
                x.perplexity().map_or("-".into(), perplexity),
                favours.map_or("-".into(), |n| format!("{n} of {}", self.tokens.len())),
            ]);
        };
        row(&self.model, &self.likelihood, None);
        for (i, source) in self.sources.iter().enumerate() {
            row(
                &source.name,
                &source.likelihood,
                (source.is_merged && self.is_scored()).then(|| self.favours(i)),
            );
        }
        table
    }

    /// Adds a column of answers to `table`.
    fn with_answers(&self, table: &mut Table) {
        table.text_columns.insert(table.header.len());
        table.header.push("answer".into());
        let answers = [&self.text].into_iter().chain(self.sources.iter().map(|s| &s.answer));
        table
            .rows
            .iter_mut()
            .zip(answers)
            .for_each(|(row, answer)| row.push(printable(or_nothing(answer))));
    }

    fn mark(&self, token: &AnswerToken) -> TokenMark {
        let known = token
            .log_probs
            .iter()
            .zip(&self.sources)
            .filter(|(x, source)| x.is_some() && source.is_merged)
            .count();
        match token.favours {
            Some(i) => TokenMark::Source(i),
            None if known < 2 && self.is_scored() => TokenMark::Unknown,
            None => TokenMark::None,
        }
    }

    /// Whether the sources have scored the answer.
    fn is_scored(&self) -> bool {
        self.tokens.iter().all(|token| !token.log_probs.is_empty())
    }

    /// Returns the characters of the merge's answer, each with the mark of its token, in lines of
    /// at most `width` columns; empty if the answer has not been scored.
    fn marked(&self, width: usize) -> Vec<Vec<(char, TokenMark)>> {
        if !self.is_scored() {
            return Vec::new();
        }
        let marked = |token: AnswerToken| {
            let mark = self.mark(&token);
            printable(&token.text).chars().map(|c| (c, mark)).collect::<Vec<_>>()
        };
        let cells: Vec<(char, TokenMark)> = self.pieces().into_iter().flat_map(marked).collect();
        if cells.is_empty() { Vec::new() } else { wrap_cells(&cells, width) }
    }

    /// Returns the meaning of each mark: one per merged source, and the other marks that occur;
    /// empty without marks.
    fn legend(&self) -> Vec<(TokenMark, String)> {
        let pieces = self.pieces();
        if pieces.is_empty() || !self.is_scored() {
            return Vec::new();
        }
        let merged = self.sources.iter().enumerate().filter(|(_, source)| source.is_merged);
        let mut legend: Vec<(TokenMark, String)> =
            merged.map(|(i, source)| (TokenMark::Source(i), printable(&source.name))).collect();
        let met = |mark| pieces.iter().any(|token| self.mark(token) == mark);
        let others = [
            (TokenMark::None, format!("no source by more than {MARGIN} nats")),
            (TokenMark::Unknown, "at most one source has the token".to_owned()),
        ];
        legend.extend(others.into_iter().filter(|(mark, _)| met(*mark)));
        legend
    }

    /// Returns a letter for every source, from its name if it is free.
    fn letters(&self) -> Vec<char> {
        let mut taken = BTreeSet::new();
        let letter = |source: &SourceAnswer| {
            let own = source
                .name
                .chars()
                .map(|c| c.to_ascii_uppercase())
                .chain('A'..='Z')
                .chain('0'..='9');
            let free =
                own.filter(char::is_ascii_alphanumeric).find(|c| !taken.contains(c)).unwrap_or('#');
            taken.insert(free);
            free
        };
        self.sources.iter().map(letter).collect()
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let tokens = |n: usize| if n == 1 { "1 token".to_owned() } else { format!("{n} tokens") };
        for (i, source) in self.sources.iter().enumerate() {
            let (name, missed) = (
                printable(&source.name),
                self.tokens.iter().filter(|t| t.log_probs.get(i) == Some(&None)).count(),
            );
            if missed > 0 {
                notes.push(format!(
                    "{name} lacks {} of the answer, which its likelihood excludes",
                    tokens(missed)
                ));
            }
            if source.lacks_of_prompt > 0 {
                notes.push(format!(
                    "{name} lacks {} of the prompt, merged from other sources",
                    tokens(source.lacks_of_prompt)
                ));
            }
        }
        if self.tokens.is_empty() {
            notes.push(format!("the answer of {} is empty: nothing to compare", self.model));
        }
        if !self.is_scored() {
            notes.push(format!(
                "stopped before the sources had scored the answer of {}",
                self.model
            ));
        }
        notes.extend(self.full.map(full));
        notes.extend(self.stopped.then(|| STOPPED.to_owned()));
        notes
    }

    /// Shows it as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        cell(&self.html(), &self.to_string());
    }
}

impl Render for AskReport {
    fn html(&self) -> String {
        let mut table = self.numbers();
        self.with_answers(&mut table);
        let painted = |mark: TokenMark, title: &str, text: &str| {
            let style = match mark {
                TokenMark::Source(i) => {
                    let [r, g, b] = palette(i);
                    format!("background:rgba({r},{g},{b},0.4);border-radius:3px")
                }
                TokenMark::None => String::new(),
                TokenMark::Unknown => "text-decoration:underline dotted".to_owned(),
            };
            format!("<span style=\"{style}\" title=\"{}\">{}</span>", escape(title), escape(text))
        };
        let token = |token: &AnswerToken| {
            let x = |x: Option<f64>| {
                x.map_or("not in its vocabulary".to_owned(), |x| format!("{x:.3}"))
            };
            let log_probs = self
                .sources
                .iter()
                .zip(&token.log_probs)
                .map(|(s, log_prob)| format!("{}: {}", printable(&s.name), x(*log_prob)));
            painted(
                self.mark(token),
                &log_probs.collect::<Vec<_>>().join(", "),
                &printable(&token.text),
            )
        };
        let tokens: String = self.pieces().iter().map(token).collect();
        let legend: Vec<String> =
            self.legend().iter().map(|(mark, name)| painted(*mark, "", name)).collect();
        let mut html = table.html();
        let put = |html: &mut String, text: fmt::Arguments<'_>| html.write_fmt(text).unwrap_or(());
        put(
            &mut html,
            format_args!(
                "<p style=\"white-space:pre-wrap;line-height:1.6\">{tokens}</p><p>{}</p>",
                legend.join(" ")
            ),
        );
        for note in self.notes() {
            html += &paragraph(&note);
        }
        html
    }

    fn lines(&self, columns: Option<usize>) -> String {
        Self::lines(self, columns.unwrap_or(COLUMNS))
    }
}

impl fmt::Display for AskReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(COLUMNS))
    }
}

/// Returns the nearest of the 6 x 6 x 6 colours of 256-colour terminals, for a slightly lighter
/// colour: the blue of the figures is hard to read on black.
fn ansi(colour: [u8; 3]) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    const LIGHTER: u8 = 15;
    let nearest = |x: u8| {
        (0..6u8)
            .min_by_key(|i| LEVELS[usize::from(*i)].abs_diff(x.saturating_add(LIGHTER)))
            .unwrap_or(0)
    };
    let [r, g, b] = colour.map(nearest);
    16 + 36 * r + 6 * g + b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> AskReport {
        let source = |name: &str, is_merged| SourceAnswer {
            name: name.into(),
            answer: "a <b>".into(),
            likelihood: Likelihood::of([Some(-1.0)]),
            is_merged,
            lacks_of_prompt: 0,
        };
        let token = |text: &str, favours, known: bool| {
            let log_probs = vec![Some(-0.5), known.then_some(-1.0), Some(-2.0)];
            AnswerToken { text: text.into(), log_probs, favours }
        };
        AskReport {
            prompt: "p".into(),
            model: "DAM".into(),
            text: "十二 + \x1b[2J<7>".into(),
            likelihood: Likelihood::default(),
            sources: vec![source("math", true), source("m\x1b2", true), source("base", false)],
            tokens: vec![
                token("十二", Some(0), true),
                token(" +", Some(1), true),
                token(" \x1b[2J", None, true),
                token("<7>", None, false),
            ],
            stopped: false,
            full: None,
        }
    }

    #[test]
    fn tokens_are_marked_by_letters_below_them() {
        let text = asked().lines(80);
        let lines: Vec<&str> = text.lines().collect();
        // The answers are in the table if they fit, and else above it.
        assert!(
            lines[3].starts_with(" DAM ") && lines[3].ends_with("十二 + \u{fffd}[2J<7>"),
            "{text}"
        );
        assert!(asked().lines(40).starts_with("DAM "));
        let at = lines.iter().rposition(|line| line.starts_with("十二 + ")).unwrap();
        assert_eq!(
            lines[at..at + 3],
            [
                "十二 + \u{fffd}[2J<7>",
                "MMMM22 ....???",
                "M math   2 m\u{fffd}2   . no source by more than 0.05 nats   ? at most one source has the token"
            ]
        );
        assert!(text.contains("m\u{fffd}2 lacks 1 token of the answer"), "{text}");
        assert!(
            lines.iter().any(|line| line.starts_with(" base") && line.contains(" - ")),
            "{text}"
        );
    }

    /// By hand: the first source is behind at the last token of the character and ahead over both.
    #[test]
    fn tokens_of_one_character_are_joined() {
        let mut asked = asked();
        let token = |text: &str, a, b| AnswerToken {
            text: text.into(),
            log_probs: vec![a, b, Some(0.0)],
            favours: Some(1),
        };
        asked.tokens = vec![
            token("", Some(-0.5), Some(-3.0)),
            token("高", Some(-0.25), Some(-0.125)),
            token("い", None, None),
        ];
        let pieces = asked.pieces();
        assert_eq!(
            pieces[0],
            AnswerToken { favours: Some(0), ..token("高", Some(-0.75), Some(-3.125)) }
        );
        assert_eq!((pieces.len(), &pieces[1]), (2, &asked.tokens[2]));
        asked.tokens[1].log_probs[0] = None;
        assert_eq!(asked.pieces()[0].favours, None);
    }

    /// After a stop, the answer is shown without marks.
    #[test]
    fn an_answer_that_was_not_scored_has_no_marks() {
        let mut asked = AskReport { stopped: true, ..asked() };
        asked
            .tokens
            .iter_mut()
            .for_each(|token| (token.log_probs, token.favours) = (Vec::new(), None));
        let text = asked.lines(80);
        assert!(
            text.contains("十二 + ")
                && text.contains("stopped before the sources had scored the answer"),
            "{text}"
        );
        assert!(
            !text.contains("lacks")
                && !text.contains("no source by more")
                && !text.contains(" of 4"),
            "{text}"
        );
    }

    /// No output of a model and no name can send control sequences to a terminal, with or without
    /// colours.
    #[test]
    fn output_contains_no_other_control_sequences() {
        let text = asked().coloured(40);
        let codes = ["\x1b[1;38;5;31m", "\x1b[1;38;5;214m", "\x1b[4m", "\x1b[0m"];
        assert!(codes.iter().all(|code| text.contains(code)), "{text:?}");
        let plain = codes.iter().fold(text, |text, code| text.replace(code, ""));
        assert!(plain.chars().all(|c| !c.is_control() || c == '\n'), "{plain:?}");
        assert!(plain.contains("十二 + \u{fffd}[2J<7>"));
    }

    #[test]
    fn html_is_escaped() {
        let html = asked().html();
        assert!(
            html.contains("&lt;7&gt;")
                && html.contains("a &lt;b&gt;")
                && !html.contains("<7>")
                && !html.contains('\x1b')
        );
        assert!(
            html.contains("rgba(0,114,178,0.4)") && html.contains("title=\"math: -0.500, m"),
            "{html}"
        );
    }
}
