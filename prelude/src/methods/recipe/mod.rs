//! mergekit recipes: YAML files with models or slices and their parameters, a method, a base,
//! dtypes and a tokenizer.
//!
//! ```yaml
//! merge_method: ties
//! base_model: base
//! models:
//!   - model: japanese
//!     parameters: {weight: 0.5, density: [0.4, 0.8]}
//!   - model: math
//!     parameters: {weight: 0.5}
//! parameters: {normalize: true}
//! dtype: bfloat16
//! ```
//!
//! A file may contain several recipes (separated by `---`), each with a `name` by which the others
//! use its merge, as in mergekit-multi. A mergekit key that is not supported is an error. A key
//! that mergekit does not have changes nothing, and a note reports it. Values are computed in f32
//! whatever `dtype` says, and rounded once, when written.

mod chat;
mod documents;
mod location;
mod model;
mod plan;
mod read;
mod setting;
mod tokens;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::chat::Template;
pub(crate) use self::documents::Documents;
pub(crate) use self::plan::{PlannedRecipe, configured};
use self::setting::Setting;
use self::tokens::TokenizerKeys;
use super::MethodEntry;

/// Parameters by name.
type Settings = BTreeMap<String, Setting>;

/// A parsed recipe.
pub(crate) struct Recipe {
    file: PathBuf,
    text: String,
    /// The name by which other recipes use its merge.
    name: Option<String>,
    method: &'static MethodEntry,
    /// One slice if the recipe has `models`.
    slices: Vec<Slice>,
    /// Whether it merges whole models, not slices.
    whole: bool,
    base: Option<String>,
    /// The output dtype.
    dtype: Option<&'static str>,
    tokenizer: Option<TokenizerKeys>,
    chat: Option<Template>,
    /// Defaults for slices, from the module or the recipe.
    parameters: [Settings; 2],
    notes: Vec<String>,
}

/// Consecutive layers.
struct Slice {
    inputs: Vec<Input>,
    base: Option<String>,
    parameters: Settings,
}

/// A model's part in a slice.
struct Input {
    model: String,
    /// `None` means all layers.
    layers: Option<Range<usize>>,
    parameters: Settings,
}

impl Recipe {
    /// Returns the names of its models in order of appearance, the base last.
    pub fn models(&self) -> Vec<&str> {
        let bases = self
            .slices
            .iter()
            .filter_map(|slice| slice.base.as_deref())
            .chain(self.base.as_deref());
        let mut names: Vec<&str> = Vec::new();
        for name in self
            .slices
            .iter()
            .flat_map(|slice| &slice.inputs)
            .map(|input| input.model.as_str())
            .chain(bases)
        {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Returns the name by which other recipes use its merge.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the path of its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether it merges whole models, so that all have the same tensors.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}
