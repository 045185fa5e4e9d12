//! A parameter's value in a recipe: one for all tensors, a list interpolated over layers, or
//! several with filters for tensor names.

use serde_json::{Value, json};

/// A value that may depend on the tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Setting {
    /// The same for all tensors.
    One(Value),
    /// Numbers, interpolated over the layers.
    Gradient(Vec<f64>),
    /// Switches, spread over the layers.
    Steps(Vec<Value>),
    /// The first entry whose filter is part of the tensor's name; an entry without a filter, or
    /// with `*`, matches all.
    Filters(Vec<(Option<String>, Setting)>),
}

impl Setting {
    /// Reads the value from a recipe, or returns what is wrong with it.
    pub fn read(value: &Value) -> Result<Self, String> {
        let scalar = |value: &Value| value.is_number() || value.is_boolean();
        let list: Option<Vec<Value>> = value.as_array().map(|all| all.iter().map(typed).collect());
        match list.map_or_else(|| typed(value), Value::Array) {
            one @ (Value::Number(_) | Value::Bool(_) | Value::String(_)) => Ok(Self::One(one)),
            Value::Array(all) if all.is_empty() => Err("the list is empty".into()),
            Value::Array(all) if all.iter().all(Value::is_number) => {
                Ok(Self::Gradient(all.iter().filter_map(Value::as_f64).collect()))
            }
            Value::Array(all) if all.iter().all(scalar) => Ok(Self::Steps(all)),
            Value::Array(all) => {
                all.iter().map(filter).collect::<Result<_, _>>().map(Self::Filters)
            }
            Value::Object(_) => Ok(Self::Filters(vec![filter(value)?])),
            Value::Null => Err("the value is missing".into()),
        }
    }

    /// Returns the value for the tensor `name` at `t` (0 in the first layer, 1 in the last); `None`
    /// if no filter matches.
    pub fn at(&self, name: &str, t: f64) -> Option<Value> {
        match self {
            Self::One(value) => Some(value.clone()),
            Self::Gradient(values) => {
                let place = t * (values.len() - 1) as f64;
                let first = place as usize;
                let second = (first + 1).min(values.len() - 1);
                let part = place - first as f64;
                Some(json!((1.0 - part) * values[first] + part * values[second]))
            }
            Self::Steps(values) => values.get((t * (values.len() - 1) as f64) as usize).cloned(),
            Self::Filters(all) => {
                let fits = |filter: &Option<String>| {
                    filter.as_ref().is_none_or(|part| part == "*" || name.contains(part))
                };
                all.iter()
                    .find(|(filter, _)| fits(filter))
                    .and_then(|(_, setting)| setting.at(name, t))
            }
        }
    }
}

/// Converts text that is a number or switch, as mergekit does.
pub(super) fn typed(value: &Value) -> Value {
    let Some(text) = value.as_str() else { return value.clone() };
    match text.to_lowercase().as_str() {
        "true" | "yes" | "on" => json!(true),
        "false" | "no" | "off" => json!(false),
        number => number
            .parse::<f64>()
            .ok()
            .filter(|x| x.is_finite())
            .map_or_else(|| value.clone(), |x| json!(x)),
    }
}

/// `{filter: PART, value: ...}`
fn filter(value: &Value) -> Result<(Option<String>, Setting), String> {
    let expected =
        "expected a number, a list of numbers, or a list of `value`s, each with a `filter`";
    let map = value.as_object().ok_or(expected)?;
    if let Some(key) = map.keys().find(|key| !["filter", "value"].contains(&key.as_str())) {
        return Err(format!("unknown key `{key}`; expected `filter` and `value`"));
    }
    let part = match map.get("filter") {
        None | Some(Value::Null) => None,
        Some(Value::String(part)) => Some(part.clone()),
        Some(other) => {
            return Err(format!("invalid filter `{other}`: expected part of a tensor name"));
        }
    };
    match map.get("value") {
        Some(value)
            if value.as_array().is_none_or(|all| !all.iter().any(Value::is_object))
                && !value.is_object() =>
        {
            Ok((part, Setting::read(value)?))
        }
        _ => Err("a filter needs a `value`, a number or a list of numbers".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(setting: &Value, name: &str, t: f64) -> Option<f64> {
        Setting::read(setting).unwrap().at(name, t)?.as_f64()
    }

    #[test]
    fn lists_are_interpolated_over_layers() {
        let gradient = json!([0, 0.5, 1, 0]);
        let found = [0.0, 0.25, 0.5, 1.0].map(|t| at(&gradient, "x", t).unwrap());
        assert_eq!(found, [0.0, 0.375, 0.75, 0.0]);
        assert_eq!(at(&json!([0.3]), "x", 1.0), Some(0.3));
        let steps = Setting::read(&json!([true, 0])).unwrap();
        assert_eq!((steps.at("x", 0.9), steps.at("x", 1.0)), (Some(json!(true)), Some(json!(0))));
    }

    #[test]
    fn converts_text_to_numbers_and_switches() {
        assert_eq!(at(&json!("1e-3"), "x", 0.0), Some(1e-3));
        assert_eq!(at(&json!(["0", 1]), "x", 0.5), Some(0.5));
        assert_eq!(Setting::read(&json!("Yes")), Ok(Setting::One(json!(true))));
        assert_eq!(Setting::read(&json!("density")), Ok(Setting::One(json!("density"))));
    }

    #[test]
    fn the_first_matching_filter_applies() {
        let filters = json!([{"filter": "attn", "value": [0, 1]}, {"filter": "mlp", "value": 0.3}, {"value": 0.5}]);
        assert_eq!(at(&filters, "model.layers.1.self_attn.q", 0.25), Some(0.25));
        assert_eq!(at(&filters, "model.layers.1.mlp.up", 0.25), Some(0.3));
        assert_eq!(at(&filters, "model.norm", 0.25), Some(0.5));
        assert_eq!(at(&json!({"filter": "*", "value": 2}), "x", 0.0), Some(2.0));
        assert_eq!(at(&json!([{"filter": "mlp", "value": 2}]), "x", 0.0), None);
    }

    #[test]
    fn rejects_invalid_settings() {
        let bad = [
            json!([]),
            json!(null),
            json!([1, {}]),
            json!([[1]]),
            json!({"filter": 3, "value": 1}),
        ];
        let more = [
            json!({"filter": "x"}),
            json!({"value": 1, "when": 2}),
            json!({"value": [{"value": 1}]}),
        ];
        for value in bad.iter().chain(&more) {
            assert!(Setting::read(value).is_err(), "{value}");
        }
    }
}
