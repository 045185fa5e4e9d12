//! Builds examples from rows: tokens, made with the source's own tokenizer and chat template.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::chat::{self, Conversation, Rendered, message};
use super::choices::Question;
use super::example::Example;
use super::layout::{self, Row};
use super::row_error::{RowError, RowPosition};
use super::rows::{RawRow, read_rows};
use crate::checkpoint::{
    BUILTIN_PREFIX, Bytes, Hub, HubRef, SnapshotKind, Source, builtin_data, builtin_data_file,
    guard_tokenizer, map,
};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

/// The examples of a file, tokenized for one source.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The specifier that opens it again: an absolute path or `builtin:NAME`.
    pub spec: String,
    /// The examples in file order; for a multiple-choice question, the right option.
    pub examples: Vec<Example>,
    /// The multiple-choice questions.
    pub questions: Vec<Question>,
    /// Non-null columns that were not read, in file order, then keys that the chat template
    /// ignores: `tools`, `tool_calls`.
    pub unused: Vec<String>,
}

/// The prefix of a dataset on the hub.
const HUB_PREFIX: &str = "hub:";

impl Dataset {
    /// Reads `spec`, a path, `builtin:NAME` or `hub:org/name[@revision][/file]`, for `source`. One
    /// invalid row makes the whole file an error.
    ///
    /// # Errors
    /// A missing, empty or unreadable file; an invalid row, with its number; a row that the chat
    /// template rejects; a token outside the vocabulary.
    pub fn read(spec: &str, source: &Source) -> Result<Self> {
        let (spec, files) = find(spec)?;
        let (mut rows, mut unused, mut named) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (file, bytes) in &files {
            for (at, row) in read_rows(file, bytes)? {
                let reader = RowReader { file, at, source };
                let row = match row {
                    RawRow::Text(text) => Row::Text(text),
                    RawRow::Columns(mut columns) => {
                        let row = layout::read(&mut columns).map_err(|error| reader.bad(error))?;
                        for name in columns.unused() {
                            if !named.contains(name) {
                                named.insert(name.to_owned());
                                unused.push(name.to_owned());
                            }
                        }
                        row
                    }
                };
                rows.push((row, reader));
            }
        }
        // All conversations together: compiling a template takes longer than rendering.
        let conversations: Vec<&Conversation> =
            rows.iter().filter_map(|(row, _)| row.conversation()).collect();
        let mut renderings = chat::render(source, &conversations)?.into_iter();
        unused.extend(
            chat::ignored_by_template(source, &conversations).into_iter().map(str::to_owned),
        );
        let (mut examples, mut questions) = (Vec::with_capacity(rows.len()), Vec::new());
        let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let work = Work::begin("data", format!("tokenizing {spec}"), Some(bytes as u64));
        for (row, reader) in &rows {
            work.advance((bytes / rows.len()) as u64)?;
            let mut next_rendered = || match renderings.next() {
                Some(rendered) => rendered.map_err(|reason| reader.refused(&reason)),
                None => Err(reader.refused("it produced no text")),
            };
            let example = match row {
                Row::Ids(ids) => Example {
                    ids: ids.iter().map(|id| reader.shared_id(*id)).collect::<Result<_>>()?,
                    prompt: 0,
                },
                Row::Text(text) => Example { ids: reader.encode(text, true)?, prompt: 0 },
                Row::Pair(prompt, completion) => reader.pair(prompt, completion, true)?,
                Row::Conversation(_) => reader.encode_rendered(&next_rendered()?)?,
                Row::Choice(_, options, right) => {
                    let rendered = next_rendered()?;
                    questions.push(Question {
                        options: reader.options(&rendered.prompt, options)?,
                        right: *right,
                    });
                    reader.encode_rendered(&rendered)?
                }
            };
            if example.ids.is_empty() {
                return Err(
                    reader.bad(RowError::new("it has no tokens", "add text, or remove the row"))
                );
            }
            examples.push(example);
        }
        if examples.is_empty() {
            Err(Error::EmptyData {
                file: files.into_iter().next().map(|(file, _)| file).unwrap_or_default(),
            })
        } else {
            Ok(Self { spec, examples, questions, unused })
        }
    }
}

/// The specifier that opens the data again, and its files.
fn find(spec: &str) -> Result<(String, Vec<(PathBuf, Bytes)>)> {
    if let Some(name) = spec.strip_prefix(BUILTIN_PREFIX) {
        return Ok((spec.to_owned(), vec![(PathBuf::from(spec), builtin_data_file(name)?)]));
    }
    if let Some(reference) = spec.strip_prefix(HUB_PREFIX) {
        let bad = || {
            Error::bad_value(
                "data",
                spec,
                "hub:org/name, hub:org/name@revision or hub:org/name/path/of/file",
            )
        };
        let reference = HubRef::parse(reference, true).ok_or_else(bad)?;
        let snapshot = Hub::from_env()?.snapshot(&reference, SnapshotKind::Data)?;
        let open = |name: &String| {
            let path = snapshot.directory.join(name);
            let bytes = map(&path)?;
            Ok((path, bytes))
        };
        let files = snapshot.files.iter().map(open).collect::<Result<_>>()?;
        return Ok((format!("{HUB_PREFIX}{}", reference.pinned(&snapshot.commit)), files));
    }
    let file = std::path::absolute(spec).map_err(|e| Error::io("read", spec, e))?;
    let bytes = map(&file)?;
    Ok((file.display().to_string(), vec![(file, bytes)]))
}

/// The built-in datasets: `NAME` to merge on and `NAME-heldout` to score on.
pub fn builtin_datasets() -> Vec<&'static str> {
    builtin_data().collect()
}

/// The token ids of a question, rendered with the chat template of `source` if it has one.
pub(crate) fn prompt_ids(source: &Source, question: &str) -> Result<Vec<u32>> {
    let reader = RowReader { file: source.path(), at: RowPosition::Line(1), source };
    let conversation = Conversation {
        messages: vec![message("user", question), message("assistant", "")],
        prompt: 1,
        tools: None,
    };
    let bad = |reason: String| Error::ChatTemplate {
        source_name: source.name().into(),
        file: source.path().into(),
        reason,
    };
    if source.chat().template().map_err(bad)?.is_none() {
        return reader.encode(question, true);
    }
    let rendered = chat::render(source, &[&conversation])?
        .pop()
        .unwrap_or_else(|| Err("it produced no text".into()))
        .map_err(bad)?;
    reader.encode(&rendered.prompt, false)
}

/// Encodes an answer, which follows a prompt, with the tokenizer of `source`.
///
/// # Errors
/// As for [`prompt_ids`].
pub(crate) fn answer_ids(source: &Source, answer: &str) -> Result<Vec<u32>> {
    let at = RowPosition::Line(1);
    RowReader { file: source.path(), at, source }.encode(answer, false)
}

/// Reads one row of a file for a source.
struct RowReader<'a> {
    file: &'a Path,
    at: RowPosition,
    source: &'a Source,
}

impl RowReader<'_> {
    fn bad(&self, error: RowError) -> Error {
        self.at.error(self.file, error)
    }

    /// The error for a row that the chat template rejects.
    fn refused(&self, reason: &str) -> Error {
        let about = |words: &[&str]| words.iter().any(|word| reason.to_lowercase().contains(word));
        let hint = match () {
            () if self.is_plain() => {
                "add a chat template to the model (chat_template.jinja), or use only text"
            }
            () if about(&["system", "developer"]) => {
                "if the template has no system message, put its text at the beginning of the first user message, or use prompt and \
                 completion as texts, to which no template is applied"
            }
            () if about(&["alternat", "turn"]) => {
                "join consecutive messages of one role, or use prompt and completion as texts, to which no template is applied"
            }
            () => {
                "change the row to what the template accepts, or use prompt and completion as texts, to which no template is applied"
            }
        };
        let whose = match self.source.chat_template() {
            Some(_) => {
                format!("the chat template of `{}` cannot render it: {reason}", self.source.name())
            }
            None => format!("{reason} (`{}`)", self.source.name()),
        };
        self.bad(RowError::new(whose, hint))
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        interrupt::check()?;
        let tokenizer: &Tokenizer = self.source.tokenizer().ok_or_else(|| {
            let reason = format!(
                "source `{}` has no tokenizer.json and can only read input_ids",
                self.source.name()
            );
            self.bad(RowError::new(
                reason,
                "put tokenizer.json next to the weights, or use input_ids",
            ))
        })?;
        let longest = self.source.longest_text();
        if text.len() > longest {
            let reason = format!(
                "its text has {} bytes; the tokenizer accepts at most {longest}",
                text.len()
            );
            return Err(self.bad(RowError::new(reason, "split it into several rows")));
        }
        let file = self.source.path().join("tokenizer.json");
        let ids = guard_tokenizer(&file, || {
            Ok(tokenizer.encode_fast(text, special)?.get_ids().to_vec())
        })?;
        // A post-processor may add ids outside the vocabulary.
        ids.into_iter().map(|id| self.shared_id(id)).collect()
    }

    /// Maps the token `id` from the source's own numbering to the shared one.
    fn shared_id(&self, id: u32) -> Result<u32> {
        let vocabulary = self.source.original().architecture()?.vocabulary;
        let token = || self.source.original().tokenizer()?.id_to_token(id);
        let (unit, line) = self.at.parts();
        let out = || Error::TokenOutOfRange {
            file: self.file.into(),
            unit,
            line,
            id,
            token: token(),
            vocabulary,
        };
        self.source.row_of(id).ok_or_else(out)
    }

    /// A prompt and its completion, encoded separately, as in generation: no token spans the
    /// boundary.
    fn pair(&self, prompt: &str, rest: &str, special: bool) -> Result<Example> {
        let mut ids = self.encode(prompt, special)?;
        let prompt = ids.len();
        ids.extend(self.encode(rest, false)?);
        Ok(Example { ids, prompt })
    }

    fn encode_rendered(&self, Rendered { whole, answer, .. }: &Rendered) -> Result<Example> {
        self.pair(&whole[..*answer], &whole[*answer..], self.is_plain())
    }

    /// Whether no template writes the special tokens, so that the tokenizer must add them.
    fn is_plain(&self) -> bool {
        self.source.chat_template().is_none()
    }

    /// A question with each of its options, tokenized as in lm-evaluation-harness: question and
    /// option are encoded together; the first `n` tokens, as many as the question has alone, are
    /// the prompt. Trailing white space of the question belongs to the option.
    fn options(&self, question: &str, options: &[String]) -> Result<Vec<Example>> {
        let alone = self.encode(question.trim_end(), self.is_plain())?;
        if alone.is_empty() {
            return Err(
                self.bad(RowError::new("its question is empty", "add the text of the question"))
            );
        }
        let option = |(number, option): (usize, &String)| {
            let together = self.encode(&format!("{question}{option}"), self.is_plain())?;
            match together.get(alone.len()..).filter(|own| !own.is_empty()) {
                Some(own) => Ok(Example { ids: [&alone, own].concat(), prompt: alone.len() }),
                None => {
                    let reason =
                        format!("its choice {number}, `{option}`, adds no token to the question");
                    Err(self.bad(RowError::new(reason, "remove it, or reword it")))
                }
            }
        };
        (1..).zip(options).map(option).collect()
    }
}
