//! Rotary position embedding: frequencies and their scaling.

use std::f64::consts::PI;

/// A rotary position embedding: `theta`, and how frequencies are scaled for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// The number of leading features of a head that are rotated.
    pub dims: usize,
    /// The frequency scaling.
    pub scaling: Scaling,
    /// Which features are rotated together.
    pub pairs: Pairs,
}

/// How the `d` rotated features are paired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// `k` and `k + d/2`.
    Halves,
    /// `2k` and `2k + 1`.
    Neighbours,
}

impl Rope {
    pub(super) fn describe(&self) -> String {
        let Self { theta, dims, scaling, pairs: _ } = self;
        match scaling {
            Scaling::None => format!("theta {theta} over {dims}"),
            Scaling::Linear { factor } => format!("theta {theta}, linear by {factor}"),
            Scaling::Llama3 { factor, low, high, original } => {
                format!("theta {theta}, llama3 by {factor} from {low} to {high} over {original}")
            }
            Scaling::Yarn { factor, low, high, attention } => {
                format!("theta {theta}, yarn by {factor} from pair {low} to {high}, {attention}")
            }
            Scaling::Long { short, long, original, attention } => {
                format!(
                    "theta {theta} over {dims}, longrope {short:?} and {long:?} over {original}, {attention}"
                )
            }
        }
    }

    /// The rotation of pair `k` of `dims / 2` per position, in a sequence of `length` positions:
    /// `theta^(-2k/d)`, scaled.
    pub(crate) fn frequency(&self, k: usize, length: usize) -> f64 {
        let plain = self.theta.powf(-2.0 * k as f64 / self.dims as f64);
        match &self.scaling {
            Scaling::None => plain,
            Scaling::Linear { factor } => plain / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let rotations = original * plain / (2.0 * PI);
                let smooth = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                plain * (smooth + (1.0 - smooth) / factor)
            }
            Scaling::Yarn { factor, low, high, .. } => {
                let divided = ((k as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain * (1.0 - divided + divided / factor)
            }
            Scaling::Long { short, long, original, .. } => {
                let factors = if length > *original { long } else { short };
                plain / factors.get(k).copied().unwrap_or(1.0)
            }
        }
    }

    /// The multiplier of cosines and sines.
    pub(crate) fn attention_factor(&self) -> f64 {
        match &self.scaling {
            Scaling::Yarn { attention, .. } | Scaling::Long { attention, .. } => *attention,
            _ => 1.0,
        }
    }
}

/// How rotary frequencies are scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// The factor by which the context is extended.
        factor: f64,
    },
    /// Llama 3.1: only long wavelengths are scaled.
    Llama3 {
        /// The divisor for long wavelengths.
        factor: f64,
        /// Rotations over the original context below which a wavelength counts as long.
        low: f64,
        /// Rotations above which a wavelength counts as short.
        high: f64,
        /// The original context length in positions.
        original: f64,
    },
    /// YaRN (arXiv 2309.00071): pairs up to `low` are kept, those from `high` are divided, those
    /// between are interpolated.
    Yarn {
        /// The divisor for slow pairs.
        factor: f64,
        /// The last pair that is kept.
        low: f64,
        /// The first pair that is fully divided.
        high: f64,
        /// The multiplier of cosines and sines.
        attention: f64,
    },
    /// Phi-3's longrope: a divisor per frequency, with a second set for long sequences (arXiv
    /// 2402.13753).
    Long {
        /// Divisors for sequences of up to `original` positions.
        short: Vec<f64>,
        /// Divisors for longer sequences.
        long: Vec<f64>,
        /// The original context length in positions.
        original: usize,
        /// The multiplier of cosines and sines.
        attention: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scales_long_wavelengths_only() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let rope = Rope { theta: 500_000.0, dims: 128, scaling, pairs: Pairs::Halves };
        // Wavelengths below 2048 positions are kept; those above 8192 are divided by 8.
        let plain = |k: f64| 500_000f64.powf(-2.0 * k / 128.0);
        assert_eq!(rope.frequency(0, 1), 1.0);
        assert!((rope.frequency(20, 1) - plain(20.0)).abs() < 1e-15);
        assert!((rope.frequency(63, 1) - plain(63.0) / 8.0).abs() < 1e-15);
    }
}
