//! Options common to all schemes: `f`, the trainable kinds, and the initial coefficients.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Nonlinearity;
use crate::checkpoint::Kind;
use crate::seed::seed_of;

/// Options common to all schemes.
///
/// ```
/// use dam_prelude::{Kind, Nonlinearity, Options, PerTensor, Scheme, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let options = Options { f: Nonlinearity::Tanh, train: vec![Kind::Norm], ..Options::default() };
/// // Nine norms, one coefficient per norm and source.
/// assert_eq!(models.wrap(PerTensor.with(options))?.report().trainable, 9 * 2);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The function applied to coefficients before they scale weights.
    pub f: Nonlinearity,
    /// The trainable kinds; other coefficients keep their initial values. Biases train with
    /// linears.
    pub train: Vec<Kind>,
    /// The initial coefficients of weights.
    pub init: Init,
    /// The initial coefficients of biases.
    pub bias: BiasStart,
    /// Whether the base model is merged too, as another source.
    pub with_base: bool,
    /// How a multimodal model's tensors outside the decoder are merged; they are not trained.
    #[serde(default)]
    pub rest: Rest,
    /// The seed of a random start.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            f: Nonlinearity::None,
            train: vec![Kind::Linear, Kind::Embedding, Kind::Norm],
            init: Init::Uniform,
            bias: BiasStart::One,
            with_base: false,
            rest: Rest::Average,
            seed: 0,
        }
    }
}

/// The initial coefficients of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// `1/N`: the average of the sources.
    #[default]
    Uniform,
    /// Softmax of uniform noise, one value per source and tensor.
    Random,
}

/// The initial coefficients of biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BiasStart {
    /// 1 each, as in the published code: biases are summed.
    #[default]
    One,
    /// The same as for weights: a uniform merge then averages biases too.
    Same,
}

/// How the tensors of a multimodal model outside the text decoder (vision tower, projector) are
/// merged. They receive no gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// The average of the sources, like the initial value of untrained coefficients.
    #[default]
    Average,
    /// Those of the base model.
    Base,
    /// Those of the first source.
    First,
}

impl Rest {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Average, Self::Base, Self::First];

    /// Returns the name in reports and settings.
    pub fn name(self) -> &'static str {
        match self {
            Rest::Average => "average",
            Rest::Base => "base",
            Rest::First => "first",
        }
    }
}

impl Options {
    /// Whether tensors of `kind` are trained.
    pub fn trains(&self, kind: Kind) -> bool {
        self.train.contains(&if kind == Kind::Bias { Kind::Linear } else { kind })
    }

    /// Returns the initial coefficient of each of `sources` sources in a tensor of `kind`; `key`
    /// seeds the random draw.
    pub(super) fn start(&self, kind: Kind, key: &str, sources: usize) -> Vec<f32> {
        match (kind, self.bias, self.init) {
            (Kind::Bias, BiasStart::One, _) => vec![1.0; sources],
            (_, _, Init::Uniform) => vec![1.0 / sources as f32; sources],
            (_, _, Init::Random) => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed_of(self.seed, key));
                let noise: Vec<f32> = (0..sources).map(|_| rng.random::<f32>().exp()).collect();
                let sum: f32 = noise.iter().sum();
                noise.into_iter().map(|x| x / sum).collect()
            }
        }
    }
}
