//! A progress bar and the loss curve, redrawn in place during long tasks; plain lines if standard
//! error is not a terminal (`plain_progress.rs`).

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::measure_text_width;
use dam_prelude::session::{self, Counts, GENERATE, Progress};
use dam_prelude::show::Figure;
use dam_prelude::train::History;
use indicatif::{
    DecimalBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};

use super::plain_progress::PlainProgress;
use crate::terminal::render::note;
use crate::terminal::screen;

/// The least time between two redraws of the curve.
const CURVE_INTERVAL: Duration = Duration::from_millis(250);

/// The most columns of the text beside a bar.
const TEXT_COLUMNS: usize = 56;

/// The rows of generated text shown while it grows.
const TEXT_ROWS: usize = 12;

/// A task on display.
struct TaskDisplay {
    bar: ProgressBar,
    counts: Counts,
    history: History,
    /// The time of the last redraw of the curve.
    last_redraw: Instant,
    /// The width of the terminal at the last redraw.
    columns: usize,
}

impl TaskDisplay {
    fn new(counts: Counts, total: Option<usize>) -> Self {
        let bar =
            ProgressBar::with_draw_target(total.map(|n| n as u64), ProgressDrawTarget::stderr());
        let columns = screen::width();
        set_style(&bar, counts, columns);
        Self { bar, counts, history: History::default(), last_redraw: Instant::now(), columns }
    }

    /// Erases the display if the width of the terminal has changed. Terminals rewrap lines on
    /// resize, so the rows on the screen are no longer those the bar drew and would erase.
    fn resize(&mut self) {
        let columns = screen::width();
        let before = std::mem::replace(&mut self.columns, columns);
        if before == columns {
            return;
        }
        let amount = match self.counts {
            Counts::Steps => self.bar.position().to_string(),
            Counts::Bytes => DecimalBytes(self.bar.position()).to_string(),
        };
        let line = match self.bar.length() {
            Some(length) => format!(
                "{}{amount}/{length}  {}{}",
                " ".repeat(bar_width(before) + 1),
                self.bar.message(),
                rate_and_time_left(self.counts, self.bar.per_sec(), self.bar.eta()),
            ),
            None => format!("  {}  {:#}", self.bar.message(), HumanDuration(self.bar.elapsed())),
        };
        let prefix = self.bar.prefix();
        let rows = [line.as_str()]
            .into_iter()
            .chain(prefix.lines())
            .map(|line| measure_text_width(line).div_ceil(before).max(1));
        // Rows are padded with spaces and have no newlines between them: to the terminal they are
        // one long line.
        let above = match (rows.sum::<usize>() * before).div_ceil(columns).saturating_sub(1) {
            0 => String::new(),
            above => format!("\x1b[{above}A"),
        };
        let _ = write!(std::io::stderr(), "{above}\r\x1b[J");
        // A new draw target has no record of earlier output.
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        set_style(&self.bar, self.counts, columns);
    }
}

/// The tasks on display, outermost first.
static TASKS: Mutex<Vec<TaskDisplay>> = Mutex::new(Vec::new());

/// Prints a line above the display.
pub fn print_above(text: &str) {
    match TASKS.lock().unwrap_or_else(PoisonError::into_inner).last() {
        Some(task) => task.bar.println(text),
        None => note(text),
    }
}

/// Starts showing the progress of tasks such as training and downloads. Every report is passed to
/// `each` first.
pub fn watch(each: impl Fn(&Progress<'_>) + Send + Sync + 'static) {
    let terminal = std::io::stderr().is_terminal();
    let plain = Mutex::new(PlainProgress::default());
    session::watch(move |progress| {
        each(progress);
        if terminal {
            draw(&mut TASKS.lock().unwrap_or_else(PoisonError::into_inner), progress);
        } else {
            let line =
                plain.lock().unwrap_or_else(PoisonError::into_inner).line(progress, Instant::now());
            line.iter().for_each(|line| note(line));
        }
    });
}

/// Draws one bar per task; a nested task replaces the outer one until it ends.
fn draw(tasks: &mut Vec<TaskDisplay>, progress: &Progress<'_>) {
    tasks.last_mut().into_iter().for_each(TaskDisplay::resize);
    if progress.finished {
        tasks.pop().inspect(|task| task.bar.finish_and_clear());
        return;
    }
    if progress.done == 0 {
        tasks.last().inspect(|outer| outer.bar.set_draw_target(ProgressDrawTarget::hidden()));
        tasks.push(TaskDisplay::new(progress.counts, progress.total));
    }
    let Some(task) = tasks.last_mut() else { return };
    match (progress.step, progress.loss) {
        (Some(step), _) => task.history.push(step.step, step.total, &step.terms),
        (None, Some(loss)) => task.history.push(progress.done, loss, &[]),
        (None, None) => {}
    }
    if task.last_redraw.elapsed() > CURVE_INTERVAL {
        let losses = || (task.history.total.len() > 1).then(|| Figure::losses(&task.history));
        if let Some(figure) = progress.figure.cloned().or_else(losses) {
            task.last_redraw = Instant::now();
            let width = task.columns.saturating_sub(1).min(100);
            task.bar.set_prefix(figure.text(width, screen::is_ascii()));
        }
    }
    match progress.task {
        GENERATE => task.bar.set_prefix(last_rows(
            progress.message,
            task.columns.saturating_sub(1),
            TEXT_ROWS,
        )),
        _ => task.bar.set_message(progress.message.to_owned()),
    }
    let is_first = task.bar.position() == 0;
    task.bar.set_position(progress.done as u64);
    if is_first && task.counts == Counts::Bytes {
        // Bytes already present at the first report do not count for the rate.
        task.bar.reset_eta();
    }
}

/// The last `rows` rows of `text`, wrapped at `width` columns.
fn last_rows(text: &str, width: usize, rows: usize) -> String {
    let mut all = Vec::new();
    for line in text.lines() {
        let (mut row, mut used) = (String::new(), 0);
        for c in line.chars() {
            let columns = console::measure_text_width(c.encode_utf8(&mut [0; 4]));
            if used + columns > width {
                all.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push(c);
            used += columns;
        }
        all.push(row);
    }
    all[all.len().saturating_sub(rows)..].join("\n")
}

/// The width of a bar in a terminal with `columns` columns.
fn bar_width(columns: usize) -> usize {
    columns.saturating_sub(TEXT_COLUMNS).clamp(6, 30)
}

/// Sets the template of a bar for a terminal with `columns` columns.
fn set_style(bar: &ProgressBar, counts: Counts, columns: usize) {
    let amount = match counts {
        Counts::Steps => "{pos}/{len}  {msg}{pace}",
        Counts::Bytes => "{decimal_bytes}/{decimal_total_bytes}  {msg}{pace}",
    };
    let template = match bar.length() {
        Some(_) => format!("{{bar:{}}} {amount}\n{{prefix}}", bar_width(columns)),
        None => "{spinner} {msg}  {elapsed}\n{prefix}".into(),
    };
    let pace = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Writing to a string does not fail.
        let _ = write!(out, "{}", rate_and_time_left(counts, state.per_sec(), state.eta()));
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let (chars, ticks) =
            if screen::is_ascii() { ("#> ", "-\\|/ ") } else { ("━╸ ", "⠁⠂⠄⠂ ") };
        bar.set_style(style.with_key("pace", pace).progress_chars(chars).tick_chars(ticks));
    }
}

/// The rate and the time left; empty before there is any progress.
fn rate_and_time_left(counts: Counts, per_sec: f64, left: Duration) -> String {
    if per_sec.is_nan() || per_sec <= 0.0 {
        return String::new();
    }
    let rate = match counts {
        Counts::Steps => format!("{per_sec:.1} per second"),
        Counts::Bytes => format!("{}/s", DecimalBytes(per_sec as u64)),
    };
    format!("  {rate}  {:#} left", HumanDuration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_estimate_before_the_first_progress() {
        for nothing in [0.0, f64::NAN] {
            assert_eq!(rate_and_time_left(Counts::Steps, nothing, Duration::ZERO), "");
        }
        assert_eq!(
            rate_and_time_left(Counts::Steps, 2.0, Duration::from_secs(80)),
            "  2.0 per second  80s left"
        );
        assert_eq!(
            rate_and_time_left(Counts::Bytes, 2e6, Duration::from_secs(9)),
            "  2.00 MB/s  9s left"
        );
    }
}
