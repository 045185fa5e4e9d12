//! Rotary position embedding: frequencies, and how checkpoints stretch them.

use std::f64::consts::PI;

/// Rotary position embedding: `theta` and how frequencies are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// Features of a head that turn, the first ones.
    pub dims: usize,
    /// How they are stretched.
    pub scaling: Scaling,
    /// Which two features turn together.
    pub pairs: Pairs,
}

/// Which two of the `d` features that turn make a pair.
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
                format!("theta {theta} over {dims}, longrope {short:?} and {long:?} over {original}, {attention}")
            }
        }
    }

    /// What turns pair `k` of `dims / 2` by a position, in a sequence of `length` positions:
    /// `theta^(-2k/d)`, stretched as the checkpoint says.
    pub(crate) fn frequency(&self, k: usize, length: usize) -> f64 {
        let plain = self.theta.powf(-2.0 * k as f64 / self.dims as f64);
        match &self.scaling {
            Scaling::None => plain,
            Scaling::Linear { factor } => plain / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = original * plain / (2.0 * PI);
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
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

    /// What cosines and sines are multiplied by.
    pub(crate) fn attention_factor(&self) -> f64 {
        match &self.scaling {
            Scaling::Yarn { attention, .. } | Scaling::Long { attention, .. } => *attention,
            _ => 1.0,
        }
    }
}

/// How rotary frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// How much longer the context is.
        factor: f64,
    },
    /// Llama 3.1's: only long wavelengths are divided.
    Llama3 {
        /// What long wavelengths are divided by.
        factor: f64,
        /// Turns over the original context up to which a wavelength is long.
        low: f64,
        /// Turns from which it is short.
        high: f64,
        /// The original context, in positions.
        original: f64,
    },
    /// Pairs up to `low` stay, those from `high` on are divided, those between in part (arXiv 2309.00071).
    Yarn {
        /// What slow pairs are divided by.
        factor: f64,
        /// The last pair that stays.
        low: f64,
        /// The first pair that is divided in full.
        high: f64,
        /// What cosines and sines are multiplied by.
        attention: f64,
    },
    /// Phi-3's longrope: a factor for every frequency, others in long sequences (arXiv 2402.13753).
    Long {
        /// Up to `original` positions.
        short: Vec<f64>,
        /// Beyond.
        long: Vec<f64>,
        /// The original context, in positions.
        original: usize,
        /// What cosines and sines are multiplied by.
        attention: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_stretches_long_wavelengths_only() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let rope = Rope { theta: 500_000.0, dims: 128, scaling, pairs: Pairs::Halves };
        // Wavelengths below 2048 positions stay, those above 8192 are divided by 8.
        let plain = |k: f64| 500_000f64.powf(-2.0 * k / 128.0);
        assert_eq!(rope.frequency(0, 1), 1.0);
        assert!((rope.frequency(20, 1) - plain(20.0)).abs() < 1e-15);
        assert!((rope.frequency(63, 1) - plain(63.0) / 8.0).abs() < 1e-15);
    }
}
