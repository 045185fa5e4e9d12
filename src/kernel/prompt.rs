//! Rust at a prompt: what cells of a notebook are, without Jupyter.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use jupyter_protocol::messaging::{ExecuteRequest, JupyterMessage};
use serde_json::{Value, json};

use super::cell::{Cells, VARIABLES};
use super::code::{Whole, whole};
use super::complete::Completer;
use super::engine::Engine;
use super::failure::Failure;
use super::link::Link;
use super::output::Output;
use crate::render::{Output as Screen, note};
use crate::terminal;

/// evcxr with the prelude in scope.
pub struct Rust {
    cells: Arc<Cells>,
    engine: Engine,
    output: Arc<Output>,
    completer: Completer,
    count: usize,
    _directory: tempfile::TempDir,
}

impl Rust {
    /// Starts it; what it says goes to the terminal.
    ///
    /// # Errors
    /// No compiler or source, a prelude that does not build.
    pub fn start() -> Result<Self> {
        let directory = super::own_directory()?;
        let socket = directory.path().join("rust");
        super::forget_cargo();
        super::cargo::stand_in(directory.path(), &socket)?;
        let live = Mutex::new(Live::default());
        let output = Output::new(move |message| live.lock().unwrap_or_else(PoisonError::into_inner).show(&message));
        let said = Arc::clone(&output);
        let link = Link::listen(&socket, move |message| said.take(&message))?;
        let cells = Arc::new(Cells::new(link, Arc::clone(&output), socket));
        let engine = cells.start_telling(|| note("building the prelude for Rust at the prompt: some minutes, once"))?;
        Ok(Self { cells, engine, output, completer: Completer::default(), count: 0, _directory: directory })
    }

    /// What stops a cell that runs.
    pub fn interrupt(&self) -> impl Fn() + Send + 'static {
        let cells = Arc::clone(&self.cells);
        move || cells.interrupt()
    }

    /// Runs a cell.
    ///
    /// # Errors
    /// Why it failed.
    pub fn run(&mut self, cell: &str) -> Result<(), Failure> {
        self.count += 1;
        self.output.begin(&JupyterMessage::new(ExecuteRequest::new(cell.into()), None), self.count);
        self.completer.forget();
        self.cells.run(&mut self.engine, cell, self.count, &|_, _| None)
    }

    /// Writes the merge that was made last to `file`.
    ///
    /// # Errors
    /// None was, or a place that may not be written.
    pub fn save(&self, file: &Path) -> Result<(), Failure> {
        self.cells.save(file)
    }

    /// The words that could stand at byte `position` of `code`: where they begin, and themselves.
    pub fn complete(&mut self, code: &str, position: usize) -> (usize, Vec<String>) {
        let cursor = super::code::cursor(code, position);
        let found = self.completer.complete(&mut self.engine, code, cursor);
        (super::code::position(code, found.start), found.words)
    }

    /// Whether more lines belong to `code`.
    pub fn goes_on(code: &str) -> bool {
        matches!(whole(code), Whole::No(_))
    }
}

impl Drop for Rust {
    fn drop(&mut self) {
        self.cells.shut_down();
    }
}

/// What a cell shows, on the terminal.
#[derive(Default)]
struct Live {
    /// A picture that changes, and its id.
    picture: Option<(String, ProgressBar)>,
}

impl Live {
    fn show(&mut self, message: &JupyterMessage) {
        let content = json!(message.content);
        let plain = &content["data"]["text/plain"];
        // What changes only after a cell stays as it is.
        let id = content["transient"]["display_id"].as_str().filter(|id| *id != VARIABLES);
        match (message.message_type(), id) {
            ("update_display_data", Some(id)) | ("display_data", Some(id)) => self.change(id, plain),
            ("clear_output", _) => {
                if let Some((_, bar)) = self.picture.take() {
                    bar.finish_and_clear();
                }
            }
            ("stream", _) => {
                self.leave();
                let text = content["text"].as_str().unwrap_or_default();
                let _ = match content["name"] == "stderr" {
                    true => write!(std::io::stderr(), "{text}"),
                    false => write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush()),
                };
            }
            ("display_data" | "execute_result", _) => {
                self.leave();
                Screen { json: false }.say(plain.as_str().unwrap_or_default());
            }
            _ => {}
        }
    }

    fn change(&mut self, id: &str, plain: &Value) {
        if self.picture.as_ref().is_none_or(|(shown, _)| shown != id) {
            self.leave();
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            self.picture = Some((id.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.picture {
            bar.set_message(plain.as_str().unwrap_or_default().to_owned());
            bar.tick();
        }
    }

    /// What is shown next stands below.
    fn leave(&mut self) {
        if let Some((_, bar)) = self.picture.take() {
            bar.abandon();
        }
    }
}

impl Failure {
    /// On the terminal, with colours where they are wanted.
    pub fn told(&self) -> String {
        let text = self.lines.join("\n");
        if terminal::has_colours() { text } else { console::strip_ansi_codes(&text).into_owned() }
    }
}
