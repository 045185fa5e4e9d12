//! The rate limit of text. Jupyter's server drops text messages above one million bytes per second,
//! averaged over three seconds (`iopub_data_rate_limit`, `rate_limit_window`).
//!
//! ```text
//! credit(t) = min(BURST, credit(t') + RATE (t - t'))      BURST + RATE 3 s < 3 MB
//! ```

use std::time::{Duration, Instant};

/// The bytes that may be sent at once after a pause, and per second.
const BURST: f64 = 1e6;
const RATE: f64 = 5e5;

/// The approximate overhead of a message, in bytes.
const HEAD: usize = 1000;

/// A token bucket.
pub struct RateLimit {
    credit: f64,
    at: Instant,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { credit: BURST, at: Instant::now() }
    }
}

impl RateLimit {
    /// How long to wait before sending `bytes`. Never waits for more than the bucket holds.
    pub fn wait(&mut self, bytes: usize) -> Duration {
        let now = Instant::now();
        self.credit = BURST.min(self.credit + RATE * now.duration_since(self.at).as_secs_f64());
        self.at = now;
        let missing = ((bytes + HEAD) as f64).min(BURST) - self.credit;
        Duration::from_secs_f64((missing / RATE).max(0.0))
    }

    /// Records that `bytes` were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.credit -= (bytes + HEAD) as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_stays_below_three_megabytes_in_three_seconds() {
        let mut limit = RateLimit::default();
        let (mut sent, mut seconds) = (Vec::new(), 0.0);
        while seconds < 20.0 {
            let wait = limit.wait(60_000);
            // Simulates the passage of time.
            limit.at -= wait;
            seconds += wait.as_secs_f64();
            assert!(limit.wait(60_000) < Duration::from_millis(1));
            limit.sent(60_000);
            sent.push((seconds, 61_000.0));
        }
        for (begin, _) in &sent {
            let within: f64 = sent
                .iter()
                .filter(|(at, _)| (*begin..begin + 3.0).contains(at))
                .map(|(_, bytes)| bytes)
                .sum();
            assert!(within < 2.9e6, "{within} from {begin}");
        }
        assert!(sent.len() as f64 * 61_000.0 > 9e6, "not slower than necessary");
    }
}
