//! The Rust prompt: notebook cells without Jupyter.

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

/// A running evcxr with the prelude in scope.
pub struct Rust {
    cells: Arc<Cells>,
    engine: Engine,
    output: Arc<Output>,
    completer: Completer,
    count: usize,
    _directory: tempfile::TempDir,
}

impl Rust {
    /// Starts evcxr with its output on the terminal.
    ///
    /// # Errors
    /// There is no compiler or source, or the prelude does not build.
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
        let engine = cells.start_telling(|| note("building the prelude for the Rust prompt: a few minutes, once"))?;
        Ok(Self { cells, engine, output, completer: Completer::default(), count: 0, _directory: directory })
    }

    /// A function that interrupts the running cell.
    pub fn interrupt(&self) -> impl Fn() + Send + 'static {
        let cells = Arc::clone(&self.cells);
        move || cells.interrupt()
    }

    /// Runs a cell.
    ///
    /// # Errors
    /// The failure of the cell.
    pub fn run(&mut self, cell: &str) -> Result<(), Failure> {
        self.count += 1;
        self.output.begin(&JupyterMessage::new(ExecuteRequest::new(cell.into()), None), self.count);
        self.completer.forget();
        self.cells.run(&mut self.engine, cell, self.count, &|_, _| None)
    }

    /// Saves the latest merge to `file`.
    ///
    /// # Errors
    /// There is no merge, or the file is not writable.
    pub fn save(&self, file: &Path) -> Result<(), Failure> {
        self.cells.save(file)
    }

    /// The completions at byte `position` of `code`: where they start, and the words.
    pub fn complete(&mut self, code: &str, position: usize) -> (usize, Vec<String>) {
        let cursor = super::code::cursor(code, position);
        let found = self.completer.complete(&mut self.engine, code, cursor);
        (super::code::position(code, found.start), found.words)
    }

    /// Whether `code` is incomplete.
    pub fn goes_on(code: &str) -> bool {
        matches!(whole(code), Whole::No(_))
    }
}

impl Drop for Rust {
    fn drop(&mut self) {
        self.cells.shut_down();
    }
}

/// Shows the output of cells on the terminal.
#[derive(Default)]
struct Live {
    /// The live display and its id.
    picture: Option<(String, ProgressBar)>,
}

impl Live {
    fn show(&mut self, message: &JupyterMessage) {
        let content = json!(message.content);
        let plain = &content["data"]["text/plain"];
        // The table of variables is updated only between cells, and is not live here.
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

    /// Leaves the live display as it is; further output appears below it.
    fn leave(&mut self) {
        if let Some((_, bar)) = self.picture.take() {
            bar.abandon();
        }
    }
}

impl Failure {
    /// The failure as text, with colours if the terminal has them.
    pub fn told(&self) -> String {
        let text = self.lines.join("\n");
        if terminal::has_colours() { text } else { console::strip_ansi_codes(&text).into_owned() }
    }
}
