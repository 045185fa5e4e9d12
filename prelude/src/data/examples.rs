//! Examples from rows, as their columns have them: tokens, with the source's own tokenizer and chat template.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::chat::{self, Exchange, Talk, message};
use super::choices::Question;
use super::columns::Fault;
use super::layout::{self, Row};
use super::rows::{At, RawRow, read_rows};
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
    /// Columns that nothing was read from, though a row has something there, in the order of the file; then what the
    /// chat template does not ask for: `tools`, `tool_calls`.
    pub unused: Vec<String>,
}

/// The prefix of a data set on the hub.
const HUB_PREFIX: &str = "hub:";

impl Dataset {
    /// Reads `spec`, a path, `builtin:NAME` or `hub:org/name[@revision][/file]`, for `source`. Any bad row
    /// refuses it all.
    ///
    /// # Errors
    /// A missing, empty or unreadable file; a row that is no example, with its number; one that the chat template
    /// refuses; a token outside the vocabulary.
    pub fn read(spec: &str, source: &Source) -> Result<Self> {
        let (spec, files) = find(spec)?;
        let (mut rows, mut unused, mut named) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (file, bytes) in &files {
            for (at, row) in read_rows(file, bytes)? {
                let line = Line { file, at, source };
                let row = match row {
                    RawRow::Text(text) => Row::Text(text),
                    RawRow::Columns(mut columns) => {
                        let row = layout::read(&mut columns).map_err(|fault| line.bad(fault))?;
                        for name in columns.unused() {
                            if !named.contains(name) {
                                named.insert(name.to_owned());
                                unused.push(name.to_owned());
                            }
                        }
                        row
                    }
                };
                rows.push((row, line));
            }
        }
        // All conversations in one go: what renders a template takes longer to make than to run.
        let talks: Vec<&Talk> = rows.iter().filter_map(|(row, _)| row.talk()).collect();
        let mut exchanges = chat::render(source, &talks)?.into_iter();
        unused.extend(chat::unknown_to_template(source, &talks).into_iter().map(str::to_owned));
        let (mut examples, mut questions) = (Vec::with_capacity(rows.len()), Vec::new());
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let work = Work::begin("data", format!("tokenizing {spec}"), Some(bytes as u64));
        for (row, at) in &rows {
            work.advance((bytes / rows.len()) as u64)?;
            let mut exchange = || match exchanges.next() {
                Some(rendered) => rendered.map_err(|reason| at.refused(&reason)),
                None => Err(at.refused("it gave nothing")),
            };
            let example = match row {
                Row::Ids(ids) => Example { ids: ids.iter().map(|id| at.here(*id)).collect::<Result<_>>()?, prompt: 0 },
                Row::Text(text) => Example { ids: at.encode(text, true)?, prompt: 0 },
                Row::Pair(prompt, completion) => at.pair(prompt, completion, true)?,
                Row::Talk(_) => at.exchange(&exchange()?)?,
                Row::Choice(_, options, right) => {
                    let exchange = exchange()?;
                    questions.push(Question { options: at.options(&exchange.prompt, options)?, right: *right });
                    at.exchange(&exchange)?
                }
            };
            if example.ids.is_empty() {
                return Err(at.bad(Fault::new("it has no tokens", "give it text, or leave it out")));
            }
            examples.push(example);
        }
        match examples.is_empty() {
            true => Err(Error::EmptyData { file: files.into_iter().next().map(|(file, _)| file).unwrap_or_default() }),
            false => Ok(Self { spec, examples, questions, unused }),
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
    let at = Line { file: source.path(), at: At::Line(1), source };
    let talk = Talk { messages: vec![message("user", question), message("assistant", "")], prompt: 1, tools: None };
    let bad = |reason: String| Error::ChatTemplate { source_name: source.name().into(), file: source.path().into(), reason };
    if source.chat().template().map_err(bad)?.is_none() {
        return at.encode(question, true);
    }
    let exchange = chat::render(source, &[&talk])?.pop().unwrap_or_else(|| Err("it gave nothing".into())).map_err(bad)?;
    at.encode(&exchange.prompt, false)
}

/// A row of a file that is read for a source.
struct Line<'a> {
    file: &'a Path,
    at: At,
    source: &'a Source,
}

impl Line<'_> {
    fn bad(&self, fault: Fault) -> Error {
        self.at.error(self.file, fault)
    }

    /// The error that the chat template does not take it.
    fn refused(&self, reason: &str) -> Error {
        let about = |words: &[&str]| words.iter().any(|word| reason.to_lowercase().contains(word));
        let hint = match () {
            () if self.is_plain() => "give the model a chat template (chat_template.jinja), or text alone",
            () if about(&["system", "developer"]) => {
                "where the template has no place for it, put its text at the begin of the first message of the user, or give prompt and \
                 completion as texts, which no template touches"
            }
            () if about(&["alternat", "turn"]) => {
                "join messages of one role that follow each other, or give prompt and completion as texts, which no template touches"
            }
            () => "give the row as the template takes it, or prompt and completion as texts, which no template touches",
        };
        let whose = match self.source.chat_template() {
            Some(_) => format!("the chat template of `{}` does not render it: {reason}", self.source.name()),
            None => format!("{reason} (`{}`)", self.source.name()),
        };
        self.bad(Fault::new(whose, hint))
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        interrupt::check()?;
        let tokenizer: &Tokenizer = self.source.tokenizer().ok_or_else(|| {
            let reason = format!("source `{}` has no tokenizer.json, so only input_ids can be read", self.source.name());
            self.bad(Fault::new(reason, "put tokenizer.json beside the weights, or give input_ids"))
        })?;
        let longest = self.source.longest_text();
        if text.len() > longest {
            let reason = format!("its text has {} bytes, and the tokenizer takes {longest} at a time", text.len());
            return Err(self.bad(Fault::new(reason, "split it into several rows")));
        }
        let file = self.source.path().join("tokenizer.json");
        let ids = tokenizing(&file, || Ok(tokenizer.encode_fast(text, special)?.get_ids().to_vec()))?;
        // A post-processor may add ids that the vocabulary does not have.
        ids.into_iter().map(|id| self.here(id)).collect()
    }

    /// The token `id` of the source's own numbering in that of all sources.
    fn here(&self, id: u32) -> Result<u32> {
        let vocabulary = self.source.as_it_is().architecture()?.vocabulary;
        let token = || self.source.as_it_is().tokenizer()?.id_to_token(id);
        let (unit, line) = self.at.parts();
        let out = || Error::TokenOutOfRange { file: self.file.into(), unit, line, id, token: token(), vocabulary };
        self.source.row_of(id).ok_or_else(out)
    }

    /// A prompt and what follows it, encoded apart, as generation sees them: no token spans the prompt's end.
    fn pair(&self, prompt: &str, rest: &str, special: bool) -> Result<Example> {
        let mut ids = self.encode(prompt, special)?;
        let prompt = ids.len();
        ids.extend(self.encode(rest, false)?);
        Ok(Example { ids, prompt })
    }

    fn exchange(&self, Exchange { whole, answer, .. }: &Exchange) -> Result<Example> {
        self.pair(&whole[..*answer], &whole[*answer..], self.is_plain())
    }

    /// Whether no template writes the special tokens, so that the tokenizer adds its own.
    fn is_plain(&self) -> bool {
        self.source.chat_template().is_none()
    }

    /// A question with each of its options, as lm-evaluation-harness has them: `n` tokens of the question alone, then the
    /// tokens from the `n`th on of question and option together. White space at the question's end is the option's.
    fn options(&self, question: &str, options: &[String]) -> Result<Vec<Example>> {
        let alone = self.encode(question.trim_end(), self.is_plain())?;
        if alone.is_empty() {
            return Err(self.bad(Fault::new("its question is empty", "give every question a text")));
        }
        let option = |(number, option): (usize, &String)| {
            let together = self.encode(&format!("{question}{option}"), self.is_plain())?;
            match together.get(alone.len()..).filter(|own| !own.is_empty()) {
                Some(own) => Ok(Example { ids: [&alone, own].concat(), prompt: alone.len() }),
                None => {
                    let reason = format!("its choice {number}, `{option}`, has no token that the question does not have");
                    Err(self.bad(Fault::new(reason, "leave it out, or word it otherwise")))
                }
            }
        };
        (1..).zip(options).map(option).collect()
    }
}
