//! The prelude built for cells, seen while it is built: it takes minutes.

use std::sync::{Arc, Mutex, PoisonError};
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
    let progress = Arc::new(Progress::new());
    let told = Arc::clone(&progress);
    let _link = Link::listen(&socket, move |message| told.take(&message))?;
    let watched = Arc::downgrade(&progress);
    std::thread::spawn(move || {
        // A crate may take minutes, of which cargo says nothing.
        while let Some(progress) = watched.upgrade().filter(|progress| progress.bar.is_hidden()) {
            progress.say();
            drop(progress);
            std::thread::sleep(PACE);
        }
    });
    let done = install();
    progress.bar.finish_and_clear();
    *progress.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    done
}

struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// What cargo said last: `12 of 245: serde, syn`.
    last: Mutex<Option<String>>,
}

impl Progress {
    fn new() -> Self {
        // It draws where standard error is a terminal.
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, began: Instant::now(), last: Mutex::default() }
    }

    fn take(&self, message: &Value) {
        let Some(text) = message["building"].as_str() else { return };
        let Some((done, all, names)) = read(text) else { return };
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(names.to_owned());
        self.bar.enable_steady_tick(Duration::from_secs(1));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// Says how far it is, in a line.
    fn say(&self) {
        if let Some(last) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            note(&format!("{} s: building {last}", self.began.elapsed().as_secs()));
        }
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
