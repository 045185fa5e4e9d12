//! Renders the templates of benchmark tasks as lm-evaluation-harness does: Jinja with strict
//! undefined values, Python's methods, and Python's texts of values. Task files may come from
//! anyone, so the time, memory and output of a template are limited.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior};

use super::python_regex::PythonRegex;
use super::python_text::{text, write_text};
use super::template::{MAX_CHARACTERS, on_large_stack, value_bytes};
use super::template_limits::{self, FueledText};
use crate::guard::guarded;

/// The maximum width that `zfill` pads to.
const WIDTH: usize = 4096;

/// Compiled templates of documents.
pub(crate) struct DocumentTemplates<'a> {
    compiled: BTreeMap<&'a str, minijinja::Template<'a, 'a>>,
}

/// Compiles `templates` for documents of at most `bytes` bytes and passes them to `work`, on a
/// stack that is large enough.
///
/// # Errors
/// The template that is too long or is not valid Jinja, and why; or why `work` could not run.
pub(crate) fn with_document_templates<T: Send>(
    templates: &[&str],
    bytes: usize,
    work: impl FnOnce(&DocumentTemplates<'_>) -> T + Send,
) -> Result<T, (String, String)> {
    let bad = |template: &str, reason: String| (template.to_owned(), reason);
    for template in templates {
        let syntax = SyntaxConfig::default();
        if template.len() > MAX_CHARACTERS {
            let reason = format!("it has {} bytes, more than any real template", template.len());
            return Err(bad("", reason));
        }
        template_limits::namespaces(template, syntax).map_err(|reason| bad(template, reason))?;
    }
    let none = |reason: String| bad("", reason);
    let run = || {
        let env = environment(bytes).map_err(none)?;
        let mut compiled = BTreeMap::new();
        for template in templates {
            let read = guarded(|| env.template_from_str(template).map_err(|e| e.to_string()));
            compiled.insert(*template, read.map_err(|reason| bad(template, reason))?);
        }
        Ok(work(&DocumentTemplates { compiled }))
    };
    on_large_stack(run).map_err(none)?
}

impl DocumentTemplates<'_> {
    /// Renders `template`, one of those that were compiled, with the columns of `document`.
    ///
    /// # Errors
    /// A column or method that does not exist, or too much work.
    pub fn render(&self, template: &str, document: &Value) -> Result<String, String> {
        let compiled = self.compiled.get(template).ok_or("it was not compiled")?;
        let rendered = guarded(|| compiled.render(document).map_err(|e| e.to_string()))?;
        template_limits::rendered(rendered, value_bytes(document))
    }
}

fn environment(bytes: usize) -> Result<Environment<'static>, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    env.set_syntax(syntax.map_err(|e| e.to_string())?);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    template_limits::bound(&mut env, 1, bytes);
    env.set_formatter(|out, state, value| {
        out.write_str(&python_text(state, value)?)?;
        Ok(())
    });
    env.add_filter("string", |state: &State<'_, '_>, value: Value| python_text(state, &value));
    env.add_filter("regex_replace", regex_replace);
    env.set_unknown_method_callback(method);
    Ok(env)
}

/// Python's text of `value`, as far as the fuel lasts.
fn python_text(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut all = FueledText::new(state);
    write_text(&mut all, value).map_err(|_| Error::from(ErrorKind::OutOfFuel))?;
    Ok(all.text)
}

/// The harness's filter `regex_replace(pattern, repl, count=0)`.
fn regex_replace(
    string: String,
    pattern: String,
    replacement: String,
    options: Kwargs,
) -> Result<String, Error> {
    let invalid = |e: String| Error::new(ErrorKind::InvalidOperation, format!("`{pattern}`: {e}"));
    if options.get::<Option<i64>>("count")?.is_some_and(|count| count != 0) {
        return Err(invalid("a count other than 0 is not supported".into()));
    }
    options.assert_all_used()?;
    let regex = PythonRegex::new(&pattern).map_err(invalid)?;
    regex.replace_all(&string, &replacement).map_err(invalid)
}

/// Python's methods that minijinja-contrib lacks, and those that it has.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let invalid = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    if let (ValueKind::Seq, "index", [item]) = (value.kind(), name, arguments) {
        let place = value.try_iter()?.position(|own| own == *item);
        let missing = || invalid(format!("{} is not in list", text(item)));
        return place.map(Value::from).ok_or_else(missing);
    }
    let (Some(string), texts) = (value.as_str(), texts(arguments)) else {
        return template_limits::method(state, value, name, arguments);
    };
    state.consume_fuel(string.len() as u64 / 64 + 1)?;
    let characters = |bytes: usize| string[..bytes].chars().count();
    let parts = |parts: Vec<&str>| parts.into_iter().map(Value::from).collect::<Value>();
    let found = match (name, texts.as_deref()) {
        ("index", Some([part])) => {
            let missing = || invalid(format!("`{part}` is not in the text"));
            Value::from(characters(string.find(part).ok_or_else(missing)?))
        }
        ("rindex", Some([part])) => {
            let missing = || invalid(format!("`{part}` is not in the text"));
            Value::from(characters(string.rfind(part).ok_or_else(missing)?))
        }
        ("strip", Some([])) => Value::from(super::python_text::strip(string)),
        ("removeprefix", Some([part])) => Value::from(string.strip_prefix(part).unwrap_or(string)),
        ("removesuffix", Some([part])) => Value::from(string.strip_suffix(part).unwrap_or(string)),
        ("partition", Some([by])) if !by.is_empty() => match string.split_once(by) {
            Some((before, after)) => parts(vec![before, by, after]),
            None => parts(vec![string, "", ""]),
        },
        ("rpartition", Some([by])) if !by.is_empty() => match string.rsplit_once(by) {
            Some((before, after)) => parts(vec![before, by, after]),
            None => parts(vec!["", "", string]),
        },
        ("rsplit", _) => {
            let (by, most) = match arguments {
                [by] => (by.as_str(), usize::MAX),
                [by, most] => (by.as_str(), most.as_usize().unwrap_or(usize::MAX)),
                _ => (None, 0),
            };
            let by = by.filter(|by| !by.is_empty());
            let by = by.ok_or_else(|| invalid("rsplit needs the text to split by".into()))?;
            let mut all: Vec<&str> = string.rsplitn(most.saturating_add(1), by).collect();
            all.reverse();
            parts(all)
        }
        ("zfill", None) => {
            let width = arguments.first().and_then(Value::as_usize).unwrap_or(0);
            if width > WIDTH {
                return Err(invalid(format!("zfill to a width above {WIDTH}")));
            }
            let (sign, digits) = match string.strip_prefix(['-', '+']) {
                Some(digits) => (&string[..1], digits),
                None => ("", string),
            };
            let zeros = width.saturating_sub(string.chars().count());
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        _ => return template_limits::method(state, value, name, arguments),
    };
    Ok(found)
}

/// `arguments` if all are texts.
fn texts(arguments: &[Value]) -> Option<Vec<&str>> {
    arguments.iter().map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, String> {
        let document = Value::from(Serde(json!({
            "q": " What? \n", "n": 3, "x": 1.0, "none": null, "yes": true, "a": ["b'", "c"],
            "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "key": "B",
            "solution": "1 + 2 #### 3",
        })));
        let run = |templates: &DocumentTemplates<'_>| templates.render(template, &document);
        with_document_templates(&[template], 1000, run)
            .map_err(|(_, reason)| reason)
            .and_then(|rendered| rendered)
    }

    /// As Jinja2 3.1 renders them with the harness's environment.
    #[test]
    fn templates_render_as_in_the_harness() {
        for (template, text) in [
            ("{{ q }}", " What? \n"),
            ("{{q.strip()}}\nAnswer:", "What?\nAnswer:"),
            ("{{n}} {{x}} {{none}} {{yes}} {{a}}\n", "3 1.0 None True [\"b'\", 'c']\n"),
            ("{{choices.label.index(key)}}", "1"),
            ("{{choices.text[choices.label.index(key)]}}", "two"),
            ("{{choices['text']}}", "['one', 'two']"),
            ("{{solution.split('#### ')[-1].rstrip()}}", "3"),
            ("{{solution.rsplit(' ', 1)[1]}}{{solution[:5]}}{{'x'.zfill(3)}}", "31 + 200x"),
            ("{% if none is none %}-{% endif %}{{ [n, x] | string }}", "-[3, 1.0]"),
            (
                "{% for t in choices.text %}\n{{loop.index}}. {{t}}\n{% endfor %}",
                "\n1. one\n\n2. two\n",
            ),
            ("{{'abc'|regex_replace('(b)', '<\\\\1>')}}", "a<b>c"),
            ("{{ {'A': 0, 'B': 1}[key] }}", "1"),
            ("{{ 'B' in choices.label and not none }}", "True"),
            ("<b>{{ '<&>' }}", "<b><&>"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(text), "{template}");
        }
        for (template, word) in [
            ("{{ missing }}", "undefined"),
            ("{{ choices.label.index('Z') }}", "not in list"),
            ("{{ q.swapcase() }}", "swapcase"),
            ("{{ q", "expected"),
            (
                "{% for i in range(9999) %}{% for j in range(9999) %}x{% endfor %}{% endfor %}",
                "fuel",
            ),
        ] {
            let error = render(template).unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
    }
}
