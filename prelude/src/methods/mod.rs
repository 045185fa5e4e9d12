//! Floor 4: the static merge methods, one a file, each a [`Method`].
//!
//! A method never sees a whole model. For each tensor it may look at all of it first ([`Method::prepare`]:
//! a norm, an angle, a threshold), and then makes its elements block by block ([`Blend::blend`]), on all
//! threads, while blocks made before are written.
//!
//! Most are one of two things: a sum of the sources with numbers in front (`combination.rs`, the numbers
//! from the angles in `gram.rs`), or task vectors that are thinned out, agree on signs and are added to the
//! base (`task_vectors.rs`, `sparsify.rs`). Names, defaults and numbers of parameters are mergekit's.

mod arcee_fusion;
mod breadcrumbs;
mod combination;
mod dare;
mod della;
mod draws;
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
pub use greedy_soup::{GREEDY_SOUP, greedy_soup};
pub use karcher::Karcher;
pub use linear::Linear;
pub use model_stock::ModelStock;
pub use multislerp::MultiSlerp;
pub use nearswap::NearSwap;
pub use nuslerp::{Across, NuSlerp};
pub use parameters::{Given, Grid, Key, Scope};
pub use passthrough::Passthrough;
pub(crate) use plan::{Plan, Planned};
pub use ram::Ram;
pub(crate) use recipe::{Documents, Followed, Recipe, configured};
pub use sce::Sce;
pub use slerp::Slerp;
pub use sparsify::{Rescale, Sparsify};
pub(crate) use stream::TILE;
pub use stream::{Block, Operands};
pub use task_arithmetic::task_arithmetic;
pub use task_vectors::{Signs, TaskVectors};
pub use ties::ties;

use crate::error::{Error, Result};

/// A way to merge.
pub trait Method: Send + Sync {
    /// What it is called in verbs and model cards.
    fn name(&self) -> &'static str;

    /// Its parameters, for the model card.
    fn parameters(&self) -> Value;

    /// How many sources it merges.
    fn counts(&self) -> RangeInclusive<usize> {
        2..=usize::MAX
    }

    /// What the base model is to it.
    fn base(&self) -> Base {
        Base::Apart
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
    fn prepare(&self, tensor: &Operands) -> Result<Box<dyn Blend>>;
}

/// Merges blocks of one tensor, in any order, on any thread; what it gives for an element depends on
/// nothing else.
pub trait Blend: Send + Sync {
    /// Fills `out`, as long as the block is, with merged values. The block is the method's own: it may be
    /// written over.
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]);
}

/// What the base model is to a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// Not part of the merge.
    #[default]
    Apart,
    /// One more source.
    Source,
    /// What sources are measured from, as `W_i - base`.
    Origin,
}

/// Whether a method measures sources from the base model that a recipe names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The base is a source like the others.
    Never,
    /// It does where one is named.
    Optional,
    /// It needs one.
    Always,
}

/// A method as verbs and recipes know it.
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its parameters.
    pub keys: &'static [Key],
    /// What the base of a recipe is to it.
    pub origin: Origin,
    /// What to try where it is tuned: every combination.
    pub grid: &'static [Grid],
    /// Makes it, where every parameter is given.
    pub make: fn(&Given) -> Result<Arc<dyn Method>>,
}

/// All methods.
pub const METHODS: &[Entry] = &[
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

/// The method `name`.
///
/// # Errors
/// An unknown one, with the nearest.
pub fn find(name: &str) -> Result<&'static Entry> {
    let found = METHODS.iter().find(|m| m.name == name);
    found.ok_or_else(|| Error::unknown("method", name, METHODS.iter().map(|m| m.name)))
}

impl Entry {
    /// The method with the parameters `pairs`, as in `("weight", "1,0.5")`; the others are as by default.
    ///
    /// ```
    /// let ties = dam_prelude::methods::find("ties")?.build(&[("density", "0.5"), ("weight", "1,0.5")])?;
    /// assert_eq!(ties.parameters()["density"], serde_json::json!([0.5]));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// An unknown key, or a value that does not fit.
    pub fn build(&self, pairs: &[(&str, &str)]) -> Result<Arc<dyn Method>> {
        (self.make)(&Given::read(self.keys, pairs)?)
    }

    /// Every combination of its grid, as pairs of key and value; one without pairs where it has none.
    pub fn candidates(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        self.grid.iter().fold(vec![Vec::new()], |candidates, (key, values)| {
            let with = |pairs: &Vec<_>| values.iter().map(|v| [pairs.as_slice(), &[(*key, *v)]].concat()).collect::<Vec<_>>();
            candidates.iter().flat_map(with).collect()
        })
    }

    /// Its parameters with their defaults: `[weight=1] [density=1]`.
    pub fn usage(&self) -> String {
        self.keys.iter().map(|key| format!("[{}={}]", key.name, key.default)).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_said_once() {
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
