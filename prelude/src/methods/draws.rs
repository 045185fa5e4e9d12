//! Random draws: one per element, computed from a key and the element's position. They do not
//! depend on threads, order or block boundaries.

use crate::seed::seed_of;

/// The key of the draws of one source in one tensor.
#[derive(Clone, Copy)]
pub(super) struct Draws(u64);

impl Draws {
    /// Returns the draws of `seed` for `source` in `tensor`.
    pub fn new(seed: u64, tensor: &str, source: &str) -> Self {
        Self(seed_of(seed_of(seed, tensor), source))
    }

    /// For each element from position `start` on, writes to `drawn` whether its draw is below the
    /// threshold `below`; see [`below`].
    #[inline(always)]
    pub fn fill(self, start: usize, below: u32, drawn: &mut [bool]) {
        let first = start as u64 >> 32;
        let last = (start + drawn.len()) as u64 >> 32;
        if first == last {
            // 32 bits per lane fill wide registers.
            let key = self.high(first);
            for (i, drawn) in drawn.iter_mut().enumerate() {
                *drawn =
                    scramble(scramble((start as u32).wrapping_add(i as u32) ^ self.0 as u32) ^ key)
                        < below;
            }
        } else {
            drawn.iter_mut().enumerate().for_each(|(i, drawn)| *drawn = self.at(start + i) < below);
        }
    }

    /// Returns the draw at `position`, uniform over 32 bits.
    #[inline(always)]
    pub fn at(self, position: usize) -> u32 {
        scramble(scramble(position as u32 ^ self.0 as u32) ^ self.high(position as u64 >> 32))
    }

    #[inline(always)]
    fn high(self, position: u64) -> u32 {
        (self.0 >> 32) as u32 ^ (position as u32).rotate_left(16)
    }
}

/// Returns the threshold for `probability`: a draw below it is an event of that probability.
pub(super) fn below(probability: f64) -> u32 {
    (probability * 2f64.powi(32)).clamp(0.0, f64::from(u32::MAX)) as u32
}

/// A permutation of 32 bits in which every bit depends on every other: `lowbias32` from Wellons'
/// hash prospector.
#[inline(always)]
fn scramble(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_of_sources_and_tensors_are_independent() {
        let a = Draws::new(1, "w", "a");
        let b = Draws::new(1, "w", "b");
        let c = Draws::new(1, "v", "a");
        for (one, other) in [(a, b), (a, c), (b, c)] {
            let both =
                (0..100_000).filter(|i| one.at(*i) < 1 << 31 && other.at(*i) < 1 << 31).count();
            assert!((f64::from(both as u32) / 100_000.0 - 0.25).abs() < 0.01, "{both}");
        }
    }

    #[test]
    fn draws_do_not_depend_on_blocks() {
        let draws = Draws::new(2, "w", "a");
        for start in [0, 7, (1 << 32) - 100, 1 << 33] {
            let mut drawn = [false; 200];
            draws.fill(start, below(0.3), &mut drawn);
            assert!(
                drawn
                    .iter()
                    .enumerate()
                    .all(|(i, drawn)| *drawn == (draws.at(start + i) < below(0.3))),
                "{start}"
            );
        }
    }
}
