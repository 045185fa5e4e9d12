//! Static merge methods (without training), one file each, each a [`Method`].
//!
//! A method works tensor by tensor. It may first read all of a tensor ([`Method::prepare`], for a
//! norm, an angle or a threshold). Then it merges blocks of elements ([`Blend::blend`]) on all
//! threads, while earlier blocks are written.
//!
//! Most methods are one of two kinds: a linear combination of the sources (`combination.rs`, some
//! with coefficients from the angles in `gram.rs`), or task vectors that are sparsified, pass sign
//! consensus and are added to the base (`task_vectors.rs`, `sparsify.rs`). Parameters have
//! mergekit's names and defaults.

mod arcee_fusion;
mod breadcrumbs;
mod combination;
mod dare;
mod della;
mod draws;
mod given;
mod gram;
mod greedy_soup;
mod karcher;
mod linear;
mod model_stock;
mod multislerp;
mod nearswap;
mod nuslerp;
mod parameters;
mod passthrough;
mod plan;
mod ram;
mod rank;
mod recipe;
mod sce;
mod slerp;
mod sparsify;
mod stream;
mod task_arithmetic;
mod task_vectors;
mod ties;

use std::ops::RangeInclusive;
use std::sync::Arc;

use serde_json::Value;

pub use arcee_fusion::ArceeFusion;
pub use breadcrumbs::{breadcrumbs, breadcrumbs_ties};
pub use dare::{dare_linear, dare_ties};
pub use della::{della, della_linear};
pub(crate) use given::Given;
pub use greedy_soup::{GREEDY_SOUP, greedy_soup};
pub use karcher::Karcher;
pub use linear::Linear;
pub use model_stock::ModelStock;
pub use multislerp::MultiSlerp;
pub use nearswap::NearSwap;
pub use nuslerp::{Across, NuSlerp};
pub use parameters::{Grid, Key, ParameterValues, Scope};
pub use passthrough::Passthrough;
pub(crate) use plan::{Plan, Planned};
pub use ram::Ram;
pub(crate) use recipe::{Documents, PlannedRecipe, Recipe, configured};
pub use sce::Sce;
pub use slerp::Slerp;
pub use sparsify::{Rescale, Sparsify};
pub(crate) use stream::TILE;
pub use stream::{Block, Operands};
pub use task_arithmetic::task_arithmetic;
pub use task_vectors::{Signs, TaskVectors};
pub use ties::ties;

use crate::error::{Error, Result};

/// A static merge method.
pub trait Method: Send + Sync {
    /// Returns the name in verbs and model cards.
    fn name(&self) -> &'static str;

    /// Returns the parameters for the model card.
    fn parameters(&self) -> Value;

    /// Returns the allowed numbers of sources.
    fn counts(&self) -> RangeInclusive<usize> {
        2..=usize::MAX
    }

    /// Returns the role of the base model.
    fn base(&self) -> Base {
        Base::Apart
    }

    /// Checks the parameters for `sources` sources.
    ///
    /// # Errors
    /// Parameters that do not fit.
    fn check(&self, sources: usize) -> Result<()>;

    /// Reads one tensor as far as needed, and returns what merges its blocks.
    ///
    /// # Errors
    /// The method cannot merge the tensor.
    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>>;
}

/// Merges blocks of one tensor, in any order, on any thread. The result for an element depends on
/// nothing else.
pub trait Blend: Send + Sync {
    /// Fills `out`, which has the length of the block, with merged values. The block may be
    /// overwritten.
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]);
}

/// The role of the base model in a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// Not used.
    #[default]
    Apart,
    /// An additional source.
    Source,
    /// The origin of the task vectors `W_i - base`.
    Origin,
}

/// How a method uses the base model that a recipe names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// As a source like the others.
    Never,
    /// As the origin of task vectors, if it is named.
    Optional,
    /// As the origin of task vectors; required.
    Always,
}

/// A named method for verbs and recipes.
pub struct MethodEntry {
    /// The name.
    pub name: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The parameters.
    pub keys: &'static [Key],
    /// The role of a recipe's base.
    pub origin: Origin,
    /// The tuning grid; every combination is tried.
    pub grid: &'static [Grid],
    /// Builds the method from values for all parameters.
    pub make: fn(&ParameterValues) -> Result<Arc<dyn Method>>,
}

/// All methods.
pub const METHODS: &[MethodEntry] = &[
    linear::ENTRY,
    slerp::ENTRY,
    nuslerp::ENTRY,
    multislerp::ENTRY,
    karcher::ENTRY,
    task_arithmetic::ENTRY,
    ties::ENTRY,
    dare::LINEAR,
    dare::TIES,
    della::ENTRY,
    della::LINEAR,
    breadcrumbs::ENTRY,
    breadcrumbs::TIES,
    model_stock::ENTRY,
    sce::ENTRY,
    ram::ENTRY,
    ram::PLUS,
    nearswap::ENTRY,
    arcee_fusion::ENTRY,
    passthrough::ENTRY,
];

/// Returns the method `name`.
///
/// # Errors
/// An unknown name; the error names the nearest.
pub fn find(name: &str) -> Result<&'static MethodEntry> {
    let found = METHODS.iter().find(|m| m.name == name);
    found.ok_or_else(|| Error::unknown("method", name, METHODS.iter().map(|m| m.name)))
}

impl MethodEntry {
    /// Builds the method with the parameters `pairs`, as in `("weight", "1,0.5")`; the others have
    /// their defaults.
    ///
    /// ```
    /// let ties = dam_prelude::methods::find("ties")?.build(&[("density", "0.5"), ("weight", "1,0.5")])?;
    /// assert_eq!(ties.parameters()["density"], serde_json::json!([0.5]));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// An unknown key, or an invalid value.
    pub fn build(&self, pairs: &[(&str, &str)]) -> Result<Arc<dyn Method>> {
        (self.make)(&ParameterValues::read(self.keys, pairs)?)
    }

    /// Returns every combination of the grid as pairs of key and value; one empty combination
    /// without a grid.
    pub fn candidates(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        self.grid.iter().fold(vec![Vec::new()], |candidates, (key, values)| {
            let with = |pairs: &Vec<_>| {
                values
                    .iter()
                    .map(|v| [pairs.as_slice(), &[(*key, *v)]].concat())
                    .collect::<Vec<_>>()
            };
            candidates.iter().flat_map(with).collect()
        })
    }

    /// Returns the parameters with their defaults: `[weight=1] [density=1]`.
    pub fn usage(&self) -> String {
        self.keys
            .iter()
            .map(|key| format!("[{}={}]", key.name, key.default))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_agree_with_the_parameter_tables() {
        let defaults: [(&str, Arc<dyn Method>); 20] = [
            ("linear", Arc::new(Linear { weights: vec![1.0], ..Linear::default() })),
            ("slerp", Arc::new(Slerp::default())),
            ("nuslerp", Arc::new(NuSlerp::default())),
            ("multislerp", Arc::new(MultiSlerp::default())),
            ("karcher", Arc::new(Karcher::default())),
            ("task_arithmetic", Arc::new(task_arithmetic())),
            ("ties", Arc::new(ties())),
            ("dare_linear", Arc::new(dare_linear())),
            ("dare_ties", Arc::new(dare_ties())),
            ("della", Arc::new(della())),
            ("della_linear", Arc::new(della_linear())),
            ("breadcrumbs", Arc::new(breadcrumbs())),
            ("breadcrumbs_ties", Arc::new(breadcrumbs_ties())),
            ("model_stock", Arc::new(ModelStock::default())),
            ("sce", Arc::new(Sce::default())),
            ("ram", Arc::new(Ram::default())),
            ("ramplus_tl", Arc::new(Ram::plus())),
            ("nearswap", Arc::new(NearSwap::default())),
            ("arcee_fusion", Arc::new(ArceeFusion)),
            ("passthrough", Arc::new(Passthrough::default())),
        ];
        assert_eq!(defaults.len(), METHODS.len());
        for (name, method) in defaults {
            let built = find(name).unwrap().build(&[]).unwrap();
            assert_eq!((built.name(), built.parameters()), (name, method.parameters()));
        }
    }
}
