//! A bar and the loss curve while something long runs, in place; plain lines where nobody can see that.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::measure_text_width;
use dam_prelude::session::{self, Counts, GENERATE, Progress};
use dam_prelude::show::Figure;
use dam_prelude::train::History;
use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::render::note;
use crate::{repl, terminal};

/// Plain lines are this far apart.
const PLAIN: Duration = Duration::from_secs(5);

/// Curves are at least so far apart.
const PACE: Duration = Duration::from_millis(250);

/// Columns that the words beside a bar take at most.
const WORDS: usize = 56;

/// Rows of text that are seen while it grows.
const TEXT: usize = 12;

/// A task that is seen.
struct Shown {
    bar: ProgressBar,
    counts: Counts,
    history: History,
    /// When its curve was drawn last.
    drawn: Instant,
    /// The columns of the terminal that it was drawn for.
    columns: usize,
}

impl Shown {
    fn new(counts: Counts, total: Option<usize>) -> Self {
        let bar = ProgressBar::with_draw_target(total.map(|n| n as u64), ProgressDrawTarget::stderr());
        let columns = terminal::width();
        set_style(&bar, counts, columns);
        Self { bar, counts, history: History::default(), drawn: Instant::now(), columns }
    }

    /// What is on the screen goes away if the terminal has another width now: terminals break lines anew, so that other
    /// rows are there than those that were drawn, and the bar takes away what it drew.
    fn resize(&mut self) {
        let columns = terminal::width();
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
                pace(self.counts, self.bar.per_sec(), self.bar.eta()),
            ),
            None => format!("  {}  {:#}", self.bar.message(), HumanDuration(self.bar.elapsed())),
        };
        let prefix = self.bar.prefix();
        let rows = [line.as_str()].into_iter().chain(prefix.lines()).map(|line| measure_text_width(line).div_ceil(before).max(1));
        // Rows are filled with blanks, with nothing between them: to the terminal all are one long line.
        let above = match (rows.sum::<usize>() * before).div_ceil(columns).saturating_sub(1) {
            0 => String::new(),
            above => format!("\x1b[{above}A"),
        };
        let _ = write!(std::io::stderr(), "{above}\r\x1b[J");
        // A new target knows of nothing that it drew.
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        set_style(&self.bar, self.counts, columns);
    }
}

/// Those that are seen, the outermost first.
static TASKS: Mutex<Vec<Shown>> = Mutex::new(Vec::new());

/// Says something beside what is seen.
pub fn say(text: &str) {
    match TASKS.lock().unwrap_or_else(PoisonError::into_inner).last() {
        Some(task) => task.bar.println(text),
        None => note(text),
    }
}

/// Shows what is under way from now on: tasks such as training, downloads, and what else takes long.
pub fn watch() {
    let terminal = std::io::stderr().is_terminal();
    let plain = Mutex::new(Plain::default());
    session::watch(move |progress| {
        repl::step(progress);
        if terminal {
            drawn(&mut TASKS.lock().unwrap_or_else(PoisonError::into_inner), progress);
        } else {
            let line = plain.lock().unwrap_or_else(PoisonError::into_inner).line(progress, Instant::now());
            line.iter().for_each(|line| note(line));
        }
    });
}

/// A bar a task; a task inside another has the place, and gives it back.
fn drawn(tasks: &mut Vec<Shown>, progress: &Progress<'_>) {
    tasks.last_mut().into_iter().for_each(Shown::resize);
    if progress.finished {
        tasks.pop().inspect(|task| task.bar.finish_and_clear());
        return;
    }
    if progress.done == 0 {
        tasks.last().inspect(|outer| outer.bar.set_draw_target(ProgressDrawTarget::hidden()));
        tasks.push(Shown::new(progress.counts, progress.total));
    }
    let Some(task) = tasks.last_mut() else { return };
    match (progress.step, progress.loss) {
        (Some(step), _) => task.history.push(step.step, step.total, &step.terms),
        (None, Some(loss)) => task.history.push(progress.done, loss, &[]),
        (None, None) => {}
    }
    if task.history.total.len() > 1 && task.drawn.elapsed() > PACE {
        task.drawn = Instant::now();
        let width = task.columns.saturating_sub(1).min(100);
        task.bar.set_prefix(Figure::losses(&task.history).text(width, terminal::is_ascii()));
    }
    match progress.task {
        GENERATE => task.bar.set_prefix(end(progress.message, task.columns.saturating_sub(1), TEXT)),
        _ => task.bar.set_message(progress.message.to_owned()),
    }
    let is_first = task.bar.position() == 0;
    task.bar.set_position(progress.done as u64);
    if is_first && task.counts == Counts::Bytes {
        // Some are done before they are first told of: they say nothing of how fast it goes.
        task.bar.reset_eta();
    }
}

/// The last `rows` rows of `text`, broken at `width` columns.
fn end(text: &str, width: usize, rows: usize) -> String {
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

/// How wide a bar is in a terminal of so many columns.
fn bar_width(columns: usize) -> usize {
    columns.saturating_sub(WORDS).clamp(6, 30)
}

/// How a bar looks in a terminal of so many columns.
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
        // Writing into the bar's own text does not fail.
        let _ = write!(out, "{}", pace(counts, state.per_sec(), state.eta()));
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let (chars, ticks) = if terminal::is_ascii() { ("#> ", "-\\|/ ") } else { ("━╸ ", "⠁⠂⠄⠂ ") };
        bar.set_style(style.with_key("pace", pace).progress_chars(chars).tick_chars(ticks));
    }
}

/// How fast it goes and how long it still takes, behind other words; nothing before something was done.
fn pace(counts: Counts, per_sec: f64, left: Duration) -> String {
    if per_sec.is_nan() || per_sec <= 0.0 {
        return String::new();
    }
    let rate = match counts {
        Counts::Steps => format!("{per_sec:.1} a second"),
        Counts::Bytes => format!("{}/s", DecimalBytes(per_sec as u64)),
    };
    format!("  {rate}  {:#} left", HumanDuration(left))
}

/// What plain lines are told of.
#[derive(Default)]
struct Plain {
    /// When the last line was written, or would have been.
    last: Option<Instant>,
    /// When each task began, and how much of it was done then, the outermost first.
    begun: Vec<(Instant, usize)>,
}

impl Plain {
    /// The line that is due, now and then.
    fn line(&mut self, progress: &Progress<'_>, now: Instant) -> Option<String> {
        if progress.done == 0 || progress.finished {
            match progress.finished {
                true => drop(self.begun.pop()),
                false => self.begun.push((now, 0)),
            }
            self.last.get_or_insert(now);
            return None;
        }
        // Of bytes some are done before they are first told of.
        if let Some(begun) = self.begun.last_mut().filter(|begun| progress.counts == Counts::Bytes && begun.1 == 0) {
            *begun = (now, progress.done);
        }
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) > PLAIN);
        if !is_due || progress.task == GENERATE {
            return None;
        }
        self.last = Some(now);
        let left = self.left(progress, now).map(|left| format!(", {:#} left", HumanDuration(left))).unwrap_or_default();
        Some(match (progress.counts, progress.total) {
            (Counts::Bytes, Some(total)) if total > 0 => {
                let (done, total) = (DecimalBytes(progress.done as u64), DecimalBytes(total as u64));
                format!("{} {}: {done} of {total}{left}", progress.task, progress.message)
            }
            _ => format!("{}{left}", progress.message),
        })
    }

    /// How long the innermost task still takes, if it goes on as it did.
    fn left(&self, progress: &Progress<'_>, now: Instant) -> Option<Duration> {
        let (begun, before) = *self.begun.last()?;
        let made = progress.done.checked_sub(before).filter(|made| *made > 0)?;
        let rest = progress.total?.saturating_sub(progress.done);
        Some(now.saturating_duration_since(begun).mul_f64(rest as f64 / made as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(done: usize, total: usize) -> Progress<'static> {
        let (counts, message) = (Counts::Steps, "step");
        Progress { task: "train", done, counts, total: Some(total), message, loss: None, step: None, dam: None, finished: false }
    }

    #[test]
    fn nothing_is_estimated_before_something_was_done() {
        for nothing in [0.0, f64::NAN] {
            assert_eq!(pace(Counts::Steps, nothing, Duration::ZERO), "");
        }
        assert_eq!(pace(Counts::Steps, 2.0, Duration::from_secs(80)), "  2.0 a second  80s left");
        assert_eq!(pace(Counts::Bytes, 2e6, Duration::from_secs(9)), "  2.00 MB/s  9s left");
    }

    #[test]
    fn plain_lines_say_how_long_it_takes() {
        let (begin, mut plain) = (Instant::now(), Plain::default());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(plain.line(&steps(0, 100), begin), None);
        assert_eq!(plain.line(&steps(1, 100), after(1)), None);
        assert_eq!(plain.line(&steps(20, 100), after(20)).unwrap(), "step, 80s left");
        // A task within has a time of its own, and gives it back.
        assert_eq!(plain.line(&steps(0, 5), after(21)), None);
        assert_eq!(plain.line(&steps(1, 5), after(26)).unwrap(), "step, 20s left");
        assert_eq!(plain.line(&Progress { finished: true, ..steps(5, 5) }, after(36)), None);
        assert_eq!(plain.line(&steps(50, 100), after(50)).unwrap(), "step, 50s left");
    }

    #[test]
    fn bytes_are_counted_from_the_first_that_are_told_of() {
        let (begin, mut plain) = (Instant::now(), Plain::default());
        let bytes = |done| Progress { task: "download", counts: Counts::Bytes, message: "x", ..steps(done, 10_000_000) };
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(plain.line(&bytes(0), begin), None);
        // It went on from the middle.
        assert_eq!(plain.line(&bytes(5_000_000), begin), None);
        assert_eq!(plain.line(&bytes(6_000_000), after(6)).unwrap(), "download x: 6.00 MB of 10.00 MB, 24s left");
    }
}
