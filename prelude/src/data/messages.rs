//! Reads messages: `{role, content}` as in transformers and OpenAI, `{from, value}` as in ShareGPT,
//! and `history` as pairs of question and answer. The result is what chat templates receive:
//! objects with all their keys.

use minijinja::value::{Value, ValueKind};

use super::chat::{message, role};
use super::columns::{text, type_name};
use super::row_error::RowError;

/// The hint that describes a message.
const MESSAGE: &str = "a message is {\"role\": \"user\", \"content\": \"...\"}, and the last assistant message is the answer";

/// Keys under which templates look for the reasoning of a message, the most common first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Whether `value` is a message, or a list of them.
pub(super) fn are_messages(value: &Value) -> bool {
    let is_object = |value: &Value| value.kind() == ValueKind::Map;
    is_object(value)
        || value.kind() == ValueKind::Seq
            && value.try_iter().is_ok_and(|mut items| items.any(|m| is_object(&m)))
}

/// The messages of the column `name`: a list of them, or one.
pub(super) fn messages(name: &str, list: &Value) -> Result<Vec<Value>, RowError> {
    match (list.kind(), list.try_iter()) {
        (ValueKind::Map, _) => Ok(vec![normalize(name, list)?]),
        (ValueKind::Seq, Ok(items)) => items.map(|item| normalize(name, &item)).collect(),
        _ => Err(RowError::new(format!("`{name}` is {}, not a list", type_name(list)), MESSAGE)),
    }
}

/// Splits a conversation at its last answer, and drops what follows: the messages before it, and
/// the answer.
pub(super) fn split_at_answer(
    name: &str,
    list: &Value,
) -> Result<(Vec<Value>, Vec<Value>), RowError> {
    let mut before = messages(name, list)?;
    match before.iter().rposition(|message| role(message) == "assistant") {
        Some(last) if last > 0 => {
            before.truncate(last + 1);
            let answer = before.split_off(last);
            Ok((before, answer))
        }
        _ => Err(RowError::new(
            format!("`{name}` has no assistant message after a question"),
            MESSAGE,
        )),
    }
}

/// Earlier turns: `[[question, answer], ...]`, or messages.
pub(super) fn history(list: &Value) -> Result<Vec<Value>, RowError> {
    let hint = "history is [[question, answer], ...] or a list of messages";
    let bad = |value: &Value| {
        RowError::new(
            format!("`history` contains {} instead of a pair of texts", type_name(value)),
            hint,
        )
    };
    let Some(items) = Some(list)
        .filter(|list| list.kind() == ValueKind::Seq)
        .and_then(|list| list.try_iter().ok())
    else {
        return Err(RowError::new(format!("`history` is {}, not a list", type_name(list)), hint));
    };
    let mut turns = Vec::new();
    for item in items {
        let pair: Vec<Value> = match item.kind() {
            ValueKind::Map => {
                turns.push(normalize("history", &item)?);
                continue;
            }
            ValueKind::Seq => {
                item.try_iter().map(|pair| pair.take(3).collect()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let [question, answer] = pair.as_slice() else { return Err(bad(&item)) };
        turns.push(message("user", &text("history", question)?));
        turns.push(message("assistant", &text("history", answer)?));
    }
    Ok(turns)
}

/// Normalizes a message for templates: drops null keys and stores the reasoning under every known
/// key.
fn normalize(name: &str, raw: &Value) -> Result<Value, RowError> {
    let bad = |reason: String| RowError::new(format!("`{name}` has {reason}"), MESSAGE);
    if raw.kind() != ValueKind::Map {
        return Err(bad(format!("{} instead of a message", type_name(raw))));
    }
    let get = |key: &str| {
        raw.get_attr(key).ok().filter(|value| !value.is_undefined() && !value.is_none())
    };
    let is_shared = get("role").is_none();
    let raw_role = get("role")
        .or_else(|| get("from"))
        .ok_or_else(|| bad("a message without a role".into()))?;
    let raw_role = raw_role
        .as_str()
        .ok_or_else(|| bad(format!("a message whose role is {}", type_name(&raw_role))))?
        .to_owned();
    let role = match raw_role.as_str() {
        "human" => "user",
        "gpt" => "assistant",
        "chatgpt" | "bing" | "bard" | "function_call" if is_shared => "assistant",
        "observation" | "function_response" if is_shared => "tool",
        role => role,
    };
    let content = get("content").or_else(|| get("value"));
    let mut message = vec![("role".to_owned(), Value::from(role))];
    match content {
        Some(content) if is_shared && raw_role == "function_call" => {
            message.push(("tool_calls".into(), calls(name, &content)?))
        }
        Some(content) => {
            parts(name, &content)?;
            message.push(("content".into(), content));
        }
        None if ["tool_calls", "function_call"]
            .into_iter()
            .chain(REASONING)
            .any(|key| get(key).is_some()) => {}
        None => return Err(bad(format!("a message of `{raw_role}` without content"))),
    }
    let keys =
        raw.try_iter().into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned));
    let others = keys.filter(|key| !["role", "from", "content", "value"].contains(&key.as_str()));
    let others: Vec<(String, Value)> =
        others.filter_map(|key| Some((key.clone(), get(&key)?))).collect();
    message.extend(others);
    if let Some(reasoning) = REASONING.into_iter().find_map(get) {
        message.retain(|(key, _)| key != REASONING[0]);
        message.push((REASONING[0].into(), reasoning.clone()));
        if get(REASONING[1]).is_none() {
            message.push((REASONING[1].into(), reasoning));
        }
    }
    Ok(Value::from_pairs(message))
}

/// Converts the JSON text of ShareGPT's `function_call` into tool calls as in transformers.
fn calls(name: &str, text: &Value) -> Result<Value, RowError> {
    let hint = "write it as JSON: {\"name\": ..., \"arguments\": {...}}";
    let read: Option<Value> = text.as_str().and_then(|json| serde_json::from_str(json).ok());
    let listed =
        read.map(|call| if call.kind() == ValueKind::Seq { call } else { Value::from(vec![call]) });
    let function = |call: Value| -> Option<Value> {
        call.get_attr("name").ok().filter(|name| name.as_str().is_some())?;
        Some(Value::from_pairs([("type", Value::from("function")), ("function", call)]))
    };
    let calls: Option<Vec<Value>> =
        listed.and_then(|list| list.try_iter().ok()?.map(function).collect());
    let bad =
        || RowError::new(format!("`{name}` has a `function_call` without a function name"), hint);
    calls.filter(|calls| !calls.is_empty()).map(Value::from).ok_or_else(bad)
}

/// Returns an error for content with parts that are not text.
fn parts(name: &str, content: &Value) -> Result<(), RowError> {
    let hint = "only text is supported: write parts as {\"type\": \"text\", \"text\": ...}, and remove rows with images or audio";
    for part in Some(content)
        .filter(|content| content.kind() == ValueKind::Seq)
        .and_then(|c| c.try_iter().ok())
        .into_iter()
        .flatten()
    {
        let get =
            |key: &str| part.get_attr(key).ok().and_then(|value| value.as_str().map(str::to_owned));
        match (get("type").as_deref(), get("text")) {
            (None | Some("text"), Some(_)) => {}
            (Some("text") | None, None) => {
                return Err(RowError::new(format!("`{name}` has a part without text"), hint));
            }
            (Some(kind), _) => {
                return Err(RowError::new(format!("`{name}` has a part of type `{kind}`"), hint));
            }
        }
    }
    Ok(())
}
