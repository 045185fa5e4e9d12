//! Messages as rows have them: `{role, content}` as transformers and OpenAI write them, `{from, value}` as ShareGPT
//! does, and `history` as pairs of a question and its answer. What comes of them is what a chat template is given:
//! objects with all their keys.

use minijinja::value::{Value, ValueKind};

use super::chat::{message, role};
use super::columns::{Fault, called, text};

/// What a message looks like.
const MESSAGE: &str = "a message is {\"role\": \"user\", \"content\": \"...\"}, and the last one of the assistant is the answer";

/// What templates call the reasoning of a message, the first as most do.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Whether `value` is a message, or a list of them.
pub(super) fn are_messages(value: &Value) -> bool {
    let is_object = |value: &Value| value.kind() == ValueKind::Map;
    is_object(value) || value.kind() == ValueKind::Seq && value.try_iter().is_ok_and(|mut items| items.any(|m| is_object(&m)))
}

/// The messages of the column `name`: a list of them, or one.
pub(super) fn messages(name: &str, list: &Value) -> Result<Vec<Value>, Fault> {
    match (list.kind(), list.try_iter()) {
        (ValueKind::Map, _) => Ok(vec![one(name, list)?]),
        (ValueKind::Seq, Ok(items)) => items.map(|item| one(name, &item)).collect(),
        _ => Err(Fault::new(format!("`{name}` is {}, not a list", called(list)), MESSAGE)),
    }
}

/// The messages of a conversation up to its last answer, in two: all before it, and it.
pub(super) fn conversation(name: &str, list: &Value) -> Result<(Vec<Value>, Vec<Value>), Fault> {
    let mut before = messages(name, list)?;
    match before.iter().rposition(|message| role(message) == "assistant") {
        Some(last) if last > 0 => {
            before.truncate(last + 1);
            let answer = before.split_off(last);
            Ok((before, answer))
        }
        _ => Err(Fault::new(format!("`{name}` has no answer of an assistant after a question"), MESSAGE)),
    }
}

/// Earlier turns: `[[question, answer], ...]`, or messages.
pub(super) fn history(list: &Value) -> Result<Vec<Value>, Fault> {
    let hint = "history is [[question, answer], ...] or a list of messages";
    let bad = |value: &Value| Fault::new(format!("`history` has {} where a pair of texts is expected", called(value)), hint);
    let Some(items) = Some(list).filter(|list| list.kind() == ValueKind::Seq).and_then(|list| list.try_iter().ok()) else {
        return Err(Fault::new(format!("`history` is {}, not a list", called(list)), hint));
    };
    let mut turns = Vec::new();
    for item in items {
        let pair: Vec<Value> = match item.kind() {
            ValueKind::Map => {
                turns.push(one("history", &item)?);
                continue;
            }
            ValueKind::Seq => item.try_iter().map(|pair| pair.take(3).collect()).unwrap_or_default(),
            _ => Vec::new(),
        };
        let [question, answer] = pair.as_slice() else { return Err(bad(&item)) };
        turns.push(message("user", &text("history", question)?));
        turns.push(message("assistant", &text("history", answer)?));
    }
    Ok(turns)
}

/// A message as a template is given it: without what is null, its reasoning under each name that templates know.
fn one(name: &str, given: &Value) -> Result<Value, Fault> {
    let bad = |reason: String| Fault::new(format!("`{name}` has {reason}"), MESSAGE);
    if given.kind() != ValueKind::Map {
        return Err(bad(format!("{} where a message is expected", called(given))));
    }
    let get = |key: &str| given.get_attr(key).ok().filter(|value| !value.is_undefined() && !value.is_none());
    let is_shared = get("role").is_none();
    let said = get("role").or_else(|| get("from")).ok_or_else(|| bad("a message without role".into()))?;
    let said = said.as_str().ok_or_else(|| bad(format!("a message whose role is {}", called(&said))))?.to_owned();
    let role = match said.as_str() {
        "human" => "user",
        "gpt" => "assistant",
        "chatgpt" | "bing" | "bard" | "function_call" if is_shared => "assistant",
        "observation" | "function_response" if is_shared => "tool",
        role => role,
    };
    let content = get("content").or_else(|| get("value"));
    let mut message = vec![("role".to_owned(), Value::from(role))];
    match content {
        Some(content) if is_shared && said == "function_call" => message.push(("tool_calls".into(), calls(name, &content)?)),
        Some(content) => {
            parts(name, &content)?;
            message.push(("content".into(), content));
        }
        None if ["tool_calls", "function_call"].into_iter().chain(REASONING).any(|key| get(key).is_some()) => {}
        None => return Err(bad(format!("a message of `{said}` without content"))),
    }
    let keys = given.try_iter().into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned));
    let others = keys.filter(|key| !["role", "from", "content", "value"].contains(&key.as_str()));
    let others: Vec<(String, Value)> = others.filter_map(|key| Some((key.clone(), get(&key)?))).collect();
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

/// The calls that ShareGPT's `function_call` writes as JSON, as transformers has them.
fn calls(name: &str, text: &Value) -> Result<Value, Fault> {
    let hint = "write it as JSON: {\"name\": ..., \"arguments\": {...}}";
    let read: Option<Value> = text.as_str().and_then(|json| serde_json::from_str(json).ok());
    let listed = read.map(|call| if call.kind() == ValueKind::Seq { call } else { Value::from(vec![call]) });
    let function = |call: Value| -> Option<Value> {
        call.get_attr("name").ok().filter(|name| name.as_str().is_some())?;
        Some(Value::from_pairs([("type", Value::from("function")), ("function", call)]))
    };
    let calls: Option<Vec<Value>> = listed.and_then(|list| list.try_iter().ok()?.map(function).collect());
    let bad = || Fault::new(format!("`{name}` has a `function_call` that names no function"), hint);
    calls.filter(|calls| !calls.is_empty()).map(Value::from).ok_or_else(bad)
}

/// Refuses content with parts that are not text.
fn parts(name: &str, content: &Value) -> Result<(), Fault> {
    let hint = "only text is read: give parts as {\"type\": \"text\", \"text\": ...}, and leave out rows with pictures or sound";
    for part in
        Some(content).filter(|content| content.kind() == ValueKind::Seq).and_then(|c| c.try_iter().ok()).into_iter().flatten()
    {
        let get = |key: &str| part.get_attr(key).ok().and_then(|value| value.as_str().map(str::to_owned));
        match (get("type").as_deref(), get("text")) {
            (None | Some("text"), Some(_)) => {}
            (Some("text") | None, None) => return Err(Fault::new(format!("`{name}` has a part without text"), hint)),
            (Some(kind), _) => return Err(Fault::new(format!("`{name}` has a part of type `{kind}`"), hint)),
        }
    }
    Ok(())
}
