//! What a session answers and takes beside the six primitives.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::TryLockError;

use candle_core::{Device, Tensor};

use crate::checkpoint::{Kind, Written, new_file};
use crate::coefficients::{BiasStart, COLUMNS, Merge, Nonlinearity, Variable};
use crate::error::{Error, Result};
use crate::show::{MERGED, Scoreboard, Scores, WrapReport};
use crate::train::{History, Settings};

use super::snapshot::new_state;
use super::{Dam, Models};

/// What [`Dam::glance`] sees.
#[derive(Clone, Debug)]
pub struct Glance {
    /// The models it merges, with their data and settings.
    pub models: Models,
    /// How many of them are merged: the base mostly is not.
    pub sources: usize,
    /// Steps made so far.
    pub steps: usize,
    /// The loss before the last of them.
    pub loss: Option<f64>,
    /// Whether it has been scored since.
    pub is_scored: bool,
}

impl Dam {
    /// What was wrapped.
    pub fn report(&self) -> WrapReport {
        let session = self.session();
        let (wrap, mut notes) = (&session.merge.wrap, Vec::from_iter(session.start.clone()));
        let (scheme, options) = (wrap.scheme.name(), &wrap.options);
        let is_columns = scheme == COLUMNS;
        if !is_columns {
            notes.push(format!("scheme: {}", wrap.title()));
        }
        if options.f != Nonlinearity::None {
            let (what, f) = (if is_columns { "columns" } else { "weights" }, options.f.name());
            notes.push(format!("{what} are scaled by {f}(c), so the merge does not start at the average"));
        }
        let has_biases = session.merge.tensors.iter().any(|t| t.spec.kind == Kind::Bias);
        let averaged = ["softmax", "task"].contains(&scheme.as_str());
        if has_biases && !averaged && options.bias == BiasStart::One && session.start.is_none() {
            notes.push("biases start at 1 each, as published, so they add up: bias=same starts at their average".into());
        }
        notes.extend(session.rest_note());
        WrapReport {
            sources: session.sources.iter().map(|s| s.name().to_owned()).collect(),
            tensors: session.merge.tensors.iter().filter(|t| t.spec.kind != Kind::Bias).count(),
            scheme: wrap.title(),
            coefficients: session.merge.parameters(false),
            trainable: session.merge.parameters(true),
            parameters: session.sources[0].parameters(),
            forecast: session.forecast.clone(),
            notes,
        }
    }

    /// The settings.
    pub fn settings(&self) -> Settings {
        self.session().models.settings.clone()
    }

    /// Changes settings between two steps; a change of device moves the sources there.
    ///
    /// # Errors
    /// A device that is not there; the settings stay as they were.
    pub fn set(&self, settings: Settings) -> Result<()> {
        settings.check()?;
        let mut session = self.session();
        let (device, dtype) = settings.place()?;
        if !device.same_device(&session.merge.device) {
            let merge = Merge::new(&session.sources, session.merge.wrap.clone(), device)?;
            for (new, old) in merge.variables.iter().zip(&session.merge.variables) {
                new.value.set(old.value.as_tensor())?;
            }
            session.merge = merge;
            session.plan = None;
        }
        session.dtype = dtype;
        if session.models.settings != settings {
            session.models.settings = settings;
            session.state = new_state();
        }
        Ok(())
    }

    /// The models it merges, with their data and settings as they are now.
    pub fn models(&self) -> Models {
        self.session().models.clone()
    }

    /// Gives source `name` its data: a path or `builtin:NAME`. Returns the number of examples.
    ///
    /// # Errors
    /// As for [`Models::data`].
    pub fn data(&self, name: &str, spec: &str) -> Result<usize> {
        Ok(self.data_of(&[(name, spec)])?.into_iter().sum())
    }

    /// [`Dam::data`] for several sources, all or none.
    ///
    /// # Errors
    /// As for [`Models::data`].
    pub fn data_of(&self, pairs: &[(&str, &str)]) -> Result<Vec<usize>> {
        let mut session = self.session();
        let mut models = session.models.clone();
        let examples = pairs.iter().map(|(name, spec)| models.data(name, spec)).collect::<Result<_>>()?;
        session.models = models;
        pairs.iter().for_each(|(name, _)| session.teachers.forget(name));
        session.state = new_state();
        Ok(examples)
    }

    /// Lets go of what can be computed again, while another merge is worked on.
    pub(crate) fn rest(&self) {
        let mut session = self.session();
        let names: Vec<String> = session.sources.iter().map(|s| s.name().to_owned()).collect();
        names.iter().for_each(|name| session.teachers.forget(name));
        session.angles.clear();
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.session().step
    }

    /// The loss of every step so far, term by term.
    pub fn history(&self) -> History {
        self.session().history.clone()
    }

    /// What can be said of it at once; none while it works, in a program that goes on meanwhile.
    pub fn glance(&self) -> Option<Glance> {
        let session = match self.0.try_lock() {
            Ok(session) => session,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Glance {
            models: session.models.clone(),
            sources: session.sources.len(),
            steps: session.step,
            loss: session.history.total.last().map(|(_, loss)| *loss),
            is_scored: session.scores.is_some(),
        })
    }

    /// What [`Dam::eval`] gave last for the coefficients as they are.
    pub fn scores(&self) -> Option<Scores> {
        self.session().scores.clone()
    }

    /// Tokens that its steps have run since it was wrapped or opened; those that go back too count three times.
    pub fn tokens(&self) -> u64 {
        self.session().ran
    }

    /// Bytes kept of the teachers' answers.
    pub fn teacher_bytes(&self) -> usize {
        self.session().teachers.bytes()
    }

    /// The coefficients `c` of one tensor, f32: sources x columns (1 column for a whole tensor), or where rows differ
    /// sources x rows x columns (1 column for whole rows).
    ///
    /// # Errors
    /// An unknown tensor.
    pub fn coefficients(&self, tensor: &str) -> Result<Tensor> {
        let session = self.session();
        let c = session.merge.coefficients(session.merge.tensor(tensor)?)?.detach().to_device(&Device::Cpu)?;
        Ok(if c.dim(1)? == 1 { c.squeeze(1)? } else { c }.copy()?)
    }

    /// Replaces the coefficients of one tensor by `values`, in a shape that [`Dam::coefficients`] gives. Tensors
    /// that share them follow.
    ///
    /// # Errors
    /// An unknown tensor, another shape, or a scheme that makes coefficients of other numbers.
    pub fn set_coefficients(&self, tensor: &str, values: &Tensor) -> Result<()> {
        let mut session = self.session();
        let values = if values.rank() == 2 { values.unsqueeze(1)? } else { values.clone() };
        session.merge.set_coefficients(session.merge.tensor(tensor)?, &values)?;
        session.changed();
        Ok(())
    }

    /// The parameters of the scheme by their keys, f32.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn parameters(&self) -> Result<BTreeMap<String, Tensor>> {
        let session = self.session();
        let copy = |v: &Variable| Ok((v.key.clone(), v.value.as_tensor().detach().copy()?));
        session.merge.variables.iter().map(copy).collect()
    }

    /// Replaces the parameter `key` by `values` of its shape, f32.
    ///
    /// # Errors
    /// An unknown key, with the nearest, or another shape.
    pub fn set_parameter(&self, key: &str, values: &Tensor) -> Result<()> {
        let mut session = self.session();
        let variables = &session.merge.variables;
        let found = variables.iter().find(|v| v.key == key);
        let variable = found.ok_or_else(|| Error::unknown("parameter", key, variables.iter().map(|v| v.key.as_str())))?;
        variable.value.set(values)?;
        session.changed();
        Ok(())
    }

    /// Scores the merge on data files; without any, on the held-out data of built-in sources, or else
    /// on the session's own data.
    ///
    /// # Errors
    /// Data that cannot be used.
    pub fn eval(&self, files: &[String]) -> Result<Scores> {
        self.run(|session| {
            let judge = session.judge();
            let scores = judge.score(&session.merge.as_weights(session.dtype), &judge.scored(files)?)?;
            session.scores = Some(scores.clone());
            Ok(scores)
        })
    }

    /// Scores every source, their average and the merge, on the data that [`Dam::eval`] uses.
    ///
    /// # Errors
    /// Data that cannot be used.
    pub fn scoreboard(&self, files: &[String]) -> Result<Scoreboard> {
        self.run(|session| {
            let board = session.judge().scoreboard(MERGED, &session.merge.as_weights(session.dtype), files)?;
            session.scores = board.row(MERGED).cloned();
            Ok(board)
        })
    }

    /// Writes the session to one file: coefficients, settings, optimiser state, and where the sources
    /// and data are.
    ///
    /// # Errors
    /// A place that has no room or may not be written; what was there stays.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<Written> {
        let session = self.session();
        session.models.check_files_unchanged()?;
        session.save(file.as_ref())
    }

    /// [`Dam::save`] to a file that does not exist yet: of two programs that save at once, one succeeds.
    ///
    /// # Errors
    /// As for `save`; [`Error::Exists`] where something is there.
    pub fn save_new(&self, file: impl AsRef<Path>) -> Result<Written> {
        self.session().models.check_files_unchanged()?;
        new_file(file.as_ref(), &self.serialized()?)
    }

    /// Shows what was wrapped as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        self.report().evcxr_display();
    }
}

impl fmt::Display for Dam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(f)
    }
}

impl fmt::Debug for Dam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let session = self.session();
        write!(f, "Dam({} sources, step {})", session.sources.len(), session.step)
    }
}
