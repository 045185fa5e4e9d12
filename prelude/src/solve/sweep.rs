//! The sweep through the parts of a model in the order of computation.
//!
//! At every step of a layer, the inputs of all tokens give the system of the step's tensors; these
//! are solved, and the states go through the step in the merge as it now is. A source's own states
//! go through its own weights alongside.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::IntoIter;

use candle_core::{DType, Tensor};

use super::block::Unit;
use super::quadratic::{Gram, Quadratic, dot};
use super::settings::{Inputs, SolveSettings};
use super::steps::{Part, Step};
use super::streams::{self, State, Stream, advance};
use super::unrestricted::Unrestricted;
use super::{basis, scheme};
use crate::checkpoint::{BASE, Kind, Source};
use crate::coefficients::{Merge, MergedTensor};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Decoder, Half, SourceWeights};
use crate::ops::{Gradient, linear, rms_norm};

/// The solution of one part of the model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Solved {
    /// The decoder layer; `None` for the embedding and the output.
    pub layer: Option<usize>,
    /// Its tensors, in the order of their solution.
    pub tensors: Vec<SolvedTensor>,
}

/// The solution of one tensor: what is left of its disagreement with the sources, in the mean
/// square per token and summed over sources.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SolvedTensor {
    /// The name of the weight.
    pub name: String,
    /// The disagreement of the average.
    pub average: f64,
    /// That of the solution.
    pub solved: f64,
    /// That of the best weight without a scheme.
    pub unrestricted: Option<f64>,
}

impl Solved {
    /// Returns the share of the average's disagreement that is left: the mean over tensors.
    pub fn share(&self) -> f64 {
        self.mean(|t| Some(t.solved)).unwrap_or(0.0)
    }

    /// Returns the share that the best weights without a scheme would leave.
    pub fn unrestricted_share(&self) -> Option<f64> {
        self.mean(|t| t.unrestricted)
    }

    fn mean(&self, left: impl Fn(&SolvedTensor) -> Option<f64>) -> Option<f64> {
        let disagree = self.tensors.iter().filter(|t| t.average > 0.0);
        let shares: Vec<f64> = disagree.filter_map(|t| Some(left(t)? / t.average)).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    }
}

/// Weights without a scheme, solved one after the other; the rest is averaged.
#[derive(Default)]
pub(crate) struct Whole(pub BTreeMap<String, Tensor>);

/// A sweep between two parts.
pub(crate) struct Sweep {
    settings: SolveSettings,
    dtype: DType,
    streams: Vec<Stream>,
    parts: IntoIter<Part>,
}

impl Sweep {
    /// Prepares a sweep of `merge`, computed in `dtype` (f32, or on the CPU f64). `data` returns
    /// the data of a source; only the base may have none.
    ///
    /// # Errors
    /// Invalid settings, a source without data, or a scheme whose parameters belong to several
    /// layers.
    pub fn new<'d>(
        merge: &Merge,
        sources: &[Source],
        settings: SolveSettings,
        dtype: DType,
        max_length: usize,
        data: impl Fn(&str) -> Option<&'d Dataset>,
    ) -> Result<Self> {
        settings.check()?;
        scheme::check(merge)?;
        let examples = |name: &str| {
            let found = data(name).map(|data| streams::first(data, &settings, max_length));
            found.filter(|(tokens, _)| *tokens > 0)
        };
        let a = &merge.architecture;
        let streams = match settings.inputs {
            Inputs::Tasks => Vec::new(),
            _ => streams::streams(sources, examples, a, &merge.device, BASE)?,
        };
        Ok(Self { settings, dtype, streams, parts: Part::all(a).into_iter() })
    }

    /// Returns the tokens of all examples.
    pub fn tokens(&self) -> usize {
        self.streams.iter().map(|stream| stream.ids.elem_count()).sum()
    }

    /// Returns the number of parts left, as progress counts them.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Solves the next part that has something to solve; `None` after the last. `base` is the
    /// origin of task vectors. With `whole`, the best weights without a scheme are put there.
    ///
    /// # Errors
    /// A system is not positive definite, the scheme fails, out of memory on the device, or
    /// [`Error::Interrupted`]. The variables of the part are then unchanged.
    pub fn next(
        &mut self,
        merge: &Merge,
        sources: &[Source],
        base: Option<&Source>,
        mut whole: Option<&mut Whole>,
    ) -> Result<Option<Solved>> {
        for part in self.parts.by_ref() {
            let before = merge.variables.iter().map(|v| v.value.as_tensor().copy());
            let before = before.collect::<candle_core::Result<Vec<_>>>()?;
            let mut pass = Pass {
                settings: &self.settings,
                dtype: self.dtype,
                streams: &mut self.streams,
                merge,
                sources,
                base,
                whole: whole.as_deref_mut(),
                joint: BTreeSet::new(),
                survey: None,
                solved: Vec::new(),
            };
            if let Err(error) = pass.run(part) {
                for (variable, value) in merge.variables.iter().zip(before) {
                    variable.value.set(&value)?;
                }
                return Err(error);
            }
            if !pass.solved.is_empty() {
                let layer = if let Part::Layer(layer) = part { Some(layer) } else { None };
                return Ok(Some(Solved { layer, tensors: pass.solved }));
            }
        }
        Ok(None)
    }
}

/// The way through one part.
struct Pass<'a> {
    settings: &'a SolveSettings,
    dtype: DType,
    streams: &'a mut Vec<Stream>,
    merge: &'a Merge,
    sources: &'a [Source],
    base: Option<&'a Source>,
    whole: Option<&'a mut Whole>,
    /// Variables of several steps of this part. They are solved together, before the others.
    joint: BTreeSet<usize>,
    /// The units of the joint variables, while they are collected and nothing is solved.
    survey: Option<Vec<Unit<'a>>>,
    solved: Vec<SolvedTensor>,
}

impl<'a> Pass<'a> {
    fn run(&mut self, part: Part) -> Result<()> {
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

    fn go(&mut self, part: Part) -> Result<()> {
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
    fn joint_variables(&self, part: Part) -> BTreeSet<usize> {
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
    fn tensors(&self, name: &str) -> Vec<&'a MergedTensor> {
        let merge: &'a Merge = self.merge;
        let of = |end: &str| merge.tensor(&format!("{name}.{end}")).ok();
        [of("weight"), of("bias")].into_iter().flatten().collect()
    }

    /// Whether `tensor` is to be solved now.
    fn wants(&self, tensor: &MergedTensor) -> bool {
        match &self.whole {
            Some(_) => tensor.spec.kind == Kind::Linear && tensor.spec.layer().is_some(),
            None => {
                let joint = tensor.variables.iter().any(|i| self.joint.contains(i));
                tensor.trains && joint == self.survey.is_some()
            }
        }
    }

    /// Whether the sources differ in `tensor`.
    fn differs(&self, tensor: &MergedTensor) -> Result<bool> {
        for a in 1..self.sources.len() {
            let difference = self.combination(tensor, &basis::weights(self.sources.len(), a))?;
            if difference.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? > 0.0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn combination(&self, tensor: &MergedTensor, weights: &[f64]) -> Result<Tensor> {
        self.merge.combination(tensor, weights, None, self.dtype)
    }

    /// Returns the weight of source `i`, or its difference from the average, beside its bias.
    fn weight_of(&self, tensors: &[&MergedTensor], i: usize, apart: bool) -> Result<Tensor> {
        let weights = basis::weights_of(self.sources.len(), i, apart);
        let parts = tensors.iter().map(|t| self.combination(t, &weights));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(&parts, 1)? })
    }

    /// Runs one step of a layer.
    fn step(&mut self, layer: usize, step: Step) -> Result<()> {
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
                for name in &names {
                    self.norm(
                        name,
                        |stream| [stream.merged.x.clone(), stream.own.x.clone()],
                        false,
                    )?;
                }
            }
            Step::First(_) => self.projections(&names, false)?,
            Step::Heads => names.iter().try_for_each(|name| self.head_norm(name))?,
            Step::Last(half) => self.projections(&names, follows(half))?,
            Step::After(_) => {
                for name in &names {
                    let inputs = |s: &Stream| [s.merged.input.clone(), s.own.input.clone()];
                    self.norm(name, inputs, true)?;
                }
            }
        }
        if step == Step::Heads {
            names.extend(Step::First(Half::Attention).names(a, layer));
        }
        self.advance(&names, |decoder, stream, State { x, input }| {
            let (x, input) = match step {
                Step::Before(half) => (x.clone(), decoder.before(half, layer, x)?),
                Step::First(Half::Attention) => (x.clone(), input.clone()),
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
    fn advance(
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
    fn merged_weight(&self, tensor: &MergedTensor) -> Result<Tensor> {
        let solved = self.whole.as_ref().and_then(|whole| whole.0.get(&tensor.spec.name));
        let weight = match solved {
            Some(solved) => solved.to_device(&self.merge.device)?,
            None => self.merge.weight(tensor)?.into_inner().detach(),
        };
        Ok(weight.to_dtype(self.dtype)?)
    }

    /// Returns the inputs that the merge is to be solved on.
    fn chosen<'s>(&self, [merged, own]: &'s [Tensor; 2]) -> &'s Tensor {
        if self.settings.inputs == Inputs::Own { own } else { merged }
    }

    /// Returns the error of the residual stream, as a target of the last step before it.
    fn residual(&self, stream: &Stream) -> Result<Tensor> {
        let scale = self.merge.architecture.residual_scale;
        Ok(((&stream.own.x - &stream.merged.x)? / scale)?)
    }

    /// Solves projections with the same inputs. With `last`, their results are added to the
    /// residual stream.
    fn projections(&mut self, names: &[String], last: bool) -> Result<()> {
        let biased = self.whole.is_none();
        let units = names.iter().map(|name| self.tensors(name)).filter(|t| self.wants(t[0]));
        let units = units.map(|t| if biased { t } else { t[..1].to_vec() });
        let units: Vec<Vec<&'a MergedTensor>> = units.collect();
        let Some(first) = units.first() else { return Ok(()) };
        let has_bias = first.len() > 1;
        let gram = Gradient::default();
        let rights: Vec<Gradient> = units.iter().map(|_| Gradient::default()).collect();
        let mut energies = vec![0.0; units.len()];
        for i in 0..self.sources.len() {
            let weights = |unit: &Vec<&MergedTensor>| {
                let own = match self.settings.corrects_inputs() {
                    true => Some(self.weight_of(unit, i, false)?),
                    false => None,
                };
                Ok((self.weight_of(unit, i, true)?, own))
            };
            let mut streams = self.streams.iter().filter(|s| s.source == i).peekable();
            if streams.peek().is_none() {
                continue;
            }
            let weights = units.iter().map(weights).collect::<Result<Vec<_>>>()?;
            for stream in streams {
                interrupt::check()?;
                let inputs = [&stream.merged.input, &stream.own.input];
                let inputs = inputs.map(|x| if has_bias { with_one(x) } else { Ok(x.clone()) });
                let [merged, own] = inputs;
                let inputs = [merged?, own?];
                let x = self.chosen(&inputs);
                let scaled = (x * stream.weight)?;
                gram.add_product(&scaled, &scaled)?;
                let missing = match self.settings.corrects_inputs() {
                    true => Some((&inputs[1] - &inputs[0])?),
                    false => None,
                };
                for ((right, energy), (apart, own)) in
                    rights.iter().zip(&mut energies).zip(&weights)
                {
                    let mut d = linear(x, apart)?;
                    if let (Some(missing), Some(own)) = (&missing, own) {
                        d = (d + linear(missing, own)?)?;
                    }
                    if last && self.settings.corrects_residual() {
                        d = (d + self.residual(stream)?)?;
                    }
                    let d = (d * stream.weight)?;
                    *energy += dot(&d, &d)?;
                    right.add_product(&d, &scaled)?;
                }
            }
        }
        let Some(gram) = gram.total() else { return Ok(()) };
        let unit = |((tensors, right), at_average): ((_, Gradient), f64)| {
            let right = right.total().ok_or(Error::NothingToTrain)?;
            let gram = Gram::Dense(gram.clone());
            Ok(Unit { tensors, ids: None, quadratic: Quadratic { gram, right, at_average } })
        };
        let units = units.into_iter().zip(rights).zip(energies).map(unit).collect::<Result<_>>()?;
        self.solve(units)
    }

    /// Solves projections on the rows of task vectors: `sum_i |(W - W_i) t_i^T|^2 / |t_i|^2`.
    fn tasks(&mut self, names: &[String]) -> Result<()> {
        let base = self.base.ok_or_else(|| Error::Sources {
            what: "inputs=tasks takes task vectors, which need a base model, and none is marked"
                .into(),
            hint: "mark the base: load base=SOURCE",
        })?;
        for name in names {
            let Some(weight) = self.tensors(name).into_iter().next().filter(|t| self.wants(t))
            else {
                continue;
            };
            let origin = base.view(&weight.spec.name)?.to_tensor(&self.merge.device)?;
            let origin = origin.to_dtype(self.dtype)?;
            let (gram, right, mut at_average) = (Gradient::default(), Gradient::default(), 0.0);
            for i in 0..self.sources.len() {
                interrupt::check()?;
                let task = (self.weight_of(&[weight], i, false)? - &origin)?;
                let size = dot(&task, &task)?;
                if size == 0.0 {
                    continue;
                }
                let rows = (task / size.sqrt())?;
                let d = linear(&rows, &self.weight_of(&[weight], i, true)?)?;
                at_average += dot(&d, &d)?;
                gram.add_product(&rows, &rows)?;
                right.add_product(&d, &rows)?;
            }
            let (Some(gram), Some(right)) = (gram.total(), right.total()) else { continue };
            let quadratic = Quadratic { gram: Gram::Dense(gram), right, at_average };
            self.solve(vec![Unit { tensors: vec![weight], ids: None, quadratic }])?;
        }
        Ok(())
    }

    /// Solves a norm of queries or keys.
    fn head_norm(&mut self, name: &str) -> Result<()> {
        let projection = name.replace("_norm", "_proj");
        let tensors = self.tensors(&projection);
        let Some(weight) = tensors.first() else { return Ok(()) };
        let project =
            |x: &Tensor, of: &dyn Fn(&MergedTensor) -> Result<Tensor>| -> Result<Tensor> {
                let y = linear(x, &of(weight)?)?;
                Ok(match tensors.get(1) {
                    Some(bias) => y.broadcast_add(&of(bias)?)?,
                    None => y,
                })
            };
        let inputs = |stream: &Stream| -> Result<[Tensor; 2]> {
            let source = &self.sources[stream.source];
            let own = SourceWeights { source, device: &self.merge.device, dtype: self.dtype };
            let own = |t: &MergedTensor| crate::model::Weights::weight(&own, &t.spec.name);
            let merged = |t: &MergedTensor| self.merged_weight(t);
            Ok([project(&stream.merged.input, &merged)?, project(&stream.own.input, &own)?])
        };
        let tensor = self.merge.tensor(&format!("{name}.weight"))?;
        if !self.wants(tensor) || !self.differs(tensor)? {
            return Ok(());
        }
        let inputs = self.streams.iter().map(inputs).collect::<Result<Vec<_>>>()?;
        let mut inputs = inputs.into_iter();
        self.norm(
            name,
            |stream| {
                inputs.next().unwrap_or_else(|| [stream.merged.x.clone(), stream.own.x.clone()])
            },
            false,
        )
    }

    /// Solves a norm, `y = w o z` with the normalised input `z`. With `last`, its results are added
    /// to the residual stream.
    fn norm(
        &mut self,
        name: &str,
        mut inputs: impl FnMut(&Stream) -> [Tensor; 2],
        last: bool,
    ) -> Result<()> {
        let merge: &'a Merge = self.merge;
        let tensor = merge.tensor(&format!("{name}.weight"))?;
        if !self.wants(tensor) || !self.differs(tensor)? {
            return Ok(());
        }
        let (width, a) = (tensor.spec.shape[0], &merge.architecture);
        let ones = Tensor::ones(width, self.dtype, &merge.device)?;
        let normalised =
            |x: &Tensor| Ok::<_, Error>(rms_norm(&x.reshape(((), width))?, &ones, a.norm_eps)?);
        let zero = Tensor::zeros((1, width), self.dtype, &merge.device)?;
        let (mut gram, mut right, mut at_average) = (zero.clone(), zero, 0.0);
        for stream in self.streams.iter() {
            let states = inputs(stream);
            let x = normalised(self.chosen(&states))?;
            let mut d = x.broadcast_mul(&self.weight_of(&[tensor], stream.source, true)?)?;
            if self.settings.corrects_inputs() {
                let own = (self.weight_of(&[tensor], stream.source, false)? + a.norm_offset)?;
                d = (d + (normalised(&states[1])? - &x)?.broadcast_mul(&own)?)?;
            }
            if last && self.settings.corrects_residual() {
                d = (d + self.residual(stream)?)?;
            }
            let weight = stream.weight.powi(2);
            gram = (gram + (x.sqr()?.sum_keepdim(0)? * weight)?)?;
            right = (right + ((&d * &x)?.sum_keepdim(0)? * weight)?)?;
            at_average += dot(&d, &d)? * weight;
        }
        let quadratic = Quadratic { gram: Gram::Columns(gram), right, at_average };
        self.solve(vec![Unit { tensors: vec![tensor], ids: None, quadratic }])
    }

    /// Solves the embedding on the tokens of the data, and starts all states.
    fn embedding(&mut self) -> Result<()> {
        let merge: &'a Merge = self.merge;
        let tensor = merge.embedding()?;
        if self.wants(tensor) {
            self.solve_embedding(tensor)?;
        }
        // A survey solves nothing else here.
        if self.survey.is_some() {
            return Ok(());
        }
        let (a, device, dtype) = (&merge.architecture, &merge.device, self.dtype);
        let weights = merge.as_weights(dtype);
        let merged = Decoder::new(a, &weights);
        for stream in self.streams.iter_mut() {
            interrupt::check()?;
            let x = merged.embed(&stream.ids)?;
            stream.merged = State { input: x.clone(), x };
            let source = &self.sources[stream.source];
            let x = Decoder::new(a, &SourceWeights { source, device, dtype }).embed(&stream.ids)?;
            stream.own = State { input: x.clone(), x };
        }
        Ok(())
    }

    fn solve_embedding(&mut self, tensor: &'a MergedTensor) -> Result<()> {
        let n = self.sources.len();
        // Per token: the share of the tokens of each source.
        let mut shares = BTreeMap::<u32, Vec<f64>>::new();
        for stream in self.streams.iter() {
            for id in stream.ids.to_vec1::<u32>()? {
                let share = &mut shares.entry(id).or_insert_with(|| vec![0.0; n])[stream.source];
                *share += stream.weight.powi(2);
            }
        }
        let ids: Vec<u32> = shares.keys().copied().collect();
        let count = ids.len();
        let device = &self.merge.device;
        let ids = Tensor::from_vec(ids, count, device)?;
        let rows = |i: usize, apart: bool| {
            let weights = basis::weights_of(n, i, apart);
            self.merge.combination(tensor, &weights, Some(&ids), self.dtype)
        };
        let mut right = rows(0, true)?.zeros_like()?;
        let (mut gram, mut at_average) = (right.narrow(1, 0, 1)?.zeros_like()?, 0.0);
        for i in 0..n {
            let share: Vec<f64> = shares.values().map(|shares| shares[i]).collect();
            let share = Tensor::from_vec(share, (count, 1), &candle_core::Device::Cpu)?;
            let share = share.to_dtype(self.dtype)?.to_device(device)?;
            let apart = rows(i, true)?;
            let weighted = apart.broadcast_mul(&share)?;
            at_average += dot(&weighted, &apart)?;
            (gram, right) = ((gram + share)?, (right + weighted)?);
        }
        if at_average == 0.0 {
            return Ok(());
        }
        let quadratic = Quadratic { gram: Gram::Rows(gram), right, at_average };
        self.solve(vec![Unit { tensors: vec![tensor], ids: Some(ids), quadratic }])
    }

    /// Solves the norm after the last layer, and the output layer if it is not the embedding.
    fn output(&mut self) -> Result<()> {
        let norm = "model.norm".to_owned();
        self.norm(&norm, |stream| [stream.merged.x.clone(), stream.own.x.clone()], false)?;
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
    fn solve(&mut self, units: Vec<Unit<'a>>) -> Result<()> {
        if let Some(survey) = &mut self.survey {
            survey.extend(units);
            return Ok(());
        }
        if units.is_empty() {
            return Ok(());
        }
        let ridge = self.settings.ridge;
        let mut best = Vec::new();
        if self.settings.compare || self.whole.is_some() {
            let mut last: Option<Unrestricted> = None;
            for unit in &units {
                interrupt::check()?;
                let gram = &unit.quadratic.gram;
                let same = last.take().filter(|last| last.gram().is_same(gram));
                let now = match same {
                    Some(same) => same,
                    None => Unrestricted::new(gram, ridge, unit.name())?,
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

/// Returns `x` with one more column, of ones.
fn with_one(x: &Tensor) -> Result<Tensor> {
    let ones = Tensor::ones((x.dim(0)?, 1), x.dtype(), x.device())?;
    Ok(Tensor::cat(&[x, &ones], 1)?)
}

impl std::fmt::Display for Solved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "layer {layer}")?,
            None => write!(f, "{}", self.tensors.first().map_or("", |t| &t.name))?,
        }
        write!(f, ": {:.1}% of the disagreement left", 100.0 * self.share())?;
        match self.unrestricted_share() {
            Some(share) => write!(f, " (unrestricted {:.1}%)", 100.0 * share),
            None => Ok(()),
        }
    }
}
