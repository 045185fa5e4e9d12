//! Floor 4: the ways to merge that train nothing, one a file, each a [`Method`].
//!
//! A method never sees a whole model. For each tensor it may look at all of it first ([`Method::prepare`]:
//! a norm, an angle, a threshold), and then makes its elements block by block ([`Blend::blend`]), on all
//! threads, while blocks made before are written.

mod linear;
mod stream;

use serde_json::Value;

pub use linear::Linear;
pub(crate) use stream::content;
pub use stream::{Block, Operands};

use crate::error::{Error, Result};

/// A way to merge.
pub trait Method: Send + Sync {
    /// What it is called in verbs and model cards.
    fn name(&self) -> &'static str;

    /// Its parameters, for the model card.
    fn parameters(&self) -> Value;

    /// Whether the base model is merged as one more source.
    fn merges_base(&self) -> bool {
        false
    }

    /// Whether it needs the base model, to merge what sources have learnt since: `W_i - base`.
    fn needs_base(&self) -> bool {
        false
    }

    /// An error where its parameters do not fit `sources` sources.
    ///
    /// # Errors
    /// As said.
    fn check(&self, sources: usize) -> Result<()>;

    /// Looks at one tensor, as much as it needs, and gives what merges its blocks.
    ///
    /// # Errors
    /// A tensor that it cannot merge.
    fn prepare<'a>(&'a self, tensor: &Operands) -> Result<Box<dyn Blend + 'a>>;
}

/// Merges blocks of one tensor, in any order, on any thread; what it gives for an element depends on
/// nothing else.
pub trait Blend: Send + Sync {
    /// Fills `out`, as long as the block is, with merged values.
    fn blend(&self, block: &Block<'_>, out: &mut [f32]);
}

/// A method as verbs know it.
pub struct Recipe {
    /// Its name.
    pub name: &'static str,
    /// Its parameters, as in `weights=1,1 normalize=on`.
    pub usage: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// The names of its parameters.
    pub keys: &'static [&'static str],
    /// Makes it.
    pub build: Build,
}

/// The method with parameters that are given by name; the others are as by default.
pub type Build = fn(&[(&str, &str)]) -> Result<Box<dyn Method>>;

/// All methods.
pub const METHODS: &[Recipe] = &[linear::RECIPE];

/// The method `name`.
///
/// # Errors
/// An unknown one, with the nearest.
pub fn find(name: &str) -> Result<&'static Recipe> {
    let found = METHODS.iter().find(|m| m.name == name);
    found.ok_or_else(|| Error::unknown("method", name, METHODS.iter().map(|m| m.name)))
}

/// `on` or `off`.
fn switch(key: &str, value: &str) -> Result<bool> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(Error::bad_value(key, value, "on or off")),
    }
}

/// Numbers with commas between them, one a source.
fn numbers(key: &str, value: &str) -> Result<Vec<f64>> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
    let all = value.split(',').map(number).collect::<Option<Vec<f64>>>();
    all.ok_or_else(|| Error::bad_value(key, value, "a number for each source, as in 1,0.5,0.5"))
}
