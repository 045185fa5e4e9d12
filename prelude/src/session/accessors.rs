//! Accessors and setters of a session.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::TryLockError;

use candle_core::Tensor;

use crate::checkpoint::{Kind, Written, new_file};
use crate::coefficients::{BiasStart, COLUMNS, Merge, Nonlinearity, Variable};
use crate::error::{Error, Result};
use crate::show::{MERGED, Scoreboard, Scores, WrapReport};
use crate::train::{History, Settings};

use super::Dam;
use super::models::Models;
use super::score::Evaluation;
use super::snapshot::new_state;

/// The result of [`Dam::status`].
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// The models of the session, with their data and settings.
    pub models: Models,
    /// The number of merged sources; the base is usually not merged.
    pub sources: usize,
    /// Steps made so far.
    pub steps: usize,
    /// The loss before the last step.
    pub loss: Option<f64>,
    /// Whether the merge has been scored since.
    pub is_scored: bool,
}

impl Dam {
    /// Returns the report of `wrap`, with a forecast of the resources that training needs now.
    pub fn report(&self) -> WrapReport {
        let session = self.session();
        let wrap = &session.merge.wrap;
        let mut notes = Vec::from_iter(session.start.clone());
        let scheme = wrap.scheme.name();
        let options = &wrap.options;
        let is_columns = scheme == COLUMNS;
        if !is_columns {
            notes.push(format!("scheme: {}", wrap.title()));
        }
        if options.f != Nonlinearity::None {
            let what = if is_columns { "columns" } else { "weights" };
            let f = options.f.name();
            notes.push(format!(
                "{what} are scaled by {f}(c), so the merge does not start at the average"
            ));
        }
        let mut biases = session.merge.tensors.iter().filter(|t| t.spec.kind == Kind::Bias);
        let is_summed = biases.next().is_some_and(|bias| !session.merge.averages(bias));
        if is_summed && options.bias == BiasStart::One && session.start.is_none() {
            notes.push("bias coefficients start at 1, as published, so biases are summed: bias=same averages them".into());
        }
        notes.extend(session.rest_note());
        notes.extend(session.models.settings.device_note());
        WrapReport {
            sources: session.sources.iter().map(|s| s.name().to_owned()).collect(),
            tensors: session.merge.tensors.iter().filter(|t| t.spec.kind != Kind::Bias).count(),
            scheme: wrap.title(),
            coefficients: session.merge.parameters(false),
            trainable: session.merge.parameters(true),
            parameters: session.sources[0].parameters(),
            forecast: session.forecast(),
            notes,
        }
    }

    /// Returns the settings.
    pub fn settings(&self) -> Settings {
        self.session().models.settings.clone()
    }

    /// Changes settings between two steps. A change of device moves the sources to it.
    ///
    /// # Errors
    /// The device is not available; the settings are then unchanged.
    pub fn set(&self, settings: Settings) -> Result<()> {
        settings.check()?;
        let mut session = self.session();
        let (device, dtype) = settings.device_and_dtype(&session.sources)?;
        if !device.same_device(&session.merge.device) {
            let merge = Merge::new(&session.sources, session.merge.wrap.clone(), device)?;
            for (new, old) in merge.variables.iter().zip(&session.merge.variables) {
                new.value.set(old.value.as_tensor())?;
            }
            session.merge = merge;
            session.plan = None;
        }
        if dtype != session.dtype || settings.device != session.models.settings.device {
            session.dtype = dtype;
            session.plan = None;
        }
        if session.models.settings != settings {
            session.models.settings = settings;
            session.state = new_state();
        }
        Ok(())
    }

    /// Returns the models of the session, with their current data and settings.
    pub fn models(&self) -> Models {
        self.session().models.clone()
    }

    /// Sets the data of source `name`: a path or `builtin:NAME`. Returns the number of examples.
    ///
    /// # Errors
    /// As for [`Models::data`].
    pub fn data(&self, name: &str, spec: &str) -> Result<usize> {
        Ok(self.data_of(&[(name, spec)])?.into_iter().sum())
    }

    /// Like [`Dam::data`] for several sources; either all change or none.
    ///
    /// # Errors
    /// As for [`Models::data`].
    pub fn data_of(&self, pairs: &[(&str, &str)]) -> Result<Vec<usize>> {
        let mut session = self.session();
        let mut models = session.models.clone();
        let examples =
            pairs.iter().map(|(name, spec)| models.data(name, spec)).collect::<Result<_>>()?;
        session.models = models;
        pairs.iter().for_each(|(name, _)| session.teachers.forget(name));
        session.state = new_state();
        Ok(examples)
    }

    /// Frees whatever can be computed again, while `next` is in use: outputs of teachers, and
    /// copies on a GPU of sources that `next` does not have.
    pub(crate) fn free_caches(&self, next: Option<&Dam>) {
        let used = next.map(|next| next.session().all_sources()).unwrap_or_default();
        let mut session = self.session();
        for source in session.all_sources() {
            if !used.iter().any(|used| used.shares_copies(&source)) {
                source.drop_all_copies();
            }
        }
        let names: Vec<String> = session.sources.iter().map(|s| s.name().to_owned()).collect();
        names.iter().for_each(|name| session.teachers.forget(name));
        session.angles.clear();
    }

    /// Returns the number of steps made so far.
    pub fn steps(&self) -> usize {
        self.session().step
    }

    /// Returns the losses of all steps so far, term by term.
    pub fn history(&self) -> History {
        self.session().history.clone()
    }

    /// Returns a summary without waiting; `None` while the session is busy on another thread.
    pub fn status(&self) -> Option<SessionStatus> {
        let session = match self.0.try_lock() {
            Ok(session) => session,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(SessionStatus {
            models: session.models.clone(),
            sources: session.sources.len(),
            steps: session.step,
            loss: session.history.total.last().map(|(_, loss)| *loss),
            is_scored: session.scores.is_some(),
        })
    }

    /// Returns the last scores of [`Dam::eval`], if the coefficients have not changed since.
    pub fn scores(&self) -> Option<Scores> {
        self.session().scores.clone()
    }

    /// Returns the tokens run by steps since the merge was wrapped or opened. Tokens with a
    /// backward pass count three times.
    pub fn tokens(&self) -> u64 {
        self.session().tokens_run
    }

    /// Returns the bytes of cached teacher outputs.
    pub fn teacher_bytes(&self) -> usize {
        self.session().teachers.bytes()
    }

    /// Returns the coefficients `c` of one tensor, f32. Shape: sources x columns (1 column for a
    /// whole tensor), or, if rows have their own coefficients, sources x rows x columns (1 column
    /// for whole rows).
    ///
    /// # Errors
    /// An unknown tensor.
    pub fn coefficients(&self, tensor: &str) -> Result<Tensor> {
        let session = self.session();
        let c = session.merge.coefficients(session.merge.tensor(tensor)?)?.detach();
        Ok(if c.dim(1)? == 1 { c.squeeze(1)? } else { c }.copy()?)
    }

    /// Replaces the coefficients of one tensor by `values`, in a shape that [`Dam::coefficients`]
    /// returns. Tensors that share the coefficients change too.
    ///
    /// # Errors
    /// An unknown tensor, another shape, or a scheme that computes its coefficients from other
    /// parameters.
    pub fn set_coefficients(&self, tensor: &str, values: &Tensor) -> Result<()> {
        let mut session = self.session();
        let values = if values.rank() == 2 { values.unsqueeze(1)? } else { values.clone() };
        session.merge.set_coefficients(session.merge.tensor(tensor)?, &values)?;
        session.changed();
        Ok(())
    }

    /// Returns the parameters of the scheme by key, f32.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn parameters(&self) -> Result<BTreeMap<String, Tensor>> {
        let session = self.session();
        let copy = |v: &Variable| Ok((v.key.clone(), v.value.as_tensor().detach().copy()?));
        session.merge.variables.iter().map(copy).collect()
    }

    /// Replaces the parameter `key` by `values` of the same shape, f32.
    ///
    /// # Errors
    /// An unknown key (the error names the nearest), or another shape.
    pub fn set_parameter(&self, key: &str, values: &Tensor) -> Result<()> {
        let mut session = self.session();
        let variables = &session.merge.variables;
        let found = variables.iter().find(|v| v.key == key);
        let variable = found.ok_or_else(|| {
            Error::unknown("parameter", key, variables.iter().map(|v| v.key.as_str()))
        })?;
        variable.value.set(values)?;
        session.changed();
        Ok(())
    }

    /// Returns where the coefficients start, if not as the scheme has them.
    pub(crate) fn start(&self) -> Option<String> {
        self.session().start.clone()
    }

    /// Scores the merge on data files. Without files, uses the held-out data of built-in sources,
    /// or else the session's own data.
    ///
    /// # Errors
    /// The data is invalid.
    pub fn eval(&self, files: &[String]) -> Result<Scores> {
        self.eval_with(&Evaluation::of(files))
    }

    /// Scores the merge on data files and tasks, with limits.
    ///
    /// # Errors
    /// The data is invalid, or a task cannot be followed.
    pub fn eval_with(&self, evaluation: &Evaluation) -> Result<Scores> {
        self.with_weights(|session| {
            let scores = session.scores_on(evaluation)?;
            session.scores = Some(scores.clone());
            Ok(scores)
        })
    }

    /// Scores every source, their average and the merge on the data that [`Dam::eval`] uses.
    ///
    /// # Errors
    /// The data is invalid.
    pub fn scoreboard(&self, files: &[String]) -> Result<Scoreboard> {
        self.scoreboard_with(&Evaluation::of(files))
    }

    /// Scores every source, their average and the merge as [`Dam::eval_with`] does.
    ///
    /// # Errors
    /// As for [`Dam::eval_with`].
    pub fn scoreboard_with(&self, evaluation: &Evaluation) -> Result<Scoreboard> {
        self.with_weights(|session| {
            let board = session.scorer().scoreboard(
                MERGED,
                &session.merge.as_weights(session.dtype),
                evaluation,
            )?;
            session.scores = board.row(MERGED).cloned();
            Ok(board)
        })
    }

    /// Writes the session to one file: coefficients, settings, optimiser state, and the locations
    /// of sources and data.
    ///
    /// # Errors
    /// The disk is full or the path is not writable; an existing file is kept.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<Written> {
        let session = self.session();
        session.models.check_files_unchanged()?;
        session.save(file.as_ref())
    }

    /// Like [`Dam::save`], but only to a new file: if two programs save at once, one succeeds.
    ///
    /// # Errors
    /// As for `save`; [`Error::Exists`] if the path exists.
    pub fn save_new(&self, file: impl AsRef<Path>) -> Result<Written> {
        self.session().models.check_files_unchanged()?;
        new_file(file.as_ref(), &self.state_to_save()?.bytes()?)
    }

    /// Shows the report of `wrap` as the result of an evcxr cell.
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
