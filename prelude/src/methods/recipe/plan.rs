//! A recipe as a plan: which tensors of which models go into each merged tensor, and with which parameters.
//!
//! A parameter of a model is what its own entry says, or else the slice, or else the recipe; one of the whole
//! merge is what the slice says, or else the recipe. `t` goes from 0 to 1 over the layers of a slice; it is 1
//! in a slice of one layer, and 0 for what is in no layer.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::super::parameters::typed;
use super::super::{Given, Key, Method, Operands, Origin, Passthrough, Plan, Planned, Scope};
use super::{Input, Recipe, Slice};
use crate::checkpoint::{Restacked, Source, TensorSpec};
use crate::error::{Error, Result};

/// The models of a recipe, by what it calls them.
pub(crate) type Opened = Vec<(String, Source)>;

/// Where a merged tensor comes from: a slice, and how far into it.
struct Place<'a> {
    slice: &'a Slice,
    /// How many layers into the slice; none: in no layer.
    layer: Option<usize>,
    t: f64,
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

    /// Where it is.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// The merge it describes, of the models that were `opened`, which fit together.
    ///
    /// # Errors
    /// Layers that are not there, parameters that are missing or do not fit, a base that is not named.
    pub fn plan(mut self, opened: &Opened) -> Result<Plan> {
        let mut notes = Vec::new();
        self.settle(&mut notes)?;
        let first = self.source(opened, &self.slices[0].inputs[0].model)?;
        let depth = depth(&first);
        let layers = self.layers(opened)?;
        let donor = match &self.base {
            Some(base) => self.source(opened, base)?,
            None => first.clone(),
        };
        let restacked = if self.whole { None } else { self.restack(&donor, &layers, depth)? };
        let specs = restacked.as_ref().map_or_else(|| first.tensors().to_vec(), |r: &Restacked| r.tensors.clone());
        let merged_layers: usize = layers.iter().map(|(_, layers)| layers.len()).sum();
        let tensors = specs.into_iter().map(|spec| {
            // The layers of a vision tower are not those that slices name.
            let layer = layer_of(&spec.name).filter(|_| !first.rest().contains(&spec));
            let place = self.place(&spec, layer, &layers, merged_layers)?;
            self.tensor(spec, &place, opened)
        });
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let is_base = |name: &str| self.method.origin != Origin::Never && self.base.as_deref() == Some(name);
        let measured = tensors.iter().any(|t| t.operands.has_base());
        let tokenizer = self.tokenizer(opened)?;
        let others = opened.iter().map(|(_, source)| source).filter(|source| source.name() != donor.name());
        Ok(Plan {
            models: [&donor].into_iter().chain(others).cloned().collect(),
            method: self.method.name,
            tensors,
            sources: opened.iter().filter(|(name, _)| !(is_base(name) && measured)).map(|(_, s)| s.clone()).collect(),
            base: opened.iter().find(|(name, _)| is_base(name) && measured).map(|(_, s)| s.clone()),
            restacked,
            tokenizer,
            dtype: self.dtype,
            recipe: format!("```yaml\n{}\n```", self.text.trim_end()),
            notes,
        })
    }

    fn bad(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Recipe { file: self.file.clone(), key: key.into(), reason: reason.into() }
    }

    fn source(&self, opened: &Opened, name: &str) -> Result<Source> {
        let found = opened.iter().find(|(known, _)| known == name);
        found.map(|(_, source)| source.clone()).ok_or_else(|| self.bad("model", format!("`{name}` was not opened")))
    }

    /// Adds the base to models that do not name it, puts slerp's first, and notes what has no effect.
    fn settle(&mut self, notes: &mut Vec<String>) -> Result<()> {
        let (whole, method) = (self.whole, self.method);
        for i in 0..self.slices.len() {
            let base = self.slices[i].base.clone().or_else(|| self.base.clone());
            let slice = &mut self.slices[i];
            let names = |slice: &Slice, name: &str| slice.inputs.iter().position(|input| input.model == name);
            let doubled = slice.inputs.iter().enumerate().find(|(i, input)| names(slice, &input.model) != Some(*i));
            if let Some((_, input)) = doubled {
                let what = format!("`{}` is named twice", input.model);
                return Err(self.bad(if whole { "models" } else { "slices" }, what));
            }
            let Some(base) = base else {
                if method.origin == Origin::Always || method.name == "slerp" && slice.inputs.len() > 1 {
                    return Err(self.bad("base_model", format!("{} needs one", method.name)));
                }
                continue;
            };
            if whole && names(slice, &base).is_none() {
                slice.inputs.push(Input { model: base.clone(), layers: None, parameters: super::Settings::new() });
            }
            match names(slice, &base) {
                Some(at) if method.name == "slerp" => slice.inputs[..=at].rotate_right(1),
                Some(at) if method.origin != Origin::Never => {
                    for key in slice.inputs[at].parameters.keys() {
                        notes.push(format!(
                            "`{key}` of `{base}` has no effect: it is the base that {} measures from",
                            method.name
                        ));
                    }
                }
                Some(_) => {}
                None if method.origin == Origin::Never && method.name != "slerp" => {}
                None if method.origin != Origin::Always && slice.inputs.len() == 1 => {}
                None => return Err(self.bad("slices", format!("the base `{base}` is not among the sources of a slice"))),
            }
        }
        Ok(())
    }

    /// The slices, each with its first model's layers in it.
    fn layers(&self, opened: &Opened) -> Result<Vec<(&Slice, Range<usize>)>> {
        let one = |slice: &'_ Slice| -> Result<Range<usize>> {
            let mut all = slice.inputs.iter().map(|input| -> Result<_> {
                let depth = depth(&self.source(opened, &input.model)?);
                let layers = input.layers.clone().unwrap_or(0..depth);
                if layers.end > depth {
                    let what = format!("`{}` has {depth} layers, not {}", input.model, layers.end);
                    return Err(self.bad("layer_range", what));
                }
                Ok(layers)
            });
            let first = all.next().unwrap_or(Ok(0..0))?;
            for layers in all {
                if layers?.len() != first.len() {
                    return Err(self.bad("layer_range", "the sources of a slice have as many layers each"));
                }
            }
            Ok(first)
        };
        self.slices.iter().map(|slice| Ok((slice, one(slice)?))).collect()
    }

    /// The configuration of layers in another order or number.
    fn restack(&self, donor: &Source, layers: &[(&Slice, Range<usize>)], depth: usize) -> Result<Option<Restacked>> {
        let order: Vec<usize> = layers.iter().flat_map(|(_, layers)| layers.clone()).collect();
        if order.iter().copied().eq(0..depth) {
            return Ok(None);
        }
        donor.restacked(&order).map(Some)
    }

    /// Where the merged tensor `spec` comes from.
    fn place<'a>(
        &self,
        spec: &TensorSpec,
        layer: Option<usize>,
        layers: &[(&'a Slice, Range<usize>)],
        merged: usize,
    ) -> Result<Place<'a>> {
        let outside = |slice| Place { slice, layer: None, t: 0.0 };
        let ends = || layers.first().zip(layers.last()).ok_or_else(|| self.bad("slices", "expected a list"));
        let Some(layer) = layer.filter(|layer| *layer < merged) else {
            let ((first, _), (last, _)) = ends()?;
            return Ok(outside(if spec.name == TensorSpec::EMBEDDING { first } else { last }));
        };
        let mut left = layer;
        for (slice, layers) in layers {
            if left < layers.len() {
                let t = if layers.len() > 1 { left as f64 / (layers.len() - 1) as f64 } else { 1.0 };
                return Ok(Place { slice, layer: Some(left), t });
            }
            left -= layers.len();
        }
        Err(self.bad("slices", format!("nothing is for layer {layer}")))
    }

    /// What goes into the merged tensor `spec`, and how.
    fn tensor(&self, spec: TensorSpec, place: &Place<'_>, opened: &Opened) -> Result<Planned> {
        let base_name = place.slice.base.as_ref().or(self.base.as_ref());
        let measures = |input: &Input| self.method.origin != Origin::Never && base_name == Some(&input.model);
        let (mut names, mut views, mut inputs, mut base) = (Vec::new(), Vec::new(), Vec::new(), None);
        for input in &place.slice.inputs {
            let source = self.source(opened, &input.model)?;
            let stored = place.layer.map_or_else(
                || spec.name.clone(),
                |offset| in_layer(&spec.name, input.layers.as_ref().map_or(0, |layers| layers.start) + offset),
            );
            let view = source.view(&stored)?.clone();
            if measures(input) {
                base = Some((source.name().to_owned(), view));
                continue;
            }
            names.push(source.name().to_owned());
            views.push(view);
            // Filters are for names as they are stored.
            inputs.push((input, source.stored_name(&stored)));
        }
        let alone = views.len() + usize::from(base.is_some()) == 1 && !["linear", "passthrough"].contains(&self.method.name);
        let method: Arc<dyn Method> = match alone {
            // One model alone stays as it is.
            true => {
                if let Some((name, view)) = base.take() {
                    (names, views) = (vec![name], vec![view]);
                }
                Arc::new(Passthrough::default())
            }
            false => (self.method.make)(&self.given(&spec, place, &inputs)?)?,
        };
        if !method.counts().contains(&views.len()) {
            let (least, most) = (*method.counts().start(), *method.counts().end());
            let wanted = if least == most { format!("{least}") } else { format!("{least} or more") };
            let apart = if base.is_some() { " beside the base" } else { "" };
            let what = format!("{} merges {wanted} models{apart}, not {}", method.name(), views.len());
            return Err(self.bad(if self.whole { "models" } else { "slices" }, what));
        }
        method.check(views.len())?;
        Ok(Planned { operands: Operands::new(spec, names, views, base.map(|(_, view)| view)), method })
    }

    /// The parameters of one tensor.
    fn given(&self, spec: &TensorSpec, place: &Place<'_>, inputs: &[(&Input, String)]) -> Result<Given> {
        let mut given = Given::default();
        for key in self.method.keys {
            let shared = |name: &str| {
                let levels = [&place.slice.parameters, &self.parameters];
                levels.into_iter().find_map(|settings| settings.get(key.name)?.at(name, place.t))
            };
            let values: Vec<Value> = match key.is_each() {
                true => {
                    let own = |(input, name): &(&Input, String)| {
                        let found = input.parameters.get(key.name).and_then(|s| s.at(name, place.t)).or_else(|| shared(name));
                        found.map_or_else(|| self.default(key, Some(&input.model), name), Ok)
                    };
                    inputs.iter().map(own).collect::<Result<_>>()?
                }
                false => {
                    let name = inputs.first().map_or(&spec.name, |(_, name)| name);
                    vec![shared(name).map_or_else(|| self.default(key, None, name), Ok)?]
                }
            };
            given.set(key, values);
        }
        Ok(given)
    }

    /// The default of `key`, or an error where a recipe must say it.
    fn default(&self, key: &Key, model: Option<&str>, tensor: &str) -> Result<Value> {
        match (key.scope, model) {
            (Scope::Needed | Scope::NeededWhole, _) => {
                let whose = model.map(|model| format!(" of `{model}`")).unwrap_or_default();
                Err(self.bad(key.name, format!("{} needs it, and none{whose} is for `{tensor}`", self.method.name)))
            }
            _ => Ok(typed(key, key.default)?.swap_remove(0)),
        }
    }

    /// Whose tokenizer is asked for, where that is possible: a merge has the tokens of all models.
    fn tokenizer(&self, opened: &Opened) -> Result<Option<Source>> {
        let Some(asked) = &self.tokenizer else { return Ok(None) };
        let bad = |reason: String| self.bad("tokenizer_source", reason);
        let source = match (asked.as_str(), &self.base) {
            ("union", _) => opened.iter().map(|(_, source)| source).find(|s| has_all(s)).cloned(),
            ("base", Some(base)) => Some(self.source(opened, base)?),
            ("base", None) => return Err(bad("no base_model is named".into())),
            (name, _) if opened.iter().any(|(known, _)| known == name) => Some(self.source(opened, name)?),
            (name, _) => return Err(bad(format!("`{name}` is not one of the models that are merged"))),
        };
        let source =
            source.filter(|source| source.tokenizer().is_some()).ok_or_else(|| bad("there is no tokenizer.json".into()))?;
        match has_all(&source) {
            true => Ok(Some(source)),
            false => Err(bad(format!("other models have tokens that `{asked}` has not, and a merge has them all: use `union`"))),
        }
    }
}

/// Whether a source's tokenizer has the tokens of all sources that are loaded with it.
fn has_all(source: &Source) -> bool {
    source.tokenizer().is_some() && source.numbering().is_none_or(|numbering| numbering.is_reference)
}

/// The layers that a model has; where its family cannot be run, as far as names of tensors tell.
fn depth(source: &Source) -> usize {
    match source.architecture() {
        Ok(architecture) => architecture.layers,
        Err(_) => source.tensors().iter().filter_map(|t| layer_of(&t.name)).max().map_or(0, |last| last + 1),
    }
}

/// The first number in a tensor's name.
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// A tensor's name with another layer.
fn in_layer(name: &str, layer: usize) -> String {
    let mut found = false;
    let part = |part: &str| match !found && part.parse::<usize>().is_ok() {
        true => {
            found = true;
            layer.to_string()
        }
        false => part.to_owned(),
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}
