//! What a desk has been told and has not done yet. Of the moves of a slider, only the latest
//! counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::groups::SliderId;
use super::panel::{Panel, STEP};
use crate::interrupt;
use crate::notebook::turns;
use crate::notebook::widgets::model::{Event, Model};

/// The most presses that wait.
const MOST_PRESSES: usize = 32;

/// What a button does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Press {
    Step,
    Train,
    Undo,
    Redo,
}

/// The inputs, shared with the thread that receives them.
#[derive(Default)]
pub(super) struct Inputs(Mutex<Waiting>);

#[derive(Default)]
pub(super) struct Waiting {
    /// The latest position of each slider that has moved.
    pub moves: BTreeMap<SliderId, f64>,
    /// Where each slider is in the notebook, if it is not where it began.
    positions: BTreeMap<SliderId, f64>,
    pub prompt: Option<String>,
    /// The buttons pressed, in order.
    pub presses: VecDeque<Press>,
    pub stop: bool,
    pub close: bool,
    /// Whether the desk is computing what it shows, which any input makes obsolete.
    pub is_refreshing: bool,
}

impl Waiting {
    /// Whether a slider is known to be at the position of `value`.
    fn is_at(&self, slider: SliderId, value: f64) -> bool {
        let known = self.positions.get(&slider);
        known.is_some_and(|known| (known - value).abs() < 0.51 * STEP)
    }
}

impl Inputs {
    pub fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the desk computes what it shows, unless an input has made that obsolete already.
    pub fn begin_refresh(&self) -> bool {
        let mut waiting = self.waiting();
        let Waiting { moves, prompt, presses, stop, close, .. } = &*waiting;
        let is_idle = moves.is_empty() && prompt.is_none() && presses.is_empty() && !stop && !close;
        waiting.is_refreshing = is_idle;
        is_idle
    }

    /// Adds an input, and stops what it makes obsolete.
    pub fn add(&self, input: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.waiting();
        input(&mut waiting);
        let is_refreshing = waiting.is_refreshing;
        drop(waiting);
        if is_refreshing {
            turns::supersede();
        }
        turns::notify();
    }

    /// Presses a button; more presses than a hand makes are ignored.
    pub fn press(&self, press: Press) {
        self.add(|waiting| {
            if waiting.presses.len() < MOST_PRESSES {
                waiting.presses.push_back(press);
            }
        });
    }

    /// Stops what the desk is doing.
    pub fn stop(&self) {
        self.add(|waiting| {
            let Waiting { moves, prompt, presses, stop, .. } = waiting;
            (*prompt, *stop) = (None, true);
            moves.clear();
            presses.clear();
        });
    }

    /// A slider has moved to `value`. The front end also reports where the desk has moved it, at
    /// the nearest position.
    pub fn move_to(&self, slider: SliderId, value: f64) {
        if !self.waiting().is_at(slider, value) {
            self.add(|waiting| {
                waiting.moves.insert(slider, value);
                waiting.positions.insert(slider, value);
            });
        }
    }

    /// Whether a slider is to be moved to `mean`: it is elsewhere, and nobody is moving it.
    pub fn moves_to(&self, slider: SliderId, mean: f64) -> bool {
        let mut waiting = self.waiting();
        if waiting.is_at(slider, mean) || waiting.moves.contains_key(&slider) {
            return false;
        }
        waiting.positions.insert(slider, mean);
        true
    }

    /// Receives the events of the widgets.
    pub fn connect(self: &Arc<Self>, panel: &Panel) {
        for (group, row) in panel.sliders.iter().enumerate() {
            for (source, slider) in row.iter().enumerate() {
                let inputs = Arc::clone(self);
                slider.on_event(move |event| {
                    if let Some(value) = value(&event).and_then(Value::as_f64) {
                        inputs.move_to((group, source), value);
                    }
                });
            }
        }
        let buttons = &panel.buttons;
        for (button, press) in [
            (&buttons.step, Press::Step),
            (&buttons.train, Press::Train),
            (&buttons.undo, Press::Undo),
            (&buttons.redo, Press::Redo),
        ] {
            self.on_click(button, move |inputs| inputs.press(press));
        }
        self.on_click(&buttons.stop, |inputs| {
            // Also a cell that trains.
            if turns::is_cell_running() {
                interrupt::request();
            }
            inputs.stop();
        });
        let inputs = Arc::clone(self);
        panel.prompt.on_event(move |event| {
            if let Some(prompt) = value(&event).and_then(Value::as_str) {
                inputs.add(|waiting| waiting.prompt = Some(prompt.to_owned()));
            }
        });
    }

    fn on_click(self: &Arc<Self>, button: &Model, click: impl Fn(&Self) + Send + Sync + 'static) {
        let inputs = Arc::clone(self);
        button.on_event(move |event| {
            if matches!(&event, Event::Custom(content) if content["event"] == "click") {
                click(&inputs);
            }
        });
    }
}

/// The value that the front end has set.
fn value<'a>(event: &Event<'a>) -> Option<&'a Value> {
    match event {
        Event::Changed(state) => state.get("value"),
        Event::Custom(_) | Event::Closed => None,
    }
}
