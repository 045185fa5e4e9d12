//! Progress as lines of text, at intervals.

use std::time::{Duration, Instant};

use dam_prelude::session::{Counts, GENERATE, Progress};
use indicatif::{DecimalBytes, HumanDuration};

/// The time between plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// The state behind plain progress lines.
#[derive(Default)]
pub struct PlainProgress {
    /// When the last line was written or the first task began.
    last: Option<Instant>,
    /// The start time of each task and the amount done by then, outermost first.
    tasks: Vec<(Instant, usize)>,
}

impl PlainProgress {
    /// The next line, if one is due.
    pub fn line(&mut self, progress: &Progress<'_>, now: Instant) -> Option<String> {
        if progress.done == 0 || progress.finished {
            if progress.finished {
                self.tasks.pop();
            } else {
                self.tasks.push((now, 0))
            }
            self.last.get_or_insert(now);
            return None;
        }
        // Bytes already present at the first report do not count.
        if let Some(begun) =
            self.tasks.last_mut().filter(|begun| progress.counts == Counts::Bytes && begun.1 == 0)
        {
            *begun = (now, progress.done);
        }
        let is_due =
            self.last.is_none_or(|last| now.saturating_duration_since(last) > PLAIN_INTERVAL);
        if !is_due || progress.task == GENERATE {
            return None;
        }
        self.last = Some(now);
        let left = self
            .left(progress, now)
            .map(|left| format!(", {:#} left", HumanDuration(left)))
            .unwrap_or_default();
        Some(match (progress.counts, progress.total) {
            (Counts::Bytes, Some(total)) if total > 0 => {
                let (done, total) =
                    (DecimalBytes(progress.done as u64), DecimalBytes(total as u64));
                format!("{} {}: {done} of {total}{left}", progress.task, progress.message)
            }
            _ => format!("{}{left}", progress.message),
        })
    }

    /// The time left for the innermost task at its mean rate so far.
    fn left(&self, progress: &Progress<'_>, now: Instant) -> Option<Duration> {
        let (begun, before) = *self.tasks.last()?;
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
        Progress {
            task: "train",
            done,
            counts,
            total: Some(total),
            message,
            loss: None,
            step: None,
            dam: None,
            figure: None,
            finished: false,
        }
    }

    #[test]
    fn plain_lines_estimate_the_time_left() {
        let (begin, mut plain) = (Instant::now(), PlainProgress::default());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(plain.line(&steps(0, 100), begin), None);
        assert_eq!(plain.line(&steps(1, 100), after(1)), None);
        assert_eq!(plain.line(&steps(20, 100), after(20)).unwrap(), "step, 80s left");
        // A nested task has its own estimate, and the outer one resumes after it.
        assert_eq!(plain.line(&steps(0, 5), after(21)), None);
        assert_eq!(plain.line(&steps(1, 5), after(26)).unwrap(), "step, 20s left");
        assert_eq!(plain.line(&Progress { finished: true, ..steps(5, 5) }, after(36)), None);
        assert_eq!(plain.line(&steps(50, 100), after(50)).unwrap(), "step, 50s left");
    }

    #[test]
    fn bytes_present_at_the_first_report_do_not_count() {
        let (begin, mut plain) = (Instant::now(), PlainProgress::default());
        let bytes = |done| Progress {
            task: "download",
            counts: Counts::Bytes,
            message: "x",
            ..steps(done, 10_000_000)
        };
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(plain.line(&bytes(0), begin), None);
        // The download was resumed halfway.
        assert_eq!(plain.line(&bytes(5_000_000), begin), None);
        assert_eq!(
            plain.line(&bytes(6_000_000), after(6)).unwrap(),
            "download x: 6.00 MB of 10.00 MB, 24s left"
        );
    }
}
