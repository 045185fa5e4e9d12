//! A button.

use serde_json::{Map, Value, json};

use super::control::{Control, Input};
use super::output::IntoOutput;

/// A button in the notebook.
///
/// ```
/// use dam_prelude::*;
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let own = dam.clone();
/// let step = Button { label: "10 steps".into() }.on_click(move || own.train(10));
/// println!("{step:?}");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Button {
    /// The text on it.
    pub label: String,
}

impl Button {
    /// Opens the button; `closure` runs after a click, and what it returns is shown below the
    /// button. Clicks while it waits for its turn count as one.
    pub fn on_click<R: IntoOutput>(
        self,
        mut closure: impl FnMut() -> R + Send + 'static,
    ) -> Control<Self> {
        Control::open(self, move |()| closure())
    }
}

impl Input for Button {
    type Value = ();

    fn widget(&self) -> (&'static str, Value) {
        ("Button", json!({"description": self.label, "tooltip": null, "style": null}))
    }

    fn start(&self) {}

    fn state(&self, (): &()) -> Value {
        json!({})
    }

    fn read(&self, _: &Map<String, Value>) -> Option<()> {
        None
    }

    fn clicked(&self) -> Option<()> {
        Some(())
    }

    fn still(&self, (): &()) -> (String, String) {
        (self.label.clone(), "a button".into())
    }
}
