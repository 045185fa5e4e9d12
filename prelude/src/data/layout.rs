//! What a row says, by the columns that it has. Where several layouts are possible the first of these is taken:
//! `input_ids`; a conversation; multiple choice; `prompt` and `completion`; an input and an output; `text`.

use minijinja::value::{Value, ValueKind};

use super::chat::{Talk, message, role, text as text_of};
use super::choices::choices;
use super::columns::{Columns, Fault, called, text};
use super::messages::{are_messages, conversation, history, messages};

/// Columns of a conversation.
const TALKS: [&str; 3] = ["messages", "conversations", "conversation"];
/// Columns of an input, the first that is there.
pub(crate) const INPUTS: [&str; 7] = ["instruction", "question", "query", "problem", "prompt", "input", "text"];
/// Columns that follow the input, on a line of their own.
pub(crate) const MORE: [&str; 2] = ["input", "context"];
/// Columns of an output, the first that is there.
pub(crate) const OUTPUTS: [&str; 9] =
    ["output", "solution", "answer", "response", "sql_query", "sql", "generated_solution", "completion", "chosen"];
/// Columns of a system message.
pub(crate) const SYSTEMS: [&str; 2] = ["system", "system_prompt"];

/// What a row is.
pub(super) enum Row {
    Ids(Vec<u32>),
    Text(String),
    /// A prompt and what follows it, as they are.
    Pair(String, String),
    /// Goes through the chat template.
    Talk(Talk),
    /// The same, whose answer is one of several, of which one is right.
    Choice(Talk, Vec<String>, usize),
}

impl Row {
    /// What goes through the chat template.
    pub fn talk(&self) -> Option<&Talk> {
        match self {
            Row::Talk(talk) | Row::Choice(talk, ..) => Some(talk),
            _ => None,
        }
    }
}

/// What a column of an input or output holds.
enum Side {
    Text(String),
    Messages(Vec<Value>),
}

impl Side {
    fn read(name: &str, value: &Value) -> Result<Self, Fault> {
        match are_messages(value) {
            true => Ok(Side::Messages(messages(name, value)?)),
            false => Ok(Side::Text(text(name, value)?)),
        }
    }

    fn into_messages(self, role: &str) -> Vec<Value> {
        match self {
            Side::Text(text) => vec![message(role, &text)],
            Side::Messages(messages) => messages,
        }
    }
}

/// What a row with these columns says.
///
/// # Errors
/// Columns that are missing, contradict each other or hold something else.
pub(super) fn read(columns: &mut Columns) -> Result<Row, Fault> {
    if let Some(ids) = columns.take("input_ids") {
        return Ok(Row::Ids(token_ids(&ids, columns.take("attention_mask").as_ref())?));
    }
    for name in TALKS {
        if let Some(list) = columns.structure(name)? {
            let (before, answer) = conversation(name, &list)?;
            return Ok(Row::Talk(talk(columns, before, answer)?));
        }
    }
    if let Some((options, right)) = choices(columns)? {
        let question = question(columns)?.ok_or_else(|| Fault::layout("it has `choices` and no question"))?;
        let answer = vec![message("assistant", &options[right])];
        return Ok(Row::Choice(talk(columns, question.into_messages("user"), answer)?, options, right));
    }
    if columns.has("prompt") && columns.has("completion") {
        return prompt_and_completion(columns);
    }
    let answer = OUTPUTS.into_iter().find_map(|name| Some((name, columns.take(name)?)));
    let answer = answer.map(|(name, value)| Ok((name, Side::read(name, &value)?))).transpose()?;
    if let Some((name, Side::Messages(all))) = &answer {
        // What is preferred may be the whole conversation.
        if all.iter().any(|message| !["assistant", "tool"].contains(&role(message).as_str())) {
            let (before, answer) = conversation(name, &Value::from(all.clone()))?;
            return Ok(Row::Talk(talk(columns, before, answer)?));
        }
    }
    let alone = INPUTS.into_iter().find(|name| columns.has(name)) == Some("text");
    match answer {
        Some((name, answer)) => {
            let question = question(columns)?.ok_or_else(|| Fault::layout(format!("it has `{name}` and no input for it")))?;
            let mut before = match question {
                Side::Text(_) => columns.structure("history")?.map_or_else(|| Ok(Vec::new()), |list| history(&list))?,
                Side::Messages(_) => Vec::new(),
            };
            before.extend(question.into_messages("user"));
            Ok(Row::Talk(talk(columns, before, answered(name, answer.into_messages("assistant"))?)?))
        }
        None if alone => {
            // An output that is null is not one that was never meant.
            let null = columns.names().find(|name| OUTPUTS.contains(name)).map(str::to_owned);
            match null {
                Some(name) => Err(Fault::layout(format!("its `{name}` is null"))),
                None => Ok(Row::Text(columns.text("text")?.unwrap_or_default())),
            }
        }
        None => Err(match INPUTS.into_iter().find(|name| columns.has(name)) {
            Some(name) => Fault::layout(format!("it has `{name}` and no output for it, only `{}`", listed(columns))),
            None => Fault::layout(format!("no known columns among `{}`", listed(columns))),
        }),
    }
}

/// The names of a few columns.
fn listed(columns: &Columns) -> String {
    let names: Vec<&str> = columns.names().take(12).collect();
    let more = if columns.names().nth(12).is_some() { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// The input, with what belongs to it.
fn question(columns: &mut Columns) -> Result<Option<Side>, Fault> {
    let Some(name) = INPUTS.into_iter().find(|name| columns.has(name)) else { return Ok(None) };
    let Some(value) = columns.take(name) else { return Ok(None) };
    let mut parts = match Side::read(name, &value)? {
        Side::Text(first) => vec![first],
        messages => return Ok(Some(messages)),
    };
    // A text with an output has nothing else.
    for more in MORE.into_iter().filter(|more| *more != name && name != "text") {
        parts.extend(columns.text(more)?);
    }
    parts.retain(|part| !part.is_empty());
    Ok(Some(Side::Text(parts.join("\n"))))
}

/// `prompt` and `completion`: texts as they are, or messages.
fn prompt_and_completion(columns: &mut Columns) -> Result<Row, Fault> {
    let mut side = |name: &str| columns.take(name).map(|value| Side::read(name, &value)).transpose();
    match (side("prompt")?, side("completion")?) {
        (Some(Side::Text(prompt)), Some(Side::Text(completion))) => {
            let beside = SYSTEMS.into_iter().chain(["history", "tools"]);
            let beside = beside.filter(|name| columns.take(name).is_some_and(|value| value.len() != Some(0)));
            match beside.into_iter().next() {
                Some(name) => Err(Fault::new(
                    format!("it has `{name}` beside texts `prompt` and `completion`, which are taken as they are"),
                    "put it into the prompt, or give prompt and completion as lists of messages",
                )),
                None => Ok(Row::Pair(prompt, completion)),
            }
        }
        (Some(prompt), Some(completion)) => {
            let answer = answered("completion", completion.into_messages("assistant"))?;
            Ok(Row::Talk(talk(columns, prompt.into_messages("user"), answer)?))
        }
        _ => Err(Fault::layout("it has no `prompt` and `completion`")),
    }
}

/// `answer`, if an assistant says something in it.
fn answered(name: &str, answer: Vec<Value>) -> Result<Vec<Value>, Fault> {
    match answer.iter().any(|message| role(message) == "assistant") {
        true => Ok(answer),
        false => Err(Fault::layout(format!("`{name}` has no message of an assistant"))),
    }
}

/// A conversation with the row's system message and tools.
fn talk(columns: &mut Columns, mut before: Vec<Value>, answer: Vec<Value>) -> Result<Talk, Fault> {
    let mut system = None;
    for name in SYSTEMS {
        if system.is_none() {
            system = columns.text(name)?.filter(|text| !text.is_empty()).map(|text| (name, text));
        }
    }
    let own = before.first().filter(|first| ["system", "developer"].contains(&role(first).as_str())).map(text_of);
    match (system, own) {
        (Some((_, text)), None) => drop(before.splice(0..0, [message("system", &text)])),
        (Some((name, text)), Some(own)) if own.as_ref() != Some(&text) => {
            let reason = format!("its `{name}` is another than the system message of its conversation");
            return Err(Fault::new(reason, "keep one of them"));
        }
        _ => {}
    }
    let tools = columns.structure("tools")?;
    if let Some(tools) = tools.as_ref().filter(|tools| tools.kind() != ValueKind::Seq) {
        return Err(Fault::new(format!("`tools` is {}, not a list", called(tools)), "tools is a list of JSON schemas"));
    }
    if before.is_empty() {
        return Err(Fault::layout("nothing comes before its answer"));
    }
    let prompt = before.len();
    before.extend(answer);
    Ok(Talk { messages: before, prompt, tools })
}

/// Token ids, without those that a mask leaves out.
fn token_ids(ids: &Value, mask: Option<&Value>) -> Result<Vec<u32>, Fault> {
    let list = |value: &Value| -> Option<Vec<Value>> { Some(value.try_iter().ok()?.collect()) };
    let whole = |value: &Value| value.is_integer().then(|| value.as_usize()).flatten();
    let hint = "input_ids is a list of whole numbers, as a tokenizer gives them";
    let seq = |value: &&Value| value.kind() == ValueKind::Seq;
    let items = Some(ids).filter(seq).and_then(list).ok_or_else(|| Fault::new("`input_ids` is not a list", hint))?;
    let id = |item: &Value| {
        let id = whole(item).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| Fault::new(format!("`{item}` is not a token id"), hint))
    };
    let Some(mask) = mask else { return items.iter().map(id).collect() };
    let kept: Option<Vec<usize>> = Some(mask).filter(seq).and_then(list).and_then(|mask| mask.iter().map(whole).collect());
    let kept = kept.filter(|kept| kept.len() == items.len() && kept.iter().all(|x| *x < 2));
    let kept = kept.ok_or_else(|| Fault::new("`attention_mask` is not as many of 0 and 1 as there are `input_ids`", hint))?;
    items.iter().zip(kept).filter(|(_, kept)| *kept == 1).map(|(item, _)| id(item)).collect()
}
