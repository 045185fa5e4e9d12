//! The thread of a desk: does what its inputs say, one thing at a time, between cells.
//!
//! ```text
//! wait for an input  ->  move, step, undo (as one state each)  ->  show what has changed
//! ```
//!
//! Whatever is shown is computed after the inputs: an input that arrives meanwhile stops it, so a
//! slow model follows a slider with its latest position only.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Open;
use super::groups::SliderId;
use super::inputs::Press;
use super::pending::{Recorder, Target};
use super::still::{Still, loss_line};
use crate::DeskSettings;
use crate::error::{Error, Result};
use crate::notebook::panic::caught;
use crate::notebook::turns::{self, Turn};
use crate::notebook::widgets::Output;
use crate::notebook::with_recorder;
use crate::session::KnownAnswers;
use crate::show::{Figure, escape};

/// How long a slider rests before its moves become a state.
const SETTLE: Duration = Duration::from_millis(800);

/// The minimum interval between updates during training.
const PACE: Duration = Duration::from_millis(300);

/// The desk as its thread knows it.
pub(super) struct Worker {
    pub desk: Arc<Open>,
    pub settings: DeskSettings,
    pub known: KnownAnswers,
    /// Steps of training that are left.
    pub training: usize,
    /// What is shown and no longer right.
    pub stale: Stale,
    /// The state that is shown, or will be once nothing is stale.
    pub state: u64,
    pub turn: Turn,
    /// Whether a change may not be a state yet.
    pub is_pending: bool,
    pub updated: Instant,
}

/// What is shown and no longer right.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stale {
    pub sliders: bool,
    pub answer: bool,
    pub loss: bool,
}

impl Stale {
    pub const ALL: Self = Self { sliders: true, answer: true, loss: true };
}

/// What to do next.
enum Next {
    Close,
    Stop,
    Press(Press),
    Move(BTreeMap<SliderId, f64>),
    Prompt(String),
    /// A cell has ended: has it changed the merge?
    Look,
    Settle,
    Train,
    Refresh,
}

impl Worker {
    /// Runs until the desk is closed.
    pub fn run(mut self) {
        loop {
            let timeout = self.is_pending.then_some(SETTLE);
            let next = turns::wait(timeout, |turn| self.choose(turn)).unwrap_or(Next::Settle);
            if matches!(next, Next::Close) {
                self.settle();
                return;
            }
            // A bug here must not end the desk.
            match caught(|| self.act(next)) {
                Ok(Ok(())) | Ok(Err(Error::Interrupted)) => {}
                Ok(Err(error)) => self.say(&Output::error(&format!("error: {error:?}"))),
                Err(panic) => {
                    (self.training, self.stale) = (0, Stale::default());
                    self.desk.inputs.waiting().is_refreshing = false;
                    self.say(&Output::error(&panic));
                }
            }
        }
    }

    /// The next thing to do; none to wait. During a cell, only what concerns no session.
    fn choose(&mut self, turn: Turn) -> Option<Next> {
        let mut waiting = self.desk.inputs.waiting();
        if waiting.close {
            return Some(Next::Close);
        }
        if std::mem::take(&mut waiting.stop) {
            return Some(Next::Stop);
        }
        let has_begun = turn.cell_runs && !self.turn.cell_runs;
        let has_ended = turn.ended != self.turn.ended;
        self.turn = turn;
        if turn.cell_runs {
            return (has_begun && self.is_pending).then_some(Next::Settle);
        }
        if has_ended {
            return Some(Next::Look);
        }
        if let Some(press) = waiting.presses.pop_front() {
            return Some(Next::Press(press));
        }
        if !waiting.moves.is_empty() {
            return Some(Next::Move(std::mem::take(&mut waiting.moves)));
        }
        if let Some(prompt) = waiting.prompt.take() {
            return Some(Next::Prompt(prompt));
        }
        if self.training > 0 {
            return Some(Next::Train);
        }
        let Stale { sliders, answer, loss } = self.stale;
        (sliders || answer || loss).then_some(Next::Refresh)
    }

    fn act(&mut self, next: Next) -> Result<()> {
        let waits_for_turn = !matches!(next, Next::Stop | Next::Settle | Next::Look);
        let _work = waits_for_turn.then(turns::begin_work);
        match next {
            Next::Close => Ok(()),
            Next::Settle => {
                self.settle();
                Ok(())
            }
            Next::Stop => {
                let was_training = std::mem::take(&mut self.training) > 0;
                self.settle();
                // What was being computed is not computed again; after training, all is.
                self.stale = if was_training {
                    Stale::ALL
                } else {
                    Stale { sliders: true, ..Stale::default() }
                };
                self.say(&Output::text("stopped"));
                Ok(())
            }
            Next::Press(Press::Step) => {
                self.training += 1;
                self.train()
            }
            Next::Press(Press::Train) => {
                self.training = self.settings.steps;
                Ok(())
            }
            Next::Press(press) => {
                self.training = 0;
                self.stale = Stale::ALL;
                self.say(&Output::default());
                self.is_pending = false;
                let is_undo = press == Press::Undo;
                with_recorder(|recorder| recorder.travel(&self.desk.dam, is_undo))?;
                self.state = self.desk.dam.state();
                Ok(())
            }
            Next::Move(moves) => self.mix(&moves),
            Next::Prompt(prompt) => {
                self.settings.prompt = prompt;
                self.stale.answer = true;
                Ok(())
            }
            Next::Look => {
                if self.desk.dam.state() != self.state {
                    self.stale = Stale::ALL;
                    self.state = self.desk.dam.state();
                }
                Ok(())
            }
            Next::Train => self.train(),
            Next::Refresh => {
                if self.desk.inputs.begin_refresh() {
                    let shown = self.refresh();
                    self.desk.inputs.waiting().is_refreshing = false;
                    return shown;
                }
                Ok(())
            }
        }
    }

    /// Makes the change so far a state.
    fn settle(&mut self) {
        self.is_pending = false;
        if let Err(error) = with_recorder(Recorder::settle) {
            self.say(&Output::error(&format!("error: {error:?}")));
        }
    }

    fn mix(&mut self, moves: &BTreeMap<SliderId, f64>) -> Result<()> {
        self.stale = Stale::ALL;
        for ((group, source), value) in moves {
            let (Some(group), Some(source)) =
                (self.desk.groups.get(*group), self.desk.sources.get(*source))
            else {
                continue;
            };
            let target = Target { pattern: group.pattern.clone(), source: source.clone() };
            self.is_pending = true;
            with_recorder(|recorder| recorder.mix(&self.desk.dam, &target, *value))?;
        }
        self.state = self.desk.dam.state();
        self.say(&Output::default());
        Ok(())
    }

    fn train(&mut self) -> Result<()> {
        self.is_pending = true;
        let made = with_recorder(|recorder| recorder.step(&self.desk.dam));
        self.state = self.desk.dam.state();
        match made {
            Ok(_) => self.training -= 1,
            Err(_) => self.training = 0,
        }
        if self.training == 0 {
            self.stale = Stale::ALL;
            self.settle();
            self.show_training();
        } else if self.updated.elapsed() > PACE {
            self.show_training();
            self.show_sliders()?;
        }
        made.map(drop)
    }

    /// Shows one thing that is stale, the quickest first.
    fn refresh(&mut self) -> Result<()> {
        if self.stale.sliders {
            self.stale.sliders = false;
            self.show_training();
            return self.show_sliders();
        }
        if self.stale.answer {
            return self.show_answer();
        }
        self.show_loss()
    }

    /// Computes and shows everything, for the cell that opens the desk.
    ///
    /// # Errors
    /// [`Error::Interrupted`], or a scheme that fails.
    pub fn show_all(&mut self) -> Result<()> {
        self.show_training();
        self.show_sliders()?;
        self.show_answer()?;
        self.show_loss()
    }

    /// Moves the sliders to the mean coefficients.
    fn show_sliders(&mut self) -> Result<()> {
        let mut means = Vec::new();
        for (i, group) in self.desk.groups.iter().enumerate() {
            let own = self.desk.dam.mean_coefficients(&group.pattern)?;
            let own: Vec<f64> = own.into_iter().map(|(_, mean)| mean).collect();
            for (j, mean) in own.iter().enumerate() {
                if self.desk.inputs.moves_to((i, j), *mean) {
                    self.desk.panel.move_slider((i, j), *mean);
                }
            }
            means.push(own);
        }
        self.with_still(|still| still.means = means);
        Ok(())
    }

    fn show_answer(&mut self) -> Result<()> {
        let DeskSettings { prompt, tokens, .. } = &self.settings;
        let found = self.desk.dam.answer_probabilities(&mut self.known, prompt, *tokens);
        let html = match found {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => Output::error(&format!("error: {error:?}")).html,
            Ok(answer) => {
                let html = answer.html();
                self.with_still(|still| still.answer = Some(answer));
                html
            }
        };
        self.stale.answer = false;
        // A closed desk has its picture there.
        if !self.desk.inputs.waiting().close {
            self.desk.panel.answer.show_html(&html);
        }
        Ok(())
    }

    fn show_loss(&mut self) -> Result<()> {
        let html = match self.desk.dam.loss() {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => Output::error(&format!("error: {error:?}")).html,
            Ok(loss) => {
                let line = loss_line(&loss);
                self.with_still(|still| still.loss = Some(loss));
                self.loss_html(&line)
            }
        };
        self.stale.loss = false;
        self.desk.panel.loss.show_html(&html);
        Ok(())
    }

    /// Shows where training is, and its losses.
    fn show_training(&mut self) {
        self.updated = Instant::now();
        let step = self.desk.dam.steps();
        self.with_still(|still| still.step = step);
        let left = match self.training {
            0 => String::new(),
            left => format!(": training, {left} left; cells that run pause it"),
        };
        let line = format!("<b>step {step}</b>{left}");
        self.desk.panel.status.show_html(&line);
        if self.training > 0 {
            let last =
                self.desk.dam.history().total.last().map(|(_, loss)| format!("loss {loss:.5}"));
            let html = self.loss_html(&last.unwrap_or_default());
            self.desk.panel.loss.show_html(&html);
        }
    }

    /// A line about the loss, and the curve of all steps.
    fn loss_html(&self, line: &str) -> String {
        let history = self.desk.dam.history();
        let curve = (history.total.len() > 1).then(|| Figure::losses(&history).inline());
        format!("<div>{}</div>{}", escape(line), curve.unwrap_or_default())
    }

    fn say(&self, output: &Output) {
        self.desk.panel.message.show_html(&output.html);
    }

    fn with_still(&self, change: impl FnOnce(&mut Still)) {
        change(&mut self.desk.still.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
