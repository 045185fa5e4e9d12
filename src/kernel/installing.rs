//! The prelude built for cells, seen while it is built: it takes minutes.

use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::link::Link;
use super::server::SOCKET;
use crate::render::note;

/// What the build takes: minutes of one core, and gigabytes at its end.
const CORE_MINUTES: usize = 11;
const GIGABYTES: &str = "0.8 GB";

/// How often a line is said where there is no terminal.
const PACE: Duration = Duration::from_secs(20);

/// Says before the build what it will take.
pub fn announce() {
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let minutes = CORE_MINUTES.div_ceil(cores).max(2);
    let cores = if cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    note(&format!("building the prelude for notebooks: about {minutes} minutes on {cores} and {GIGABYTES} of disk, once"));
}

/// Runs `install` while what cargo builds is shown.
///
/// # Errors
/// No place for a socket, no compiler, or what `install` says.
pub fn shown<T>(install: impl FnOnce() -> Result<T>) -> Result<T> {
    let directory = super::own_directory()?;
    let socket = directory.path().join(SOCKET);
    super::cargo::stand_in(directory.path(), &socket)?;
    let progress = std::sync::Arc::new(Progress::new());
    let told = std::sync::Arc::clone(&progress);
    let _link = Link::listen(&socket, move |message| told.take(&message))?;
    let done = install();
    progress.end();
    done
}

struct Progress {
    bar: ProgressBar,
    began: Instant,
    said: Mutex<Option<Instant>>,
}

impl Progress {
    fn new() -> Self {
        // It draws where standard error is a terminal.
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now(), said: Mutex::default() }
    }

    /// Takes what cargo says: `12 of 245: serde, syn`.
    fn take(&self, message: &Value) {
        let Some((done, all, names)) = message["building"].as_str().and_then(read) else { return };
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(names.to_owned());
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bar.is_hidden() && said.is_none_or(|at| at.elapsed() >= PACE) {
            *said = Some(Instant::now());
            note(&format!("{done} of {all} built after {:.0} s: {names}", self.began.elapsed().as_secs_f64()));
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// How many of how many, and the names of what is under way.
fn read(text: &str) -> Option<(u64, u64, &str)> {
    let (numbers, names) = text.split_once(": ")?;
    let (done, all) = numbers.split_once(" of ")?;
    Some((done.parse().ok()?, all.parse().ok()?, names))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_cargo_says_is_read() {
        assert_eq!(read("12 of 245: serde, syn"), Some((12, 245, "serde, syn")));
        assert_eq!(read("serde"), None);
    }
}
