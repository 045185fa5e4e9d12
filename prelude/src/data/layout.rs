//! Determines the layout of a row from its columns. The first match wins: `input_ids`; a
//! conversation; multiple choice; `prompt` and `completion`; an input and an output; `text`.

use minijinja::value::{Value, ValueKind};

use super::chat::{Conversation, message, role, text as text_of};
use super::choices::choices;
use super::columns::{Columns, text, type_name};
use super::messages::{are_messages, history, messages, split_at_answer};
use super::row_error::RowError;

/// Columns that hold a conversation.
const CONVERSATIONS: [&str; 3] = ["messages", "conversations", "conversation"];
/// Columns that hold an input; the first one present is used.
pub(crate) const INPUTS: [&str; 7] =
    ["instruction", "question", "query", "problem", "prompt", "input", "text"];
/// Columns appended to the input, each on its own line.
pub(crate) const EXTRA_INPUTS: [&str; 2] = ["input", "context"];
/// Columns that hold an output; the first one present is used.
pub(crate) const OUTPUTS: [&str; 9] = [
    "output",
    "solution",
    "answer",
    "response",
    "sql_query",
    "sql",
    "generated_solution",
    "completion",
    "chosen",
];
/// Columns that hold a system message.
pub(crate) const SYSTEMS: [&str; 2] = ["system", "system_prompt"];

/// A row by layout.
pub(super) enum Row {
    Ids(Vec<u32>),
    Text(String),
    /// A prompt and its completion, used verbatim.
    Pair(String, String),
    /// A conversation, rendered with the chat template.
    Conversation(Conversation),
    /// A conversation whose answer is the right one of several options.
    Choice(Conversation, Vec<String>, usize),
}

impl Row {
    /// The conversation to render, if any.
    pub fn conversation(&self) -> Option<&Conversation> {
        match self {
            Row::Conversation(conversation) | Row::Choice(conversation, ..) => Some(conversation),
            _ => None,
        }
    }
}

/// The content of an input or output column.
enum Field {
    Text(String),
    Messages(Vec<Value>),
}

impl Field {
    fn read(name: &str, value: &Value) -> Result<Self, RowError> {
        if are_messages(value) {
            Ok(Field::Messages(messages(name, value)?))
        } else {
            Ok(Field::Text(text(name, value)?))
        }
    }

    fn into_messages(self, role: &str) -> Vec<Value> {
        match self {
            Field::Text(text) => vec![message(role, &text)],
            Field::Messages(messages) => messages,
        }
    }
}

/// Reads a row.
///
/// # Errors
/// Columns that are missing, contradict each other or have the wrong type.
pub(super) fn read(columns: &mut Columns) -> Result<Row, RowError> {
    if let Some(ids) = columns.take("input_ids") {
        return Ok(Row::Ids(token_ids(&ids, columns.take("attention_mask").as_ref())?));
    }
    for name in CONVERSATIONS {
        if let Some(list) = columns.structure(name)? {
            let (before, answer) = split_at_answer(name, &list)?;
            return Ok(Row::Conversation(build_conversation(columns, before, answer)?));
        }
    }
    if let Some((options, right)) = choices(columns)? {
        let question = question(columns)?
            .ok_or_else(|| RowError::layout("it has `choices` but no question"))?;
        let answer = vec![message("assistant", &options[right])];
        let before = with_history(columns, question)?;
        return Ok(Row::Choice(build_conversation(columns, before, answer)?, options, right));
    }
    if columns.has("prompt") && columns.has("completion") {
        return prompt_and_completion(columns);
    }
    let answer = OUTPUTS.into_iter().find_map(|name| Some((name, columns.take(name)?)));
    let answer = answer.map(|(name, value)| Ok((name, Field::read(name, &value)?))).transpose()?;
    if let Some((name, Field::Messages(all))) = &answer {
        // The `chosen` column may hold the whole conversation.
        if all.iter().any(|message| !["assistant", "tool"].contains(&role(message).as_str())) {
            let (before, answer) = split_at_answer(name, &Value::from(all.clone()))?;
            return Ok(Row::Conversation(build_conversation(columns, before, answer)?));
        }
    }
    let alone = INPUTS.into_iter().find(|name| columns.has(name)) == Some("text");
    match answer {
        Some((name, answer)) => {
            let question = question(columns)?
                .ok_or_else(|| RowError::layout(format!("it has `{name}` but no input")))?;
            let before = with_history(columns, question)?;
            Ok(Row::Conversation(build_conversation(
                columns,
                before,
                require_assistant(name, answer.into_messages("assistant"))?,
            )?))
        }
        None if alone => {
            // A null output is an error: the row was meant to have one.
            let null = columns.names().find(|name| OUTPUTS.contains(name)).map(str::to_owned);
            match null {
                Some(name) => Err(RowError::layout(format!("its `{name}` is null"))),
                None => Ok(Row::Text(columns.text("text")?.unwrap_or_default())),
            }
        }
        None => Err(match INPUTS.into_iter().find(|name| columns.has(name)) {
            Some(name) => RowError::layout(format!(
                "it has `{name}` but no output, only `{}`",
                list_columns(columns)
            )),
            None => RowError::layout(format!(
                "it has no known columns, only `{}`",
                list_columns(columns)
            )),
        }),
    }
}

/// The question after earlier turns, which only a text has beside it.
fn with_history(columns: &mut Columns, question: Field) -> Result<Vec<Value>, RowError> {
    let earlier = match question {
        Field::Text(_) => columns.structure("history")?,
        Field::Messages(_) => None,
    };
    let mut before = earlier.map_or_else(|| Ok(Vec::new()), |list| history(&list))?;
    before.extend(question.into_messages("user"));
    Ok(before)
}

/// The names of the first columns.
fn list_columns(columns: &Columns) -> String {
    let names: Vec<&str> = columns.names().take(12).collect();
    let more = if columns.names().nth(12).is_some() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// The input, with its extra columns.
fn question(columns: &mut Columns) -> Result<Option<Field>, RowError> {
    let Some(name) = INPUTS.into_iter().find(|name| columns.has(name)) else { return Ok(None) };
    let Some(value) = columns.take(name) else { return Ok(None) };
    let mut parts = match Field::read(name, &value)? {
        Field::Text(first) => vec![first],
        messages => return Ok(Some(messages)),
    };
    // `text` takes no extra columns.
    for more in EXTRA_INPUTS.into_iter().filter(|more| *more != name && name != "text") {
        parts.extend(columns.text(more)?);
    }
    parts.retain(|part| !part.is_empty());
    Ok(Some(Field::Text(parts.join("\n"))))
}

/// `prompt` and `completion`: texts, used verbatim, or messages.
fn prompt_and_completion(columns: &mut Columns) -> Result<Row, RowError> {
    let mut side =
        |name: &str| columns.take(name).map(|value| Field::read(name, &value)).transpose();
    match (side("prompt")?, side("completion")?) {
        (Some(Field::Text(prompt)), Some(Field::Text(completion))) => {
            let beside = SYSTEMS.into_iter().chain(["history", "tools"]);
            let beside = beside
                .filter(|name| columns.take(name).is_some_and(|value| value.len() != Some(0)));
            match beside.into_iter().next() {
                Some(name) => Err(RowError::new(
                    format!(
                        "it has `{name}`, but `prompt` and `completion` are texts, which are used verbatim"
                    ),
                    "put it into the prompt, or use lists of messages for prompt and completion",
                )),
                None => Ok(Row::Pair(prompt, completion)),
            }
        }
        (Some(prompt), Some(completion)) => {
            let answer = require_assistant("completion", completion.into_messages("assistant"))?;
            Ok(Row::Conversation(build_conversation(
                columns,
                prompt.into_messages("user"),
                answer,
            )?))
        }
        _ => Err(RowError::layout("it lacks `prompt` or `completion`")),
    }
}

/// Returns `answer` if it contains an assistant message.
fn require_assistant(name: &str, answer: Vec<Value>) -> Result<Vec<Value>, RowError> {
    if answer.iter().any(|message| role(message) == "assistant") {
        Ok(answer)
    } else {
        Err(RowError::layout(format!("`{name}` has no assistant message")))
    }
}

/// Builds a conversation with the row's system message and tools.
fn build_conversation(
    columns: &mut Columns,
    mut before: Vec<Value>,
    answer: Vec<Value>,
) -> Result<Conversation, RowError> {
    let mut system = None;
    for name in SYSTEMS {
        if system.is_none() {
            system = columns.text(name)?.filter(|text| !text.is_empty()).map(|text| (name, text));
        }
    }
    let own = before
        .first()
        .filter(|first| ["system", "developer"].contains(&role(first).as_str()))
        .map(text_of);
    match (system, own) {
        (Some((_, text)), None) => drop(before.splice(0..0, [message("system", &text)])),
        (Some((name, text)), Some(own)) if own.as_ref() != Some(&text) => {
            let reason =
                format!("its `{name}` differs from the system message of its conversation");
            return Err(RowError::new(reason, "keep one of them"));
        }
        _ => {}
    }
    let tools = columns.structure("tools")?;
    if let Some(tools) = tools.as_ref().filter(|tools| tools.kind() != ValueKind::Seq) {
        return Err(RowError::new(
            format!("`tools` is {}, not a list", type_name(tools)),
            "tools is a list of JSON schemas",
        ));
    }
    if before.is_empty() {
        return Err(RowError::layout("it has no messages before its answer"));
    }
    let prompt = before.len();
    before.extend(answer);
    Ok(Conversation { messages: before, prompt, tools })
}

/// Token ids, without those that the attention mask excludes.
fn token_ids(ids: &Value, mask: Option<&Value>) -> Result<Vec<u32>, RowError> {
    let list = |value: &Value| -> Option<Vec<Value>> { Some(value.try_iter().ok()?.collect()) };
    let whole = |value: &Value| value.is_integer().then(|| value.as_usize()).flatten();
    let hint = "input_ids is a list of token ids";
    let seq = |value: &&Value| value.kind() == ValueKind::Seq;
    let items = Some(ids)
        .filter(seq)
        .and_then(list)
        .ok_or_else(|| RowError::new("`input_ids` is not a list", hint))?;
    let id = |item: &Value| {
        let id = whole(item).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| RowError::new(format!("`{item}` is not a token id"), hint))
    };
    let Some(mask) = mask else { return items.iter().map(id).collect() };
    let kept: Option<Vec<usize>> =
        Some(mask).filter(seq).and_then(list).and_then(|mask| mask.iter().map(whole).collect());
    let kept = kept.filter(|kept| kept.len() == items.len() && kept.iter().all(|x| *x < 2));
    let kept = kept.ok_or_else(|| {
        RowError::new("`attention_mask` must have one 0 or 1 per entry of `input_ids`", hint)
    })?;
    items.iter().zip(kept).filter(|(_, kept)| *kept == 1).map(|(item, _)| id(item)).collect()
}
