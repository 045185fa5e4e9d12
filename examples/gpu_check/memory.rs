//! The peak of the card's used memory, as nvidia-smi reports it ten times a second.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use crate::arguments::Kind;
use crate::machine::smi;
use crate::report::Measurement;

/// Watches used memory until it is asked for the peak.
pub struct Watch {
    child: Child,
    reader: JoinHandle<()>,
    peak: Arc<AtomicU64>,
    /// Used before, in MiB.
    before: u64,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    /// Why memory is not measured here.
    pub fn start(kind: Kind) -> Result<Self, String> {
        match kind {
            Kind::Cuda => {}
            Kind::Metal => return Err("not measured: Metal shares main memory".into()),
            Kind::Cpu => return Err("not measured on a CPU".into()),
        }
        let silent = || "not measured: nvidia-smi does not answer".to_owned();
        let used = smi("memory.used").output().map_err(|_| silent())?;
        let used = String::from_utf8_lossy(&used.stdout).trim().parse();
        let before = used.map_err(|_| silent())?;
        let mut child = smi("memory.used")
            .args(["-lms", "100"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|_| silent())?;
        let peak = Arc::new(AtomicU64::new(before));
        let lines = child.stdout.take().map(BufReader::new);
        let seen = peak.clone();
        let reader = thread::spawn(move || {
            for line in lines.into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
                if let Ok(used) = line.trim().parse() {
                    seen.fetch_max(used, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { child, reader, peak, before })
    }

    /// Stops, and returns the peak.
    pub fn peak(mut self, name: String) -> Measurement {
        // Either fails only if nvidia-smi has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.join();
        Measurement {
            name,
            value: Some(self.peak.load(Ordering::Relaxed) as f64 / 1024.0),
            unit: "GiB".into(),
            note: format!(
                "of the whole card, by all programs; {:.1} GiB before",
                self.before as f64 / 1024.0
            ),
        }
    }
}
