//! merge: a merge by a method that trains nothing, of the sources or as a recipe says, planned and ready to be tried.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Merged, Models};
use crate::checkpoint::{Source, private_directory};
use crate::error::{Error, Result};
use crate::methods::{
    Base, Documents, Followed, GREEDY_SOUP, Linear, Method, Operands, Plan, Planned, Recipe, configured, find, greedy_soup,
};

impl Models {
    /// The sources merged by `method`. Nothing is read or written until something is asked of it.
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
    /// Sources of another number than the method merges, parameters that do not fit them, no base where the
    /// method measures from it.
    pub fn merge(&self, method: impl Method + 'static) -> Result<Merged> {
        Ok(Merged::new(self.clone(), self.plan(Arc::new(method))?))
    }

    /// The sources merged by the method `name` with parameters as verbs give them: `("weight", "1,0.5")`.
    ///
    /// # Errors
    /// An unknown method or parameter, and as for [`Models::merge`].
    pub fn merge_named(&self, name: &str, parameters: &[(&str, &str)]) -> Result<Merged> {
        Ok(Merged::new(self.clone(), self.plan(find(name)?.build(parameters)?)?))
    }

    /// The greedy soup: sources in the order of their own scores, each averaged in if the score does not drop.
    /// `score` says how well a candidate does, the higher the better; it is asked about twice as often as there
    /// are sources.
    ///
    /// ```
    /// let models = dam_prelude::load(["builtin:japanese", "builtin:math"])?;
    /// let files = ["builtin:math-heldout".to_owned()];
    /// let soup = models.greedy_soup(|candidate| Ok(-candidate.eval(&files)?.mean_loss()))?;
    /// assert_eq!(soup.report().notes, ["the soup is of math"]);
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two sources, or those of `score`.
    pub fn greedy_soup(&self, mut score: impl FnMut(&Merged) -> Result<f64>) -> Result<Merged> {
        let names: Vec<String> = self.merged(false)?.iter().map(|s| s.name().to_owned()).collect();
        let average = |chosen: &[usize]| {
            let weights = (0..names.len()).map(|i| f64::from(u8::from(chosen.contains(&i)))).collect();
            self.plan(Arc::new(Linear { weights, ..Linear::default() }))
        };
        let chosen = greedy_soup(names.len(), |chosen| score(&Merged::new(self.clone(), average(chosen)?)))?;
        let within = chosen.iter().map(|i| names[*i].as_str()).collect::<Vec<_>>().join(", ");
        let notes = vec![format!("the soup is of {within}")];
        Ok(Merged::new(self.clone(), Plan { method: GREEDY_SOUP, notes, ..average(&chosen)? }))
    }

    /// The merge that the mergekit recipe `file` describes. Its models are sources that are loaded, by name,
    /// or else directories beside the recipe, or whatever [`load`](crate::load) takes. Where the file has several
    /// recipes, it is that of the one without a name, or of the last; what it uses of the others is made first, in a
    /// temporary directory (`TMPDIR`), which goes with it.
    ///
    /// # Errors
    /// A recipe that is no YAML, or says what is not followed; models that are missing or do not fit together.
    pub fn merge_recipe(&self, file: impl AsRef<Path>) -> Result<Merged> {
        self.follow(Documents::open(file.as_ref())?)
    }

    /// The merge that a recipe of these sources describes, whose text is `yaml`.
    ///
    /// # Errors
    /// As for [`Models::merge_recipe`].
    pub(crate) fn merge_yaml(&self, yaml: &str) -> Result<Merged> {
        Ok(self.follow(Documents::parse(Path::new("recipe.yml"), yaml.to_owned())?)?.of_recipe(yaml))
    }

    fn follow(&self, documents: Documents) -> Result<Merged> {
        let (Some(last), others) = documents.last() else {
            return Err(Error::Sources { what: "the recipe is empty".into(), hint: "write merge_method and models" });
        };
        let mut kitchen = Kitchen { models: self, waiting: others, made: BTreeMap::new(), parts: Vec::new() };
        let merged = kitchen.make(last)?;
        Ok(match kitchen.parts.is_empty() {
            true => merged,
            false => merged.keeping(kitchen.parts),
        })
    }

    /// The sources merged by `method`, all tensors alike.
    fn plan(&self, method: Arc<dyn Method>) -> Result<Plan> {
        let with_base = method.base() == Base::Source;
        let sources: Vec<Source> =
            self.sources.iter().filter(|s| with_base || Some(s.name()) != self.base_name()).cloned().collect();
        let (least, most) = (*method.counts().start(), *method.counts().end());
        if sources.is_empty() || sources.len() < least && least == 2 && most > 2 {
            return Err(self.too_few(sources.len(), with_base));
        }
        if !method.counts().contains(&sources.len()) {
            let names: Vec<&str> = sources.iter().map(Source::name).collect();
            let wanted = if least == most { least.to_string() } else { format!("{least} or more") };
            let what = format!("{} merges {wanted} sources, and there are {}: {}", method.name(), names.len(), names.join(", "));
            return Err(Error::Sources { what, hint: "load as many as it merges; base=on counts the base in" });
        }
        method.check(sources.len())?;
        let base = match method.base() {
            Base::Origin => Some(self.base().ok_or_else(|| Error::Sources {
                what: format!("{} merges what sources have learnt since their base model, and none is marked", method.name()),
                hint: "load base=SOURCE too",
            })?),
            _ => None,
        };
        let names: Vec<String> = sources.iter().map(|s| s.name().to_owned()).collect();
        let tensors = sources[0].tensors().iter().map(|spec| {
            let views = sources.iter().map(|s| s.view(&spec.name).cloned()).collect::<Result<_>>()?;
            let base = base.map(|b| b.view(&spec.name).cloned()).transpose()?;
            Ok(Planned { operands: Operands::new(spec.clone(), names.clone(), views, base), method: method.clone() })
        });
        let configuration = base.unwrap_or(&sources[0]);
        let others = sources.iter().filter(|s| s.name() != configuration.name());
        let recipe = serde_json::json!({"method": method.name(), "parameters": method.parameters()});
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
            tokenizer: None,
            dtype: None,
            recipe: format!("```json\n{}\n```", serde_json::to_string_pretty(&recipe).unwrap_or_default()),
        })
    }

    fn base_name(&self) -> Option<&str> {
        self.base().map(Source::name)
    }
}

/// Recipes of one file that use each other.
struct Kitchen<'a> {
    models: &'a Models,
    /// Those that nobody has asked for yet.
    waiting: Vec<Recipe>,
    /// Where those are that were made, by name.
    made: BTreeMap<String, PathBuf>,
    parts: Vec<Arc<TempDir>>,
}

impl Kitchen<'_> {
    /// The merge of `recipe`, after those that it uses.
    fn make(&mut self, recipe: Recipe) -> Result<Merged> {
        for name in recipe.models() {
            // What stands before an adapter or revision.
            let name = name.split(['+', '@']).next().unwrap_or(name);
            let Some(at) = self.waiting.iter().position(|other| other.name() == Some(name)) else { continue };
            // Taken out, so that one that uses itself finds nothing.
            let other = self.waiting.remove(at);
            let merged = self.make(other)?;
            let directory = private_directory("dam-recipe-");
            let directory = Arc::new(directory.map_err(|e| Error::io("write", std::env::temp_dir(), e))?);
            let path = directory.path().join(name);
            merged.bake(&path)?;
            self.parts.push(directory);
            self.made.insert(name.to_owned(), path);
        }
        self.one(recipe)
    }

    fn one(&self, recipe: Recipe) -> Result<Merged> {
        let loaded = self.models;
        let mut models = Models { settings: loaded.settings.clone(), ..Models::default() };
        let mut opened = Vec::new();
        for name in recipe.models() {
            let source = match loaded.sources.iter().find(|s| s.name() == name) {
                Some(known) if !self.made.contains_key(name) => known.clone(),
                _ => self.opened(&self.place(recipe.file(), name), name, &models)?,
            };
            opened.push((name.to_owned(), source.name().to_owned()));
            match recipe.is_whole() {
                true => models.add(source)?,
                false => models.add_to_stack(source)?,
            }
        }
        // As they are seen among each other.
        let seen = |(name, source): (String, String)| Ok((name, models.source(&source)?.clone()));
        let opened = opened.into_iter().map(seen).collect::<Result<Vec<_>>>()?;
        let Followed { plan, opened } = recipe.plan(opened)?;
        for (_, source) in opened {
            if let Some(place) = models.sources.iter_mut().find(|s| s.name() == source.name()) {
                *place = source;
            }
        }
        models.read_again(loaded)?;
        Ok(Merged::new(models, plan))
    }

    /// What opens the model that a recipe calls `name`: another recipe's merge, or what lies beside the `recipe`.
    fn place(&self, recipe: &Path, name: &str) -> String {
        let end = name.find(['+', '@']).unwrap_or(name.len());
        match self.made.get(&name[..end]) {
            Some(path) => {
                format!("{}{}", path.display(), name[end..].split_once('+').map_or(String::new(), |(_, a)| format!("+{a}")))
            }
            None => beside(recipe, name),
        }
    }

    /// The model at `place`: as it is loaded, or else opened, under a name that no other of `models` has.
    fn opened(&self, place: &str, name: &str, models: &Models) -> Result<Source> {
        if self.made.contains_key(name) {
            return Source::open_as(Some(name), place);
        }
        let source = Source::open_as(None, place)?;
        if let Some(loaded) = self.models.sources.iter().find(|s| s.spec() == source.spec()) {
            return Ok(loaded.clone());
        }
        let taken = |source: &Source| models.sources.iter().any(|s| s.name() == source.name());
        if taken(&source) { Source::open_as(Some(place), place) } else { Ok(source) }
    }
}

/// What a recipe calls `name`, as one would load it: a path beside `recipe` where there is one. A directory has no
/// revisions, so that what stands behind its `@` is of no use.
fn beside(recipe: &Path, name: &str) -> String {
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
    match directory.join(name).exists() {
        true => place(name),
        false => name.split('+').map(place).collect::<Vec<_>>().join("+"),
    }
}
