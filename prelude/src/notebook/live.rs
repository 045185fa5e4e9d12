//! Shows the progress of a running cell: a bar with numbers, the loss curve and the coefficients,
//! or the generated text.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::LIVE;
use crate::session::{Counts, GENERATE, Progress};
use crate::show::{Figure, bytes, escape};
use crate::train::History;

/// The minimum interval between updates.
const PACE: Duration = Duration::from_millis(300);

/// The length of the bar in characters.
const BAR: usize = 30;

/// A task on display.
struct TaskDisplay {
    id: String,
    begin: Instant,
    last: Option<Instant>,
    history: History,
}

/// Returns a watcher that displays the outermost task.
pub fn watcher() -> impl Fn(&Progress<'_>) + Send + Sync {
    let tasks: Mutex<(u64, Vec<TaskDisplay>)> = Mutex::new((0, Vec::new()));
    move |progress| {
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, tasks) = &mut *tasks;
        if progress.done == 0 && !progress.finished {
            *count += 1;
            let id = format!("dam-{}-{count}", std::process::id());
            tasks.push(TaskDisplay {
                id,
                begin: Instant::now(),
                last: None,
                history: History::default(),
            });
            return;
        }
        let outermost = tasks.len() == 1;
        if let Some(shown) = tasks.last_mut() {
            match (progress.step, progress.loss) {
                (Some(step), _) => shown.history.push(step.step, step.total, &step.terms),
                (None, Some(loss)) => shown.history.push(progress.done, loss, &[]),
                (None, None) => {}
            }
            let due = shown.last.unwrap_or(shown.begin).elapsed() > PACE;
            // A task that ends before its first update is not displayed.
            if outermost && (due || progress.finished && shown.last.is_some()) {
                shown.show(progress);
                shown.last = Some(Instant::now());
            }
        }
        if progress.finished {
            tasks.pop();
        }
    }
}

impl TaskDisplay {
    fn show(&self, progress: &Progress<'_>) {
        println!(
            "EVCXR_BEGIN_CONTENT {LIVE}\n{}\nEVCXR_END_CONTENT",
            json!({"id": self.id, "data": self.data(progress)})
        );
    }

    /// Returns the contents by MIME type.
    fn data(&self, progress: &Progress<'_>) -> Value {
        let line = match self.line(progress) {
            // Below the bar; at the end, the returned value contains it.
            line if progress.task == GENERATE && !progress.finished => {
                format!("{line}\n{}", progress.message)
            }
            line => line,
        };
        // At the end, the returned value contains the losses.
        let losses = (!progress.finished && self.history.total.len() > 1)
            .then(|| Figure::losses(&self.history));
        let losses = progress.figure.cloned().or(losses);
        let coefficients = progress.dam.and_then(|dam| dam.plot("coefficients").ok());
        let pictures: Vec<Figure> = losses.into_iter().chain(coefficients).collect();
        // The final figure must survive in a notebook opened elsewhere; intermediate ones must not
        // flicker.
        let html: String = pictures
            .iter()
            .map(if progress.finished { Figure::html } else { Figure::inline })
            .collect();
        let text: String = pictures.iter().map(|picture| format!("\n\n{picture}")).collect();
        // Generated text wraps at the width of the page.
        let above = format!("<pre style=\"white-space:pre-wrap\">{}</pre>", escape(&line));
        json!({"text/plain": format!("{line}{text}"), "text/html": format!("{above}{html}")})
    }

    /// `train ━━━━━╸      120/200  step 120: loss 0.4312  5.1 per second  16 s left`
    fn line(&self, progress: &Progress<'_>) -> String {
        let Progress { task, done, counts, total, message, finished, .. } = *progress;
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut line = format!("{task} ");
        let put =
            |line: &mut String, text: std::fmt::Arguments<'_>| line.write_fmt(text).unwrap_or(());
        if let Some(total) = total {
            let full = (BAR as f64 * done.min(total) as f64 / total.max(1) as f64) as usize;
            put(&mut line, format_args!("{}{} ", "━".repeat(full), "─".repeat(BAR - full)));
            match counts {
                Counts::Steps => put(&mut line, format_args!("{done}/{total}")),
                Counts::Bytes => {
                    put(&mut line, format_args!("{}/{}", bytes(done as u64), bytes(total as u64)))
                }
            }
        }
        if !message.is_empty() && task != GENERATE {
            put(&mut line, format_args!("  {message}"));
        }
        if finished {
            put(&mut line, format_args!("  {seconds:.1} s"));
        } else if let Some(total) = total {
            let rate = done as f64 / seconds;
            match counts {
                Counts::Steps => put(&mut line, format_args!("  {rate:.1} per second")),
                Counts::Bytes => put(&mut line, format_args!("  {}/s", bytes(rate as u64))),
            }
            // An answer usually ends before its length limit, so no time is estimated.
            if task != GENERATE {
                let left = seconds / done.max(1) as f64 * total.saturating_sub(done) as f64;
                put(&mut line, format_args!("  {left:.0} s left"));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Generated text is shown below the bar while it grows, line by line and escaped; at the end,
    /// the returned value contains it.
    #[test]
    fn generated_text_is_shown_as_it_grows() {
        let shown = TaskDisplay {
            id: "x".into(),
            begin: Instant::now(),
            last: None,
            history: History::default(),
        };
        let message = "DAM: a < b\nmath: <script>";
        let mut progress = Progress {
            task: GENERATE,
            done: 3,
            counts: Counts::Steps,
            total: Some(64),
            message,
            loss: None,
            step: None,
            dam: None,
            figure: None,
            finished: false,
        };
        let data = shown.data(&progress);
        let text = data["text/plain"].as_str().unwrap();
        assert!(
            text.starts_with("generate ━")
                && text.ends_with(&format!("\n{message}"))
                && !text.contains("left"),
            "{text}"
        );
        let html = data["text/html"].as_str().unwrap();
        assert!(
            html.contains("DAM: a &lt; b\nmath: &lt;script&gt;</pre>")
                && !html.contains("<script>"),
            "{html}"
        );
        (progress.message, progress.finished) = ("", true);
        assert_eq!(shown.data(&progress)["text/plain"].as_str().unwrap().lines().count(), 1);
        // Other tasks show their message next to the bar.
        (progress.task, progress.message, progress.finished) = ("evolve", "candidate 3", false);
        let data = shown.data(&progress);
        assert!(data["text/plain"].as_str().unwrap().contains("3/64  candidate 3  "), "{data}");
    }
}
