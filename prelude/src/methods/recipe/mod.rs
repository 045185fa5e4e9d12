//! A mergekit recipe, a YAML file: models or slices with their parameters, a method, a base, dtypes, a tokenizer.
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
//! A file may hold several recipes (`---` between them), each with a `name` by which the others use what it makes, as
//! mergekit-multi has it. A key that mergekit has and that is not followed is refused; one that mergekit does not have
//! either changes nothing, and a note says so. Numbers are computed in f32 whatever `dtype` says, and rounded once, when
//! they are written.

mod at;
mod chat;
mod documents;
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
pub(crate) use self::plan::{Followed, configured};
use self::setting::Setting;
use self::tokens::TokenizerKeys;
use super::Entry;

/// Parameters by name.
type Settings = BTreeMap<String, Setting>;

/// A recipe as it stands in its file.
pub(crate) struct Recipe {
    file: PathBuf,
    text: String,
    /// What others call what it makes.
    name: Option<String>,
    method: &'static Entry,
    /// One for `models`.
    slices: Vec<Slice>,
    /// Whether it names models, whole, not slices.
    whole: bool,
    base: Option<String>,
    /// What is written.
    dtype: Option<&'static str>,
    tokenizer: Option<TokenizerKeys>,
    chat: Option<Template>,
    /// What a slice does not say is what its module says, or else the recipe.
    parameters: [Settings; 2],
    notes: Vec<String>,
}

/// Layers that follow each other.
struct Slice {
    inputs: Vec<Input>,
    base: Option<String>,
    parameters: Settings,
}

/// What a model gives to a slice.
struct Input {
    model: String,
    /// None: all of them.
    layers: Option<Range<usize>>,
    parameters: Settings,
}

impl Recipe {
    /// What it calls its models, in the order of their naming, the base last.
    pub fn models(&self) -> Vec<&str> {
        let bases = self.slices.iter().filter_map(|slice| slice.base.as_deref()).chain(self.base.as_deref());
        let mut names: Vec<&str> = Vec::new();
        for name in self.slices.iter().flat_map(|slice| &slice.inputs).map(|input| input.model.as_str()).chain(bases) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// What others call what it makes.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Where it is.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether whole models are merged, so that all have the same tensors.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}
