//! The Rust prompt: notebook cells without Jupyter.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use jupyter_protocol::messaging::{ExecuteRequest, JupyterMessage};
use serde_json::{Value, json};

use crate::kernel::cargo::wrapper::install_wrapper;
use crate::kernel::cells::cell::{Cells, VARIABLES};
use crate::kernel::cells::code::{self, Completeness, completeness};
use crate::kernel::cells::complete::Completer;
use crate::kernel::cells::engine::Engine;
use crate::kernel::cells::failure::Failure;
use crate::kernel::cells::output::CellOutput;
use crate::kernel::files::own_directory;
use crate::kernel::process::link::Link;
use crate::terminal::render::{Output, note};
use crate::terminal::screen;

/// A running evcxr with the prelude in scope.
pub struct RustSession {
    cells: Arc<Cells>,
    engine: Engine,
    output: Arc<CellOutput>,
    completer: Completer,
    count: usize,
    _directory: tempfile::TempDir,
}

impl RustSession {
    /// Starts evcxr with its output on the terminal.
    ///
    /// # Errors
    /// There is no compiler or source, or the prelude does not build.
    pub fn start() -> Result<Self> {
        let directory = own_directory()?;
        let socket = directory.path().join("rust");
        install_wrapper(directory.path(), &socket)?;
        let live = Mutex::new(LiveDisplay::default());
        let output = CellOutput::new(move |message| {
            live.lock().unwrap_or_else(PoisonError::into_inner).show(&message)
        });
        let receiver = Arc::clone(&output);
        let link = Link::listen(&socket, move |message| receiver.receive(&message))?;
        let cells = Arc::new(Cells::new(link, Arc::clone(&output), socket));
        let engine = cells.start_with_notice(|| {
            note("building the prelude for the Rust prompt: a few minutes, once")
        })?;
        Ok(Self {
            cells,
            engine,
            output,
            completer: Completer::default(),
            count: 0,
            _directory: directory,
        })
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

    /// The completions at byte `position` of `cell`: where they start, and the words.
    pub fn complete(&mut self, cell: &str, position: usize) -> (usize, Vec<String>) {
        let cursor = code::cursor(cell, position);
        let found = self.completer.complete(&mut self.engine, cell, cursor);
        (code::position(cell, found.start), found.words)
    }

    /// Whether `code` is incomplete.
    pub fn is_incomplete(code: &str) -> bool {
        matches!(completeness(code), Completeness::Incomplete(_))
    }
}

impl Drop for RustSession {
    fn drop(&mut self) {
        self.cells.shut_down();
    }
}

/// Shows the output of cells on the terminal.
#[derive(Default)]
struct LiveDisplay {
    /// The live display and its id.
    picture: Option<(String, ProgressBar)>,
}

impl LiveDisplay {
    fn show(&mut self, message: &JupyterMessage) {
        let content = json!(message.content);
        let plain = &content["data"]["text/plain"];
        // The table of variables is updated only between cells, and is not live here.
        let id = content["transient"]["display_id"].as_str().filter(|id| *id != VARIABLES);
        match (message.message_type(), id) {
            ("update_display_data", Some(id)) | ("display_data", Some(id)) => {
                self.update(id, plain)
            }
            ("clear_output", _) => {
                if let Some((_, bar)) = self.picture.take() {
                    bar.finish_and_clear();
                }
            }
            ("stream", _) => {
                self.release();
                let text = content["text"].as_str().unwrap_or_default();
                let _ = if content["name"] == "stderr" {
                    write!(std::io::stderr(), "{text}")
                } else {
                    write!(std::io::stdout(), "{text}").and_then(|()| std::io::stdout().flush())
                };
            }
            ("display_data" | "execute_result", _) => {
                self.release();
                Output { json: false }.print(plain.as_str().unwrap_or_default());
            }
            _ => {}
        }
    }

    fn update(&mut self, id: &str, plain: &Value) {
        if self.picture.as_ref().is_none_or(|(shown, _)| shown != id) {
            self.release();
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
    fn release(&mut self) {
        if let Some((_, bar)) = self.picture.take() {
            bar.abandon();
        }
    }
}

impl Failure {
    /// The failure as text, with colours if the terminal has them.
    pub fn rendered(&self) -> String {
        let text = self.lines.join("\n");
        if screen::has_colours() { text } else { console::strip_ansi_codes(&text).into_owned() }
    }
}
