//! The terms of the objective: distillation from every source on that source's own data, and
//! penalties on the coefficients.

use candle_core::{DType, Tensor};

use super::forecast::step_shape;
use super::{Session, Terms};
use crate::checkpoint::{BASE, Source, views};
use crate::coefficients::MergedTensor;
use crate::data::{Batch, next_examples};
use crate::device::{is_composed, to_host};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::chunks;
use crate::objective::{self, Distillation};
use crate::train::{
    Gradients, Pass, PassOptions, Recompute, Settings, StepPlan, TeacherRun, available_bytes,
    plan_sources,
};

/// The decision whether steps of up to `tokens` tokens recompute layers, for the setting `asked`.
#[derive(Clone, Copy)]
pub(super) struct RecomputePlan {
    tokens: usize,
    asked: Recompute,
    on: bool,
}

#[cfg(test)]
impl RecomputePlan {
    /// Recomputes nothing in steps of any length.
    pub fn for_any_length() -> Self {
        Self { tokens: usize::MAX, asked: Recompute::Auto, on: false }
    }
}

impl Session {
    /// Returns the teachers: the sources with data. Only the base may have none.
    fn teachers_with_data(&self) -> Result<Vec<Source>> {
        if !self.models.settings.weights.compares_logits() {
            return Ok(Vec::new());
        }
        let has_data = |s: &&Source| self.models.data.contains_key(s.name());
        match self.sources.iter().find(|s| !has_data(s) && s.name() != BASE) {
            Some(without) => Err(Error::NoData { source_name: without.name().into() }),
            None => Ok(self.sources.iter().filter(has_data).cloned().collect()),
        }
    }

    /// Compares the merge with every source on that source's next examples; with `with_gradient`,
    /// also computes the gradient of the sum. A stop interrupts it and changes nothing.
    pub(super) fn distil(&mut self, with_gradient: bool) -> Result<(Terms, Gradients)> {
        let sources = self.teachers_with_data()?;
        let Session {
            models,
            sources: merged,
            merge,
            teachers,
            dtype,
            drawn,
            tokens_run,
            plan: planned,
            ..
        } = self;
        let settings = &models.settings;
        let run = |source| -> Result<(TeacherRun<'_>, Vec<usize>)> {
            let name = Source::name(source);
            let data =
                models.data.get(name).ok_or_else(|| Error::NoData { source_name: name.into() })?;
            let shuffle = settings.shuffle.then_some(settings.seed);
            let examples =
                next_examples(name, data.examples.len(), *drawn, settings.batch_size, shuffle);
            let Settings { max_length, top_k, .. } = *settings;
            Ok((
                TeacherRun {
                    source,
                    data,
                    max_length,
                    top_k,
                    device: &merge.device,
                    dtype: *dtype,
                },
                examples,
            ))
        };
        let runs = sources.iter().map(run).collect::<Result<Vec<_>>>()?;
        if runs.is_empty() {
            return Ok((Terms::new(), Gradients::default()));
        }
        // The examples of all sources go through the merge in one batch.
        let sequences =
            runs.iter().flat_map(|(run, examples)| examples.iter().map(|e| run.tokens(*e)));
        let batch = Batch::new(sequences, &merge.device)?;
        let known = planned
            .filter(|plan| plan.tokens >= batch.tokens() && plan.asked == settings.recompute);
        let plan = match known {
            Some(plan) => plan,
            None => {
                let asked = settings.recompute;
                let tokens = batch.tokens();
                let shape = step_shape(merge, *dtype, tokens);
                let StepPlan { recompute, step_bytes, .. } =
                    StepPlan::checked(asked, shape, merged)?;
                if !is_composed(&merge.device) {
                    plan_sources(merged, available_bytes(), step_bytes);
                }
                RecomputePlan { tokens, asked, on: recompute }
            }
        };
        *planned = Some(plan);
        let recompute = plan.on;

        // The teachers run first, with one layer of one teacher in memory at a time.
        let before = teachers.tokens_run();
        let outputs = runs.iter().map(|(run, examples)| teachers.outputs(run, examples));
        let outputs = outputs.collect::<Result<Vec<_>>>();
        // Cached outputs are kept, even after a stop.
        *tokens_run += teachers.tokens_run() - before;
        let outputs = outputs?;

        let mut pass =
            Pass::new(merge, &batch, PassOptions { dtype: *dtype, with_gradient, recompute })?;
        // The values stay on the device until all of them are brought to main memory at once.
        let (mut names, mut values, mut start) = (Vec::new(), Vec::new(), 0);
        for ((run, examples), outputs) in runs.iter().zip(&outputs) {
            let tokens = examples.iter().map(|e| run.tokens(*e).len()).sum();
            let output = teachers.output_layer(run)?;
            let first = names.len();
            for rows in chunks(tokens, merge.architecture.vocabulary, &merge.device) {
                let parts = pass.compare(start + rows.start..start + rows.end, |student| {
                    let teacher = outputs.logits(run, rows, output.as_ref())?;
                    let temperature = settings.temperature;
                    let size = examples.len();
                    let student = &run.shared(student.clone())?;
                    data_terms(
                        settings,
                        &Distillation { student, teacher: &teacher, temperature, size, tokens },
                    )
                })?;
                names.resize_with(first + parts.len(), String::new);
                for (index, (term, value)) in (first..).zip(parts) {
                    names[index] = format!("{term}.{}", run.source.name());
                    values.push((index, value));
                }
            }
            start += tokens;
        }
        let gradients = if with_gradient { pass.backward()? } else { Gradients::default() };
        let mut terms: Terms = names.into_iter().map(|name| (name, 0.0)).collect();
        let (indices, values): (Vec<usize>, Vec<Tensor>) = values.into_iter().unzip();
        for (index, value) in indices.into_iter().zip(to_host(&values)?) {
            terms[index].1 += value.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        }
        *tokens_run += batch.tokens() as u64 * if with_gradient { 3 } else { 1 };
        Ok((terms, gradients))
    }

    /// Computes the active penalties, each summed over the trainable weights, and adds their
    /// gradient to that of the data.
    pub(super) fn penalties(&mut self, mut gradients: Option<&mut Gradients>) -> Result<Terms> {
        let on = self.models.settings.weights.clone();
        if on.weighted_overlap > 0.0 && self.angles.is_empty() {
            self.angles = self.column_angles()?;
        }
        type Term<'a> = &'a dyn Fn(usize, &Tensor) -> candle_core::Result<Tensor>;
        let terms: [(&'static str, f64, Term<'_>); 5] = [
            ("cosine", on.cosine, &|_, c| objective::cosine(c)),
            ("l1", on.l1, &|_, c| objective::l1(c)),
            ("l2", on.l2, &|_, c| objective::l2(c)),
            ("overlap", on.overlap, &|_, c| objective::overlap(c, None)),
            ("weighted_overlap", on.weighted_overlap, &|i, c| {
                objective::overlap(c, self.angles.get(i))
            }),
        ];
        let terms: Vec<_> = terms.into_iter().filter(|(_, weight, _)| *weight > 0.0).collect();
        let mut sums = vec![0f32; terms.len()];
        let penalised =
            || self.merge.tensors.iter().enumerate().filter(|(_, tensor)| tensor.is_penalised());
        if terms.is_empty() || penalised().next().is_none() {
            return Ok(Terms::new());
        }
        // The coefficients of one tensor are in memory at a time.
        for (i, tensor) in penalised() {
            interrupt::check()?;
            let c = self.merge.coefficients(tensor)?;
            let mut weighted = Vec::new();
            for ((_, weight, term), sum) in terms.iter().zip(&mut sums) {
                let value = term(i, &c)?;
                *sum += value.to_scalar::<f32>()?;
                weighted.push((value * *weight)?);
            }
            let Some(gradients) = gradients.as_deref_mut() else { continue };
            for i in &tensor.variables {
                if let Some(gradient) = gradients.by_variable.remove(i) {
                    weighted
                        .push((self.merge.variables[*i].value.as_tensor() * gradient)?.sum_all()?);
                }
            }
            gradients.add(self.merge.gradients(tensor, &sum(weighted.iter())?)?)?;
        }
        let weighted = |((name, weight, _), sum): (&(&str, f64, _), f32)| {
            ((*name).into(), f64::from(sum * *weight as f32))
        };
        Ok(terms.iter().zip(sums).map(weighted).collect())
    }

    fn column_angles(&self) -> Result<Vec<Tensor>> {
        let base = self.models.base().ok_or_else(|| Error::Sources {
            what: "weighted_overlap compares task vectors, which need a base model".into(),
            hint: "load base=SOURCE too, or set weighted_overlap=0",
        })?;
        let angles = |t: &MergedTensor| {
            interrupt::check()?;
            objective::column_angles(
                &t.spec,
                base.view(&t.spec.name)?,
                &views(&self.sources, &t.spec)?,
            )
        };
        self.merge.tensors.iter().map(angles).collect()
    }
}

/// Returns the sum of scalars.
fn sum<'a>(mut scalars: impl Iterator<Item = &'a Tensor>) -> Result<Tensor> {
    let first = scalars.next().ok_or(Error::NothingToTrain)?.clone();
    Ok(scalars.try_fold(first, |total, x| total + x)?)
}

/// Computes the active terms on some tokens of one source, each a scalar.
fn data_terms(
    settings: &Settings,
    compared: &Distillation<'_>,
) -> Result<Vec<(&'static str, Tensor)>> {
    let (on, mut terms) = (&settings.weights, Vec::new());
    if on.kl > 0.0 {
        terms.push(("kl", (compared.kl(settings.reduction)? * on.kl)?));
    }
    if on.mse > 0.0 {
        terms.push(("mse", (compared.mse()? * on.mse)?));
    }
    if on.entropy > 0.0 {
        terms.push(("entropy", (compared.entropy()? * on.entropy)?));
    }
    Ok(terms)
}
