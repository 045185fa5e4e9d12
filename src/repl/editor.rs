//! The line editor: rustyline with what the verbs know. What a line means, may become and lacks is the library's to
//! say; here it is only shown.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dam_prelude::verbs::{Candidate, Context, check, complete, is_complete, is_possible, next};
use rustyline::completion::Completer;
use rustyline::config::{BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::history::SearchDirection;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, EditMode, Event, EventContext, EventHandler, InputMode, KeyCode,
    KeyEvent, Modifiers, RepeatCount, Result,
};

use super::colour::{Colour, Look, shown};
use super::highlight::highlighted;
use super::history::{self, Lines};
use super::prompt::prompt;

/// Longer lines are edited without colours, hints and checks.
const LONG: usize = 4_000;

/// Lines of the history that are looked at for a hint.
const LOOKED_AT: usize = 20;

/// Longer lines cannot be typed: the editor draws a line anew with every row that it grows by. Pasted text that the
/// terminal marks as such may be of any length.
const LONGEST: usize = 32_000;

/// The keys that edit a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    #[default]
    Emacs,
    Vi,
}

/// What was entered.
pub enum Line {
    Text(String),
    /// Something that is not taken: why, and what to do.
    Refused(String, &'static str),
}

/// The line editor of a session.
pub struct Editor {
    editor: rustyline::Editor<Helper, Lines>,
    context: Rc<RefCell<Context>>,
    colour: Colour,
    marks: Marks,
}

/// What keys have said of the line that is typed.
#[derive(Clone, Default)]
struct Marks {
    /// It was too long to be typed.
    overflown: Arc<AtomicBool>,
    /// It was given up.
    dropped: Arc<AtomicBool>,
}

impl Editor {
    pub fn new(keys: Keys, context: Rc<RefCell<Context>>) -> Result<Self> {
        let colour = Colour::from_env();
        // Whether to colour is decided here: what is no colour, such as control characters, is always looked at.
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .completion_prompt_limit(200)
            .bell_style(BellStyle::None)
            .keyseq_timeout(Some(100))
            .color_mode(ColorMode::Forced)
            .edit_mode(if keys == Keys::Vi { EditMode::Vi } else { EditMode::Emacs })
            .build();
        let mut editor = rustyline::Editor::with_history(config, Lines::open(history::place()))?;
        let marks = Marks::default();
        editor.set_helper(Some(Helper { context: context.clone(), colour, columns: 80, asks: false, marks: marks.clone() }));
        editor.bind_sequence(Event::Any, EventHandler::Conditional(Box::new(Any(marks.clone()))));
        Ok(Self { editor, context, colour, marks })
    }

    /// The next line, which may be of several, and is kept in the history.
    ///
    /// # Errors
    /// Ctrl-C, the end of input, or a terminal that is gone.
    pub fn line(&mut self) -> Result<Line> {
        let columns = self.columns();
        let prompt = prompt(&self.context.borrow(), columns, self.colour);
        let line = self.read((prompt.plain, prompt.coloured))?;
        if let Line::Text(text) = &line {
            self.editor.add_history_entry(text.trim_end())?;
        }
        Ok(line)
    }

    /// The answer to a question.
    ///
    /// # Errors
    /// As for [`Editor::line`].
    pub fn ask(&mut self, question: &str) -> Result<Line> {
        self.columns();
        if let Some(helper) = self.editor.helper_mut() {
            helper.asks = true;
        }
        let answer = self.read((question.to_owned(), self.colour.paint(Look::Strong, question)));
        if let Some(helper) = self.editor.helper_mut() {
            helper.asks = false;
        }
        answer
    }

    fn read(&mut self, prompt: (String, String)) -> Result<Line> {
        for mark in [&self.marks.overflown, &self.marks.dropped] {
            mark.store(false, Ordering::Relaxed);
        }
        match self.editor.readline(&prompt) {
            Ok(_) if self.marks.dropped.load(Ordering::Relaxed) => Err(ReadlineError::Interrupted),
            Ok(_) if self.marks.overflown.load(Ordering::Relaxed) => {
                let message = format!("a line of more than {LONGEST} bytes cannot be typed");
                Ok(Line::Refused(message, "put it in a file: dam run FILE"))
            }
            Ok(text) => Ok(Line::Text(text)),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                discard();
                let message = "what was typed is not UTF-8, and the line is dropped".to_owned();
                Ok(Line::Refused(message, "set the terminal to UTF-8"))
            }
            Err(error) => Err(error),
        }
    }

    /// The terminal's width, which completion will keep to.
    fn columns(&mut self) -> usize {
        let columns = self.editor.dimensions().map_or(80, |(columns, _)| usize::from(columns));
        if let Some(helper) = self.editor.helper_mut() {
            helper.columns = columns;
        }
        columns
    }
}

/// Drops what was typed and not read: the rest of something that went wrong is not to be run.
fn discard() {
    #[cfg(unix)]
    {
        // SAFETY: a call on standard input, which is there; that it fails changes nothing.
        unsafe { libc::tcflush(libc::STDIN_FILENO, libc::TCIFLUSH) };
    }
}

/// What rustyline asks while one types.
struct Helper {
    context: Rc<RefCell<Context>>,
    colour: Colour,
    columns: usize,
    /// Whether a question is asked, whose answer is no statement.
    asks: bool,
    marks: Marks,
}

impl Helper {
    /// The session, where the line is one of statements that can be looked at with every key.
    fn looks(&self, line: &str) -> Option<std::cell::Ref<'_, Context>> {
        if self.asks || line.len() > LONG { None } else { self.context.try_borrow().ok() }
    }
}

/// A candidate as it is listed, and as it is put in the line.
pub struct Listed {
    shown: String,
    text: String,
}

impl rustyline::completion::Candidate for Listed {
    fn display(&self) -> &str {
        &self.shown
    }

    fn replacement(&self) -> &str {
        &self.text
    }
}

impl Completer for Helper {
    type Candidate = Listed;

    fn complete(&self, line: &str, position: usize, _: &rustyline::Context<'_>) -> Result<(usize, Vec<Listed>)> {
        let Some(context) = self.looks(line) else { return Ok((position, Vec::new())) };
        let found = complete(&context, line, position);
        let ends = line[position..].starts_with(char::is_whitespace) || position == line.len();
        let listed = match found.candidates.as_slice() {
            // Behind a word that is whole another follows.
            [one] if one.whole && ends => vec![Listed { shown: one.text.clone(), text: format!("{} ", one.text) }],
            all => listed(all, self.columns),
        };
        Ok((found.start, listed))
    }
}

/// Candidates that list what they are, where there is room for a line each.
fn listed(all: &[Candidate], columns: usize) -> Vec<Listed> {
    /// More would not be seen at once.
    const LINES: usize = 40;
    // Of paths only the last part is shown.
    let name = |text: &str| {
        let end = text.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
        let name = if all.iter().all(|c| c.text.starts_with(&text[..end])) { &text[end..] } else { text };
        shown(name)
    };
    let names: Vec<String> = all.iter().map(|c| name(&c.text)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let one = |(name, candidate): (&String, &Candidate)| {
        let about = if all.len() <= LINES { candidate.about.as_str() } else { "" };
        let room = columns.saturating_sub(width + 5);
        let about: String = shown(about).chars().take(room).collect();
        let gap = if about.is_empty() { String::new() } else { " ".repeat(width - name.chars().count() + 2) };
        Listed { shown: format!("{name}{gap}{about}"), text: candidate.text.clone() }
    };
    let mut listed: Vec<Listed> = names.iter().zip(all).map(one).collect();
    // One that is wider than half of the terminal makes the list one of a line each.
    if listed.iter().any(|one| one.shown.contains("  "))
        && let Some(first) = listed.first_mut()
    {
        let lacks = (columns / 2).saturating_sub(first.shown.chars().count());
        first.shown.push_str(&" ".repeat(lacks));
    }
    listed
}

/// A grey text behind the line: what it may go on to, or only a remark.
pub struct Grey {
    shown: String,
    text: Option<String>,
}

impl Hint for Grey {
    fn display(&self) -> &str {
        &self.shown
    }

    fn completion(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl Hinter for Helper {
    type Hint = Grey;

    fn hint(&self, line: &str, position: usize, editor: &rustyline::Context<'_>) -> Option<Grey> {
        let context = self.looks(line)?;
        if position < line.len() {
            return None;
        }
        if !is_complete(line) {
            let remark =
                if line.contains('\n') { "  (a quotation mark is open: close it, or Ctrl-C begins anew)" } else { return None };
            return Some(Grey { shown: remark.into(), text: None });
        }
        let earlier = || {
            let history = editor.history();
            let mut at = history.len();
            for _ in 0..LOOKED_AT {
                let found = history.starts_with(line, at.checked_sub(1)?, SearchDirection::Reverse).ok()??;
                let rest = found.entry.get(line.len()..).filter(|rest| !rest.is_empty() && !rest.contains(char::is_control));
                // What would fail now, perhaps as it did then, is nothing to go on to.
                if let Some(rest) = rest
                    && is_possible(&context, &found.entry)
                    && check(&context, &found.entry).is_empty()
                {
                    return Some(rest.to_owned());
                }
                at = found.idx;
            }
            None
        };
        let likely = || next(&context).strip_prefix(line).map(str::to_owned);
        let text = if line.is_empty() { likely() } else { earlier().or_else(likely) };
        let text = text.filter(|text| !text.is_empty())?;
        // Without colours it would look like what was typed.
        let shown = if self.colour == Colour::On { shown(&text) } else { format!("({})", shown(&text)) };
        Some(Grey { shown, text: Some(text) })
    }
}

impl Highlighter for Helper {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if line.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            return Cow::Owned(shown(line));
        }
        match self.looks(line) {
            Some(context) if self.colour == Colour::On => Cow::Owned(highlighted(&context, line)),
            _ => Cow::Borrowed(line),
        }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.colour.paint(Look::Quiet, hint))
    }

    fn highlight_candidate<'c>(&self, candidate: &'c str, _: CompletionType) -> Cow<'c, str> {
        match candidate.split_once("  ") {
            Some((name, about)) => Cow::Owned(format!("{name}  {}", self.colour.paint(Look::Quiet, about))),
            None => Cow::Borrowed(candidate),
        }
    }

    fn highlight_char(&self, line: &str, _: usize, _: CmdKind) -> bool {
        self.colour == Colour::On && line.len() <= LONG && !self.asks
    }
}

impl Validator for Helper {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> Result<ValidationResult> {
        let dropped = self.marks.dropped.load(Ordering::Relaxed);
        let goes_on = !dropped && !self.asks && !is_complete(typed.input());
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl rustyline::Helper for Helper {}

/// What every key does first.
struct Any(Marks);

impl ConditionalEventHandler for Any {
    fn handle(&self, event: &Event, _: RepeatCount, _: bool, editor: &EventContext<'_>) -> Option<Cmd> {
        let Event::KeySeq(keys) = event else { return None };
        let inserts = editor.mode() == EditMode::Emacs || editor.input_mode() != InputMode::Command;
        match keys.as_slice() {
            [KeyEvent(KeyCode::Char('C'), Modifiers::CTRL)] => {
                // The editor's own way to give a line up forgets what was typed behind it.
                self.0.dropped.store(true, Ordering::Relaxed);
                Some(Cmd::AcceptLine)
            }
            [KeyEvent(KeyCode::Char('E' | 'F'), Modifiers::CTRL) | KeyEvent(KeyCode::End, Modifiers::NONE)]
                if editor.hint_text().is_some() && editor.pos() == editor.line().len() =>
            {
                Some(Cmd::CompleteHint)
            }
            [KeyEvent(KeyCode::Char(_), Modifiers::NONE)] if inserts && editor.line().len() >= LONGEST => {
                self.0.overflown.store(true, Ordering::Relaxed);
                Some(Cmd::Noop)
            }
            _ => None,
        }
    }
}
