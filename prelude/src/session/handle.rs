//! What a session answers and takes beside the six primitives.

use std::fmt;
use std::path::Path;

use candle_core::Tensor;

use crate::checkpoint::{Kind, Written};
use crate::coefficients::{BiasStart, Merge, Nonlinearity};
use crate::error::Result;
use crate::show::{Answer, MERGED, Scoreboard, Scores, WrapReport};
use crate::train::Settings;

use super::{Dam, Models};

impl Dam {
    /// What was wrapped.
    pub fn report(&self) -> WrapReport {
        let session = self.session();
        let trainable = session.merge.tensors.iter().filter(|t| t.trains);
        let (columns, mut notes) = (&session.merge.columns, Vec::from_iter(session.start.clone()));
        if columns.f != Nonlinearity::None {
            let f = columns.f.name();
            notes.push(format!("columns are scaled by {f}(c), so the merge does not start at the average"));
        }
        let has_biases = session.merge.tensors.iter().any(|t| t.spec.kind == Kind::Bias);
        if has_biases && columns.bias == BiasStart::One && session.start.is_none() {
            notes.push("biases start at 1 each, as published, so they add up: bias=same starts at their average".into());
        }
        WrapReport {
            sources: session.sources.iter().map(|s| s.name().to_owned()).collect(),
            tensors: session.merge.tensors.iter().filter(|t| t.spec.kind != Kind::Bias).count(),
            coefficients: session.merge.coefficients(),
            trainable: trainable.map(|t| t.coefficients.elem_count()).sum(),
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
            let merge = Merge::new(&session.sources, session.merge.columns.clone(), device)?;
            for (new, old) in merge.tensors.iter().zip(&session.merge.tensors) {
                new.coefficients.set(old.coefficients.as_tensor())?;
            }
            session.merge = merge;
            session.plan = None;
        }
        session.dtype = dtype;
        session.models.settings = settings;
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
        Ok(examples)
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.session().step
    }

    /// Tokens that its steps have run since it was wrapped or opened; those that go back too count three times.
    pub fn tokens(&self) -> u64 {
        self.session().ran
    }

    /// Bytes kept of the teachers' answers.
    pub fn teacher_bytes(&self) -> usize {
        self.session().teachers.bytes()
    }

    /// The coefficients of one tensor: sources x columns, f32.
    ///
    /// # Errors
    /// An unknown tensor.
    pub fn coefficients(&self, tensor: &str) -> Result<Tensor> {
        Ok(self.session().merge.tensor(tensor)?.coefficients.as_tensor().detach().copy()?)
    }

    /// Replaces the coefficients of one tensor by `values` (sources x columns, f32).
    ///
    /// # Errors
    /// An unknown tensor, or another shape.
    pub fn set_coefficients(&self, tensor: &str, values: &Tensor) -> Result<()> {
        Ok(self.session().merge.tensor(tensor)?.coefficients.set(values)?)
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

    /// The merge's likeliest answer to `prompt`, put through the chat template if there is one, of
    /// at most `limit` tokens.
    ///
    /// # Errors
    /// No tokenizer, or a template that does not render.
    pub fn generate(&self, prompt: &str, limit: usize) -> Result<Answer> {
        self.run(|session| session.judge().generate(&session.merge.weights(session.dtype)?, prompt, limit))
    }

    /// Writes the session to one file: coefficients, settings, optimiser state, and where the sources
    /// and data are.
    ///
    /// # Errors
    /// A place that has no room or may not be written; what was there stays.
    pub fn save(&self, file: impl AsRef<Path>) -> Result<Written> {
        self.session().save(file.as_ref())
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
