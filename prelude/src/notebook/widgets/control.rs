//! A control: an input of the front end, the closure that runs when its value changes, and below it
//! what the closure returned.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use super::dispatch::{Run, enqueue};
use super::model::{Event, Model};
use super::output::{IntoOutput, Output};
use crate::notebook::panic::caught;
use crate::show::Table;

/// The settings of a kind of control, and how its value is exchanged with the front end.
pub trait Input: Send + Sync + 'static {
    /// The value that the closure gets.
    type Value: Clone + Send + 'static;

    /// Returns the class of the front end's widget, and its state.
    #[doc(hidden)]
    fn widget(&self) -> (&'static str, Value);

    /// Returns the value before any change.
    #[doc(hidden)]
    fn start(&self) -> Self::Value;

    /// Returns the state of the widget with this value.
    #[doc(hidden)]
    fn state(&self, value: &Self::Value) -> Value;

    /// Returns the value that the front end has set, if there is one and it is valid.
    #[doc(hidden)]
    fn read(&self, changed: &Map<String, Value>) -> Option<Self::Value>;

    /// Whether the front end reports the value that it was given.
    #[doc(hidden)]
    fn is_same(&self, _before: &Self::Value, _after: &Self::Value) -> bool {
        false
    }

    /// Returns the value after a click, for what is clicked.
    #[doc(hidden)]
    fn clicked(&self) -> Option<Self::Value> {
        None
    }

    /// Returns the label, and the value as text.
    #[doc(hidden)]
    fn still(&self, value: &Self::Value) -> (String, String);
}

type Closure<V> = Box<dyn FnMut(&V) -> Output + Send>;

/// A control in the notebook, made by [`Slider`](crate::Slider), [`Dropdown`](crate::Dropdown),
/// [`Button`](crate::Button) or [`Text`](crate::Text). It is a handle: clones share one control,
/// and the control remains when all of them are dropped, until the kernel is restarted.
pub struct Control<I: Input>(Arc<Shared<I>>);

struct Shared<I: Input> {
    input: I,
    widget: Model,
    output: Model,
    /// The column of both, and what else belongs to the widget.
    panel: Model,
    others: Vec<Model>,
    value: Mutex<I::Value>,
    closure: Mutex<Closure<I::Value>>,
}

impl<I: Input> Clone for Control<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I: Input> Control<I> {
    /// Opens the control.
    pub(super) fn open<R: IntoOutput>(
        input: I,
        mut closure: impl FnMut(&I::Value) -> R + Send + 'static,
    ) -> Self {
        let (class, mut state) = input.widget();
        let mut others = Vec::new();
        let start = input.start();
        if let (Some(state), Value::Object(value)) = (state.as_object_mut(), input.state(&start)) {
            state.extend(value);
            // A label of any length is readable.
            if let Some(style) = state.get("style").and_then(Value::as_str) {
                let style = Model::style(style);
                state.insert("style".into(), style.reference().into());
                others.push(style);
            }
        }
        let widget = Model::control(class, state);
        let output = Model::html("");
        let panel = Model::column([&widget, &output]);
        let closure: Closure<I::Value> = Box::new(move |value| closure(value).into_output());
        let (value, closure) = (Mutex::new(start), Mutex::new(closure));
        let shared = Arc::new(Shared { input, widget, output, panel, others, value, closure });
        let received = Arc::downgrade(&shared);
        // The widget keeps the control alive while it is open.
        let kept = Mutex::new(Some(Arc::clone(&shared)));
        shared.widget.on_event(move |event| {
            let Some(shared) = received.upgrade() else { return };
            match event {
                Event::Closed => drop(locked(&kept).take()),
                event => shared.receive(event),
            }
        });
        Self(shared)
    }

    /// Returns the current value.
    pub fn value(&self) -> I::Value {
        locked(&self.0.value).clone()
    }

    /// Sets the value, without running the closure.
    pub fn set(&self, value: I::Value) {
        self.0.widget.update(self.0.input.state(&value));
        *locked(&self.0.value) = value;
    }

    /// Closes the control, which then disappears from the notebook.
    pub fn close(&self) {
        let Shared { widget, output, panel, others, .. } = &*self.0;
        [panel, widget, output].into_iter().chain(others).for_each(Model::close);
    }

    /// Shows the control as the result of an evcxr cell.
    pub fn evcxr_display(&self) {
        let table = self.table();
        self.0.panel.display(&table.html(), &table.to_string());
    }

    fn table(&self) -> Table {
        let (label, value) = self.0.input.still(&self.value());
        let mut table = Table::new("", ["control", "value"]);
        table.rows.push(vec![label, value]);
        table
    }
}

impl<I: Input> fmt::Debug for Control<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, value) = self.0.input.still(&self.value());
        write!(f, "Control({label}: {value})")
    }
}

impl<I: Input> Shared<I> {
    fn receive(self: Arc<Self>, event: Event<'_>) {
        let value = match event {
            Event::Changed(state) => self.input.read(state),
            Event::Custom(content) if content["event"] == "click" => self.input.clicked(),
            Event::Custom(_) | Event::Closed => None,
        };
        let Some(value) = value else { return };
        let mut current = locked(&self.value);
        if !self.input.is_same(&current, &value) {
            *current = value;
            drop(current);
            enqueue(self);
        }
    }
}

impl<I: Input> Run for Shared<I> {
    /// Runs the closure with the latest value. A panic is shown like an error.
    fn run(&self) {
        let value = locked(&self.value).clone();
        let mut closure = locked(&self.closure);
        let output = caught(|| closure(&value)).unwrap_or_else(|panic| Output::error(&panic));
        self.output.show_html(&output.html);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
