//! The line editor: rustyline with completion, hints and checks from the verbs. The prelude decides
//! what a line means; this module only displays it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dam_prelude::assist::{Candidate, check, complete, is_possible, next};
use dam_prelude::verbs::{Context, is_complete};
use rustyline::completion::Completer;
use rustyline::config::{BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hint, Hinter};
use rustyline::history::SearchDirection;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, EditMode, Event, EventContext,
    EventHandler, InputMode, KeyCode, KeyEvent, Modifiers, RepeatCount, Result,
};

use super::colour::{Colour, Style, without_escapes};
use super::highlight::highlighted;
use super::history::{self, LineHistory};
use super::prompt::prompt;

/// Lines longer than this, in bytes, are edited without colours, hints and checks.
const ANALYSED_BYTES: usize = 4_000;

/// The number of history entries searched for a hint.
const HINT_ENTRIES: usize = 20;

/// The longest line that can be typed, in bytes: the editor redraws the line with every row it
/// grows by. Bracketed paste is not limited.
const TYPED_BYTES: usize = 32_000;

/// The key bindings of the line editor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    #[default]
    Emacs,
    Vi,
}

/// The result of reading a line.
pub enum Input {
    Text(String),
    /// Input that is refused: the reason and a hint.
    Refused(String, &'static str),
}

/// The line editor of a session.
pub struct Editor {
    editor: rustyline::Editor<Helper, LineHistory>,
    context: Rc<RefCell<Context>>,
    colour: Colour,
    flags: KeyFlags,
}

/// Flags that key handlers set on the current line.
#[derive(Clone, Default)]
struct KeyFlags {
    /// The line reached the length limit.
    too_long: Arc<AtomicBool>,
    /// The line was cancelled with Ctrl-C.
    cancelled: Arc<AtomicBool>,
}

impl Editor {
    pub fn new(keys: Keys, context: Rc<RefCell<Context>>) -> Result<Self> {
        let colour = Colour::from_env();
        // Colour is decided here. Forced mode keeps the highlighter active without it, because the
        // highlighter also removes control characters.
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .completion_show_all_if_ambiguous(true)
            .completion_prompt_limit(200)
            .bell_style(BellStyle::None)
            .keyseq_timeout(Some(100))
            .color_mode(ColorMode::Forced)
            .edit_mode(if keys == Keys::Vi { EditMode::Vi } else { EditMode::Emacs })
            .build();
        let mut editor =
            rustyline::Editor::with_history(config, LineHistory::open(history::path()))?;
        let flags = KeyFlags::default();
        editor.set_helper(Some(Helper {
            context: context.clone(),
            colour,
            columns: 80,
            is_question: false,
            flags: flags.clone(),
        }));
        editor.bind_sequence(
            Event::Any,
            EventHandler::Conditional(Box::new(KeyHandler(flags.clone()))),
        );
        Ok(Self { editor, context, colour, flags })
    }

    /// Reads the next line, which may span several rows, and adds it to the history.
    ///
    /// # Errors
    /// Ctrl-C, the end of input, or a closed terminal.
    pub fn line(&mut self) -> Result<Input> {
        let columns = self.columns();
        let prompt = prompt(&self.context.borrow(), columns, self.colour);
        let line = self.read((prompt.plain, prompt.coloured))?;
        if let Input::Text(text) = &line {
            self.editor.add_history_entry(text.trim_end())?;
        }
        Ok(line)
    }

    /// Asks a question and reads the answer.
    ///
    /// # Errors
    /// As for [`Editor::line`].
    pub fn ask(&mut self, question: &str) -> Result<Input> {
        self.columns();
        if let Some(helper) = self.editor.helper_mut() {
            helper.is_question = true;
        }
        let answer = self.read((question.to_owned(), self.colour.paint(Style::Bold, question)));
        if let Some(helper) = self.editor.helper_mut() {
            helper.is_question = false;
        }
        answer
    }

    fn read(&mut self, prompt: (String, String)) -> Result<Input> {
        for flag in [&self.flags.too_long, &self.flags.cancelled] {
            flag.store(false, Ordering::Relaxed);
        }
        match self.editor.readline(&prompt) {
            Ok(_) if self.flags.cancelled.load(Ordering::Relaxed) => {
                Err(ReadlineError::Interrupted)
            }
            Ok(_) if self.flags.too_long.load(Ordering::Relaxed) => {
                let message = format!("a line of more than {TYPED_BYTES} bytes cannot be typed");
                Ok(Input::Refused(message, "put it in a file: dam run FILE"))
            }
            Ok(text) => Ok(Input::Text(text)),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                discard();
                let message = "the input is not UTF-8; the line was discarded".to_owned();
                Ok(Input::Refused(message, "set the terminal to UTF-8"))
            }
            Err(error) => Err(error),
        }
    }

    /// The width of the terminal, which is also stored for completion.
    fn columns(&mut self) -> usize {
        let columns = self.editor.dimensions().map_or(80, |(columns, _)| usize::from(columns));
        if let Some(helper) = self.editor.helper_mut() {
            helper.columns = columns;
        }
        columns
    }
}

/// Discards pending input: the rest of an invalid line must not run.
fn discard() {
    #[cfg(unix)]
    {
        // SAFETY: tcflush takes a file descriptor and no pointers; failure is harmless.
        unsafe { libc::tcflush(libc::STDIN_FILENO, libc::TCIFLUSH) };
    }
}

/// The callbacks of rustyline.
struct Helper {
    context: Rc<RefCell<Context>>,
    colour: Colour,
    columns: usize,
    /// Whether the line is the answer to a question, not a statement.
    is_question: bool,
    flags: KeyFlags,
}

impl Helper {
    /// The session, if the line is a statement short enough to analyse at every key.
    fn session_for(&self, line: &str) -> Option<std::cell::Ref<'_, Context>> {
        if self.is_question || line.len() > ANALYSED_BYTES {
            None
        } else {
            self.context.try_borrow().ok()
        }
    }
}

/// A completion candidate: the text listed and the text inserted.
pub struct ListedCandidate {
    shown: String,
    text: String,
}

impl rustyline::completion::Candidate for ListedCandidate {
    fn display(&self) -> &str {
        &self.shown
    }

    fn replacement(&self) -> &str {
        &self.text
    }
}

impl Completer for Helper {
    type Candidate = ListedCandidate;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> Result<(usize, Vec<ListedCandidate>)> {
        let Some(context) = self.session_for(line) else { return Ok((position, Vec::new())) };
        let found = complete(&context, line, position);
        let ends = line[position..].starts_with(char::is_whitespace) || position == line.len();
        let listed = match found.candidates.as_slice() {
            // A complete word is followed by a space.
            [one] if one.whole && ends => {
                vec![ListedCandidate { shown: one.text.clone(), text: format!("{} ", one.text) }]
            }
            all => list_candidates(all, self.columns),
        };
        Ok((found.start, listed))
    }
}

/// The candidates with their descriptions, as far as the terminal is wide enough.
fn list_candidates(all: &[Candidate], columns: usize) -> Vec<ListedCandidate> {
    /// Longer lists have no descriptions.
    const LINES: usize = 40;
    // Only the last component of a path is shown.
    let name = |text: &str| {
        let end = text.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
        let name =
            if all.iter().all(|c| c.text.starts_with(&text[..end])) { &text[end..] } else { text };
        without_escapes(name)
    };
    let names: Vec<String> = all.iter().map(|c| name(&c.text)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let one = |(name, candidate): (&String, &Candidate)| {
        let about = if all.len() <= LINES { candidate.about.as_str() } else { "" };
        let room = columns.saturating_sub(width + 5);
        let about: String = without_escapes(about).chars().take(room).collect();
        let gap = if about.is_empty() {
            String::new()
        } else {
            " ".repeat(width - name.chars().count() + 2)
        };
        ListedCandidate { shown: format!("{name}{gap}{about}"), text: candidate.text.clone() }
    };
    let mut listed: Vec<ListedCandidate> = names.iter().zip(all).map(one).collect();
    // A candidate wider than half of the terminal makes rustyline list one per row.
    if listed.iter().any(|one| one.shown.contains("  "))
        && let Some(first) = listed.first_mut()
    {
        let padding = (columns / 2).saturating_sub(first.shown.chars().count());
        first.shown.push_str(&" ".repeat(padding));
    }
    listed
}

/// The grey text after the line: a completion, or only a remark.
pub struct HintText {
    shown: String,
    text: Option<String>,
}

impl Hint for HintText {
    fn display(&self) -> &str {
        &self.shown
    }

    fn completion(&self) -> Option<&str> {
        self.text.as_deref()
    }
}

impl Hinter for Helper {
    type Hint = HintText;

    fn hint(
        &self,
        line: &str,
        position: usize,
        editor: &rustyline::Context<'_>,
    ) -> Option<HintText> {
        let context = self.session_for(line)?;
        if position < line.len() {
            return None;
        }
        if !is_complete(line) {
            let remark = if line.contains('\n') {
                "  (unclosed quotation mark: close it, or press Ctrl-C to start over)"
            } else {
                return None;
            };
            return Some(HintText { shown: remark.into(), text: None });
        }
        let earlier = || {
            let history = editor.history();
            let mut at = history.len();
            for _ in 0..HINT_ENTRIES {
                let found = history
                    .starts_with(line, at.checked_sub(1)?, SearchDirection::Reverse)
                    .ok()??;
                let rest = found
                    .entry
                    .get(line.len()..)
                    .filter(|rest| !rest.is_empty() && !rest.contains(char::is_control));
                // Lines that would fail now are not suggested.
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
        // Without colours a hint would look like typed text.
        let shown = if self.colour == Colour::On {
            without_escapes(&text)
        } else {
            format!("({})", without_escapes(&text))
        };
        Some(HintText { shown, text: Some(text) })
    }
}

impl Highlighter for Helper {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        if line.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            return Cow::Owned(without_escapes(line));
        }
        match self.session_for(line) {
            Some(context) if self.colour == Colour::On => Cow::Owned(highlighted(&context, line)),
            _ => Cow::Borrowed(line),
        }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.colour.paint(Style::Dim, hint))
    }

    fn highlight_candidate<'c>(&self, candidate: &'c str, _: CompletionType) -> Cow<'c, str> {
        match candidate.split_once("  ") {
            Some((name, about)) => {
                Cow::Owned(format!("{name}  {}", self.colour.paint(Style::Dim, about)))
            }
            None => Cow::Borrowed(candidate),
        }
    }

    fn highlight_char(&self, line: &str, _: usize, _: CmdKind) -> bool {
        self.colour == Colour::On && line.len() <= ANALYSED_BYTES && !self.is_question
    }
}

impl Validator for Helper {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> Result<ValidationResult> {
        let cancelled = self.flags.cancelled.load(Ordering::Relaxed);
        let goes_on = !cancelled && !self.is_question && !is_complete(typed.input());
        Ok(if goes_on { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl rustyline::Helper for Helper {}

/// Runs before the default action of every key.
struct KeyHandler(KeyFlags);

impl ConditionalEventHandler for KeyHandler {
    fn handle(
        &self,
        event: &Event,
        _: RepeatCount,
        _: bool,
        editor: &EventContext<'_>,
    ) -> Option<Cmd> {
        let Event::KeySeq(keys) = event else { return None };
        let inserts = editor.mode() == EditMode::Emacs || editor.input_mode() != InputMode::Command;
        match keys.as_slice() {
            [KeyEvent(KeyCode::Char('C'), Modifiers::CTRL)] => {
                // The editor's own cancel would also discard the keys typed after it.
                self.0.cancelled.store(true, Ordering::Relaxed);
                Some(Cmd::AcceptLine)
            }
            [
                KeyEvent(KeyCode::Char('E' | 'F'), Modifiers::CTRL)
                | KeyEvent(KeyCode::End, Modifiers::NONE),
            ] if editor.hint_text().is_some() && editor.pos() == editor.line().len() => {
                Some(Cmd::CompleteHint)
            }
            [KeyEvent(KeyCode::Char(_), Modifiers::NONE)]
                if inserts && editor.line().len() >= TYPED_BYTES =>
            {
                self.0.too_long.store(true, Ordering::Relaxed);
                Some(Cmd::Noop)
            }
            _ => None,
        }
    }
}
