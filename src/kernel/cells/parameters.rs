//! Converts the parameter cell that papermill inserts into a notebook, in its Python form
//! (`papermill -l python`):
//!
//! ```text
//! # Parameters
//! steps = 20
//! names = ["ja", "math"]
//! ```
//!
//! This becomes `let steps: usize = 20;` and so on. If the notebook already has the variable, its
//! type is kept.

use serde_json::Value;

/// The first line of a parameter cell.
const HEADING: &str = "# Parameters";

/// A parameter cell as Rust; none for any other cell. `known` returns the type of an existing
/// variable.
///
/// # Errors
/// A value has no Rust literal.
pub fn parameters(
    cell: &str,
    known: impl Fn(&str) -> Option<String>,
) -> Option<Result<String, String>> {
    let first = cell.lines().find(|line| !line.trim().is_empty())?;
    if first.trim() != HEADING {
        return None;
    }
    let line = |line: &str| {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with('#') {
            return Ok(String::new());
        }
        let (name, value) = bare
            .split_once('=')
            .ok_or_else(|| format!("`{bare}` is not of the form NAME = VALUE"))?;
        let (name, kind) = (name.trim(), known(name.trim()));
        let value = literal(
            &parse_python(value.trim()).ok_or_else(|| no_literal(name, value))?,
            kind.as_deref(),
        );
        let value = value.ok_or_else(|| no_literal(name, bare))?;
        Ok(match kind {
            Some(kind) => format!("let {name}: {kind} = {value};"),
            None => format!("let {name} = {value};"),
        })
    };
    Some(cell.lines().map(line).collect::<Result<Vec<_>, _>>().map(|lines| lines.join("\n")))
}

fn no_literal(name: &str, value: &str) -> String {
    format!("the value of parameter `{name}` has no Rust literal: {}", value.trim())
}

/// Parses a Python literal; none if JSON cannot represent it.
fn parse_python(python: &str) -> Option<Value> {
    let (mut json, mut word, mut quoted, mut escaped) =
        (String::new(), String::new(), false, false);
    for c in python.chars().chain([' ']) {
        if !quoted && c.is_alphabetic() {
            word.push(c);
            continue;
        }
        json.push_str(match std::mem::take(&mut word).as_str() {
            "True" => "true",
            "False" => "false",
            "None" => "null",
            // The exponent of a number.
            "e" => "e",
            "" => "",
            _ => return None,
        });
        (quoted, escaped) = match c {
            '"' if !escaped => (!quoted, false),
            '\\' => (quoted, quoted && !escaped),
            _ => (quoted, false),
        };
        json.push(c);
    }
    serde_json::from_str(json.trim()).ok()
}

/// A value as a Rust literal of type `kind`, if that is known.
fn literal(value: &Value, kind: Option<&str>) -> Option<String> {
    let kind = kind.unwrap_or_default();
    Some(match value {
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if ["f32", "f64"].contains(&kind) => {
            format!("{:?}", number.as_f64()?)
        }
        Value::Number(number) => number.to_string(),
        Value::String(text) if kind.ends_with("String") => format!("{text:?}.to_owned()"),
        Value::String(text) if kind.ends_with("PathBuf") => format!("{text:?}.into()"),
        Value::String(text) => format!("{text:?}"),
        Value::Null => "None".to_owned(),
        Value::Array(values) => {
            let inner = kind.split_once('<').and_then(|(_, inner)| inner.strip_suffix('>'));
            let inner = inner
                .or_else(|| {
                    kind.trim_start_matches('&').strip_prefix('[')?.split([';', ']']).next()
                })
                .map(str::trim);
            let values = values
                .iter()
                .map(|value| literal(value, inner))
                .collect::<Option<Vec<_>>>()?
                .join(", ");
            match kind {
                _ if kind.starts_with("&[") => format!("&[{values}]"),
                _ if kind.starts_with('[') => format!("[{values}]"),
                _ => format!("vec![{values}]"),
            }
        }
        Value::Object(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papermill_parameters_become_rust() {
        let known = |name: &str| {
            let kind = match name {
                "steps" => "usize",
                "lr" => "f64",
                "name" => "String",
                "sources" => "Vec<String>",
                "pair" => "[f32; 2]",
                _ => return None,
            };
            Some(kind.to_owned())
        };
        let cell = "# Parameters\nsteps = 20\nlr = 1\nsmall = 1e-05\nname = \"十 \\\"None\\\"\"\nplain = \"True\"\non = True\n\
                    sources = [\"a\", \"b\"]\npair = [1, 2.5]\nlist = [1, 2]\n";
        let rust = parameters(cell, known).unwrap().unwrap();
        let lines: Vec<&str> = rust.lines().collect();
        assert_eq!(
            lines,
            [
                "",
                "let steps: usize = 20;",
                "let lr: f64 = 1.0;",
                "let small = 0.00001;",
                "let name: String = \"十 \\\"None\\\"\".to_owned();",
                "let plain = \"True\";",
                "let on = true;",
                "let sources: Vec<String> = vec![\"a\".to_owned(), \"b\".to_owned()];",
                "let pair: [f32; 2] = [1.0, 2.5];",
                "let list = vec![1, 2];"
            ]
        );
        assert!(
            parameters("# Parameters\nx = {\"a\": 1}", known).unwrap().unwrap_err().contains("`x`")
        );
        assert!(parameters("# Parameters\nx = float('nan')", known).unwrap().is_err());
        assert!(parameters("let a = 1;", known).is_none());
    }
}
