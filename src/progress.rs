//! A bar with loss, rate and time left while training runs; plain lines where nobody can see a bar.

use std::cell::Cell;
use std::fmt::Write;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;
use dam_prelude::Dam;
use dam_prelude::show::TrainReport;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::interrupt;
use crate::render::note;

/// Shows a bar for every file that is downloaded, where somebody can see it.
pub fn watch_downloads() {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}  {msg}  {bytes_per_sec}  {eta} left") {
        bar.set_style(style.progress_chars("━╸ "));
    }
    dam_prelude::checkpoint::watch_downloads(move |download| {
        if bar.message() != download.file {
            bar.reset();
            bar.set_length(download.total);
            bar.set_message(download.file.clone());
        }
        bar.set_position(download.done);
        if download.done == download.total {
            bar.set_message("");
            bar.finish_and_clear();
        }
    });
}

/// A bar of steps, or without their number a line that says what is done; plain lines where nobody can see one.
pub struct Steps {
    bar: ProgressBar,
    /// When the last plain line was written; none where there is a bar, or nothing is to be shown.
    last: Option<Cell<Instant>>,
}

impl Steps {
    /// Of `steps` steps; nothing is shown where it is `quiet`.
    pub fn new(steps: usize, quiet: bool) -> Result<Self> {
        Self::styled(Some(steps as u64), "{bar:30} {pos}/{len}  {msg}  {rate}  {eta} left", quiet)
    }

    /// Of nobody knows how many.
    pub fn unknown(quiet: bool) -> Result<Self> {
        Self::styled(None, "{spinner} {msg}  {elapsed}", quiet)
    }

    fn styled(steps: Option<u64>, template: &str, quiet: bool) -> Result<Self> {
        let terminal = std::io::stderr().is_terminal();
        let target = if quiet || !terminal { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let rate = |state: &ProgressState, out: &mut dyn Write| {
            // Writing into the bar's own text does not fail.
            let _ = write!(out, "{:.1} steps/s", state.per_sec());
        };
        let bar = ProgressBar::with_draw_target(steps, target);
        bar.set_style(ProgressStyle::with_template(template)?.with_key("rate", rate).progress_chars("━╸ "));
        Ok(Self { bar, last: (!terminal && !quiet).then(|| Cell::new(Instant::now())) })
    }

    /// One step is made, of which `message` tells. Whether to go on.
    pub fn step(&self, message: &str) -> ControlFlow<()> {
        self.bar.set_message(message.to_owned());
        self.bar.inc(1);
        if let Some(last) = &self.last
            && last.get().elapsed() > Duration::from_secs(5)
        {
            last.set(Instant::now());
            note(message);
        }
        interrupt::flow()
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Trains, showing progress unless `quiet`; Ctrl-C stops after the current step.
///
/// # Errors
/// As for [`Dam::step`].
pub fn train(dam: &Dam, steps: usize, quiet: bool) -> Result<TrainReport> {
    let bar = Steps::new(steps, quiet)?;
    Ok(dam.train_with(steps, |step| bar.step(&format!("step {}: loss {:.4}", step.step, step.total)))?)
}
