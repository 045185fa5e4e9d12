//! What a desk has been told and has not done yet. Of the moves of a slider, only the latest counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::groups::SliderId;
use super::panel::{Panel, STEP};
use crate::interrupt;
use crate::notebook::turns;
use crate::notebook::widgets::model::{Event, Model};

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
    /// The button pressed last.
    pub press: Option<Press>,
    pub stop: bool,
    pub close: bool,
    /// Whether the desk is computing what it shows, which any input makes obsolete.
    pub is_refreshing: bool,
}

impl Inputs {
    pub fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Stops what the desk is doing.
    pub fn stop(&self) {
        self.add(|waiting| {
            let Waiting { moves, prompt, press, stop, .. } = waiting;
            (*prompt, *press, *stop) = (None, None, true);
            moves.clear();
        });
    }

    /// Whether a slider is to be moved to `mean`: it is elsewhere, and nobody is moving it.
    pub fn moves_to(&self, slider: SliderId, mean: f64) -> bool {
        let mut waiting = self.waiting();
        let known = waiting.positions.get(&slider);
        let is_there = known.is_some_and(|known| (known - mean).abs() < STEP / 2.0);
        if is_there || waiting.moves.contains_key(&slider) {
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
                        inputs.add(|waiting| {
                            waiting.moves.insert((group, source), value);
                            waiting.positions.insert((group, source), value);
                        });
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
            self.on_click(button, move |inputs| inputs.add(|waiting| waiting.press = Some(press)));
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
