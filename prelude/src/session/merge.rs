//! merge: plans a merge by a method without training, of the sources or from a recipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::merged::Merged;
use super::models::Models;
use crate::checkpoint::{Source, private_directory};
use crate::error::{Error, Result};
use crate::methods::{
    Base, Documents, GREEDY_SOUP, Linear, Method, Operands, Plan, Planned, PlannedRecipe, Recipe,
    configured, find, greedy_soup,
};

impl Models {
    /// Merges the sources by `method`. Weights are read and computed only when they are needed.
    ///
    /// ```
    /// use dam_prelude::load;
    /// use dam_prelude::methods::{TaskVectors, ties};
    ///
    /// let models = load(["base=builtin:base", "builtin:japanese", "builtin:math"])?;
    /// let merged = models.merge(TaskVectors { density: vec![0.5], ..ties() })?;
    /// assert_eq!(merged.inspect("norm")?.tensors.len(), 9);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// The method merges another number of sources, parameters do not fit the sources, or a method
    /// of task vectors has no base.
    pub fn merge(&self, method: impl Method + 'static) -> Result<Merged> {
        Ok(Merged::new(self.clone(), self.plan(Arc::new(method))?))
    }

    /// Merges the sources by the method `name`, with parameters as in the verb: `("weight",
    /// "1,0.5")`.
    ///
    /// # Errors
    /// An unknown method or parameter; otherwise as for [`Models::merge`].
    pub fn merge_named(&self, name: &str, parameters: &[(&str, &str)]) -> Result<Merged> {
        Ok(Merged::new(self.clone(), self.plan(find(name)?.build(parameters)?)?))
    }

    /// Makes the greedy soup: tries sources in the order of their own scores and keeps each one
    /// that does not lower the score. `score` rates a candidate, higher is better; it is called
    /// about twice per source.
    ///
    /// ```
    /// let models = dam_prelude::load(["builtin:japanese", "builtin:math"])?;
    /// let files = ["builtin:math-heldout".to_owned()];
    /// let soup = models.greedy_soup(|candidate| Ok(-candidate.eval(&files)?.mean_loss()))?;
    /// assert_eq!(soup.report().notes, ["the soup contains math"]);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two sources, or an error of `score`.
    pub fn greedy_soup(&self, mut score: impl FnMut(&Merged) -> Result<f64>) -> Result<Merged> {
        let names: Vec<String> = self.merged(false)?.iter().map(|s| s.name().to_owned()).collect();
        let average = |chosen: &[usize]| {
            let weights =
                (0..names.len()).map(|i| f64::from(u8::from(chosen.contains(&i)))).collect();
            self.plan(Arc::new(Linear { weights, ..Linear::default() }))
        };
        let chosen =
            greedy_soup(names.len(), |chosen| score(&Merged::new(self.clone(), average(chosen)?)))?;
        let within = chosen.iter().map(|i| names[*i].as_str()).collect::<Vec<_>>().join(", ");
        let notes = vec![format!("the soup contains {within}")];
        Ok(Merged::new(self.clone(), Plan { method: GREEDY_SOUP, notes, ..average(&chosen)? }))
    }

    /// Makes the merge that the mergekit recipe `file` describes. Its models are loaded sources, by
    /// name, or else directories next to the recipe, or anything that [`load`](crate::load)
    /// accepts. In a file with several recipes, the result is the one without a name, or else the
    /// last. The recipes it uses are made first in a temporary directory (`TMPDIR`), which is
    /// deleted with the merge.
    ///
    /// # Errors
    /// The recipe is invalid YAML or uses an unsupported feature, or its models are missing or do
    /// not fit together.
    pub fn merge_recipe(&self, file: impl AsRef<Path>) -> Result<Merged> {
        self.follow(Documents::open(file.as_ref())?)
    }

    /// Makes the merge that the recipe `yaml` of these sources describes.
    ///
    /// # Errors
    /// As for [`Models::merge_recipe`].
    pub(crate) fn merge_yaml(&self, yaml: &str) -> Result<Merged> {
        Ok(self
            .follow(Documents::parse(Path::new("recipe.yml"), yaml.to_owned())?)?
            .with_recipe(yaml))
    }

    fn follow(&self, documents: Documents) -> Result<Merged> {
        let (Some(last), others) = documents.last() else {
            return Err(Error::Sources {
                what: "the recipe is empty".into(),
                hint: "add `merge_method` and `models`",
            });
        };
        let mut runner = RecipeRunner {
            models: self,
            pending: others,
            finished: BTreeMap::new(),
            parts: Vec::new(),
        };
        let merged = runner.make(last)?;
        Ok(if runner.parts.is_empty() { merged } else { merged.with_parts(runner.parts) })
    }

    /// Plans the merge of the sources by `method`, with the same parameters for all tensors.
    pub(super) fn plan(&self, method: Arc<dyn Method>) -> Result<Plan> {
        let with_base = method.base() == Base::Source;
        let sources: Vec<Source> = self
            .sources
            .iter()
            .filter(|s| with_base || Some(s.name()) != self.base_name())
            .cloned()
            .collect();
        let least = *method.counts().start();
        let most = *method.counts().end();
        if sources.is_empty() || sources.len() < least && least == 2 && most > 2 {
            return Err(self.too_few(sources.len(), with_base));
        }
        if !method.counts().contains(&sources.len()) {
            let names: Vec<&str> = sources.iter().map(Source::name).collect();
            let wanted = if least == most { least.to_string() } else { format!("{least} or more") };
            let what = format!(
                "{} merges {wanted} sources, but {} are loaded: {}",
                method.name(),
                names.len(),
                names.join(", ")
            );
            return Err(Error::Sources {
                what,
                hint: "load that many; base=on merges the base too",
            });
        }
        method.check(sources.len())?;
        let base = match method.base() {
            Base::Origin => Some(self.base().ok_or_else(|| Error::Sources {
                what: format!(
                    "{} merges task vectors, which need a base model, and none is marked",
                    method.name()
                ),
                hint: "mark the base: load base=SOURCE",
            })?),
            _ => None,
        };
        let names: Vec<String> = sources.iter().map(|s| s.name().to_owned()).collect();
        let tensors = sources[0].tensors().iter().map(|spec| {
            let views =
                sources.iter().map(|s| s.view(&spec.name).cloned()).collect::<Result<_>>()?;
            let base = base.map(|b| b.view(&spec.name).cloned()).transpose()?;
            Ok(Planned {
                operands: Operands::new(spec.clone(), names.clone(), views, base),
                method: method.clone(),
            })
        });
        let configuration = base.unwrap_or(&sources[0]);
        let others = sources.iter().filter(|s| s.name() != configuration.name());
        let recipe =
            serde_json::json!({"method": method.name(), "parameters": method.parameters()});
        Ok(Plan {
            method: method.name(),
            tensors: tensors.collect::<Result<_>>()?,
            models: sources.iter().chain(base).cloned().collect(),
            buffers: configuration.buffers().clone(),
            notes: configured(configuration, others)?,
            configured: configuration.clone(),
            base: base.cloned(),
            sources,
            restacked: None,
            tokenizer: self.tokenizer_source().cloned(),
            dtype: None,
            recipe: format!(
                "```json\n{}\n```",
                serde_json::to_string_pretty(&recipe).unwrap_or_default()
            ),
        })
    }

    fn base_name(&self) -> Option<&str> {
        self.base().map(Source::name)
    }
}

/// Makes the recipes of one file that use each other.
struct RecipeRunner<'a> {
    models: &'a Models,
    /// Recipes that are not made yet.
    pending: Vec<Recipe>,
    /// The directories of finished merges, by name.
    finished: BTreeMap<String, PathBuf>,
    parts: Vec<Arc<TempDir>>,
}

impl RecipeRunner<'_> {
    /// Makes the merge of `recipe`, after the recipes it uses.
    fn make(&mut self, recipe: Recipe) -> Result<Merged> {
        for name in recipe.models() {
            // Without adapters and revision.
            let name = name.split(['+', '@']).next().unwrap_or(name);
            let Some(at) = self.pending.iter().position(|other| other.name() == Some(name)) else {
                continue;
            };
            // Removed from the list, so that a recipe cannot use itself.
            let other = self.pending.remove(at);
            let merged = self.make(other)?;
            let directory = private_directory("dam-recipe-");
            let directory =
                Arc::new(directory.map_err(|e| Error::io("write", std::env::temp_dir(), e))?);
            let path = directory.path().join(name);
            merged.bake(&path)?;
            self.parts.push(directory);
            self.finished.insert(name.to_owned(), path);
        }
        self.make_one(recipe)
    }

    fn make_one(&self, recipe: Recipe) -> Result<Merged> {
        let loaded = self.models;
        let mut models = Models { settings: loaded.settings.clone(), ..Models::default() };
        let mut opened = Vec::new();
        for name in recipe.models() {
            let source = match loaded.sources.iter().find(|s| s.name() == name) {
                Some(known) if !self.finished.contains_key(name) => known.clone(),
                _ => self.open(&self.spec(recipe.file(), name), name, &models)?,
            };
            opened.push((name.to_owned(), source.name().to_owned()));
            if recipe.is_whole() {
                models.add(source)?;
            } else {
                models.add_to_stack(source)?;
            }
        }
        // Sources as renumbered among each other.
        let seen = |(name, source): (String, String)| Ok((name, models.source(&source)?.clone()));
        let opened = opened.into_iter().map(seen).collect::<Result<Vec<_>>>()?;
        let PlannedRecipe { plan, opened } = recipe.plan(opened)?;
        for (_, source) in opened {
            if let Some(place) = models.sources.iter_mut().find(|s| s.name() == source.name()) {
                *place = source;
            }
        }
        models.take_data_from(loaded)?;
        Ok(Merged::new(models, plan))
    }

    /// Returns the path or spec of the model that a recipe calls `name`: another recipe's merge, or
    /// a path next to `recipe`.
    fn spec(&self, recipe: &Path, name: &str) -> String {
        let end = name.find(['+', '@']).unwrap_or(name.len());
        match self.finished.get(&name[..end]) {
            Some(path) => {
                format!(
                    "{}{}",
                    path.display(),
                    name[end..].split_once('+').map_or(String::new(), |(_, a)| format!("+{a}"))
                )
            }
            None => model_spec(recipe, name),
        }
    }

    /// Returns the loaded model of this spec, or opens it under a name unique in `models`.
    fn open(&self, spec: &str, name: &str, models: &Models) -> Result<Source> {
        if self.finished.contains_key(name) {
            return Source::open_as(Some(name), spec);
        }
        let source = Source::open_as(None, spec)?;
        if let Some(loaded) = self.models.sources.iter().find(|s| s.spec() == source.spec()) {
            return Ok(loaded.clone());
        }
        let taken = |source: &Source| models.sources.iter().any(|s| s.name() == source.name());
        if taken(&source) { Source::open_as(Some(spec), spec) } else { Ok(source) }
    }
}

/// Returns the spec to load for the model that a recipe calls `name`: a path next to `recipe` if it
/// exists. A directory has no revisions, so `@REVISION` is dropped.
fn model_spec(recipe: &Path, name: &str) -> String {
    let directory = recipe.parent().unwrap_or(Path::new(""));
    let place = |part: &str| {
        let revised = part.rsplit_once('@').map_or(part, |(path, _)| path);
        for path in [part, revised].map(|part| directory.join(part)) {
            if path.exists() {
                return path.display().to_string();
            }
        }
        if Path::new(revised).exists() { revised.to_owned() } else { part.to_owned() }
    };
    if directory.join(name).exists() {
        return place(name);
    }
    name.split('+').map(place).collect::<Vec<_>>().join("+")
}
