//! Rewords errors of serde_json, the tokenizers crate, minijinja and candle for readers who do not
//! know these libraries.

use std::borrow::Cow;

/// Serde's names for kinds of values, and plain ones. Longer names come before their parts.
const KINDS: [(&str, &str); 22] = [
    ("a sequence", "a list"),
    ("sequence", "a list"),
    ("a map", "an object `{...}`"),
    ("map", "an object `{...}`"),
    ("unit value", "nothing"),
    ("null", "`null`"),
    ("usize", "a whole number"),
    ("u64", "a whole number"),
    ("u32", "a whole number"),
    ("i64", "a whole number"),
    ("f64", "a number"),
    ("f32", "a number"),
    ("a string", "text"),
    ("a borrowed string", "text"),
    ("a boolean", "true or false"),
    ("bool", "true or false"),
    ("boolean", "the boolean"),
    ("string", "the text"),
    ("integer", "the number"),
    ("floating point", "the number"),
    ("newtype struct", "an object `{...}`"),
    ("struct", "an object `{...}`"),
];

/// A plain name for a kind of value; text in backticks or quotation marks is kept.
fn kind(text: &str) -> String {
    let text = text.trim();
    for (theirs, ours) in KINDS {
        if let Some(rest) = text.strip_prefix(theirs) {
            return match rest.trim() {
                "" => ours.to_owned(),
                value if value.starts_with(['`', '"']) => format!("{ours} {value}"),
                // `struct Config` is an internal name and tells the reader nothing.
                _ if theirs.ends_with("struct") => ours.to_owned(),
                _ => continue,
            };
        }
    }
    text.to_owned()
}

/// Rewords an error of serde_json.
pub(super) fn json(reason: &str) -> Cow<'_, str> {
    let (message, position) = match reason.rsplit_once(" at line ") {
        Some((message, position)) if position.starts_with(|c: char| c.is_ascii_digit()) => {
            (message, format!(" (line {})", position.replace(" column ", ", column ")))
        }
        _ => (reason, String::new()),
    };
    let plain: Cow<'_, str> = if let Some(rest) = message.strip_prefix("missing field ") {
        format!("{rest} is missing").into()
    } else if let Some(rest) = message.strip_prefix("unknown field ") {
        format!("{} is not a known key", rest.split(',').next().unwrap_or(rest)).into()
    } else if let Some(rest) = message.strip_prefix("duplicate field ") {
        format!("{rest} appears twice").into()
    } else if message.starts_with("invalid length ") {
        "expected an object `{...}`, found a list".into()
    } else if let Some((found, expected)) = wrong_value(message) {
        format!("expected {}, found {}", kind(expected), kind(found)).into()
    } else if message.starts_with("EOF while parsing") {
        "it is incomplete".into()
    } else if message.starts_with("trailing characters") {
        "there is extra content after the end".into()
    } else if message.starts_with("recursion limit exceeded") {
        "it is nested too deeply".into()
    } else if message.starts_with("data did not match any variant of untagged enum") {
        let part = message
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .trim_end_matches("Untagged")
            .trim_end_matches("Wrapper");
        format!("its `{}` is of an unknown kind", part.to_lowercase()).into()
    } else if is_syntax_error(message) {
        format!("it is not JSON: {message}").into()
    } else {
        return reason.into();
    };
    format!("{plain}{position}").into()
}

/// Rewords an error of serde_json for one row of a file, whose line the message already names.
pub(super) fn row(reason: &str) -> Cow<'_, str> {
    match json(reason) {
        Cow::Owned(message) => message.replacen(" (line 1, column ", " (column ", 1).into(),
        message => message,
    }
}

/// The two sides of `invalid type: ..., expected ...`.
fn wrong_value(message: &str) -> Option<(&str, &str)> {
    let starts = ["invalid type: ", "invalid value: "];
    starts.iter().find_map(|start| message.strip_prefix(start))?.rsplit_once(", expected ")
}

/// Whether serde_json reports a syntax error.
fn is_syntax_error(message: &str) -> bool {
    let starts = [
        "expected ",
        "key must be",
        "control character",
        "invalid escape",
        "invalid number",
        "invalid unicode",
    ];
    let more = [
        "lone leading surrogate",
        "trailing comma",
        "unexpected end of hex escape",
        "number out of range",
    ];
    starts.iter().chain(&more).any(|start| message.starts_with(start))
}

/// Rewords an error of the YAML reader.
pub(super) fn yaml(reason: &str) -> Cow<'_, str> {
    if reason.contains("from_str_multiple") || reason.contains("multiple YAML documents") {
        "it contains several documents; only one is allowed".into()
    } else {
        json(reason)
    }
}

/// Rewords an error of the tokenizers crate.
pub(super) fn tokenizer(reason: &str) -> Cow<'_, str> {
    json(reason.strip_prefix("Error: ").unwrap_or(reason))
}

/// Rewords an error of minijinja, without its name for a template that has none.
pub(super) fn template(reason: &str) -> Cow<'_, str> {
    let reason = reason.lines().next().unwrap_or_default();
    let (message, position) = match reason.rsplit_once(" (in <string>:") {
        Some((message, line)) => (message, format!(" (line {})", line.trim_end_matches(')'))),
        None => (reason, String::new()),
    };
    match message.strip_prefix("invalid operation: ") {
        // A message of the template's own `raise_exception`.
        Some(own) => format!("it raised: {own}{position}").into(),
        None if message.contains("engine ran out of fuel") => "it runs for too long".into(),
        None => format!("{message}{position}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code, reason = "only read")]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
        r: Option<usize>,
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let error = serde_json::from_str::<Index>(text).unwrap_err().to_string();
        let message = json(&error).into_owned();
        assert_eq!(message.split(" (line ").next().unwrap(), expected, "{error}");
        assert!(message.ends_with(')') && message.contains(", column "), "{message}");
    }

    #[test]
    fn json_errors_are_reworded() {
        check("", "it is incomplete");
        check("{\"weight_map\": {", "it is incomplete");
        check("{}", "`weight_map` is missing");
        check("[]", "expected an object `{...}`, found a list");
        check("{\"weight_map\": []}", "expected an object `{...}`, found a list");
        check("{\"weight_map\": {\"a\": 5}}", "expected text, found the number `5`");
        check("{\"r\": \"four\"}", "expected a whole number, found the text \"four\"");
        check("{\"r\": {}}", "expected a whole number, found an object `{...}`");
        check("{\"r\": -1}", "expected a whole number, found the number `-1`");
        check("{\"r\": 1, \"r\": 2}", "`r` appears twice");
        check("<html>", "it is not JSON: expected value");
        check("{'a': 1}", "it is not JSON: key must be a string");
        assert_eq!(
            json("chat_template is `3`, not a template"),
            "chat_template is `3`, not a template"
        );
        let error = serde_json::from_str::<serde_json::Value>("1 2").unwrap_err().to_string();
        assert_eq!(json(&error), "there is extra content after the end (line 1, column 3)");
    }

    #[test]
    fn rows_are_named_once() {
        let error =
            serde_json::from_str::<serde_json::Value>("{\"text\": ").unwrap_err().to_string();
        assert_eq!(row(&error), "it is incomplete (column 9)");
        assert_eq!(row("it has no text"), "it has no text");
    }

    #[test]
    fn tokenizers_and_templates_are_reworded() {
        let model = tokenizers::Tokenizer::from_bytes(br#"{"model": {"type": "Other"}}"#)
            .unwrap_err()
            .to_string();
        let message = tokenizer(&model);
        assert!(
            !message.contains("untagged") && !message.contains("variant"),
            "{model}: {message}"
        );
        let none = tokenizers::Tokenizer::from_bytes(b"{").unwrap_err().to_string();
        assert!(tokenizer(&none).starts_with("it is incomplete"), "{none}");
        assert_eq!(
            template("invalid operation: no system role (in <string>:3)"),
            "it raised: no system role (line 3)"
        );
        assert_eq!(
            yaml("multiple YAML documents found; use from_str_multiple instead"),
            "it contains several documents; only one is allowed"
        );
    }
}
