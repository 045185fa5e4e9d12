//! The scheme of DAM: one coefficient per source and column of every weight (arXiv 2410.08371).
//!
//! `W[:, j] = sum_i f(c[i, j]) W_i[:, j]`; a bias has one coefficient per source.

use super::{BiasStart, Init, Nonlinearity, Options, Parameter, Rest, Scheme, Site};
use crate::checkpoint::Kind;

/// The name of the scheme of DAM.
pub const COLUMNS: &str = "columns";

/// One coefficient per source and column, with the options of the paper as fields.
///
/// ```
/// use dam_prelude::{Columns, Kind, Nonlinearity, load};
///
/// let models = load(["builtin:japanese", "builtin:math"])?;
/// let columns = Columns { f: Nonlinearity::Tanh, train: vec![Kind::Norm], ..Columns::default() };
/// let report = models.wrap(columns)?.report();
/// // Nine norms of 128 features, one coefficient per feature and source.
/// assert_eq!(report.trainable, 9 * 128 * 2);
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// See [`Options::f`].
    pub f: Nonlinearity,
    /// See [`Options::train`].
    pub train: Vec<Kind>,
    /// See [`Options::init`].
    pub init: Init,
    /// See [`Options::bias`].
    pub bias: BiasStart,
    /// See [`Options::with_base`].
    pub with_base: bool,
    /// See [`Options::rest`].
    pub rest: Rest,
    /// See [`Options::seed`].
    pub seed: u64,
}

impl Default for Columns {
    fn default() -> Self {
        let Options { f, train, init, bias, with_base, rest, seed } = Options::default();
        Self { f, train, init, bias, with_base, rest, seed }
    }
}

impl Scheme for Columns {
    fn name(&self) -> String {
        COLUMNS.into()
    }

    fn options(&self) -> Options {
        let Self { f, train, init, bias, with_base, rest, seed } = self.clone();
        Options { f, train, init, bias, with_base, rest, seed }
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        vec![by_column(site)]
    }
}

/// Returns one coefficient per source and column of the tensor: the fallback of other schemes for
/// tensors they do not cover.
pub(super) fn by_column(site: &Site<'_>) -> Parameter {
    site.parameter(site.name(), 1, site.columns())
}
