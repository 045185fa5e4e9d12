//! A list of which one entry is chosen.

use serde_json::{Map, Value, json};

use super::control::{Control, Input};
use super::output::IntoOutput;
use crate::error::{Error, Result};

/// A list in the notebook, of which one entry is chosen.
///
/// ```
/// use dam_prelude::*;
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let options = ["loss", "coefficients", "lean"].map(str::to_owned).to_vec();
/// let figure = Dropdown { label: "figure".into(), options, ..Default::default() };
/// let figure = figure.on_change(move |what| dam.plot(what))?;
/// assert_eq!(figure.value(), "loss");
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropdown {
    /// The text beside it.
    pub label: String,
    /// The entries.
    pub options: Vec<String>,
    /// The entry chosen at first; empty for the first one.
    pub value: String,
}

impl Dropdown {
    /// Opens the list; `closure` runs with the entry that was chosen, and what it returns is shown
    /// below the list.
    ///
    /// # Errors
    /// There are no entries, or `value` is not among them.
    pub fn on_change<R: IntoOutput>(
        self,
        mut closure: impl FnMut(&str) -> R + Send + 'static,
    ) -> Result<Control<Self>> {
        if self.options.is_empty() {
            return Err(Error::bad_value("options", "", "at least one entry"));
        }
        if !self.value.is_empty() && !self.options.contains(&self.value) {
            let options = self.options.iter().map(String::as_str);
            return Err(Error::unknown("option", &self.value, options));
        }
        Ok(Control::open(self, move |value: &String| closure(value)))
    }
}

impl Input for Dropdown {
    type Value = String;

    fn widget(&self) -> (&'static str, Value) {
        let state = json!({
            "description": self.label, "_options_labels": self.options,
            "style": "DescriptionStyleModel",
        });
        ("Dropdown", state)
    }

    fn start(&self) -> String {
        match self.value.as_str() {
            "" => self.options.first().cloned().unwrap_or_default(),
            value => value.to_owned(),
        }
    }

    fn state(&self, value: &String) -> Value {
        json!({"index": self.options.iter().position(|option| option == value)})
    }

    fn read(&self, changed: &Map<String, Value>) -> Option<String> {
        let index = usize::try_from(changed.get("index")?.as_u64()?).ok()?;
        self.options.get(index).cloned()
    }

    fn still(&self, value: &String) -> (String, String) {
        (self.label.clone(), format!("{value} (of {})", self.options.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_entry_can_be_chosen() {
        let list = |value: &str| Dropdown {
            options: vec!["a".into(), "b".into()],
            value: value.into(),
            ..Dropdown::default()
        };
        assert!(Dropdown::default().on_change(|_| ()).is_err());
        assert!(list("c").on_change(|_| ()).is_err());
        assert_eq!(list("").start(), "a");
        assert_eq!(list("").state(&"b".into()), json!({"index": 1}));
        let read = |index: Value| list("").read(json!({"index": index}).as_object().unwrap());
        assert_eq!(read(json!(1)).as_deref(), Some("b"));
        assert_eq!([json!(2), json!(-1), json!(null)].map(read), [None, None, None]);
    }
}
