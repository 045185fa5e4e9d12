//! The fields of a document: its text, target and choices, from columns or templates.

use minijinja::value::Value;

use super::config::{Config, Field, Layout};
use super::keys::{bad, texts};
use crate::data::{DocumentTemplates, literal, python_str};
use crate::error::{Error, Result};

/// Makes the fields of documents.
pub(super) struct Fields<'a> {
    pub config: &'a Config,
    /// The columns of the questions' split.
    pub columns: &'a [String],
    pub templates: &'a DocumentTemplates<'a>,
}

/// A document with its place, for messages.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    pub split: &'a str,
    /// Counted from 0.
    pub index: usize,
    pub value: &'a Value,
}

/// The templates of `config`, as opposed to names of `columns`.
pub(super) fn templates<'a>(config: &'a Config, columns: &[String]) -> Vec<&'a str> {
    let layouts = [&config.layout, &config.examples];
    let fields = layouts.into_iter().flat_map(|l| {
        let fields = [Some(&l.text), Some(&l.target), l.choice.as_ref()].into_iter().flatten();
        let texts = fields.filter_map(|field| match field {
            Field::Text(text) => Some(text.as_str()),
            Field::Fixed(_) => None,
        });
        texts.chain(l.prefix.as_deref())
    });
    let all = fields.chain([config.description.as_str()]);
    all.filter(|text| !columns.iter().any(|column| column == text)).collect()
}

impl Fields<'_> {
    /// The error that `key` cannot be followed in `document`.
    pub fn bad(
        &self,
        key: &str,
        document: Document<'_>,
        reason: impl Into<String>,
        hint: &str,
    ) -> Error {
        let Document { split, index, .. } = document;
        bad(
            &self.config.file,
            format!("`{key}` in document {} of {split}", index + 1),
            reason,
            hint,
        )
    }

    fn render(&self, key: &str, document: Document<'_>, template: &str) -> Result<String> {
        let rendered = self.templates.render(template, document.value);
        let hint =
            "correct the template or the data; templates are Jinja, with the columns as variables";
        rendered.map_err(|reason| self.bad(key, document, reason, hint))
    }

    fn column(&self, name: &str, document: Document<'_>) -> Option<Value> {
        let is_column = self.columns.iter().any(|column| column == name);
        is_column.then(|| document.value.get_attr(name).unwrap_or_default())
    }

    /// A text from a column or a template, such as the description; empty if it is none.
    ///
    /// # Errors
    /// A template that does not render.
    pub fn plain(&self, key: &str, document: Document<'_>, field: &str) -> Result<String> {
        if field.is_empty() {
            return Ok(String::new());
        }
        match self.column(field, document) {
            Some(value) if value.is_none() || value.is_undefined() => Ok(String::new()),
            Some(value) => Ok(python_str(&value)),
            None => self.render(key, document, field),
        }
    }

    /// A field that is a text or, with choices, an index.
    fn value(&self, key: &str, document: Document<'_>, field: &Field) -> Result<Value> {
        let text = match field {
            Field::Fixed(value) => return Ok(value.clone()),
            Field::Text(text) => text,
        };
        if let Some(value) = self.column(text, document) {
            return Ok(value);
        }
        let rendered = self.render(key, document, text)?;
        let is_digits = !rendered.is_empty() && rendered.chars().all(|c| c.is_ascii_digit());
        if is_digits && self.config.layout.choice.is_some() {
            let hint = "write an index without zeros before it";
            let index = literal(&rendered);
            let reason = || format!("`{rendered}` is not an index");
            return index.ok_or_else(|| self.bad(key, document, reason(), hint));
        }
        Ok(Value::from(rendered))
    }

    /// The text of a question, or the index of the right one of its contexts.
    ///
    /// # Errors
    /// A template that does not render.
    pub fn text(&self, layout: &Layout, document: Document<'_>) -> Result<Value> {
        self.value("doc_to_text", document, &layout.text)
    }

    /// The target: a text, an index or a list.
    ///
    /// # Errors
    /// A template that does not render.
    pub fn target(&self, layout: &Layout, document: Document<'_>) -> Result<Value> {
        let value = self.value("doc_to_target", document, &layout.target)?;
        let is_template = match &layout.target {
            Field::Text(text) => self.column(text, document).is_none(),
            Field::Fixed(_) => false,
        };
        let list = value.as_str().filter(|text| {
            is_template && text.len() >= 2 && text.starts_with('[') && text.ends_with(']')
        });
        Ok(list.and_then(literal).unwrap_or(value))
    }

    /// The choices.
    ///
    /// # Errors
    /// They are not a list of texts.
    pub fn choices(&self, layout: &Layout, document: Document<'_>) -> Result<Option<Vec<String>>> {
        let key = "doc_to_choice";
        let Some(field) = &layout.choice else { return Ok(None) };
        let value = match field {
            Field::Fixed(value) => value.clone(),
            Field::Text(text) => match self.column(text, document) {
                Some(value) => value,
                None => {
                    let rendered = self.render(key, document, text)?;
                    let hint = "write a template of a list, as in {{[option1, option2]}}";
                    let reason = || format!("`{rendered}` is not a list");
                    literal(&rendered).ok_or_else(|| self.bad(key, document, reason(), hint))?
                }
            },
        };
        match texts(&value).filter(|texts| !texts.is_empty()) {
            Some(texts) => Ok(Some(texts)),
            None => {
                let reason = format!("`{}` is not a list of texts", python_str(&value));
                Err(self.bad(key, document, reason, "make every choice a text"))
            }
        }
    }
}
