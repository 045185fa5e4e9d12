//! Matches modules against the patterns of adapter_config.json with PEFT's rules: names, suffixes
//! of names and Python's regular expressions, tried in file order.

use std::fmt;
use std::marker::PhantomData;

use fancy_regex::{Regex, RegexBuilder};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

/// The maximum number of steps per match; patterns for names need a few hundred.
const STEPS: usize = 100_000;

/// The maximum size of a compiled pattern in bytes.
const BYTES: usize = 1 << 20;

/// Compiles `pattern`; the error explains why it is invalid.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
    let built =
        RegexBuilder::new(pattern).backtrack_limit(STEPS).delegate_size_limit(BYTES).build();
    built.map_err(|e| e.to_string())
}

fn found(regex: &Regex, name: &str) -> Result<bool, String> {
    regex.is_match(name).map_err(|e| e.to_string())
}

/// Values by module pattern in file order: `rank_pattern` and `alpha_pattern`.
pub(super) struct ByPattern<T>(Vec<(Regex, T)>);

impl<T: Copy> ByPattern<T> {
    /// The value of the first pattern that matches `module`.
    pub fn get(&self, module: &str) -> Result<Option<T>, String> {
        for (regex, value) in &self.0 {
            if found(regex, module)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

impl<T> Default for ByPattern<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByPattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = ByPattern<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("values by module pattern")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(ByPattern::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    // The pattern matches the whole name or a suffix of its parts.
                    let regex = compile(&format!(r"^(?:.*\.)?(?:{key})$"));
                    entries.push((
                        regex.map_err(|e| A::Error::custom(format!("`{key}`: {e}")))?,
                        value,
                    ));
                }
                Ok(ByPattern(entries))
            }
        }
        deserializer.deserialize_any(Entries(PhantomData))
    }
}

/// The keys that select modules: `target_modules`, `exclude_modules` and others.
#[derive(Default)]
pub(super) struct Targets {
    wanted: Option<Names>,
    excluded: Option<Names>,
    saved: Vec<Regex>,
    layers: Vec<usize>,
    layer: Vec<Regex>,
}

enum Names {
    List(Vec<String>),
    Pattern(Regex),
}

impl Targets {
    /// Reads the keys; `value` returns the value of a key.
    ///
    /// # Errors
    /// The invalid key, and the reason.
    pub fn read<'a>(
        value: impl Fn(&str) -> Option<&'a Value>,
    ) -> Result<Self, (&'static str, String)> {
        let names = |key: &'static str| -> Result<Option<Names>, (&'static str, String)> {
            match value(key) {
                None => Ok(None),
                Some(Value::String(all))
                    if key == "target_modules" && all.eq_ignore_ascii_case("all-linear") =>
                {
                    Ok(None)
                }
                Some(Value::String(pattern)) => {
                    let regex =
                        compile(&format!("^(?:{pattern})$")).map_err(|reason| (key, reason))?;
                    Ok(Some(Names::Pattern(regex)))
                }
                Some(list) => match strings(list) {
                    Some(list) if list.is_empty() => Ok(None),
                    Some(list) => Ok(Some(Names::List(list))),
                    None => Err((
                        key,
                        format!("`{list}` is not a name, a list of names or a regular expression"),
                    )),
                },
            }
        };
        let layers = match value("layers_to_transform") {
            None => Vec::new(),
            Some(layers) => {
                let one = layers.as_u64().map(|layer| vec![layer]);
                let many =
                    || layers.as_array().and_then(|all| all.iter().map(Value::as_u64).collect());
                let found = one.or_else(many).ok_or_else(|| {
                    ("layers_to_transform", format!("`{layers}` is not a list of numbers"))
                })?;
                found.into_iter().map(|layer| layer as usize).collect()
            }
        };
        let list = |key: &'static str| match value(key) {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(list) => {
                strings(list).ok_or_else(|| (key, format!("`{list}` is not a list of names")))
            }
        };
        let regexes =
            |key: &'static str, pattern: &dyn Fn(&str) -> String| -> Result<Vec<Regex>, _> {
                list(key)?
                    .iter()
                    .map(|name| compile(&pattern(name)).map_err(|reason| (key, reason)))
                    .collect()
            };
        let mut layer = regexes("layers_pattern", &|name| format!(r"^(?:.*?\.)?{name}\.(\d+)\."))?;
        if layer.is_empty() {
            layer.extend(compile(r"^.*?\.[^.]*\.(\d+)\."));
        }
        Ok(Self {
            wanted: names("target_modules")?,
            excluded: names("exclude_modules")?,
            saved: regexes("modules_to_save", &|name| format!(r"^(?:.*\.)?{name}(?:$|\.)"))?,
            layers,
            layer,
        })
    }

    /// Whether PEFT adds a low-rank part to `module`.
    pub fn has(&self, module: &str) -> Result<bool, String> {
        let is_excluded = self.excluded.as_ref().map_or(Ok(false), |names| names.has(module))?;
        let mut is_saved = false;
        for regex in &self.saved {
            is_saved |= found(regex, module)?;
        }
        let Some(wanted) = self.wanted.as_ref().filter(|_| !is_excluded && !is_saved) else {
            return Ok(!is_excluded && !is_saved);
        };
        let by_name = matches!(wanted, Names::List(list) if list.iter().any(|name| name == module));
        if by_name || self.layers.is_empty() {
            return wanted.has(module);
        }
        Ok(wanted.has(module)?
            && self.layer_of(module)?.is_some_and(|layer| self.layers.contains(&layer)))
    }

    fn layer_of(&self, module: &str) -> Result<Option<usize>, String> {
        for regex in &self.layer {
            if let Some(captures) = regex.captures(module).map_err(|e| e.to_string())? {
                return Ok(captures.get(1).and_then(|number| number.as_str().parse().ok()));
            }
        }
        Ok(None)
    }
}

impl Names {
    fn has(&self, module: &str) -> Result<bool, String> {
        match self {
            Names::List(list) => Ok(list.iter().any(|name| is_suffix(module, name))),
            Names::Pattern(regex) => found(regex, module),
        }
    }
}

/// Whether `name` is `module` or a suffix of its parts.
pub(super) fn is_suffix(module: &str, name: &str) -> bool {
    module == name || module.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

/// A list of strings; `None` for anything else.
pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_tried_in_file_order_and_match_as_in_python() {
        let read = |text: &str| serde_json::from_str::<ByPattern<usize>>(text);
        let ranks = read(
            r#"{"q_proj": 2, "layers\\.1\\..*": 3, "(k|v)_proj": 4, "(?!.*2)o_.*": 5, "n": 6}"#,
        )
        .unwrap();
        let expected = [
            // From Python: re.match(rf"(.*\.)?({key})$", name).
            ("model.layers.0.self_attn.q_proj", Some(2)),
            ("model.layers.1.self_attn.q_proj", Some(2)),
            ("model.layers.1.mlp.up_proj", Some(3)),
            ("model.layers.0.self_attn.v_proj", Some(4)),
            ("model.layers.0.self_attn.xv_proj", None),
            ("a.o_1", Some(5)),
            ("a.o_2", None),
            ("n", Some(6)),
            ("a.nn", None),
        ];
        for (name, value) in expected {
            assert_eq!(ranks.get(name), Ok(value), "{name}");
        }
        assert!(read(r#"{"(": 1}"#).is_err() && read(r#"{"a": "b"}"#).is_err());
        // A pattern with catastrophic backtracking ends with an error.
        let slow = read(r#"{"(?=x)(x+x+)+y": 1}"#).unwrap();
        assert!(slow.get(&"x".repeat(60)).is_err());
    }

    #[test]
    fn targeted_modules_match_peft() {
        let targets = |json: Value| {
            let keep = json.clone();
            Targets::read(move |key| {
                Box::leak(Box::new(keep.clone())).get(key).filter(|v| !v.is_null())
            })
            .unwrap()
        };
        let has = |json: Value, module: &str| targets(json).has(module).unwrap();
        let q = |layer: usize| format!("model.layers.{layer}.self_attn.q_proj");
        assert!(has(json!({"target_modules": ["q_proj"]}), &q(0)));
        assert!(!has(json!({"target_modules": ["proj"]}), &q(0)));
        assert!(has(json!({"target_modules": r"model\.layers\.[0-2]\..*"}), &q(2)));
        assert!(!has(json!({"target_modules": r"layers\.[0-2]\..*"}), &q(2)));
        assert!(has(json!({"target_modules": r"(?!.*visual).*q_proj"}), &q(2)));
        assert!(!has(json!({"target_modules": ["q_proj"], "layers_to_transform": [1]}), &q(0)));
        assert!(has(json!({"target_modules": ["q_proj"], "layers_to_transform": 1}), &q(1)));
        let in_blocks = json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["blocks"]});
        assert!(!has(in_blocks.clone(), &q(1)) && has(in_blocks, "model.blocks.1.q_proj"));
        assert!(!has(json!({"target_modules": ["q_proj"], "exclude_modules": [q(0)]}), &q(0)));
        assert!(!has(json!({"target_modules": ["q_proj"], "exclude_modules": ".*0.*"}), &q(0)));
        assert!(!has(
            json!({"target_modules": ["q_proj"], "modules_to_save": ["self_attn"]}),
            &q(0)
        ));
        assert!(has(json!({"target_modules": "all-linear"}), &q(0)) && has(json!({}), &q(0)));
    }
}
