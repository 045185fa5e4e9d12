//! A text field.

use serde_json::{Map, Value, json};

use super::control::{Control, Input};
use super::output::IntoOutput;

/// A text field in the notebook. The closure runs after Enter, and when the field is left.
///
/// ```
/// use dam_prelude::*;
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let prompt = Text { label: "prompt".into(), value: "7 + 5 = ?".into(), ..Default::default() };
/// let prompt = prompt.on_change(move |prompt| dam.ask(prompt, 32));
/// assert_eq!(prompt.value(), "7 + 5 = ?");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// The text beside it.
    pub label: String,
    /// The text in it at first.
    pub value: String,
    /// What an empty field shows.
    pub placeholder: String,
}

impl Text {
    /// Opens the field; `closure` runs with its text, and what it returns is shown below the field.
    pub fn on_change<R: IntoOutput>(
        self,
        mut closure: impl FnMut(&str) -> R + Send + 'static,
    ) -> Control<Self> {
        Control::open(self, move |value: &String| closure(value))
    }
}

impl Input for Text {
    type Value = String;

    fn widget(&self) -> (&'static str, Value) {
        let state = json!({
            "description": self.label, "placeholder": self.placeholder,
            "continuous_update": false, "style": "TextStyleModel",
        });
        ("Text", state)
    }

    fn start(&self) -> String {
        self.value.clone()
    }

    fn state(&self, value: &String) -> Value {
        json!({"value": value})
    }

    fn read(&self, changed: &Map<String, Value>) -> Option<String> {
        changed.get("value")?.as_str().map(str::to_owned)
    }

    fn still(&self, value: &String) -> (String, String) {
        (self.label.clone(), value.clone())
    }
}
