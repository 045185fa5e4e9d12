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
        let (amount, rate) = match self.counts {
            Counts::Steps => (self.bar.position().to_string(), format!("{:.1}", self.bar.per_sec())),
            Counts::Bytes => (DecimalBytes(self.bar.position()).to_string(), DecimalBytes(self.bar.per_sec() as u64).to_string()),
        };
        let line = match self.bar.length() {
            Some(length) => format!(
                "{}{amount}/{length}  {}  {rate} a second  {:#} left",
                " ".repeat(bar_width(before) + 1),
                self.bar.message(),
                HumanDuration(self.bar.eta()),
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
    let last = Mutex::new(None);
    session::watch(move |progress| {
        repl::step(progress);
        if terminal {
            drawn(&mut TASKS.lock().unwrap_or_else(PoisonError::into_inner), progress);
        } else {
            told(&mut last.lock().unwrap_or_else(PoisonError::into_inner), progress);
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
    task.bar.set_position(progress.done as u64);
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
        Counts::Steps => "{pos}/{len}  {msg}  {rate}",
        Counts::Bytes => "{decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}",
    };
    let template = match bar.length() {
        Some(_) => format!("{{bar:{}}} {amount}  {{eta}} left\n{{prefix}}", bar_width(columns)),
        None => "{spinner} {msg}  {elapsed}\n{prefix}".into(),
    };
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Writing into the bar's own text does not fail.
        let _ = write!(out, "{:.1} a second", state.per_sec());
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let (chars, ticks) = if terminal::is_ascii() { ("#> ", "-\\|/ ") } else { ("━╸ ", "⠁⠂⠄⠂ ") };
        bar.set_style(style.with_key("rate", rate).progress_chars(chars).tick_chars(ticks));
    }
}

/// A line now and then.
fn told(last: &mut Option<Instant>, progress: &Progress<'_>) {
    let due = last.is_none_or(|last| last.elapsed() > PLAIN);
    if progress.done == 0 || progress.finished {
        last.get_or_insert_with(Instant::now);
    } else if due && progress.task != GENERATE {
        *last = Some(Instant::now());
        match (progress.counts, progress.total) {
            (Counts::Bytes, Some(total)) if total > 0 => {
                let (done, total) = (DecimalBytes(progress.done as u64), DecimalBytes(total as u64));
                note(&format!("{} {}: {done} of {total}", progress.task, progress.message));
            }
            _ => note(progress.message),
        }
    }
}
