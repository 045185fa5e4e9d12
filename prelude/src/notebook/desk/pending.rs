//! A change that the desk is making, and that is not yet a state of the session: the moves of one
//! slider, or steps of training. It becomes one state when something else is done.
//!
//! A move starts from the coefficients before the first move of its slider, so that the last one
//! alone leads to the same state, and can be exported.
//!
//! The change and the context of the verbs are under one lock, so that verbs see complete states.

use crate::error::refuse;
use crate::session::{Snapshot, set_latest};
use crate::syntax::Statement;
use crate::timeline::Context;
use crate::verbs::replay;
use crate::{Amount, Dam, Result};

/// What a slider changes: one source's coefficients in the tensors of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub pattern: String,
    pub source: String,
}

/// The change that is being made.
enum Change {
    Mix {
        target: Target,
        /// The mean coefficient before the first move.
        start: f64,
        amount: Amount,
    },
    Train,
}

struct Pending {
    dam: Dam,
    start: Snapshot,
    change: Change,
    /// The state of the session after the change so far.
    reached: u64,
}

impl Pending {
    /// Whether nothing else has changed the session since.
    fn continues(&self, dam: &Dam) -> bool {
        self.dam.is_same(dam) && self.reached == dam.state()
    }

    fn statement(&self) -> Statement {
        match &self.change {
            Change::Mix { target, amount, .. } => {
                let amount = format!("{}={amount}", target.source);
                Statement::new("mix", [target.pattern.clone(), amount])
            }
            Change::Train => {
                let steps = self.dam.steps().saturating_sub(self.start.steps());
                Statement::new("train", [steps.to_string()])
            }
        }
    }
}

/// The context of the verbs, and the change that a desk is making.
#[derive(Default)]
pub(in crate::notebook) struct Recorder {
    pub context: Context,
    pending: Option<Pending>,
}

impl Recorder {
    /// Records the change as a state.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn settle(&mut self) -> Result<()> {
        let Some(change) = self.pending.take() else { return Ok(()) };
        let is_current = self.context.dam.as_ref().is_some_and(|dam| dam.is_same(&change.dam));
        if is_current && change.continues(&change.dam) {
            self.context.record(Some(&change.statement()))?;
        }
        Ok(())
    }

    /// The same, unless it has to wait for the session: then the desk does it soon.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn settle_now(&mut self) -> Result<()> {
        let is_busy = self.pending.as_ref().is_some_and(|change| change.dam.status().is_none());
        if is_busy { Ok(()) } else { self.settle() }
    }

    /// Makes `dam` what verbs act on, with what a cell has changed recorded.
    fn take_over(&mut self, dam: &Dam) -> Result<()> {
        self.settle()?;
        if self.context.dam.as_ref().is_none_or(|known| !known.is_same(dam)) {
            self.context.wrapped(dam.clone());
            set_latest(Some(dam));
        }
        self.context.record(None)?;
        self.context.merged = None;
        Ok(())
    }

    /// Moves a slider to `value`, the mean of its coefficients after it.
    ///
    /// # Errors
    /// As for [`Dam::mix`]; the coefficients are then those before the first move.
    pub(super) fn mix(&mut self, dam: &Dam, target: &Target, value: f64) -> Result<()> {
        let begun = self.pending.take_if(|pending| {
            let is_same = matches!(&pending.change, Change::Mix { target: t, .. } if t == target);
            is_same && pending.continues(dam)
        });
        let (snapshot, start) = match begun {
            Some(Pending { start: snapshot, change: Change::Mix { start, .. }, .. }) => {
                dam.restore(&snapshot)?;
                (snapshot, start)
            }
            _ => {
                self.take_over(dam)?;
                let means = dam.mean_coefficients(&target.pattern)?;
                let start = means.into_iter().find(|(name, _)| *name == target.source);
                (dam.snapshot()?, start.map_or(0.0, |(_, mean)| mean))
            }
        };
        let amount = amount(start, value);
        // A factor of 1 is back where it began.
        if amount != Amount::Times(1.0) {
            dam.mix(&target.pattern, &[(&target.source, amount)])?;
        }
        let change = Change::Mix { target: target.clone(), start, amount };
        let reached = dam.state();
        self.pending = Some(Pending { dam: dam.clone(), start: snapshot, change, reached });
        Ok(())
    }

    /// Makes one step of training.
    ///
    /// # Errors
    /// As for [`Dam::step`].
    pub(super) fn step(&mut self, dam: &Dam) -> Result<()> {
        let is_training = |pending: &mut Pending| {
            matches!(pending.change, Change::Train) && pending.continues(dam)
        };
        let mut next = match self.pending.take_if(is_training) {
            Some(begun) => begun,
            None => {
                self.take_over(dam)?;
                let (start, reached) = (dam.snapshot()?, dam.state());
                Pending { dam: dam.clone(), start, change: Change::Train, reached }
            }
        };
        let report = dam.step();
        next.reached = dam.state();
        self.pending = Some(next);
        report.map(drop)
    }

    /// Goes one state back, or forward again.
    ///
    /// # Errors
    /// There is no such state of this merge.
    pub(super) fn travel(&mut self, dam: &Dam, is_undo: bool) -> Result<()> {
        self.take_over(dam)?;
        let context = &mut self.context;
        if !is_undo {
            return context.redo(1, replay);
        }
        let before = context.timeline().here();
        let is_first = context.timeline().states()[before].parent.is_none_or(|parent| parent == 0);
        if !is_first {
            context.undo(1, replay)?;
            if context.dam.as_ref().is_some_and(|now| now.is_same(dam)) {
                return Ok(());
            }
            context.cancel_undo(before, replay)?;
        }
        refuse("nothing to undo: a cell created this merge", "`%history` lists all states")
    }
}

/// How coefficients of mean `start` get the mean `value`: scaled, which keeps what training has
/// learnt about each of them, or set, if their mean says little about their size.
fn amount(start: f64, value: f64) -> Amount {
    const SMALL: f64 = 0.05;
    if start.abs() < SMALL {
        return Amount::To(value);
    }
    // A factor that can be read in the history.
    let factor = value / start;
    Amount::Times((factor * 1e5).round() / 1e5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Columns, load};

    #[test]
    fn the_moves_of_one_slider_are_one_state() {
        let models = load(["builtin:japanese", "builtin:math"]).unwrap();
        let dam = models.wrap(Columns::default()).unwrap();
        dam.train(2).unwrap();
        let mut recorder = Recorder::default();
        let target = |source: &str| Target { pattern: "layers.0.".into(), source: source.into() };
        let mean = |source: usize| dam.mean_coefficients("layers.0.").unwrap()[source].1;
        let start = dam.coefficients("model.layers.0.mlp.up_proj.weight").unwrap();
        for value in [0.6, 0.0, 0.9] {
            recorder.mix(&dam, &target("math"), value).unwrap();
            assert!((mean(1) - value).abs() < 1e-4, "{}", mean(1));
        }
        recorder.mix(&dam, &target("japanese"), 0.2).unwrap();
        recorder.step(&dam).unwrap();
        recorder.step(&dam).unwrap();
        recorder.settle().unwrap();
        let done: Vec<Option<String>> = recorder.context.timeline().states()[1..]
            .iter()
            .map(|state| state.done.as_ref().map(crate::syntax::line))
            .collect();
        let of = |i: usize, verb: &str| done[i].as_ref().is_some_and(|line| line.starts_with(verb));
        assert_eq!((done.len(), &done[0]), (4, &None), "{done:?}");
        assert!(of(1, "mix layers.0. math=") && of(2, "mix layers.0. japanese="), "{done:?}");
        assert!(of(3, "train 2"), "{done:?}");
        // What training has learnt about each column is kept.
        for _ in 0..3 {
            recorder.travel(&dam, true).unwrap();
        }
        let again = dam.coefficients("model.layers.0.mlp.up_proj.weight").unwrap();
        assert_eq!(again.to_vec2::<f32>().unwrap(), start.to_vec2::<f32>().unwrap());
        assert!(recorder.travel(&dam, true).is_err());
        recorder.travel(&dam, false).unwrap();
        assert!((mean(1) - 0.9).abs() < 1e-4);
    }

    #[test]
    fn coefficients_are_scaled_unless_their_mean_says_little() {
        assert_eq!(amount(0.5, 0.75), Amount::Times(1.5));
        assert_eq!(amount(0.01, 0.75), Amount::To(0.75));
        assert_eq!(amount(0.5, 0.0), Amount::Times(0.0));
    }
}
