//! Whether two sources can be merged, stacked, or trained together.

use std::collections::BTreeMap;

use super::loaded::Source;
use crate::checkpoint::config::TensorSpec;
use crate::checkpoint::tensors::unsupported_family::OUTPUT;
use crate::error::{Error, Result};

impl Source {
    /// The first difference in names and shapes of tensors that satisfy `counts`; vocabulary rows
    /// may differ.
    fn difference(&self, other: &Source, counts: impl Fn(&str) -> bool) -> Option<String> {
        let (a, b) = (self, other);
        let shapes = |s: &Self| -> BTreeMap<String, (Vec<usize>, bool)> {
            let free = s.vocabulary_tensors();
            let shape =
                |t: &TensorSpec| (t.name.clone(), (t.shape.clone(), free.contains(&t.name)));
            s.tensors().iter().filter(|t| counts(&t.name)).map(shape).collect()
        };
        let (mut left, mut right) = (shapes(a), shapes(b));
        // A tied output layer is merged as a separate one.
        if a.is_tied().unwrap_or(false) != b.is_tied().unwrap_or(false) {
            left.remove(OUTPUT);
            right.remove(OUTPUT);
        }
        // A difference in shapes is more informative than a missing tensor.
        let shape = left.iter().find_map(|(name, (x, free))| match right.get(name) {
            Some((y, true)) if *free && x.get(1..) == y.get(1..) => None,
            Some((y, _)) if x != y => Some(format!("tensor `{name}` has shape {x:?} and {y:?}")),
            _ => None,
        });
        let only = |name: &String, s: &Self| format!("only `{}` has tensor `{name}`", s.name());
        let of_a = || left.keys().find(|name| !right.contains_key(*name)).map(|name| only(name, a));
        let of_b = || right.keys().find(|name| !left.contains_key(*name)).map(|name| only(name, b));
        shape.or_else(of_a).or_else(of_b)
    }

    /// Returns an error that names the first tensor that differs from `other`, except for
    /// vocabulary rows. Sources that pass can be merged by methods without a forward pass.
    ///
    /// # Errors
    /// A difference in names or shapes.
    pub(crate) fn check_mergeable(&self, other: &Source) -> Result<()> {
        self.differs(other, self.difference(other, |_| true))
    }

    /// [`Source::check_mergeable`] for tensors outside layers, for models with restacked layers.
    ///
    /// # Errors
    /// A difference in names or shapes.
    pub(crate) fn check_stackable(&self, other: &Source) -> Result<()> {
        let stacks = [self.stacks()?, other.stacks()?];
        let outside = |name: &str| stacks.iter().all(|stacks| stacks.layer_of(name).is_none());
        self.differs(other, self.difference(other, outside))
    }

    fn differs(&self, other: &Source, difference: Option<String>) -> Result<()> {
        match difference {
            Some(difference) => Err(Error::Incompatible {
                first: self.name().into(),
                second: other.name().into(),
                difference,
            }),
            None => Ok(()),
        }
    }

    /// Returns an error that names the first difference in architecture from `other`. A merged
    /// model can only be trained if all sources run the same way.
    ///
    /// # Errors
    /// A difference in architecture, or an unsupported source.
    pub(crate) fn check_trainable(&self, other: &Source) -> Result<()> {
        let Some(difference) = self.architecture()?.difference(other.architecture()?) else {
            return Ok(());
        };
        Err(Error::Sources {
            what: format!(
                "`{}` and `{}` cannot be trained together: {difference}",
                self.name(),
                other.name()
            ),
            hint: "merge without training, which uses the configuration of the base or first source: merge linear; to train, \
                   load sources with the same configuration",
        })
    }
}
