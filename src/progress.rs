//! A bar with loss, rate and time left while training runs; plain lines where nobody can see a bar.

use std::fmt::Write;
use std::io::IsTerminal;
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

/// Trains, showing progress unless `quiet`; Ctrl-C stops after the current step.
///
/// # Errors
/// As for [`Dam::step`].
pub fn train(dam: &Dam, steps: usize, quiet: bool) -> Result<TrainReport> {
    let terminal = std::io::stderr().is_terminal();
    let target = if quiet || !terminal { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {rate}  {eta} left")?;
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // Writing into the bar's own text does not fail.
        let _ = write!(out, "{:.1} steps/s", state.per_sec());
    };
    bar.set_style(style.with_key("rate", rate).progress_chars("━╸ "));
    let mut last = Instant::now();
    let report = dam.train_with(steps, |step| {
        bar.set_message(format!("loss {:.4}", step.total));
        bar.inc(1);
        if !terminal && !quiet && last.elapsed() > Duration::from_secs(5) {
            last = Instant::now();
            note(&format!("step {}: loss {:.4}", step.step, step.total));
        }
        interrupt::flow()
    });
    bar.finish_and_clear();
    Ok(report?)
}
