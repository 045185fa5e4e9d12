//! One pass through a part of the model.
//!
//! At every step of a layer, the inputs of all tokens give the system of the step's tensors; these
//! are solved, and the states go through the step in the merge as it now is. A source's own states
//! go through its own weights alongside.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};

use super::block::Unit;
use super::settings::{Inputs, SolveSettings};
use super::solved::SolvedTensor;
use super::steps::{Part, Step};
use super::streams::{State, Stream, advance};
use super::unrestricted::Unrestricted;
use super::{basis, scheme};
use crate::checkpoint::{Kind, Source};
use crate::coefficients::{Merge, MergedTensor};
use crate::device::of_layer;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Decoder, Half};

/// Weights without a scheme, solved one after the other; the rest is averaged.
#[derive(Default)]
pub(crate) struct FullWeights(pub BTreeMap<String, Tensor>);

/// One pass through a part of the model.
pub(super) struct Pass<'a> {
    pub settings: &'a SolveSettings,
    pub dtype: DType,
    pub streams: &'a mut Vec<Stream>,
    pub merge: &'a Merge,
    pub sources: &'a [Source],
    pub base: Option<&'a Source>,
    pub whole: Option<&'a mut FullWeights>,
    /// Variables of several steps of this part. They are solved together, before the others.
    pub joint: BTreeSet<usize>,
    /// The units of the joint variables, while they are collected and nothing is solved.
    pub survey: Option<Vec<Unit<'a>>>,
    pub solved: Vec<SolvedTensor>,
}

impl<'a> Pass<'a> {
    pub(super) fn run(&mut self, part: Part) -> Result<()> {
        self.bring_states(part)?;
        self.joint = self.joint_variables(part);
        if self.whole.is_none() && !self.joint.is_empty() {
            let states = |s: &Stream| (s.merged.clone(), s.own.clone());
            let before: Vec<(State, State)> = self.streams.iter().map(states).collect();
            self.survey = Some(Vec::new());
            self.go(part)?;
            for (stream, (merged, own)) in self.streams.iter_mut().zip(before) {
                (stream.merged, stream.own) = (merged, own);
            }
            let units = self.survey.take().unwrap_or_default();
            self.solve(units)?;
        }
        self.go(part)
    }

    /// Brings all states to the device of `part`, if several GPUs share the layers.
    fn bring_states(&mut self, part: Part) -> Result<()> {
        let layer = if let Part::Layer(layer) = part { Some(layer) } else { None };
        let device = of_layer(&self.merge.device, layer, self.merge.architecture.layers);
        for stream in self.streams.iter_mut() {
            for state in [&mut stream.merged, &mut stream.own] {
                state.x = state.x.to_device(&device)?;
                state.input = state.input.to_device(&device)?;
            }
        }
        Ok(())
    }

    pub(super) fn go(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Embedding if self.settings.inputs == Inputs::Tasks => Ok(()),
            Part::Output if self.settings.inputs == Inputs::Tasks => Ok(()),
            Part::Embedding => self.embedding(),
            Part::Output => self.output(),
            Part::Layer(layer) => {
                Step::all().into_iter().try_for_each(|step| self.step(layer, step))
            }
        }
    }

    /// Returns the variables that belong to several steps of `part`, and those of tensors that use
    /// such.
    pub(super) fn joint_variables(&self, part: Part) -> BTreeSet<usize> {
        let a = &self.merge.architecture;
        let steps: Vec<Vec<String>> = match part {
            Part::Embedding => Vec::new(),
            Part::Layer(layer) => Step::all().iter().map(|s| s.names(a, layer)).collect(),
            Part::Output => vec![vec!["model.norm".into()], vec!["lm_head".into()]],
        };
        let used = |name: &String| -> BTreeSet<usize> {
            let trained = self.tensors(name).into_iter().filter(|t| t.trains);
            trained.flat_map(|t| t.variables.iter().copied()).collect()
        };
        let steps: Vec<Vec<BTreeSet<usize>>> =
            steps.iter().map(|names| names.iter().map(used).collect()).collect();
        let mut users = BTreeMap::<usize, usize>::new();
        for step in &steps {
            for variable in step.iter().flatten().copied().collect::<BTreeSet<usize>>() {
                *users.entry(variable).or_default() += 1;
            }
        }
        let several = users.into_iter().filter(|(_, steps)| *steps > 1);
        let mut joint: BTreeSet<usize> = several.map(|(variable, _)| variable).collect();
        loop {
            let before = joint.len();
            for used in steps.iter().flatten() {
                if !used.is_disjoint(&joint) {
                    joint.extend(used);
                }
            }
            if joint.len() == before {
                return joint;
            }
        }
    }

    /// Returns the weight `name` and its bias, without the endings.
    pub(super) fn tensors(&self, name: &str) -> Vec<&'a MergedTensor> {
        let merge: &'a Merge = self.merge;
        let of = |end: &str| merge.tensor(&format!("{name}.{end}")).ok();
        [of("weight"), of("bias")].into_iter().flatten().collect()
    }

    /// Whether `tensor` is to be solved now.
    pub(super) fn wants(&self, tensor: &MergedTensor) -> bool {
        match &self.whole {
            Some(_) => tensor.spec.kind == Kind::Linear && tensor.spec.layer().is_some(),
            None => {
                let joint = tensor.variables.iter().any(|i| self.joint.contains(i));
                tensor.trains && joint == self.survey.is_some()
            }
        }
    }

    /// Whether the sources differ in `tensor`.
    pub(super) fn differs(&self, tensor: &MergedTensor) -> Result<bool> {
        for a in 1..self.sources.len() {
            let difference = self.combination(tensor, &basis::weights(self.sources.len(), a))?;
            if difference
                .abs()?
                .max_all()?
                .to_device(&Device::Cpu)?
                .to_dtype(DType::F64)?
                .to_scalar::<f64>()?
                > 0.0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the sources differ in any of `tensors`.
    pub(super) fn any_differs(&self, tensors: &[&MergedTensor]) -> Result<bool> {
        for tensor in tensors {
            if self.differs(tensor)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn combination(&self, tensor: &MergedTensor, weights: &[f64]) -> Result<Tensor> {
        self.merge.combination(tensor, weights, None, self.dtype)
    }

    /// Returns the weight of source `i`, or its difference from the average, beside its bias.
    pub(super) fn weight_of(
        &self,
        tensors: &[&MergedTensor],
        i: usize,
        apart: bool,
    ) -> Result<Tensor> {
        let weights = basis::weights_of(self.sources.len(), i, apart);
        let parts = tensors.iter().map(|t| self.combination(t, &weights));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 1)? })
    }

    /// Runs one step of a layer.
    pub(super) fn step(&mut self, layer: usize, step: Step) -> Result<()> {
        interrupt::check()?;
        let a = &self.merge.architecture;
        let mut names = step.names(a, layer);
        let follows = |half: Half| half.norm_after(a).is_none();
        if self.settings.inputs == Inputs::Tasks {
            let is_projection = matches!(step, Step::First(_) | Step::Last(_));
            return if is_projection { self.tasks(&names) } else { Ok(()) };
        }
        match step {
            Step::Before(_) => {
                let inputs = self.inputs(|stream| [&stream.merged.x, &stream.own.x]);
                names.iter().try_for_each(|name| self.norm(name, &inputs, false))?;
            }
            Step::First(_) => self.projections(&names, false)?,
            Step::Heads => names.iter().try_for_each(|name| self.head_norm(name))?,
            Step::Last(half) => self.projections(&names, follows(half))?,
            Step::After(_) => {
                let inputs = self.inputs(|stream| [&stream.merged.input, &stream.own.input]);
                names.iter().try_for_each(|name| self.norm(name, &inputs, true))?;
            }
        }
        match step {
            // The norms of queries and keys come first.
            Step::First(Half::Attention) => return Ok(()),
            Step::Heads => names.extend(Step::First(Half::Attention).names(a, layer)),
            _ => {}
        }
        self.advance(&names, |decoder, stream, State { x, input }| {
            let (x, input) = match step {
                Step::Before(half) => (x.clone(), decoder.before(half, layer, x)?),
                Step::First(half) => {
                    (x.clone(), decoder.inner(half, layer, input, &stream.positions)?)
                }
                Step::Heads => {
                    let positions = &stream.positions;
                    (x.clone(), decoder.inner(Half::Attention, layer, input, positions)?)
                }
                Step::Last(half) => (x.clone(), decoder.last(half, layer, input)?),
                Step::After(half) => {
                    let x = decoder.after(half, layer, x, input)?;
                    (x.clone(), x)
                }
            };
            Ok(State { x, input })
        })
    }

    /// Moves all states through a step that uses the tensors `names`.
    pub(super) fn advance(
        &mut self,
        names: &[String],
        step: impl Fn(&Decoder<'_, BTreeMap<String, Tensor>>, &Stream, &State) -> Result<State>,
    ) -> Result<()> {
        let tensors: Vec<&MergedTensor> =
            names.iter().flat_map(|name| self.tensors(name)).collect();
        let names: Vec<String> = tensors.iter().map(|t| t.spec.name.clone()).collect();
        let own = self.settings.needs_own();
        let own = own.then_some((self.sources, &self.merge.device, self.dtype));
        let merged = match self.settings.inputs {
            Inputs::Merged => {
                let weight = |t: &&MergedTensor| Ok((t.spec.name.clone(), self.merged_weight(t)?));
                Some(tensors.iter().map(weight).collect::<Result<BTreeMap<_, _>>>()?)
            }
            _ => None,
        };
        let a = &self.merge.architecture;
        advance(self.streams, a, &names, own, merged.as_ref(), step)
    }

    /// Returns a weight of the merge so far.
    pub(super) fn merged_weight(&self, tensor: &MergedTensor) -> Result<Tensor> {
        let solved = self.whole.as_ref().and_then(|whole| whole.0.get(&tensor.spec.name));
        match solved {
            Some(solved) => {
                Ok(solved.to_device(&self.merge.device_of(tensor))?.to_dtype(self.dtype)?)
            }
            None => self.merge.weight_in(tensor, self.dtype),
        }
    }

    /// Returns the inputs that the merge is to be solved on.
    pub(super) fn chosen<'s>(&self, [merged, own]: &'s [Tensor; 2]) -> &'s Tensor {
        if self.settings.inputs == Inputs::Own { own } else { merged }
    }

    /// Returns one state of the merge and of the source for every stream.
    fn inputs(&self, of: impl Fn(&Stream) -> [&Tensor; 2]) -> Vec<[Tensor; 2]> {
        self.streams.iter().map(|stream| of(stream).map(Tensor::clone)).collect()
    }

    /// Returns the error of the residual stream, as a target of the last step before it.
    pub(super) fn residual(&self, stream: &Stream) -> Result<Tensor> {
        let scale = self.merge.architecture.residual_scale;
        Ok(((&stream.own.x - &stream.merged.x)? / scale)?)
    }

    /// Solves the norm after the last layer, and the output layer if it is not the embedding.
    pub(super) fn output(&mut self) -> Result<()> {
        let norm = "model.norm".to_owned();
        let inputs = self.inputs(|stream| [&stream.merged.x, &stream.own.x]);
        self.norm(&norm, &inputs, false)?;
        let head = self.tensors("lm_head").into_iter().next();
        let Some(head) = head.filter(|head| self.wants(head)) else { return Ok(()) };
        if !self.differs(head)? {
            return Ok(());
        }
        self.advance(&[norm], |decoder, _, state| {
            Ok(State { x: state.x.clone(), input: decoder.last_norm(&state.x)? })
        })?;
        self.projections(&["lm_head".to_owned()], false)
    }

    /// Solves `units`, which have the same inputs if there are several, or keeps them for later.
    pub(super) fn solve(&mut self, units: Vec<Unit<'a>>) -> Result<()> {
        if let Some(survey) = &mut self.survey {
            survey.extend(units);
            return Ok(());
        }
        if units.is_empty() {
            return Ok(());
        }
        let ridge = self.settings.ridge;
        let mut best = Vec::new();
        if self.settings.unrestricted || self.whole.is_some() {
            let mut last: Option<Unrestricted> = None;
            for unit in &units {
                interrupt::check()?;
                let gram = &unit.quadratic.gram;
                if self.whole.is_none() && Unrestricted::is_slow(gram)? {
                    break;
                }
                let same = last.take().filter(|last| last.gram().is_same(gram));
                let now = match same {
                    Some(same) => same,
                    None => match Unrestricted::new(gram, ridge, unit.name()) {
                        // Only a report would be missing.
                        Err(Error::Refused { .. }) if self.whole.is_none() => break,
                        now => now?,
                    },
                };
                best.push(last.insert(now).solve(&unit.quadratic)?);
            }
        }
        let values = units.iter().zip(&best).map(|(unit, d)| unit.quadratic.value(d));
        let reached = values.collect::<Result<Vec<f64>>>()?;
        let left = match &mut self.whole {
            None => scheme::solve(self.merge, &units, ridge)?,
            Some(whole) => {
                let share = vec![1.0 / self.sources.len() as f64; self.sources.len()];
                for (unit, d) in units.iter().zip(&best) {
                    let average =
                        self.merge.combination(unit.tensors[0], &share, None, self.dtype)?;
                    let weight = (average + d)?.to_device(&candle_core::Device::Cpu)?;
                    whole.0.insert(unit.name().to_owned(), weight.to_dtype(DType::F32)?);
                }
                reached.clone()
            }
        };
        for (i, (unit, left)) in units.iter().zip(left).enumerate() {
            self.solved.push(SolvedTensor {
                name: unit.name().to_owned(),
                average: unit.quadratic.at_average,
                solved: left,
                unrestricted: reached.get(i).map(|x| x.max(0.0)),
            });
        }
        Ok(())
    }
}
