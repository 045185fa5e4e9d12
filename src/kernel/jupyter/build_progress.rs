//! Shows progress while the prelude is built for cells, which takes minutes.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::kernel::cargo::wrapper::install_wrapper;
use crate::kernel::files::own_directory;
use crate::kernel::process::link::{Link, SOCKET};
use crate::terminal::render::note;

/// The cost of the build: minutes on one core, and disk space.
const CORE_MINUTES: usize = 11;
const GIGABYTES: &str = "0.8 GB";

/// How often a line is printed if standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(20);

/// Prints an estimate before the build.
pub fn announce() {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let minutes = CORE_MINUTES.div_ceil(cores).max(2);
    let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    note(&format!(
        "building the prelude for notebooks, once: about {minutes} minutes on {cores}, {GIGABYTES} of disk space"
    ));
}

/// Runs `install` and shows the progress of cargo.
///
/// # Errors
/// There is no directory for the socket or no compiler, or `install` fails.
pub fn with_progress<T>(install: impl FnOnce() -> Result<T>) -> Result<T> {
    let directory = own_directory()?;
    let socket = directory.path().join(SOCKET);
    install_wrapper(directory.path(), &socket)?;
    let progress = Arc::new(BuildProgress::new());
    let receiver = Arc::clone(&progress);
    let _link = Link::listen(&socket, move |message| receiver.receive(&message))?;
    let watched = Arc::downgrade(&progress);
    std::thread::spawn(move || {
        // A single crate may take minutes without a message from cargo.
        while let Some(progress) = watched.upgrade().filter(|progress| progress.bar.is_hidden()) {
            progress.print();
            drop(progress);
            std::thread::sleep(LINE_INTERVAL);
        }
    });
    let done = install();
    progress.bar.finish_and_clear();
    *progress.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    done
}

struct BuildProgress {
    bar: ProgressBar,
    began: Instant,
    /// The last progress of cargo: `12 of 245: serde, syn`.
    last: Mutex<Option<String>>,
}

impl BuildProgress {
    fn new() -> Self {
        // The bar is hidden unless standard error is a terminal.
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}")
        {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now(), last: Mutex::default() }
    }

    fn receive(&self, message: &Value) {
        let Some(text) = message["building"].as_str() else { return };
        let Some((done, all, names)) = parse(text) else { return };
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(names.to_owned());
        self.bar.enable_steady_tick(Duration::from_secs(1));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// Prints the progress as one line.
    fn print(&self) {
        if let Some(last) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            note(&format!("{} s: building {last}", self.began.elapsed().as_secs()));
        }
    }
}

/// The number of crates done, the total, and the names of those being built.
fn parse(text: &str) -> Option<(u64, u64, &str)> {
    let (numbers, names) = text.split_once(": ")?;
    let (done, all) = numbers.split_once(" of ")?;
    Some((done.parse().ok()?, all.parse().ok()?, names))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_progress_of_cargo_is_parsed() {
        assert_eq!(parse("12 of 245: serde, syn"), Some((12, 245, "serde, syn")));
        assert_eq!(parse("serde"), None);
    }
}
