//! What a merge writes: its tensors, the other files of its sources, and a model card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;

use super::bake_options::Bake;
use super::format::{Q8_0, named};
use super::side_files::{SideFiles, select};
use crate::checkpoint::{Buffer, Entry, Group, Restacked, Source, TensorSpec};
use crate::error::{Error, Result};

/// A checkpoint to write.
pub(super) struct Output<'a> {
    pub options: &'a Bake,
    /// All loaded sources; none of them is overwritten.
    pub loaded: &'a [Source],
    /// The merged sources; the first source that has a file provides it.
    pub merged: &'a [Source],
    /// The source whose config.json is preferred.
    pub configured: Option<&'a Source>,
    /// The source whose tokenizer is preferred.
    pub tokenizer: Option<&'a Source>,
    /// Stacked layers with their new numbers.
    pub restacked: Option<&'a Restacked>,
    pub card: String,
}

impl Output<'_> {
    /// Returns the tensors as stored: in the requested dtype, or else in the sources' dtype (f32 if
    /// they differ).
    pub fn entries<'s>(
        &self,
        specs: impl IntoIterator<Item = (&'s TensorSpec, DType)>,
    ) -> Result<Vec<Entry>> {
        // Blocks are computed from stored values.
        let asked =
            self.options.dtype.as_deref().filter(|name| *name != Q8_0).map(named).transpose()?;
        let entry = |(spec, stored)| {
            Entry::new(spec, self.stored_name(&spec.name), asked.unwrap_or(stored))
        };
        Ok(specs.into_iter().map(entry).collect())
    }

    /// Returns the integer and boolean tensors, which are copied.
    pub fn copied(&self, buffers: &BTreeMap<String, Buffer>) -> Vec<Entry> {
        let entry = |(name, buffer): (&String, &Buffer)| Entry {
            name: name.clone(),
            stored: self.stored_name(name),
            shape: buffer.shape.clone(),
            dtype: buffer.dtype,
        };
        buffers.iter().map(entry).collect()
    }

    /// Returns the name of the tensor `name` in the files of the first source.
    fn stored_name(&self, name: &str) -> String {
        self.merged.first().map_or_else(|| name.to_owned(), |source| source.stored_name(name))
    }

    /// Returns an error if `directory` is that of a source.
    pub fn check_target(&self, directory: &Path) -> Result<()> {
        let target = directory.canonicalize().ok();
        let adapters =
            |s: &Source| s.base_and_adapters().1.into_iter().map(PathBuf::from).collect::<Vec<_>>();
        let is_target = |path: &Path| target.is_some() && path.canonicalize().ok() == target;
        match self
            .loaded
            .iter()
            .find(|s| is_target(s.path()) || adapters(s).iter().any(|path| is_target(path)))
        {
            Some(source) => {
                let what = format!("`{}` is the source `{}`", directory.display(), source.name());
                Err(Error::Sources { what, hint: "write to another directory" })
            }
            None => Ok(()),
        }
    }

    /// Returns the files of `wanted` groups to copy.
    pub fn side_files(&self, wanted: impl Fn(Group) -> bool) -> SideFiles<'_> {
        // The first source that has a file provides it. If vocabularies differ, the source with all
        // tokens comes first.
        let reference = self.loaded.iter().find(|s| s.numbering().is_some_and(|n| n.is_reference));
        let models: Vec<&Source> =
            self.configured.into_iter().chain(reference).chain(self.merged).collect();
        let tokenizer_sources: Vec<&Source> =
            self.tokenizer.into_iter().chain(models.iter().copied()).collect();
        select(&models, &tokenizer_sources, wanted)
    }
}

/// Returns the last part of a path, so that model cards do not disclose local directories.
pub(super) fn last(place: &str) -> String {
    Path::new(place).file_name().map_or(place.to_owned(), |n| n.to_string_lossy().into_owned())
}
