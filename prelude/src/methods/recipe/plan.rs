//! Converts a recipe to a plan: the tensors and parameters of each merged tensor.
//!
//! A model's parameter comes from the model's own entry, else the slice, else the recipe; a
//! parameter of the whole merge from the slice, else the recipe. `t` increases from 0 to 1 over the
//! layers of a slice. It is 1 in a slice of one layer, and 0 for tensors outside layers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::super::parameters::typed;
use super::super::{
    Key, Method, Operands, Origin, ParameterValues, Passthrough, Plan, Planned, Scope,
};
use super::{Input, Recipe, Slice};
use crate::checkpoint::{
    Buffer, ConfigDifference, Kind, Restacked, Source, Stack, Stacks, TensorSpec,
};
use crate::error::{Error, Result};

/// The models of a recipe by reference.
pub(crate) type Opened = Vec<(String, Source)>;

/// A plan, and the models as renumbered by the recipe.
pub(crate) struct PlannedRecipe {
    pub plan: Plan,
    pub opened: Opened,
}

/// The origin of a merged tensor: a slice and the depth in it.
struct SlicePosition<'a> {
    slice: &'a Slice,
    /// The stack and the number of layers into the slice; `None` outside the stacked layers.
    layer: Option<(&'a Stack, usize)>,
    t: f64,
}

/// A planned merged tensor.
struct TargetTensor<'a> {
    spec: TensorSpec,
    place: SlicePosition<'a>,
}

impl Recipe {
    /// Plans the merge of the models `opened`, which must fit together.
    ///
    /// # Errors
    /// Layers out of range, parameters that are missing or invalid, a missing base, a tokenizer or
    /// template that no model has.
    pub fn plan(mut self, opened: Opened) -> Result<PlannedRecipe> {
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(opened.iter().flat_map(|(_, source)| notes_of(source)));
        self.settle(&mut notes)?;
        let (opened, tokenizer) = self.with_tokenizer(opened, &mut notes)?;
        let opened = self.with_chat(opened, &mut notes)?;
        let tokenizer = tokenizer.and_then(|at| opened.get(at)).map(|(_, source)| source.clone());
        let first = self.source(&opened, &self.slices[0].inputs[0].model)?;
        let donor = match &self.base {
            Some(base) => self.source(&opened, base)?,
            None => first.clone(),
        };
        let stacks = first.stacks()?;
        let (wanted, restacked) = if self.whole {
            (self.whole_models(&first, &stacks)?, None)
        } else {
            self.stacked(&opened, &first, &donor, &stacks, &mut notes)?
        };
        let tensors = wanted
            .into_iter()
            .map(|wanted| self.tensor(wanted, &opened))
            .collect::<Result<Vec<_>>>()?;
        let buffers =
            self.buffers(&first, &opened, stacks.main().filter(|_| restacked.is_some()))?;
        let is_base =
            |name: &str| self.method.origin != Origin::Never && self.base.as_deref() == Some(name);
        let measured = tensors.iter().any(|t| t.operands.has_base());
        let others =
            opened.iter().map(|(_, source)| source).filter(|source| source.name() != donor.name());
        notes.extend(configured(&donor, others.clone())?);
        let plan = Plan {
            models: [&donor].into_iter().chain(others).cloned().collect(),
            configured: donor.clone(),
            method: self.method.name,
            tensors,
            buffers,
            sources: opened
                .iter()
                .filter(|(name, _)| !(is_base(name) && measured))
                .map(|(_, s)| s.clone())
                .collect(),
            base: opened.iter().find(|(name, _)| is_base(name) && measured).map(|(_, s)| s.clone()),
            restacked,
            tokenizer,
            dtype: self.dtype,
            recipe: format!("```yaml\n{}\n```", self.text.trim_end()),
            notes,
        };
        Ok(PlannedRecipe { plan, opened })
    }

    pub(super) fn bad(
        &self,
        key: &str,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        Error::Recipe {
            file: self.file.clone(),
            key: key.into(),
            reason: reason.into(),
            hint: hint.into(),
        }
    }

    fn source(&self, opened: &Opened, name: &str) -> Result<Source> {
        let found = opened.iter().find(|(known, _)| known == name);
        found.map(|(_, source)| source.clone()).ok_or_else(|| {
            self.bad("model", format!("`{name}` was not opened"), "name a loaded source, or a path")
        })
    }

    /// Sets the chat template of the models.
    fn with_chat(&self, opened: Opened, notes: &mut Vec<String>) -> Result<Opened> {
        let Some(asked) = &self.chat else {
            let has = |source: &Source| source.chat().template().is_ok_and(|text| text.is_some());
            let donor = self.base.as_deref().unwrap_or(&self.slices[0].inputs[0].model);
            let lacks = opened.iter().any(|(name, source)| name == donor && !has(source));
            if let Some((name, _)) = opened.iter().find(|(_, source)| lacks && has(source)) {
                notes.push(format!(
                    "the merge has no chat template, as `{donor}` has none, but `{name}` has one: `chat_template: auto` keeps it"
                ));
            }
            return Ok(opened);
        };
        let Some(template) = asked.of(opened.iter().map(|(_, source)| source)) else {
            notes.push("`chat_template: auto` has no effect: no model has a chat template".into());
            return Ok(opened);
        };
        opened
            .into_iter()
            .map(|(name, source)| Ok((name, source.with_chat_template(&template)?)))
            .collect()
    }

    /// Adds the base to slices that do not name it, moves slerp's first, and notes settings without
    /// effect.
    fn settle(&mut self, notes: &mut Vec<String>) -> Result<()> {
        let (whole, method) = (self.whole, self.method);
        for i in 0..self.slices.len() {
            let base = self.slices[i].base.clone().or_else(|| self.base.clone());
            let slice = &mut self.slices[i];
            let names = |slice: &Slice, name: &str| {
                slice.inputs.iter().position(|input| input.model == name)
            };
            let doubled = slice
                .inputs
                .iter()
                .enumerate()
                .find(|(i, input)| names(slice, &input.model) != Some(*i));
            if let Some((_, input)) = doubled {
                let what = format!("`{}` is named twice", input.model);
                let hint = "name every model once, with the sum of its weights";
                return Err(self.bad(if whole { "models" } else { "slices" }, what, hint));
            }
            let Some(base) = base else {
                if method.origin == Origin::Always
                    || method.name == "slerp" && slice.inputs.len() > 1
                {
                    let hint = "add base_model: MODEL, the model from which the others were tuned; for slerp, the start of the arc";
                    return Err(self.bad(
                        "base_model",
                        format!("{} needs a base model", method.name),
                        hint,
                    ));
                }
                continue;
            };
            if whole && names(slice, &base).is_none() {
                slice.inputs.push(Input {
                    model: base.clone(),
                    layers: None,
                    parameters: super::Settings::new(),
                });
            }
            match names(slice, &base) {
                Some(at) if method.name == "slerp" => slice.inputs[..=at].rotate_right(1),
                Some(at) if method.origin != Origin::Never => {
                    for key in slice.inputs[at].parameters.keys() {
                        notes.push(format!(
                            "`{key}` of `{base}` has no effect: it is the base of the task vectors of {}",
                            method.name
                        ));
                    }
                }
                Some(_) => {}
                None if method.origin == Origin::Never && method.name != "slerp" => {}
                None if method.origin != Origin::Always && slice.inputs.len() == 1 => {}
                None => {
                    let what = format!("the base `{base}` is not among the sources of a slice");
                    return Err(self.bad(
                        "slices",
                        what,
                        "add it to the sources of every slice, with its own layer_range",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Plans the tensors of a merge of whole models: those of the `first`.
    fn whole_models<'a>(
        &'a self,
        first: &Source,
        stacks: &Stacks,
    ) -> Result<Vec<TargetTensor<'a>>> {
        let slice = &self.slices[0];
        for input in &slice.inputs {
            let depth = stacks.main().map(|stack| stack.depth);
            if input
                .layers
                .as_ref()
                .is_some_and(|layers| Some(layers.clone()) != depth.map(|depth| 0..depth))
            {
                let what = format!(
                    "`{}` has a `layer_range`, but `models` merges whole models",
                    input.model
                );
                return Err(self.bad(
                    "models",
                    what,
                    "use `slices` instead, with the models as `sources` of each slice",
                ));
            }
        }
        let wanted = |spec: &TensorSpec| {
            let t = stacks.layer_of(&spec.name).map_or(0.0, |(layer, depth)| spread(layer, depth));
            TargetTensor { spec: spec.clone(), place: SlicePosition { slice, layer: None, t } }
        };
        Ok(first.tensors().iter().map(wanted).collect())
    }

    /// Plans the tensors of stacked layers, and the configuration of a stack that differs from the
    /// donor's own.
    fn stacked<'a>(
        &'a self,
        opened: &Opened,
        first: &Source,
        donor: &Source,
        stacks: &'a Stacks,
        notes: &mut Vec<String>,
    ) -> Result<(Vec<TargetTensor<'a>>, Option<Restacked>)> {
        let main = self.main(first, stacks)?;
        let ranges = self.ranges(opened, main)?;
        let mut layers: Vec<(Source, usize)> = Vec::new();
        // The tensors of every layer, by model.
        let mut known: BTreeMap<String, Vec<Vec<(String, TensorSpec)>>> = BTreeMap::new();
        let mut stacked = Vec::new();
        for (slice, range) in self.slices.iter().zip(&ranges) {
            let source = self.source(opened, &slice.inputs[0].model)?;
            let of_model =
                known.entry(source.name().to_owned()).or_insert_with(|| by_layer(&source, main));
            for (offset, layer) in range.clone().enumerate() {
                for (rest, spec) in of_model.get(layer).into_iter().flatten() {
                    let spec = TensorSpec { name: main.join(layers.len(), rest), ..spec.clone() };
                    let place = SlicePosition {
                        slice,
                        layer: Some((main, offset)),
                        t: spread(offset, range.len()),
                    };
                    stacked.push(TargetTensor { spec, place });
                }
                layers.push((source.clone(), layer));
            }
        }
        let mut wanted = Vec::new();
        let mut beyond = 0;
        let mut stacked = Some(stacked);
        for spec in first.tensors() {
            match main.split_any(&spec.name) {
                Some((layer, _)) if layer < main.depth => {
                    wanted.extend(stacked.take().into_iter().flatten())
                }
                // Layers beyond the number in config.json, whose numbers are now taken.
                Some(_) => beyond += 1,
                None => {
                    let place =
                        SlicePosition { slice: self.slice_outside(spec), layer: None, t: 0.0 };
                    wanted.push(TargetTensor { spec: spec.clone(), place });
                }
            }
        }
        if beyond > 0 {
            notes.push(format!(
                "{beyond} tensors of layers beyond the number in config.json are left out"
            ));
        }
        let same = layers.iter().map(|(_, layer)| *layer).eq(0..self.depth(donor, main)?);
        let order: Vec<(&Source, usize)> =
            layers.iter().map(|(source, layer)| (source, *layer)).collect();
        let restacked = if same {
            None
        } else {
            Some(donor.restacked(self.main(donor, &donor.stacks()?)?, &order)?)
        };
        if let Some(restacked) = &restacked {
            notes.extend(restacked.notes.iter().cloned());
            let others: Vec<String> = stacks
                .all
                .iter()
                .filter(|s| *s != main)
                .map(|s| format!("`{}`", s.name()))
                .collect();
            if !others.is_empty() {
                notes.push(format!(
                    "the layers of `{}` are stacked; {} comes from the first slice",
                    main.name(),
                    others.join(", ")
                ));
            }
        }
        Ok((wanted, restacked))
    }

    /// Returns the stack that the slices refer to.
    fn main<'a>(&self, source: &Source, stacks: &'a Stacks) -> Result<&'a Stack> {
        if let Some(main) = stacks.main() {
            return Ok(main);
        }
        let name = source.name();
        let (what, hint) = if stacks.all.is_empty() {
            (
                format!("`{name}` has no numbered layers"),
                "use `models` instead, which merges whole models with any tensor names",
            )
        } else {
            (
                format!("the layers of `{name}` are ambiguous: it has {}", stacks.describe()),
                "use `models` to merge whole models; stacking needs a single stack of text layers",
            )
        };
        Err(self.bad("slices", what, hint))
    }

    /// Returns the number of layers of a model in its own stack, whose name must equal that of
    /// `main`.
    fn depth(&self, source: &Source, main: &Stack) -> Result<usize> {
        let stacks = source.stacks()?;
        let own = self.main(source, &stacks)?;
        if own.name() != main.name() {
            let what = format!(
                "the layers of `{}` are named `{}`, others `{}`",
                source.name(),
                own.name(),
                main.name()
            );
            return Err(self.bad("slices", what, "stack layers of models of one family"));
        }
        Ok(own.depth)
    }

    /// Returns the first model's layers in each slice.
    fn ranges(&self, opened: &Opened, main: &Stack) -> Result<Vec<Range<usize>>> {
        let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
        for name in
            self.slices.iter().flat_map(|slice| &slice.inputs).map(|input| input.model.as_str())
        {
            if let std::collections::btree_map::Entry::Vacant(place) = depths.entry(name) {
                place.insert(self.depth(&self.source(opened, name)?, main)?);
            }
        }
        let one = |slice: &Slice| -> Result<Range<usize>> {
            let mut all = slice.inputs.iter().map(|input| -> Result<_> {
                let depth = depths.get(input.model.as_str()).copied().unwrap_or(0);
                let layers = input.layers.clone().unwrap_or(0..depth);
                if layers.end > depth {
                    let what = format!("`{}` has {depth} layers, not {}", input.model, layers.end);
                    return Err(self.bad(
                        "layer_range",
                        what,
                        format!("use an end of at most {depth}"),
                    ));
                }
                Ok(layers)
            });
            let first = all.next().unwrap_or(Ok(0..0))?;
            for layers in all {
                if layers?.len() != first.len() {
                    let what = "the sources of a slice have different numbers of layers";
                    return Err(self.bad("layer_range", what, "give them ranges of equal length"));
                }
            }
            Ok(first)
        };
        self.slices.iter().map(one).collect()
    }

    /// Returns the slice that provides a tensor outside the layers: the first slice for tensors
    /// before the layers and for parts other than text, the last slice for tensors after the
    /// layers.
    pub(super) fn slice_outside(&self, spec: &TensorSpec) -> &Slice {
        let before = spec.kind == Kind::Embedding
            || spec.name.contains("embed")
            || spec.name.split('.').any(|part| part.parse::<u32>().is_ok());
        if before { &self.slices[0] } else { &self.slices[self.slices.len() - 1] }
    }

    /// Returns the copied buffers of the `first` model; in a stack, each with its layer.
    fn buffers(
        &self,
        first: &Source,
        opened: &Opened,
        stacked: Option<&Stack>,
    ) -> Result<BTreeMap<String, Buffer>> {
        let Some(main) = stacked else { return Ok(first.buffers().clone()) };
        let outside = first.buffers().iter().filter(|(name, _)| main.split_any(name).is_none());
        let mut all: BTreeMap<String, Buffer> =
            outside.map(|(name, buffer)| (name.clone(), buffer.clone())).collect();
        let mut layers = 0;
        for (slice, range) in self.slices.iter().zip(self.ranges(opened, main)?) {
            let source = self.source(opened, &slice.inputs[0].model)?;
            for (name, buffer) in source.buffers() {
                if let Some((layer, rest)) =
                    main.split_any(name).filter(|(layer, _)| range.contains(layer))
                {
                    all.insert(main.join(layers + layer - range.start, rest), buffer.clone());
                }
            }
            layers += range.len();
        }
        Ok(all)
    }

    /// Plans the operands and parameters of a merged tensor.
    fn tensor(&self, wanted: TargetTensor<'_>, opened: &Opened) -> Result<Planned> {
        let TargetTensor { spec, place } = wanted;
        let base_name = place.slice.base.as_ref().or(self.base.as_ref());
        let measures =
            |input: &Input| self.method.origin != Origin::Never && base_name == Some(&input.model);
        let mut names = Vec::new();
        let mut views = Vec::new();
        let mut inputs = Vec::new();
        let mut base = None;
        for input in &place.slice.inputs {
            let source = self.source(opened, &input.model)?;
            let in_layer = place
                .layer
                .and_then(|(stack, offset)| Some((stack, offset, stack.split_any(&spec.name)?.1)));
            let stored = match in_layer {
                Some((stack, offset, rest)) => stack
                    .join(input.layers.as_ref().map_or(0, |layers| layers.start) + offset, rest),
                None => spec.name.clone(),
            };
            let view = source.view(&stored)?.clone();
            if view.shape != spec.shape {
                let difference = format!(
                    "tensor `{stored}` has shape {:?}, but {:?} there",
                    view.shape, spec.shape
                );
                let first = place
                    .slice
                    .inputs
                    .first()
                    .map_or_else(String::new, |input| input.model.clone());
                return Err(Error::Incompatible { first, second: input.model.clone(), difference });
            }
            if measures(input) {
                base = Some((source.name().to_owned(), view));
                continue;
            }
            names.push(source.name().to_owned());
            views.push(view);
            // Filters match names as stored.
            inputs.push((input, source.stored_name(&stored)));
        }
        let is_alone = views.len() + usize::from(base.is_some()) == 1;
        let method: Arc<dyn Method> = if !is_alone || self.method.name == "passthrough" {
            (self.method.make)(&self.given(&spec, &place, &inputs)?)?
        } else if self.method.name == "linear" {
            // A single model is passed through, apart from a weight that is not normalised.
            let given = self.given(&spec, &place, &inputs)?;
            let scale =
                if given.switch("normalize")? { None } else { Some(given.number("weight")?) };
            Arc::new(Passthrough { scale })
        } else {
            if let Some((name, view)) = base.take() {
                names = vec![name];
                views = vec![view];
            }
            Arc::new(Passthrough::default())
        };
        if !method.counts().contains(&views.len()) {
            let least = *method.counts().start();
            let most = *method.counts().end();
            let wanted =
                if least == most { format!("{least}") } else { format!("{least} or more") };
            let apart = if base.is_some() { " besides the base" } else { "" };
            let what =
                format!("{} merges {wanted} models{apart}, not {}", method.name(), views.len());
            let hint = "change the number of models; `merge` without arguments lists the methods";
            return Err(self.bad(if self.whole { "models" } else { "slices" }, what, hint));
        }
        method.check(views.len())?;
        Ok(Planned {
            operands: Operands::new(spec, names, views, base.map(|(_, view)| view)),
            method,
        })
    }

    /// Returns the parameters of one tensor.
    fn given(
        &self,
        spec: &TensorSpec,
        place: &SlicePosition<'_>,
        inputs: &[(&Input, String)],
    ) -> Result<ParameterValues> {
        let mut given = ParameterValues::default();
        for key in self.method.keys {
            let shared = |name: &str| {
                let [module, recipe] = &self.parameters;
                [&place.slice.parameters, module, recipe]
                    .into_iter()
                    .find_map(|settings| settings.get(key.name)?.at(name, place.t))
            };
            let mut values: Vec<Value> = Vec::new();
            if key.is_each() {
                for (input, name) in inputs {
                    let own = input.parameters.get(key.name).and_then(|s| s.at(name, place.t));
                    let found = own.or_else(|| shared(name));
                    values.push(
                        found.map_or_else(|| self.default(key, Some(&input.model), name), Ok)?,
                    );
                }
            } else {
                let name = inputs.first().map_or(&spec.name, |(_, name)| name);
                values.push(shared(name).map_or_else(|| self.default(key, None, name), Ok)?);
            }
            given.set(key, values);
        }
        Ok(given)
    }

    /// Returns the default of `key`, or an error if recipes must set it.
    fn default(&self, key: &Key, model: Option<&str>, tensor: &str) -> Result<Value> {
        match (key.scope, model) {
            (Scope::Needed | Scope::NeededWhole, _) => {
                let whose = model.map(|model| format!(" of `{model}`")).unwrap_or_default();
                let hint = format!(
                    "add parameters: {{{}: {}}} to the model or the recipe",
                    key.name, key.default
                );
                Err(self.bad(
                    key.name,
                    format!(
                        "{} needs it, and no value{whose} applies to `{tensor}`",
                        self.method.name
                    ),
                    hint,
                ))
            }
            _ => Ok(typed(key, key.default)?.swap_remove(0)),
        }
    }
}

/// Returns the relative depth of `layer` among `count` layers, 0 to 1.
fn spread(layer: usize, count: usize) -> f64 {
    if count > 1 { layer as f64 / (count - 1) as f64 } else { 1.0 }
}

/// Returns the tensors of each layer of `source`, each with its name within the layer.
fn by_layer(source: &Source, main: &Stack) -> Vec<Vec<(String, TensorSpec)>> {
    let mut layers = Vec::new();
    for spec in source.tensors() {
        if let Some((layer, rest)) = main.split_any(&spec.name) {
            layers.resize_with(layers.len().max(layer + 1), Vec::new);
            layers[layer].push((rest.to_owned(), spec.clone()));
        }
    }
    layers
}

/// Returns what opening `source` left to say.
fn notes_of(source: &Source) -> Vec<String> {
    let name = source.name();
    let mut notes: Vec<String> =
        source.notes().iter().map(|note| format!("{name}: {note}")).collect();
    if !source.unused().is_empty() {
        notes.push(format!("unused tensors of {name}: {}", source.unused().join(", ")));
    }
    notes
}

/// Returns notes on how the configurations of `others` differ from that of `donor`, which the merge
/// uses.
pub(crate) fn configured<'a>(
    donor: &Source,
    others: impl Iterator<Item = &'a Source>,
) -> Result<Vec<String>> {
    const MOST: usize = 4;
    let mut notes = Vec::new();
    for other in others {
        let differences = donor.config_differences(other)?;
        let one = |d: &ConfigDifference| {
            format!(
                "{} is {} in `{}` and {} in `{}`",
                d.key,
                d.values[0],
                donor.name(),
                d.values[1],
                other.name()
            )
        };
        let mut listed: Vec<String> = differences.iter().take(MOST).map(one).collect();
        if differences.len() > MOST {
            listed.push(format!("{} more keys differ", differences.len() - MOST));
        }
        if !listed.is_empty() {
            notes.push(format!(
                "the merge uses the configuration of `{}`: {}",
                donor.name(),
                listed.join("; ")
            ));
        }
    }
    Ok(notes)
}
