//! load: the sources of a merge and their data.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::checkpoint::{BASE, BUILTIN_PREFIX, ConfigDifference, Source, with_shared_numbering};
use crate::coefficients::{Scheme, Wrap};
use crate::data::{Dataset, builtin_datasets};
use crate::error::{Error, Result};
use crate::show::{AVERAGE, MERGED, SourceReport, Sources};
use crate::train::{Settings, Workload};

use super::Dam;

/// Loaded sources, their data, and the initial settings of a merge.
#[derive(Clone, Default)]
pub struct Models {
    pub(crate) sources: Vec<Source>,
    pub(crate) data: BTreeMap<String, Arc<Dataset>>,
    /// The initial settings of a merge.
    pub settings: Settings,
}

/// Loads sources: Hugging Face directories, Hub repositories, GGUF files or `builtin:NAME`, each
/// optionally named (`NAME=SOURCE`). `base=SOURCE` marks the base model. Built-in models come with
/// data.
///
/// ```
/// let models = dam_prelude::load(["builtin:japanese", "builtin:math"])?;
/// assert_eq!(models.report().0[1].name, "math");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
///
/// # Errors
/// A source is missing, damaged or not finite; sources differ in architecture, shapes or
/// tokenisation; two sources have the same name.
pub fn load<S: AsRef<str>>(sources: impl IntoIterator<Item = S>) -> Result<Models> {
    Models::default().and_load(sources)
}

impl Models {
    /// Returns these sources and more.
    ///
    /// # Errors
    /// As for [`load`].
    pub fn and_load<S: AsRef<str>>(&self, sources: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut models = self.clone();
        for spec in sources {
            models.add(Source::open(spec.as_ref())?)?;
        }
        Ok(models)
    }

    /// Adds a source, with its data if it is built in.
    pub(crate) fn add(&mut self, source: Source) -> Result<()> {
        self.sources.iter().try_for_each(|s| s.check_mergeable(&source))?;
        self.take(source)
    }

    /// Like [`Models::add`], for a source whose number of layers may differ because the recipe
    /// stacks layers.
    pub(super) fn add_to_stack(&mut self, source: Source) -> Result<()> {
        self.sources.iter().try_for_each(|s| s.check_stackable(&source))?;
        self.take(source)
    }

    fn take(&mut self, source: Source) -> Result<()> {
        let name = source.name();
        let hint = "choose another name: load NAME=SOURCE";
        if self.sources.iter().any(|s| s.name() == name) {
            return Err(Error::Sources {
                what: format!("a source named `{name}` is already loaded"),
                hint,
            });
        }
        if [AVERAGE, MERGED].contains(&name) {
            return Err(Error::Sources {
                what: format!("the name `{name}` is reserved for a row of the score tables"),
                hint,
            });
        }
        let (name, builtin) = (
            name.to_owned(),
            source.builtin().filter(|name| builtin_datasets().contains(name)).map(str::to_owned),
        );
        let mut models = self.clone();
        models.sources.push(source);
        models.sources = with_shared_numbering(&models.sources)?;
        // If token ids were renumbered, data is tokenised again.
        for (old, new) in self.sources.iter().zip(models.sources.clone()) {
            if let Some(data) =
                self.data.get(old.name()).filter(|_| old.numbering() != new.numbering())
            {
                models.data(new.name(), &data.spec)?;
            }
        }
        if let Some(builtin) = builtin {
            models.data(&name, &format!("{BUILTIN_PREFIX}{builtin}"))?;
        }
        *self = models;
        Ok(())
    }

    /// Sets the data that source `name` was tuned on: a path or `builtin:NAME`. Returns the number
    /// of examples.
    ///
    /// # Errors
    /// An unknown source, or invalid data; the old data is then kept.
    pub fn data(&mut self, name: &str, spec: &str) -> Result<usize> {
        let dataset = Dataset::read(spec, self.reader(name)?)?;
        let examples = dataset.examples.len();
        self.data.insert(name.to_owned(), Arc::new(dataset));
        Ok(examples)
    }

    /// Takes over the data of `loaded`. Data is tokenised again if token ids differ here.
    pub(super) fn take_data_from(&mut self, loaded: &Self) -> Result<()> {
        for (name, data) in &loaded.data {
            let numbering = |models: &Self| models.source(name).map(|s| s.numbering().cloned());
            match (numbering(self), numbering(loaded)) {
                (Ok(here), Ok(there)) if here != there => drop(self.data(name, &data.spec)?),
                _ => drop(self.data.insert(name.clone(), data.clone())),
            }
        }
        Ok(())
    }

    /// Returns the columns of the data of source `name` that were not used.
    pub fn unused_columns(&self, name: &str) -> &[String] {
        self.data.get(name).map_or(&[], |data| &data.unused)
    }

    /// Returns the path or spec of the data of source `name`, if it has data.
    pub fn data_spec(&self, name: &str) -> Option<&str> {
        self.data.get(name).map(|data| data.spec.as_str())
    }

    /// Returns an error if a weight file of a source has changed since it was loaded.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.sources.iter().try_for_each(Source::check_unchanged)
    }

    /// The same, including the files other than weights.
    pub(super) fn check_files_unchanged(&self) -> Result<()> {
        self.sources.iter().try_for_each(Source::check_files_unchanged)
    }

    /// Whether these are the same sources and data with the same settings.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.settings == other.settings
            && self
                .sources
                .iter()
                .map(Source::identity)
                .eq(other.sources.iter().map(Source::identity))
            && self
                .data
                .iter()
                .map(|(name, d)| (name, Arc::as_ptr(d)))
                .eq(other.data.iter().map(|(name, d)| (name, Arc::as_ptr(d))))
    }

    /// Returns the names of all sources in load order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(Source::name)
    }

    /// Whether the source `name` has training data.
    pub fn has_data(&self, name: &str) -> bool {
        self.data.contains_key(name)
    }

    /// Returns the source `name`, or, if it has no tokenizer, one that has.
    fn reader(&self, name: &str) -> Result<&Source> {
        let source = self.source(name)?;
        Ok(Some(source)
            .filter(|s| s.tokenizer().is_some())
            .or_else(|| self.tokenizer_source())
            .unwrap_or(source))
    }

    /// Returns the source whose tokenizer and template the merge uses: the first merged source, or,
    /// if vocabularies differ, the one with the union of all tokens.
    pub(crate) fn tokenizer_source(&self) -> Option<&Source> {
        let speaks =
            |s: &&Source| s.tokenizer().is_some() && s.numbering().is_none_or(|n| n.is_reference);
        self.sources
            .iter()
            .filter(|s| s.name() != BASE)
            .find(speaks)
            .or_else(|| self.sources.iter().find(speaks))
    }

    /// Returns the source `name`.
    ///
    /// # Errors
    /// An unknown name; the error names the nearest.
    pub fn source(&self, name: &str) -> Result<&Source> {
        let found = self.sources.iter().find(|s| s.name() == name);
        found.ok_or_else(|| Error::unknown("source", name, self.names()))
    }

    /// Returns the base model, if one is marked.
    pub(crate) fn base(&self) -> Option<&Source> {
        self.sources.iter().find(|s| s.name() == BASE)
    }

    /// Returns the merged sources: all of them; the base only if `with_base` is set.
    pub(crate) fn merged(&self, with_base: bool) -> Result<Vec<Source>> {
        let merged: Vec<Source> =
            self.sources.iter().filter(|s| with_base || s.name() != BASE).cloned().collect();
        if merged.len() < 2 {
            return Err(self.too_few(merged.len(), with_base));
        }
        Ok(merged)
    }

    /// Returns the error for `count` sources, fewer than a merge needs.
    pub(super) fn too_few(&self, count: usize, with_base: bool) -> Error {
        let spare_base = self.base().is_some() && !with_base;
        let beside = if spare_base { " besides the base" } else { "" };
        let what = format!("a merge needs at least two sources; {count} loaded{beside}");
        let hint = if spare_base {
            "load more sources, or merge the base too: base=on"
        } else {
            "load more sources"
        };
        Error::Sources { what, hint }
    }

    /// Returns the sources that `scheme` merges. They include the base if the scheme needs it or
    /// `with_base` is set.
    pub(super) fn merged_by(&self, scheme: &dyn Scheme, with_base: bool) -> Result<Vec<Source>> {
        if scheme.needs_base() && self.base().is_none() {
            let name = scheme.name();
            let what = format!(
                "the scheme `{name}` scales task vectors, which need a base model, and none is marked"
            );
            return Err(Error::Sources { what, hint: "mark the base: load base=SOURCE" });
        }
        self.merged(with_base || scheme.needs_base())
    }

    /// Returns the work of one step that merges `sources`.
    pub(super) fn workload(&self, sources: &[Source]) -> Result<Workload> {
        // The assumed length of an example, in tokens, for a source without data.
        const ASSUMED: usize = 512;
        let Settings { max_length, batch_size, .. } = self.settings;
        let architecture = sources[0].architecture()?.clone();
        let (mut usual, mut most, mut all, mut has_data) = (0, 0, 0, true);
        for source in sources {
            let lengths = self
                .data
                .get(source.name())
                .map(|d| d.examples.iter().map(|e| e.ids.len().min(max_length)));
            let Some(lengths) = lengths else {
                has_data &= source.name() == BASE;
                let tokens =
                    if source.name() == BASE { 0 } else { ASSUMED.min(max_length) * batch_size };
                (usual, most) = (usual + tokens, most + tokens);
                continue;
            };
            let (count, sum) = (lengths.len(), lengths.clone().sum::<usize>());
            usual += sum * batch_size / count.max(1);
            most += lengths.max().unwrap_or(0) * batch_size;
            all += sum;
        }
        Ok(Workload {
            sources: sources.len(),
            source_bytes: sources.iter().map(|s| s.bytes() as u64).sum(),
            tokens: (usual, most),
            has_data,
            all_tokens: all,
            baked_bytes: (sources[0].parameters() * sources[0].dtype().size_in_bytes()) as u64,
            architecture,
        })
    }

    /// Creates the merge of these sources with its initial coefficients, by
    /// [`Columns`](crate::coefficients::Columns), another built-in scheme, or your own.
    ///
    /// # Errors
    /// Fewer than two sources, no base model for a scheme that needs one, an invalid scheme, or an
    /// unavailable device.
    pub fn wrap(&self, scheme: impl Into<Wrap>) -> Result<Dam> {
        Ok(Dam::new(self.clone(), scheme.into())?.into_latest())
    }

    /// Returns the table of sources.
    pub fn report(&self) -> Sources {
        // Differences between this source's configuration and the one that a static merge would
        // use.
        let first = self.base().or(self.sources.first());
        let config_notes = |s: &Source| -> Vec<String> {
            let first = first.filter(|first| first.name() != s.name());
            let differences = first
                .map(|first| first.config_differences(s).unwrap_or_default())
                .unwrap_or_default();
            let name = first.map_or("", Source::name);
            let one = |d: &ConfigDifference| {
                format!("{} is {}, but {} in {name}", d.key, d.values[1], d.values[0])
            };
            match differences.is_empty() {
                true => Vec::new(),
                false => vec![format!(
                    "{}: a static merge uses the configuration of its base or first source; training needs equal configurations",
                    differences.iter().map(one).collect::<Vec<_>>().join("; ")
                )],
            }
        };
        let report = |s: &Source| SourceReport {
            name: s.name().into(),
            path: s.path().into(),
            architecture: s.family().into(),
            layers: s.architecture().ok().map(|a| a.layers),
            width: s.architecture().ok().map(|a| a.hidden),
            parameters: s.original().parameters(),
            dtype: s.original().format(),
            bytes: s.bytes(),
            unused: s.unused().to_vec(),
            copied: s.buffers().keys().cloned().collect(),
            is_base: s.name() == BASE,
            obstacle: s.unsupported_reason(),
            notes: [
                s.notes().to_vec(),
                s.describe_rest()
                    .map(|b| format!("{b} are merged but not trained"))
                    .into_iter()
                    .collect(),
                config_notes(s),
            ]
            .concat(),
            vocabulary: s.vocabulary_rows(),
            lack: s.numbering().map(|n| n.missing_tokens.clone()).unwrap_or_default(),
        };
        Sources(self.sources.iter().map(report).collect())
    }

    /// Shows the table as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        self.report().evcxr_display();
    }
}

impl fmt::Display for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(f)
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.sources).finish()
    }
}
