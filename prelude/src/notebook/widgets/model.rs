//! A widget of the front end (`ipywidgets` in JupyterLab): a class with a state that both sides
//! change.
//!
//! The kernel of `dam` passes the messages on and keeps the states. Elsewhere, as in evcxr's own
//! kernel, nothing is sent, and a control shows itself as text.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use crate::notebook::{LIVE, is_attached};
use crate::show::paragraph;

/// The MIME type of a block with a comm message: JSON with `open`, `update` or `close`, which is
/// the id of a widget, and its `state`.
pub const COMM: &str = "application/vnd.dam.comm+json";

/// The packages of the front end that have the classes, and their version.
const CONTROLS: &str = "@jupyter-widgets/controls";
const BASE: &str = "@jupyter-widgets/base";
const VERSION: &str = "2.0.0";

/// The MIME type of the view of a widget.
const VIEW: &str = "application/vnd.jupyter.widget-view+json";

/// What the front end tells a widget.
pub enum Event<'a> {
    /// Some of its state has changed.
    Changed(&'a Map<String, Value>),
    /// A message of its own, such as a click.
    Custom(&'a Value),
    /// The front end has closed it.
    Closed,
}

/// Receives the events of a widget. It is called on the thread that also receives stops, so it
/// returns at once.
type Receiver = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// The receivers of all open widgets by id.
static RECEIVERS: Mutex<BTreeMap<String, Receiver>> = Mutex::new(BTreeMap::new());

fn receivers() -> MutexGuard<'static, BTreeMap<String, Receiver>> {
    RECEIVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes a message of the kernel on to its widget. Messages to unknown widgets are ignored: the
/// widget may just have been closed.
pub(in crate::notebook) fn deliver(message: &Value) {
    let id = message["id"].as_str().unwrap_or_default();
    let is_closed = message["closed"] == true;
    let receiver = if is_closed { receivers().remove(id) } else { receivers().get(id).cloned() };
    let Some(receiver) = receiver else { return };
    if is_closed {
        receiver(Event::Closed);
    } else if let Some(state) = message["state"].as_object() {
        receiver(Event::Changed(state));
    } else {
        receiver(Event::Custom(&message["content"]));
    }
}

/// A widget of the front end.
#[derive(Clone)]
pub(in crate::notebook) struct Model {
    id: Arc<str>,
}

impl Model {
    /// Opens a widget of the controls, such as `FloatSlider`, with what differs from the defaults
    /// of its class.
    pub fn control(class: &str, state: Value) -> Self {
        let view = (CONTROLS, format!("{class}View"));
        Self::open(CONTROLS, &format!("{class}Model"), view, state)
    }

    /// Opens the layout of a widget: CSS properties such as `width`.
    pub fn layout(state: Value) -> Self {
        Self::open(BASE, "LayoutModel", (BASE, "LayoutView".to_owned()), state)
    }

    /// Opens the style of a slider or text field, with a label as wide as its text.
    pub fn style(class: &str) -> Self {
        let view = (BASE, "StyleView".to_owned());
        Self::open(CONTROLS, class, view, json!({"description_width": "initial"}))
    }

    fn open(module: &str, class: &str, view: (&str, String), state: Value) -> Self {
        let id: Arc<str> = new_id().into();
        let mut whole = json!({
            "_model_module": module, "_model_module_version": VERSION, "_model_name": class,
            "_view_module": view.0, "_view_module_version": VERSION, "_view_name": view.1,
            "_view_count": null,
        });
        if let (Some(whole), Value::Object(state)) = (whole.as_object_mut(), state) {
            whole.extend(state);
        }
        send(&json!({"open": *id, "state": whole}));
        Self { id }
    }

    /// A text in HTML.
    pub fn html(html: &str) -> Self {
        Self::control("HTML", json!({"value": html}))
    }

    /// Widgets below each other.
    pub fn column<'a>(children: impl IntoIterator<Item = &'a Model>) -> Self {
        Self::control("VBox", json!({"children": references(children)}))
    }

    /// Widgets beside each other.
    pub fn row<'a>(children: impl IntoIterator<Item = &'a Model>) -> Self {
        Self::control("HBox", json!({"children": references(children)}))
    }

    /// The widget as a value in the state of another.
    pub fn reference(&self) -> String {
        format!("IPY_MODEL_{}", self.id)
    }

    /// Calls `receiver` with every event, on the thread that receives stops; it must return at
    /// once.
    pub fn on_event(&self, receiver: impl Fn(Event<'_>) + Send + Sync + 'static) {
        receivers().insert(self.id.to_string(), Arc::new(receiver));
    }

    /// Whether both are the same widget.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Changes the state.
    pub fn update(&self, state: Value) {
        send(&json!({"update": *self.id, "state": state}));
    }

    /// Changes a text in HTML. Tables look as in the output of a cell.
    pub fn show_html(&self, html: &str) {
        let whole = match html {
            "" => String::new(),
            html => format!(
                "<div class=\"jp-RenderedHTMLCommon\" style=\"display:inline-block;max-width:100%\">{html}</div>"
            ),
        };
        self.update(json!({"value": whole}));
    }

    /// Closes the widget, which then disappears.
    pub fn close(&self) {
        // Dropped without the lock: a closure may own anything.
        let receiver = receivers().remove(&*self.id);
        drop(receiver);
        send(&json!({"close": *self.id}));
    }

    /// Shows the widget as the result of a cell; `html` and `text` replace it where there are no
    /// widgets.
    pub fn display(&self, html: &str, text: &str) {
        if is_attached() {
            println!("EVCXR_BEGIN_CONTENT {VIEW}\n{}\nEVCXR_END_CONTENT", self.view());
        }
        let (html, text) = still(html, text);
        crate::show::cell(&html, &text);
    }

    /// Shows the widget like [`Model::display`], in a display that [`Model::replace`] changes.
    pub fn display_live(&self, html: &str, text: &str) {
        if !is_attached() {
            return self.display(html, text);
        }
        let (html, text) = still(html, text);
        let data = json!({VIEW: self.view(), "text/html": html, "text/plain": text});
        send_as(LIVE, &json!({"id": self.display_id(), "data": data}));
    }

    /// Replaces the widget, where [`Model::display_live`] has shown it, by something that stays.
    pub fn replace(&self, html: &str, text: &str) {
        let data = json!({"text/html": html, "text/plain": text});
        send_as(LIVE, &json!({"id": self.display_id(), "data": data, "update": true}));
    }

    fn view(&self) -> Value {
        json!({"model_id": *self.id, "version_major": 2, "version_minor": 0})
    }

    fn display_id(&self) -> String {
        format!("dam-widget-{}", self.id)
    }
}

/// What replaces a widget where there are none.
fn still(html: &str, text: &str) -> (String, String) {
    (format!("{html}{}", paragraph(MISSING)), format!("{text}\n{MISSING}"))
}

/// What is shown where a control cannot be used.
const MISSING: &str = "(A still picture. Controls need JupyterLab with the kernel of dam and the \
                       package jupyterlab_widgets: pip install jupyterlab_widgets)";

fn references<'a>(children: impl IntoIterator<Item = &'a Model>) -> Vec<String> {
    children.into_iter().map(Model::reference).collect()
}

fn send(message: &Value) {
    send_as(COMM, message);
}

fn send_as(kind: &str, message: &Value) {
    if is_attached() {
        println!("EVCXR_BEGIN_CONTENT {kind}\n{message}\nEVCXR_END_CONTENT");
    }
}

/// An id that no other process uses: 128 random bits.
fn new_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}
