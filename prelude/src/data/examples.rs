//! Examples from rows: `text`; an input and an output column, or `messages`, which go through the chat
//! template; `prompt` and `completion`; or `input_ids`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::chat::{self, Exchange, Message};
use super::choices::{Question, choices};
use super::rows::{RawRow, read_rows};
use crate::checkpoint::{BUILTIN_PREFIX, Bytes, Hub, Place, Source, Wanted, builtin_data, builtin_data_file, map, tokenizing};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

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
    /// In the order of the file; of a multiple-choice question, the right option.
    pub examples: Vec<Example>,
    /// Its multiple-choice questions.
    pub questions: Vec<Question>,
}

/// The prefix of a data set on the hub.
const HUB_PREFIX: &str = "hub:";

const TALKS: [&str; 2] = ["messages", "conversations"];
const INPUTS: [&str; 5] = ["instruction", "question", "query", "input", "text"];
const OUTPUTS: [&str; 4] = ["output", "answer", "response", "sql_query"];

impl Dataset {
    /// Reads `spec`, a path, `builtin:NAME` or `hub:org/name[@revision][/file]`, for `source`. Any bad line
    /// refuses it all.
    ///
    /// # Errors
    /// A missing, empty or unreadable file; a line that is no example, with its number; a token
    /// outside the vocabulary.
    pub fn read(spec: &str, source: &Source) -> Result<Self> {
        let (spec, files) = find(spec)?;
        let mut rows = Vec::new();
        for (file, bytes) in &files {
            for (line, row) in read_rows(file, bytes)? {
                let at = Line { file, line, source };
                rows.push((at.row(row)?, at));
            }
        }
        // All conversations in one go: what renders a template takes longer to make than to run.
        let talks: Vec<&[Message]> = rows.iter().flat_map(|(row, _)| row.talks()).collect();
        let mut exchanges = chat::render(source, &talks)?.into_iter();
        let (mut examples, mut questions) = (Vec::with_capacity(rows.len()), Vec::new());
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let work = Work::begin("data", format!("tokenizing {spec}"), Some(bytes as u64));
        for (row, at) in &rows {
            work.advance((bytes / rows.len()) as u64)?;
            let mut answered = || match exchanges.next() {
                Some(Exchange { whole, answer, .. }) => at.pair(&whole[..answer], &whole[answer..], false),
                None => Err(at.bad("its template gave nothing".into())),
            };
            let example = match row {
                Row::Ids(ids) => Example { ids: ids.clone(), prompt: 0 },
                Row::Text(text) => Example { ids: at.encode(text, true)?, prompt: 0 },
                Row::Pair(prompt, completion) => at.pair(prompt, completion, true)?,
                Row::Talk(_) => answered()?,
                Row::Choice(talks, right) => {
                    let options = talks.iter().map(|_| answered()).collect::<Result<Vec<_>>>()?;
                    let example = options[*right].clone();
                    questions.push(Question { options, right: *right });
                    example
                }
            };
            if example.ids.is_empty() {
                return Err(at.bad("it has no tokens".into()));
            }
            examples.push(example);
        }
        match examples.is_empty() {
            true => Err(Error::EmptyData { file: files.into_iter().next().map(|(file, _)| file).unwrap_or_default() }),
            false => Ok(Self { spec, examples, questions }),
        }
    }
}

/// What opens the data again, and its files.
fn find(spec: &str) -> Result<(String, Vec<(PathBuf, Bytes)>)> {
    if let Some(name) = spec.strip_prefix(BUILTIN_PREFIX) {
        return Ok((spec.to_owned(), vec![(PathBuf::from(spec), builtin_data_file(name)?)]));
    }
    if let Some(place) = spec.strip_prefix(HUB_PREFIX) {
        let bad = || Error::bad_value("data", spec, "hub:org/name, hub:org/name@revision or hub:org/name/path/of/file");
        let place = Place::parse(place, true).ok_or_else(bad)?;
        let snapshot = Hub::from_env()?.snapshot(&place, Wanted::Data)?;
        let open = |name: &String| {
            let path = snapshot.directory.join(name);
            let bytes = map(&path)?;
            Ok((path, bytes))
        };
        let files = snapshot.files.iter().map(open).collect::<Result<_>>()?;
        return Ok((format!("{HUB_PREFIX}{}", place.pinned(&snapshot.commit)), files));
    }
    let file = std::path::absolute(spec).map_err(|e| Error::io("read", spec, e))?;
    let bytes = map(&file)?;
    Ok((file.display().to_string(), vec![(file, bytes)]))
}

/// The built-in data sets: `NAME` to merge on and `NAME-heldout` to score on.
pub fn builtin_datasets() -> Vec<&'static str> {
    builtin_data().collect()
}

/// The ids of a question, put through the template of `source` if it has one.
pub(crate) fn prompt_ids(source: &Source, question: &str) -> Result<Vec<u32>> {
    let at = Line { file: source.path(), line: 1, source };
    if source.chat_template().is_none() {
        return at.encode(question, true);
    }
    let talk = [Message::new("user", question), Message::new("assistant", "")];
    let exchange = chat::render(source, &[&talk])?.pop().ok_or_else(|| at.bad("its template gave nothing".into()))?;
    at.encode(&exchange.prompt, false)
}

/// What a row is.
enum Row {
    Ids(Vec<u32>),
    Text(String),
    /// A prompt and what follows it, as they are.
    Pair(String, String),
    /// Goes through the chat template.
    Talk(Vec<Message>),
    /// The same with each of some answers, of which one is right.
    Choice(Vec<Vec<Message>>, usize),
}

impl Row {
    fn talks(&self) -> Vec<&[Message]> {
        match self {
            Row::Talk(talk) => vec![talk],
            Row::Choice(talks, _) => talks.iter().map(Vec::as_slice).collect(),
            _ => Vec::new(),
        }
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
        interrupt::check()?;
        let (tokenizer, longest) = (self.tokenizer()?, self.source.longest_text());
        if text.len() > longest {
            return Err(self.bad(format!("its text has {} bytes, and the tokenizer takes {longest} at a time", text.len())));
        }
        let file = self.source.path().join("tokenizer.json");
        let ids = tokenizing(&file, || Ok(tokenizer.encode_fast(text, special)?.get_ids().to_vec()))?;
        // A post-processor may add ids that the vocabulary does not have.
        ids.into_iter().map(|id| self.here(id)).collect()
    }

    /// What a row says.
    fn row(&self, row: RawRow) -> Result<Row> {
        let row = match row {
            RawRow::Text(text) => return Ok(Row::Text(text)),
            RawRow::Object(row) => row,
        };
        if let Some(ids) = row.get("input_ids") {
            return Ok(Row::Ids(self.ids(ids)?));
        }
        for key in TALKS {
            if let Some(list) = row.get(key) {
                return Ok(Row::Talk(self.talk(key, list)?));
            }
        }
        let options = choices(&row).map_err(|reason| self.bad(reason))?;
        if let (Some((options, right)), Some(question)) = (options, INPUTS.iter().find_map(|name| row.get(*name)?.as_str())) {
            let talk = |answer: &String| vec![Message::new("user", question), Message::new("assistant", answer)];
            return Ok(Row::Choice(options.iter().map(talk).collect(), right));
        }
        if let Some(name) = OUTPUTS.iter().find(|name| row.get(**name).is_some_and(|v| !v.is_string())) {
            return Err(self.bad(format!("`{name}` is not text")));
        }
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        if let (Some(prompt), Some(completion)) = (text("prompt"), text("completion")) {
            return Ok(Row::Pair(prompt.into(), completion.into()));
        }
        let column = |names: &'static [&str]| names.iter().find_map(|name| Some((*name, text(name)?)));
        match (column(&INPUTS), column(&OUTPUTS)) {
            (Some((name, question)), Some((_, answer))) => {
                let more = text("input").filter(|m| name == "instruction" && !m.is_empty());
                let question = more.map_or(question.to_owned(), |more| format!("{question}\n{more}"));
                Ok(Row::Talk(vec![Message::new("user", &question), Message::new("assistant", answer)]))
            }
            (Some(("text", text)), None) => Ok(Row::Text(text.into())),
            _ => {
                let keys: Vec<&str> = row.keys().map(String::as_str).collect();
                Err(self.bad(format!("no known columns among `{}`", keys.join(", "))))
            }
        }
    }

    /// A conversation: `[{role, content}, ...]`, or `[{from, value}, ...]`.
    fn talk(&self, key: &str, list: &Value) -> Result<Vec<Message>> {
        let list = list.as_array().ok_or_else(|| self.bad(format!("`{key}` is not a list")))?;
        let message = |m: &Value| {
            let text = |names: [&str; 2]| names.into_iter().find_map(|name| m[name].as_str());
            let role = match text(["role", "from"])? {
                "human" => "user",
                "gpt" => "assistant",
                role => role,
            };
            Some(Message::new(role, text(["content", "value"])?))
        };
        let all: Option<Vec<Message>> = list.iter().map(message).collect();
        let mut all = all.ok_or_else(|| self.bad(format!("`{key}` has a message without role and content")))?;
        match all.iter().rposition(|m| m.role == "assistant") {
            Some(last) if last > 0 => {
                all.truncate(last + 1);
                Ok(all)
            }
            _ => Err(self.bad(format!("`{key}` has no answer of an assistant after a question"))),
        }
    }

    fn ids(&self, value: &Value) -> Result<Vec<u32>> {
        let items = value.as_array().ok_or_else(|| self.bad("input_ids is not a list".into()))?;
        let one = |item: &Value| {
            let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
            self.here(id.ok_or_else(|| self.bad(format!("`{item}` is not a token id")))?)
        };
        items.iter().map(one).collect()
    }

    /// The token `id` of the source's own numbering in that of all sources.
    fn here(&self, id: u32) -> Result<u32> {
        let vocabulary = self.source.as_it_is().architecture()?.vocabulary;
        let out = || Error::TokenOutOfRange { file: self.file.into(), line: self.line, id, vocabulary };
        self.source.row_of(id).ok_or_else(out)
    }

    /// A prompt and what follows it, encoded apart, as generation sees them: no token spans the prompt's end.
    fn pair(&self, prompt: &str, rest: &str, special: bool) -> Result<Example> {
        let mut ids = self.encode(prompt, special)?;
        let prompt = ids.len();
        ids.extend(self.encode(rest, false)?);
        Ok(Example { ids, prompt })
    }
}
