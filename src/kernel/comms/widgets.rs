//! The open widgets and their states, as the front end needs them to draw the widgets again.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The most bytes of JSON that the front end may set at once: a long text.
const MAX_CHANGE: usize = 64 << 10;

/// The state of a widget: its class, and what it shows.
pub type WidgetState = Map<String, Value>;

/// All open widgets by comm id.
#[derive(Default)]
pub struct Widgets(BTreeMap<String, WidgetState>);

impl Widgets {
    pub fn open(&mut self, id: &str, state: WidgetState) {
        self.0.insert(id.to_owned(), state);
    }

    /// Whether there was such a widget.
    pub fn close(&mut self, id: &str) -> bool {
        self.0.remove(id).is_some()
    }

    /// Closes all widgets; returns their ids.
    pub fn close_all(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0).into_keys().collect()
    }

    pub fn get(&self, id: &str) -> Option<&WidgetState> {
        self.0.get(id)
    }

    pub fn ids(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Sets what the cells' process has changed; returns whether the widget is open.
    pub fn update(&mut self, id: &str, changes: &WidgetState) -> bool {
        let Some(state) = self.0.get_mut(id) else { return false };
        state.extend(changes.clone());
        true
    }

    /// Sets what the front end has changed, and returns it. What a widget does not have, the class
    /// of the widget, and values of another type are left out.
    pub fn accept(&mut self, id: &str, changes: &WidgetState) -> WidgetState {
        let Some(state) = self.0.get_mut(id) else { return WidgetState::new() };
        if json!(changes).to_string().len() > MAX_CHANGE {
            return WidgetState::new();
        }
        let fits = |(key, value): &(&String, &Value)| {
            !key.starts_with('_') && state.get(*key).is_some_and(|now| is_same_type(now, value))
        };
        let accepted: WidgetState =
            changes.iter().filter(fits).map(|(key, value)| (key.clone(), value.clone())).collect();
        state.extend(accepted.clone());
        accepted
    }

    /// All widgets as a reply to `request_states`.
    pub fn states(&self) -> Value {
        let one = |(id, state): (&String, &WidgetState)| {
            let class = json!({
                "model_name": state.get("_model_name"),
                "model_module": state.get("_model_module"),
                "model_module_version": state.get("_model_module_version"),
                "state": state,
            });
            (id.clone(), class)
        };
        Value::Object(self.0.iter().map(one).collect())
    }
}

/// Whether both are numbers, texts, and so on; null goes with anything.
fn is_same_type(a: &Value, b: &Value) -> bool {
    a.is_null() || b.is_null() || std::mem::discriminant(a) == std::mem::discriminant(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(value: Value) -> WidgetState {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn the_front_end_changes_only_values_of_the_same_type() {
        let mut widgets = Widgets::default();
        let slider =
            json!({"_model_name": "FloatSliderModel", "value": 0.5, "max": 1.0, "style": null});
        widgets.open("a", state(slider));
        let wanted =
            json!({"value": 1, "max": "wide", "_model_name": "HTMLModel", "more": 1, "style": 2});
        let accepted = widgets.accept("a", &state(wanted));
        assert_eq!(json!(accepted), json!({"value": 1, "style": 2}));
        assert_eq!(widgets.get("a").unwrap()["_model_name"], "FloatSliderModel");
        assert_eq!(widgets.get("a").unwrap()["max"], 1.0);
        assert!(widgets.accept("b", &state(json!({"value": 1}))).is_empty());
        let long = json!({"value": 2, "style": "x".repeat(MAX_CHANGE)});
        assert!(widgets.accept("a", &state(long)).is_empty());
        assert_eq!(widgets.states()["a"]["model_name"], "FloatSliderModel");
        assert_eq!(widgets.states()["a"]["state"]["value"], 1);
    }
}
