//! What a scheme is: parameters that train in, a coefficient for every element of a tensor out.
//!
//! ```text
//! W = sum_i f(c_i) * W_i      c = scheme(parameters): sources x R x C, R is 1 or rows, C is 1 or columns
//! ```
//!
//! The gradient goes back through whatever tensor code makes `c`, so that a scheme needs no backward of
//! its own.

use std::fmt;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::options::{Options, seed_of};
use crate::checkpoint::{Architecture, Kind, TensorSpec};

/// A form of coefficients. One of your own takes about ten lines and trains like any other, saved sessions of it
/// open with [`Dam::open_with`](crate::Dam::open_with):
///
/// ```
/// use dam_prelude::{Parameter, Scheme, Site, Tensor, candle_core, check_scheme, load};
///
/// /// A coefficient for each source and layer, but a column's own strength.
/// struct Strengths;
///
/// impl Scheme for Strengths {
///     fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
///         let strength = Parameter::filled(site.name(), &[1, 1, site.columns()], 1.0);
///         vec![site.parameter(format!("layer {:?} {:?}", site.layer(), site.kind()), 1, 1), strength]
///     }
///     fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
///         parameters[0].broadcast_mul(&parameters[1]) // sources x 1 x 1 and 1 x 1 x columns
///     }
/// }
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// check_scheme(&Strengths, &models)?; // shapes, starts, and gradients against finite differences
/// let dam = models.wrap(Strengths)?;
/// assert!(dam.train(3)?.last.is_finite());
/// # Ok::<(), dam_prelude::Error>(())
/// ```
pub trait Scheme: Send + Sync {
    /// What trains for the tensor at `site`, with where it starts. Tensors that give the same key share one
    /// variable, which must then have one shape and one start.
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter>;

    /// The coefficients of the tensor at `site`: sources x R x C, f32, where R is 1 or `site.rows()` and C is
    /// 1 or `site.columns()`. `parameters` are those of [`Scheme::parameters`], in that order, on the device
    /// that they are to be computed on. Differentiable operations of candle only, and no draws.
    ///
    /// # Errors
    /// Operands that do not fit.
    fn coefficients(&self, site: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor>;

    /// What it is called in reports, model cards and saved sessions: the name of its type.
    fn name(&self) -> String {
        let path = std::any::type_name::<Self>();
        let path = path.split('<').next().unwrap_or(path);
        path.rsplit("::").next().unwrap_or(path).to_owned()
    }

    /// Its settings, as in `rank=4`.
    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The options it is wrapped with where none are given.
    fn options(&self) -> Options {
        Options::default()
    }

    /// Whether the base model is one of its sources.
    fn needs_base(&self) -> bool {
        false
    }

    /// This scheme with `options`, to be wrapped.
    fn with(self, options: Options) -> Wrap
    where
        Self: Sized + 'static,
    {
        Wrap { scheme: Arc::new(self), options }
    }
}

/// How a merge is wrapped: a scheme with options. A scheme alone becomes one with its own options.
#[derive(Clone)]
pub struct Wrap {
    /// Makes the coefficients.
    pub scheme: Arc<dyn Scheme>,
    /// What is chosen for any scheme.
    pub options: Options,
}

impl<S: Scheme + 'static> From<S> for Wrap {
    fn from(scheme: S) -> Self {
        Self { options: scheme.options(), scheme: Arc::new(scheme) }
    }
}

impl fmt::Debug for Wrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wrap({}, {:?})", self.title(), self.options)
    }
}

impl Wrap {
    /// The scheme's name and settings: `low_rank rank=4`.
    pub fn title(&self) -> String {
        let settings = self.scheme.settings().into_iter().map(|(key, value)| format!(" {key}={value}"));
        self.scheme.name() + &settings.collect::<String>()
    }
}

/// What trains: a variable of f32 values, by the name that tensors share it under.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub key: String,
    /// Its shape, of any rank; of MoFO each entry of the first dimension is one vector.
    pub shape: Vec<usize>,
    /// Where it starts: as many values as the shape has.
    pub start: Vec<f32>,
}

impl Parameter {
    /// A parameter that starts at `start`.
    pub fn new(key: impl Into<String>, shape: &[usize], start: Vec<f32>) -> Self {
        Self { key: key.into(), shape: shape.to_vec(), start }
    }

    /// A parameter all of whose values start at `value`.
    pub fn filled(key: impl Into<String>, shape: &[usize], value: f32) -> Self {
        Self::new(key, shape, vec![value; shape.iter().product()])
    }
}

/// One tensor of a merge, as a scheme sees it.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Its name, kind and shape.
    pub spec: &'a TensorSpec,
    /// The model that it belongs to: layers, heads and what else there is.
    pub architecture: &'a Architecture,
    /// The number of sources, N.
    pub sources: usize,
    /// Which of them is the base model, where that is merged.
    pub base: Option<usize>,
    /// What is chosen for any scheme.
    pub options: &'a Options,
}

impl Site<'_> {
    /// As in the checkpoint.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What the tensor is.
    pub fn kind(&self) -> Kind {
        self.spec.kind
    }

    /// The decoder layer that it belongs to, from 0; none: the embedding, the last norm, the output layer.
    pub fn layer(&self) -> Option<usize> {
        self.spec.layer()
    }

    /// Input features: the last dimension, or 1 of a bias.
    pub fn columns(&self) -> usize {
        if self.kind() == Kind::Bias { 1 } else { self.spec.shape.last().copied().unwrap_or(1) }
    }

    /// Output features, or tokens: 1 of a norm.
    pub fn rows(&self) -> usize {
        self.spec.shape.iter().product::<usize>() / self.columns().max(1)
    }

    /// Whether it is a matrix of a layer. The rows of other matrices are tokens, most of which no example
    /// reaches, and they are as large as a layer's all together.
    pub fn is_projection(&self) -> bool {
        self.kind() == Kind::Linear && self.layer().is_some()
    }

    /// Where the coefficient of each source is to start, drawn for `key` where the start is random: 1/N, or
    /// 1 of a bias as published.
    pub fn start(&self, key: &str) -> Vec<f32> {
        self.options.start(self.kind(), key, self.sources)
    }

    /// A parameter of shape sources x `rows` x `columns`, each source at [`Site::start`].
    pub fn parameter(&self, key: impl Into<String>, rows: usize, columns: usize) -> Parameter {
        let key = key.into();
        let start = self.start(&key).into_iter().flat_map(|x| std::iter::repeat_n(x, rows * columns)).collect();
        Parameter::new(key, &[self.sources, rows, columns], start)
    }

    /// `count` values in -1..1 that the seed and `key` decide.
    pub fn noise(&self, key: &str, count: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed_of(self.options.seed, key));
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }
}
