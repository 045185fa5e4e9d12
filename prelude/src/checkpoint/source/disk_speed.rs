//! The speed of the disk that a source is read from.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::Source;
use crate::checkpoint::storage::View;

/// Bytes to read for a measurement: more than disks answer from their own memory at once.
const SAMPLE_BYTES: usize = 256 << 20;

/// Returns the bytes per second at which the largest weight of `sources` is read from its disk,
/// measured once per file; `None` if nothing is mapped, or pages cannot be taken out of the
/// system's cache (elsewhere than on Linux).
pub(crate) fn disk_speed(sources: &[Source]) -> Option<f64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    static MEASURED: Mutex<BTreeMap<PathBuf, f64>> = Mutex::new(BTreeMap::new());
    let views = sources.iter().flat_map(|source| source.0.views.values());
    let (map, view) = views
        .filter_map(|view| Some((view.place()?.0, view)))
        .max_by_key(|(_, view)| view.bytes().len())?;
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(speed) = measured.get(map.path()) {
        return Some(*speed);
    }
    let speed = measure(view)?;
    measured.insert(map.path().to_owned(), speed);
    Some(speed)
}

/// Measures the bytes per second at which `view` is read from its disk; `None` if it is empty.
fn measure(view: &View) -> Option<f64> {
    let (map, range) = view.mapped()?;
    let range = range.start..range.end.min(range.start + SAMPLE_BYTES);
    map.forget(range.clone());
    let start = Instant::now();
    map.read_ahead(range.clone());
    // One byte of every page.
    let sum =
        map[range.clone()].iter().step_by(4096).fold(0u64, |sum, byte| sum + u64::from(*byte));
    black_box(sum);
    let seconds = start.elapsed().as_secs_f64();
    let bytes = range.len() as f64;
    map.release(range);
    (bytes > 0.0 && seconds > 0.0).then_some(bytes / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models that are built in are in memory.
    #[test]
    fn nothing_is_measured_without_a_file() {
        assert_eq!(disk_speed(&[Source::open("builtin:math").unwrap()]), None);
        assert_eq!(disk_speed(&[]), None);
    }
}
