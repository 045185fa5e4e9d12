//! What cells show, as Jupyter's messages, in the order in which it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dam_prelude::notebook::LIVE;
use jupyter_protocol::media::Media;
use jupyter_protocol::messaging::{
    DisplayData, ErrorOutput, ExecuteResult, ExecutionCount, JupyterMessage, JupyterMessageContent, StreamContent, Transient,
    UpdateDisplayData,
};
use serde_json::{Value, json};

/// How long what a cell wrote may take to arrive after its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a cell failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub name: String,
    pub message: String,
    /// Shown to a person.
    pub lines: Vec<String>,
}

impl Failure {
    /// With a message and the rest below it.
    pub fn new(name: &str, message: &str, rest: &str) -> Self {
        let head = format!("\u{1b}[31m{name}\u{1b}[0m: {message}");
        let lines = std::iter::once(head).chain((!rest.is_empty()).then(|| rest.to_owned())).collect();
        Self { name: name.into(), message: message.into(), lines }
    }
}

/// Sends what the cells say to the cell that runs.
pub struct Output {
    send: Box<dyn Fn(JupyterMessage) + Send + Sync>,
    state: Mutex<State>,
    synced: Condvar,
}

#[derive(Default)]
struct State {
    cell: Option<JupyterMessage>,
    count: usize,
    /// Forms of one thing, by type, until it is known that no more follow.
    pending: BTreeMap<String, Value>,
    /// Live pictures of this cell.
    live: BTreeSet<String>,
    failure: Option<Failure>,
    /// Said before there was a cell.
    notes: String,
    synced: u64,
}

impl Output {
    /// What is to be sent is given to `send`.
    pub fn new(send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Self {
        Self { send: Box::new(send), state: Mutex::default(), synced: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first cell has come: what is said before it can run, as of a prelude that is being built, is said to it.
    pub fn awaits(&self, cell: &JupyterMessage) {
        let mut state = self.state();
        if state.cell.is_none() {
            state.cell = Some(cell.clone());
            let notes = std::mem::take(&mut state.notes);
            if !notes.is_empty() {
                self.publish(&state, StreamContent::stdout(&notes));
            }
        }
    }

    /// What is said from now on belongs to `cell`, the `count`th.
    pub fn begin(&self, cell: &JupyterMessage, count: usize) {
        let mut state = self.state();
        let synced = state.synced;
        *state = State { cell: Some(cell.clone()), count, synced, ..State::default() };
    }

    /// The cell is over, when all that was written before sync `number` has come. Its last thing shown is its result.
    pub fn end(&self, number: Option<u64>) -> Option<Failure> {
        let mut state = self.state();
        if let Some(number) = number {
            let waiting = |state: &mut State| state.synced < number;
            state = self.synced.wait_timeout_while(state, PATIENCE, waiting).unwrap_or_else(PoisonError::into_inner).0;
        }
        let data = std::mem::take(&mut state.pending);
        // A cell that ends with a loop has no result.
        let is_unit = data.len() == 1 && data.get("text/plain").is_some_and(|text| text == "()");
        if !data.is_empty() && !is_unit {
            self.publish(&state, ExecuteResult::new(ExecutionCount::new(state.count), media(json!(data))));
        }
        state.failure.take()
    }

    /// Tells a person something that no cell said: with the cell that runs or waits, or with the first that comes.
    pub fn note(&self, text: &str) {
        let mut state = self.state();
        if state.cell.is_some() {
            self.publish(&state, StreamContent::stdout(text));
        } else {
            state.notes.push_str(text);
        }
    }

    /// Shows something in its forms by type.
    pub fn show(&self, data: &Value) {
        let mut state = self.state();
        self.flush(&mut state);
        let forms = data.as_object().into_iter().flatten().filter(|(_, form)| !form.is_null() && *form != "");
        state.pending = forms.map(|(kind, form)| (kind.clone(), form.clone())).collect();
    }

    /// Takes a message of the process between.
    pub fn take(&self, message: &Value) {
        let mut state = self.state();
        if let Some(kind) = message["block"].as_str() {
            let content = &message["content"];
            if kind == LIVE {
                self.flush(&mut state);
                self.live(&mut state, content.as_str().unwrap_or_default());
                return;
            }
            // A second form of one type is of a second thing.
            if state.pending.contains_key(kind) {
                self.flush(&mut state);
            }
            state.pending.insert(kind.to_owned(), content.clone());
        } else if let Some(text) = message["out"].as_str() {
            self.flush(&mut state);
            self.publish(&state, StreamContent::stdout(text));
        } else if let Some(text) = message["err"].as_str() {
            self.flush(&mut state);
            self.publish(&state, StreamContent::stderr(text));
        } else if let Some(text) = message["failed"].as_str() {
            state.failure = Some(error(text));
        } else if let Some(text) = message["panicked"].as_str() {
            state.failure = Some(panic(text));
        } else if let Some(number) = message["synced"].as_u64() {
            state.synced = number;
            self.synced.notify_all();
        }
    }

    fn live(&self, state: &mut State, content: &str) {
        let Ok(content) = serde_json::from_str::<Value>(content) else { return };
        let (data, id) = (media(content["data"].clone()), content["id"].as_str().unwrap_or_default().to_owned());
        if state.live.insert(id.clone()) {
            let transient = Some(Transient { display_id: Some(id) });
            self.publish(state, DisplayData { transient, ..DisplayData::new(data) });
        } else {
            self.publish(state, UpdateDisplayData::new(data, &id));
        }
    }

    fn flush(&self, state: &mut State) {
        let data = std::mem::take(&mut state.pending);
        if !data.is_empty() {
            self.publish(state, DisplayData::new(media(json!(data))));
        }
    }

    /// Shows why the cell failed.
    pub fn failed(&self, failure: &Failure) {
        let (ename, evalue, traceback) = (failure.name.clone(), failure.message.clone(), failure.lines.clone());
        self.publish(&self.state(), ErrorOutput { ename, evalue, traceback });
    }

    fn publish(&self, state: &State, content: impl Into<JupyterMessageContent>) {
        (self.send)(JupyterMessage::new(content, state.cell.as_ref()));
    }
}

fn media(data: Value) -> Media {
    serde_json::from_value(data).unwrap_or_default()
}

/// The error that a `?` ended a cell with: message and hint, as `Debug` gives them.
fn error(text: &str) -> Failure {
    let (message, rest) = text.trim_end().split_once('\n').unwrap_or((text.trim_end(), ""));
    Failure::new("error", message, rest)
}

/// A panic: its message, where it was, and no backtrace through evcxr.
fn panic(text: &str) -> Failure {
    let text = text.split("stack backtrace:").next().unwrap_or_default();
    let text = text.split("\nnote: ").next().unwrap_or_default().trim();
    let (place, message) = text.split_once('\n').unwrap_or(("", text));
    Failure::new("panic", message.trim(), place.trim())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn output() -> (Output, UnboundedReceiver<JupyterMessage>) {
        let (send, receive) = unbounded_channel();
        (Output::new(move |message| send.send(message).unwrap()), receive)
    }

    fn told(receive: &mut UnboundedReceiver<JupyterMessage>) -> Vec<String> {
        let next = || receive.try_recv().ok().map(|m| format!("{} {}", m.message_type(), json!(m.content)));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn forms_of_one_thing_are_one_message_and_the_last_is_the_result() {
        let (output, mut receive) = output();
        for (kind, content) in [("text/html", "<b>a</b>"), ("text/plain", "a"), ("text/html", "<b>b</b>"), ("text/plain", "b")] {
            output.take(&json!({"block": kind, "content": content}));
        }
        assert_eq!(output.end(None), None);
        let told = told(&mut receive);
        assert!(told[0].starts_with("display_data") && told[0].contains("<b>a</b>") && told[0].contains("\"a\""), "{told:?}");
        assert!(told[1].starts_with("execute_result") && told[1].contains("<b>b</b>"), "{told:?}");
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn what_is_said_before_the_first_cell_runs_is_said_to_it_at_once() {
        let (output, mut receive) = output();
        let cell = JupyterMessage::new(jupyter_protocol::messaging::ExecuteRequest::new("1".into()), None);
        output.note("building; ");
        assert_eq!(told(&mut receive), [] as [&str; 0], "there is no cell yet");
        output.awaits(&cell);
        output.note("this takes minutes");
        let notes: Vec<JupyterMessage> = std::iter::from_fn(|| receive.try_recv().ok()).collect();
        assert!(notes.iter().all(|note| note.parent_header.as_ref().is_some_and(|parent| parent.msg_id == cell.header.msg_id)));
        assert_eq!(
            notes.iter().map(|note| json!(note.content)["text"].clone()).collect::<Vec<_>>(),
            ["building; ", "this takes minutes"]
        );
        output.begin(&cell, 1);
        assert_eq!(told(&mut receive), [] as [&str; 0], "it is not said twice");
    }

    #[test]
    fn a_live_picture_is_shown_once_and_then_changed() {
        let (output, mut receive) = output();
        for text in ["1", "2"] {
            let content = json!({"id": "x", "data": {"text/plain": text}}).to_string();
            output.take(&json!({"block": LIVE, "content": content}));
        }
        let told = told(&mut receive);
        assert!(told[0].starts_with("display_data") && told[1].starts_with("update_display_data"), "{told:?}");
    }

    #[test]
    fn an_error_is_its_message_and_hint_and_a_panic_is_without_backtrace() {
        let failure = error("no such file `x`\nhint: look again\n");
        assert_eq!((failure.message.as_str(), failure.lines[1].as_str()), ("no such file `x`", "hint: look again"));
        let text = "\nthread 'main' (7) panicked at src/lib.rs:3:5:\nindex out of bounds\nstack backtrace:\n   0: a\n";
        let failure = panic(text);
        assert_eq!(failure.message, "index out of bounds");
        assert_eq!(failure.lines[1], "thread 'main' (7) panicked at src/lib.rs:3:5:");
    }
}
