//! What is chosen for any scheme: `f`, what trains, and where coefficients start.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Nonlinearity;
use crate::checkpoint::Kind;

/// What is chosen for any scheme.
///
/// ```
/// use dam_prelude::{Kind, Nonlinearity, Options, PerTensor, Scheme, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let options = Options { f: Nonlinearity::Tanh, train: vec![Kind::Norm], ..Options::default() };
/// // Nine norms, a coefficient each and source.
/// assert_eq!(models.wrap(PerTensor.with(options))?.report().trainable, 9 * 2);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// What coefficients go through before they scale weights.
    pub f: Nonlinearity,
    /// The kinds that train; the others keep their start. Biases go with linears.
    pub train: Vec<Kind>,
    /// Where the coefficients of weights start.
    pub init: Init,
    /// Where the coefficients of biases start.
    pub bias: BiasStart,
    /// Whether the base model is merged too, as a source of its own.
    pub with_base: bool,
    /// What becomes of a multimodal model's tensors beside its decoder, which do not train.
    #[serde(default)]
    pub rest: Rest,
    /// Seeds a random start.
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

/// Where the coefficients of weights start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// `1/N`: the average of the sources.
    #[default]
    Uniform,
    /// Softmax of uniform noise, one value per source and tensor.
    Random,
}

/// Where the coefficients of biases start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BiasStart {
    /// 1 each, as in the published code: biases add up.
    #[default]
    One,
    /// As the weights: a uniform merge is then the average, biases included.
    Same,
}

/// What becomes of the tensors that a multimodal model has beside the decoder of its text: a vision tower, a
/// projector. No gradient reaches them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// The average of the sources, as coefficients that do not train start.
    #[default]
    Average,
    /// The base model's.
    Base,
    /// The first source's.
    First,
}

impl Rest {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Average, Self::Base, Self::First];

    /// The name in reports and settings.
    pub fn name(self) -> &'static str {
        match self {
            Rest::Average => "average",
            Rest::Base => "base",
            Rest::First => "first",
        }
    }
}

impl Options {
    /// Whether tensors of `kind` train.
    pub fn trains(&self, kind: Kind) -> bool {
        self.train.contains(&if kind == Kind::Bias { Kind::Linear } else { kind })
    }

    /// Where the coefficient of each of `sources` sources starts, in a tensor of `kind`; `key` names the draw.
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

/// A seed for what is named `name`, so that draws do not depend on the order of work.
pub(crate) fn seed_of(seed: u64, name: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
