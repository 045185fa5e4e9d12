//! Examples from files: JSON lines (`text`, an input and an output column, or `input_ids`) or plain
//! text, one example a line.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::chat;
use crate::checkpoint::{BUILTIN_PREFIX, Source, builtin_data, builtin_data_file, map, tokenizing};
use crate::error::{Error, Result};

/// A token sequence, and where its answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The length of the question before the answer; 0 where all is text.
    pub prompt: usize,
}

/// The examples of a file, read with a source's tokenizer and template.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// What opens it again: an absolute path or `builtin:NAME`.
    pub spec: String,
    /// In the order of the file.
    pub examples: Vec<Example>,
}

const INPUTS: [&str; 5] = ["instruction", "question", "query", "input", "text"];
const OUTPUTS: [&str; 4] = ["output", "answer", "response", "sql_query"];

impl Dataset {
    /// Reads `spec`, a path or `builtin:NAME`, for `source`. Any bad line refuses the whole file.
    ///
    /// # Errors
    /// A missing, empty or unreadable file; a line that is no example, with its number; a token
    /// outside the vocabulary.
    pub fn read(spec: &str, source: &Source) -> Result<Self> {
        let (spec, file, bytes) = match spec.strip_prefix(BUILTIN_PREFIX) {
            Some(name) => (spec.to_owned(), PathBuf::from(spec), builtin_data_file(name)?),
            None => {
                let file = std::path::absolute(spec).map_err(|e| Error::io("read", spec, e))?;
                (file.display().to_string(), file.clone(), map(&file)?)
            }
        };
        let json = file.extension().is_none_or(|e| e != "txt");
        if json && bytes.starts_with(b"PAR1") {
            return Err(Error::BadLine { file, line: 1, reason: "parquet is not read yet: convert it to JSON lines".into() });
        }
        let mut examples = Vec::new();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let at = Line { file: &file, line: number + 1, source };
            let text = std::str::from_utf8(line).map_err(|e| at.bad(format!("it is not UTF-8: {e}")))?;
            if text.trim().is_empty() {
                continue;
            }
            let example = if json { at.json(text)? } else { at.text(text.trim_end_matches('\r'))? };
            if example.ids.is_empty() {
                return Err(at.bad("it has no tokens".into()));
            }
            examples.push(example);
        }
        if examples.is_empty() {
            return Err(Error::EmptyData { file });
        }
        Ok(Self { spec, examples })
    }
}

/// The built-in data sets: `NAME` to merge on and `NAME-heldout` to score on.
pub fn builtin_datasets() -> Vec<&'static str> {
    builtin_data().collect()
}

/// The ids of a question, put through the template of `source` if it has one.
pub(crate) fn prompt_ids(source: &Source, question: &str) -> Result<Vec<u32>> {
    let at = Line { file: source.path(), line: 1, source };
    match source.chat_template() {
        Some(_) => at.encode(&chat::render(source, question, "")?.prompt, false),
        None => at.encode(question, true),
    }
}

struct Line<'a> {
    file: &'a Path,
    line: usize,
    source: &'a Source,
}

impl Line<'_> {
    fn bad(&self, reason: String) -> Error {
        Error::BadLine { file: self.file.into(), line: self.line, reason }
    }

    fn tokenizer(&self) -> Result<&Tokenizer> {
        let missing = || format!("source `{}` has no tokenizer.json, so only input_ids can be read", self.source.name());
        self.source.tokenizer().ok_or_else(|| self.bad(missing()))
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let file = self.source.path().join("tokenizer.json");
        let ids = tokenizing(&file, || Ok(tokenizer.encode_fast(text, special)?.get_ids().to_vec()))?;
        // A post-processor may add ids that the vocabulary does not have.
        ids.iter().try_for_each(|id| self.check(*id))?;
        Ok(ids)
    }

    fn json(&self, text: &str) -> Result<Example> {
        let row: Map<String, Value> = serde_json::from_str(text).map_err(|e| self.bad(e.to_string()))?;
        if let Some(ids) = row.get("input_ids") {
            return self.ids(ids);
        }
        if let Some(name) = OUTPUTS.iter().find(|name| row.get(**name).is_some_and(|v| !v.is_string())) {
            return Err(self.bad(format!("`{name}` is not text")));
        }
        let column = |names: &'static [&str]| names.iter().find_map(|name| Some((*name, row.get(*name)?.as_str()?)));
        match (column(&INPUTS), column(&OUTPUTS)) {
            (Some((name, question)), Some((_, answer))) => {
                let more = row.get("input").and_then(Value::as_str).filter(|m| name == "instruction" && !m.is_empty());
                let question = more.map_or(question.to_owned(), |more| format!("{question}\n{more}"));
                self.exchange(&question, answer)
            }
            (Some(("text", text)), None) => self.text(text),
            _ => {
                let keys: Vec<&str> = row.keys().map(String::as_str).collect();
                Err(self.bad(format!("no known columns among `{}`", keys.join(", "))))
            }
        }
    }

    fn ids(&self, value: &Value) -> Result<Example> {
        let items = value.as_array().ok_or_else(|| self.bad("input_ids is not a list".into()))?;
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.bad(format!("`{item}` is not a token id")))?;
            self.check(id)?;
            ids.push(id);
        }
        Ok(Example { ids, prompt: 0 })
    }

    fn check(&self, id: u32) -> Result<()> {
        let vocabulary = self.source.architecture()?.vocabulary;
        match (id as usize) < vocabulary {
            true => Ok(()),
            false => Err(Error::TokenOutOfRange { file: self.file.into(), line: self.line, id, vocabulary }),
        }
    }

    fn text(&self, text: &str) -> Result<Example> {
        Ok(Example { ids: self.encode(text, true)?, prompt: 0 })
    }

    fn exchange(&self, question: &str, answer: &str) -> Result<Example> {
        let exchange = chat::render(self.source, question, answer)?;
        // Encoded apart, as generation sees them: no token spans the question's end.
        let mut ids = self.encode(&exchange.prompt, false)?;
        let prompt = ids.len();
        ids.extend(self.encode(&exchange.whole[exchange.prompt.len()..], false)?);
        Ok(Example { ids, prompt })
    }
}
