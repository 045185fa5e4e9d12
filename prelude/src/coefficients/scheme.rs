//! The interface of a scheme: it maps trainable parameters to a coefficient for every element of a
//! tensor.
//!
//! ```text
//! W = sum_i f(c_i) * W_i      c = scheme(parameters): sources x R x C, R is 1 or rows, C is 1 or columns
//! ```
//!
//! The gradient flows back through the tensor operations that compute `c`, so a scheme needs no
//! backward pass of its own.

use std::fmt;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::options::Options;
use crate::checkpoint::{Architecture, Kind, TensorSpec};
use crate::seed::seed_of;

/// A parametrisation of the coefficients. Your own takes about ten lines of code and trains like
/// the built-in ones; its saved sessions open with [`Dam::open_with`](crate::Dam::open_with):
///
/// ```
/// use dam_prelude::{Parameter, Scheme, Site, Tensor, candle_core, check_scheme, load};
///
/// /// One coefficient per source and layer, times a strength per column.
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
    /// Returns the trainable parameters of the tensor at `site`, with their initial values. Tensors
    /// that return the same key share one variable; its shape and initial values must then agree.
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter>;

    /// Computes the coefficients of the tensor at `site`: sources x R x C, f32, where R is 1 or
    /// `site.rows()` and C is 1 or `site.columns()`. `parameters` are those of
    /// [`Scheme::parameters`], in that order, on the CPU whatever the device of the merge. Use only
    /// differentiable candle operations, and no randomness. By default, a tensor has one parameter,
    /// its coefficients.
    ///
    /// # Errors
    /// Operands that do not fit together.
    fn coefficients(&self, _site: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor> {
        let [coefficients] = parameters else {
            bail!("`coefficients` must be computed from {} parameters", parameters.len())
        };
        Ok(coefficients.clone())
    }

    /// Returns the name in reports, model cards and saved sessions: by default the name of the
    /// type.
    fn name(&self) -> String {
        let path = std::any::type_name::<Self>();
        let path = path.split('<').next().unwrap_or(path);
        path.rsplit("::").next().unwrap_or(path).to_owned()
    }

    /// Returns the settings, as in `rank=4`.
    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Returns the default options.
    fn options(&self) -> Options {
        Options::default()
    }

    /// Whether the base model must be one of the sources.
    fn needs_base(&self) -> bool {
        false
    }

    /// Returns this scheme with `options`, ready for `wrap`.
    fn with(self, options: Options) -> Wrap
    where
        Self: Sized + 'static,
    {
        Wrap { scheme: Arc::new(self), options }
    }
}

/// A scheme with options. A scheme alone converts to one with its default options.
#[derive(Clone)]
pub struct Wrap {
    /// The scheme.
    pub scheme: Arc<dyn Scheme>,
    /// Options common to all schemes.
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
    /// Returns the scheme's name and settings: `low_rank rank=4`.
    pub fn title(&self) -> String {
        let settings =
            self.scheme.settings().into_iter().map(|(key, value)| format!(" {key}={value}"));
        self.scheme.name() + &settings.collect::<String>()
    }
}

/// A trainable f32 variable, with the key under which tensors share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The key.
    pub key: String,
    /// The shape, of any rank. For MoFO, each entry of the first dimension is one vector.
    pub shape: Vec<usize>,
    /// The initial values, as many as the shape has elements.
    pub start: Vec<f32>,
}

impl Parameter {
    /// Creates a parameter with the initial values `start`.
    pub fn new(key: impl Into<String>, shape: &[usize], start: Vec<f32>) -> Self {
        Self { key: key.into(), shape: shape.to_vec(), start }
    }

    /// Creates a parameter filled with `value`.
    pub fn filled(key: impl Into<String>, shape: &[usize], value: f32) -> Self {
        Self::new(key, shape, vec![value; shape.iter().product()])
    }
}

/// One tensor of a merge, as a scheme receives it.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Name, kind and shape.
    pub spec: &'a TensorSpec,
    /// The architecture of the model: layers, heads and so on.
    pub architecture: &'a Architecture,
    /// The number of sources, N.
    pub sources: usize,
    /// The index of the base model, if it is merged.
    pub base: Option<usize>,
    /// Options common to all schemes.
    pub options: &'a Options,
}

impl Site<'_> {
    /// Returns the name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Returns the kind of the tensor.
    pub fn kind(&self) -> Kind {
        self.spec.kind
    }

    /// Returns the decoder layer, from 0; `None` for the embedding, the final norm and the output
    /// layer.
    pub fn layer(&self) -> Option<usize> {
        self.spec.layer()
    }

    /// Returns the number of input features: the last dimension, or 1 for a bias.
    pub fn columns(&self) -> usize {
        if self.kind() == Kind::Bias { 1 } else { self.spec.shape.last().copied().unwrap_or(1) }
    }

    /// Returns the number of output features or tokens; 1 for a norm.
    pub fn rows(&self) -> usize {
        self.spec.shape.iter().product::<usize>() / self.columns().max(1)
    }

    /// Whether it is a matrix of a layer. The rows of other matrices are tokens: most occur in no
    /// example, and these matrices are as large as all of a layer's together.
    pub fn is_projection(&self) -> bool {
        self.kind() == Kind::Linear && self.layer().is_some()
    }

    /// Returns the initial coefficient of each source, drawn with seed `key` if the start is
    /// random: 1/N, or 1 for a bias, as published.
    pub fn start(&self, key: &str) -> Vec<f32> {
        self.options.start(self.kind(), key, self.sources)
    }

    /// Returns a parameter of shape sources x `rows` x `columns`, with each source at
    /// [`Site::start`].
    pub fn parameter(&self, key: impl Into<String>, rows: usize, columns: usize) -> Parameter {
        let key = key.into();
        let start = self
            .start(&key)
            .into_iter()
            .flat_map(|x| std::iter::repeat_n(x, rows * columns))
            .collect();
        Parameter::new(key, &[self.sources, rows, columns], start)
    }

    /// Returns `count` values in -1..1, determined by the seed and `key`.
    pub fn noise(&self, key: &str, count: usize) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed_of(self.options.seed, key));
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }
}
