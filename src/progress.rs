//! A bar while something long runs; plain lines where nobody can see a bar.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dam_prelude::session::{self, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::render::note;

/// Plain lines are this far apart.
const PLAIN: Duration = Duration::from_secs(5);

/// Shows what is under way from now on: downloads, and tasks such as training.
pub fn watch() {
    let terminal = std::io::stderr().is_terminal();
    if terminal {
        watch_downloads();
    }
    let (bars, last) = (Mutex::new(Vec::new()), Mutex::new(None));
    session::watch(move |progress| {
        if terminal {
            drawn(&mut bars.lock().unwrap_or_else(PoisonError::into_inner), progress);
        } else {
            told(&mut last.lock().unwrap_or_else(PoisonError::into_inner), progress);
        }
    });
}

/// A bar a task; a task inside another has the bar, and gives it back.
fn drawn(bars: &mut Vec<ProgressBar>, progress: &Progress<'_>) {
    if progress.finished {
        bars.pop().inspect(ProgressBar::finish_and_clear);
        return;
    }
    if progress.done == 0 {
        bars.last().inspect(|outer| outer.set_draw_target(ProgressDrawTarget::hidden()));
        bars.push(bar(progress.total));
    }
    if let Some(bar) = bars.last() {
        bar.set_message(progress.message.to_owned());
        bar.set_position(progress.done as u64);
    }
}

fn bar(total: Option<usize>) -> ProgressBar {
    let template = match total {
        Some(_) => "{bar:30} {pos}/{len}  {msg}  {rate}  {eta} left",
        None => "{spinner} {msg}  {elapsed}",
    };
    let rate = |state: &ProgressState, out: &mut dyn Write| {
        // Writing into the bar's own text does not fail.
        let _ = write!(out, "{:.1} steps/s", state.per_sec());
    };
    let bar = ProgressBar::with_draw_target(total.map(|n| n as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key("rate", rate).progress_chars("━╸ "));
    }
    bar
}

/// A line now and then.
fn told(last: &mut Option<Instant>, progress: &Progress<'_>) {
    let due = last.is_none_or(|last| last.elapsed() > PLAIN);
    if progress.done == 0 || progress.finished {
        last.get_or_insert_with(Instant::now);
    } else if due {
        *last = Some(Instant::now());
        note(progress.message);
    }
}

/// A bar for every file that is downloaded.
fn watch_downloads() {
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
