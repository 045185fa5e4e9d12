//! The output of cells, as Jupyter messages in the order in which it was written.
//!
//! Text is buffered for a tenth of a second, as in ipykernel, and sent below the rate limit of
//! Jupyter's server: the server drops messages above it, and with them the value of the cell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dam_prelude::notebook::{COMM, LIVE, PANIC};
use jupyter_protocol::media::Media;
use jupyter_protocol::messaging::{
    ClearOutput, DisplayData, ErrorOutput, ExecuteResult, ExecutionCount, JupyterMessage,
    JupyterMessageContent, StreamContent, Transient, UpdateDisplayData,
};
use serde_json::{Value, json};

use super::failure::{Failure, error, panic};
use super::rate_limit::RateLimit;

/// How long to wait for the rest of a cell's output, while nothing arrives, before giving up.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How long text is buffered.
const BUFFER_TIME: Duration = Duration::from_millis(100);

/// How often the background thread checks whether the output still exists.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// Buffered text of this many bytes is sent at once.
const BUFFER_BYTES: usize = 1 << 16;

/// How long a cell waits before a wait message appears, and how often the message is updated.
const WAIT_DELAY: Duration = Duration::from_millis(1200);
const WAIT_INTERVAL: Duration = Duration::from_secs(2);

/// Sends the output of cells to the cell that is running.
pub struct CellOutput {
    send: Box<dyn Fn(JupyterMessage) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The stream that text was written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// What the cell is waiting for.
struct Wait {
    what: String,
    /// The message shown when the wait is over; none removes the wait message.
    after: Option<String>,
    since: Instant,
    /// The last update of the wait message.
    shown: Option<Instant>,
}

#[derive(Default)]
struct State {
    cell: Option<JupyterMessage>,
    count: usize,
    /// Buffered text: its stream, the text, and when buffering began.
    text: Option<(Stream, String, Instant)>,
    /// The rate limit of text; none for no limit.
    rate_limit: Option<RateLimit>,
    /// The representations of one value by MIME type, until it is known that no more follow.
    pending: BTreeMap<String, Value>,
    /// The display ids of live displays of this cell.
    live: BTreeSet<String>,
    failure: Option<Failure>,
    /// The last panic reported: it ended a thread, and maybe the cell.
    panic: Option<Value>,
    wait: Option<Wait>,
    /// The number of messages of this cell still on display, and the number of waits so far.
    sent: usize,
    waits: usize,
    /// Notes from before the first cell.
    notes: String,
    synced: u64,
    /// When the last message was received.
    last_message: Option<Instant>,
}

impl CellOutput {
    /// An output that passes its messages to `send`.
    pub fn new(send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with(State::default(), send)
    }

    /// The same, with the rate limit of Jupyter's server.
    pub fn paced(send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with(State { rate_limit: Some(RateLimit::default()), ..State::default() }, send)
    }

    fn with(state: State, send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Arc<Self> {
        let output = Arc::new(Self {
            send: Box::new(send),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let weak = Arc::downgrade(&output);
        std::thread::spawn(move || run_background(&weak));
        output
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches notes to the first cell as soon as it is requested, for example while the prelude
    /// is being built.
    pub fn attach(&self, cell: &JupyterMessage) {
        let mut state = self.state();
        if state.cell.is_none() {
            state.cell = Some(cell.clone());
            let notes = std::mem::take(&mut state.notes);
            if !notes.is_empty() {
                self.publish(&mut state, StreamContent::stdout(&notes));
            }
        }
    }

    /// Attaches all further output to `cell`, which has execution count `count`.
    pub fn begin(&self, cell: &JupyterMessage, count: usize) {
        let mut state = self.send_text(self.state());
        let (synced, rate_limit) = (state.synced, state.rate_limit.take());
        *state = State { cell: Some(cell.clone()), count, synced, rate_limit, ..State::default() };
    }

    /// Ends the cell once everything written before sync `number` has arrived. The last value shown
    /// becomes its result.
    pub fn end(&self, number: Option<u64>) -> Option<Failure> {
        let state = self.synced(self.state(), number);
        let mut state = self.send_text(state);
        self.finish_wait(&mut state);
        let data = std::mem::take(&mut state.pending);
        if !is_nothing(&data) {
            let count = ExecutionCount::new(state.count);
            self.publish(&mut state, ExecuteResult::new(count, media(json!(data))));
        }
        state.failure.take()
    }

    /// Whether the cell has failed, judged by what was written before sync `number`.
    pub fn has_failed(&self, number: Option<u64>) -> bool {
        self.synced(self.state(), number).failure.is_some()
    }

    /// Waits until everything written before sync `number` has arrived.
    fn synced<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        number: Option<u64>,
    ) -> MutexGuard<'a, State> {
        state.last_message = Some(Instant::now());
        while let Some(number) = number
            && state.synced < number
            && state.last_message.is_none_or(|last_message| last_message.elapsed() < END_TIMEOUT)
        {
            state = self
                .changed
                .wait_timeout(state, BUFFER_TIME)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        state
    }

    /// Shows a message of the kernel with the current cell, or with the first that comes.
    pub fn note(&self, text: &str) {
        let mut state = self.state();
        if state.cell.is_some() {
            self.send_text_now(&mut state);
            self.publish(&mut state, StreamContent::stdout(text));
        } else {
            state.notes.push_str(text);
        }
    }

    /// Notes that the cell is waiting for `what`, which is shown if it takes long; then shows
    /// `after`, if given.
    pub fn begin_wait(&self, what: &str, after: Option<&str>) {
        let mut state = self.state();
        let after = after.map(str::to_owned);
        match &mut state.wait {
            Some(wait) => (wait.what, wait.after) = (what.to_owned(), after.or(wait.after.take())),
            None => {
                state.wait =
                    Some(Wait { what: what.to_owned(), after, since: Instant::now(), shown: None })
            }
        }
        self.changed.notify_all();
    }

    /// Ends the wait.
    pub fn end_wait(&self) {
        let mut state = self.state();
        self.finish_wait(&mut state);
    }

    /// Shows a value, given as its representations by MIME type.
    pub fn show(&self, data: &Value) {
        let mut state = self.send_text(self.state());
        self.flush(&mut state);
        let forms = data
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, form)| !form.is_null() && *form != "");
        state.pending = forms.map(|(kind, form)| (kind.clone(), form.clone())).collect();
    }

    /// Separates what is shown from now on from what was shown before sync `number`.
    pub fn separate(&self, number: Option<u64>) {
        let state = self.synced(self.state(), number);
        let mut state = self.send_text(state);
        self.flush(&mut state);
    }

    /// Takes the value written before sync `number`, so that it is not shown.
    pub fn take_value(&self, number: Option<u64>) -> Value {
        json!(std::mem::take(&mut self.synced(self.state(), number).pending))
    }

    /// Shows a value that can be updated later by its display id.
    pub fn show_updatable(&self, id: &str, data: &Value) {
        let mut state = self.send_text(self.state());
        self.finish_wait(&mut state);
        let transient = Some(Transient { display_id: Some(id.to_owned()) });
        self.publish(
            &mut state,
            DisplayData { transient, ..DisplayData::new(media(data.clone())) },
        );
    }

    /// Updates the display with this id, in whichever cell it is.
    pub fn update(&self, id: &str, data: &Value) {
        self.publish(&mut self.state(), UpdateDisplayData::new(media(data.clone()), id));
    }

    /// Receives a message from the relay process or from cargo.
    pub fn receive(&self, message: &Value) {
        let mut state = self.state();
        state.last_message = Some(Instant::now());
        if let Some(kind) = message["block"].as_str() {
            let content = &message["content"];
            match kind {
                LIVE => {
                    state = self.send_text(state);
                    self.flush(&mut state);
                    self.show_live(&mut state, content.as_str().unwrap_or_default());
                }
                PANIC => drop(self.report_panic(state, content.as_str().unwrap_or_default())),
                // Without a front end that has widgets, as at the Rust prompt.
                COMM => {}
                _ => {
                    state = self.send_text(state);
                    // A second representation of the same type belongs to a second value.
                    if state.pending.contains_key(kind) {
                        self.flush(&mut state);
                    }
                    state.pending.insert(kind.to_owned(), parsed(kind, content));
                }
            }
        } else if let Some(text) = message["out"].as_str() {
            drop(self.write(state, Stream::Out, text));
        } else if let Some(text) = message["err"].as_str() {
            drop(self.write(state, Stream::Err, text));
        } else if let Some(text) = message["failed"].as_str() {
            state.failure = Some(error(text));
        } else if let Some(text) = message["panicked"].as_str() {
            let report = state.panic.take();
            state.failure = Some(panic(report.as_ref(), text));
            if report.is_some() {
                drop(self.write(state, Stream::Err, text));
            }
        } else if message["runs"] == true {
            self.finish_wait(&mut state);
        } else if let Some(name) = message["building"].as_str() {
            drop(state);
            self.begin_wait(&format!("building {name}"), message["after"].as_str());
        } else if let Some(number) = message["synced"].as_u64() {
            state.synced = number;
            self.changed.notify_all();
        }
    }

    /// Reports a panic. A panic outside the cell's own thread is reported nowhere else.
    fn report_panic<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        content: &str,
    ) -> MutexGuard<'a, State> {
        let Ok(report) = serde_json::from_str::<Value>(content) else { return state };
        let text = match report["thread"].as_str() {
            Some(thread) => {
                let message = report["message"].as_str().unwrap_or_default();
                format!("thread `{thread}` panicked: {message}\n")
            }
            None => String::new(),
        };
        state.panic = Some(report);
        self.write(state, Stream::Err, &text)
    }

    /// Buffers text.
    fn write<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        to: Stream,
        text: &str,
    ) -> MutexGuard<'a, State> {
        if text.is_empty() {
            return state;
        }
        let mut state = match &state.text {
            Some((stream, ..)) if *stream == to => state,
            _ => self.send_text(state),
        };
        self.flush(&mut state);
        self.finish_wait(&mut state);
        let (_, gathered, _) =
            state.text.get_or_insert_with(|| (to, String::new(), Instant::now()));
        gathered.push_str(text);
        if gathered.len() >= BUFFER_BYTES {
            self.send_text(state)
        } else {
            self.changed.notify_all();
            state
        }
    }

    /// Sends buffered text as soon as the rate limit permits. The state may change in the meantime.
    fn send_text<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        loop {
            let State { text, rate_limit, .. } = &mut *state;
            let Some((_, text, _)) = text else { return state };
            let wait = rate_limit
                .as_mut()
                .map_or(Duration::ZERO, |rate_limit| rate_limit.wait(text.len()));
            if wait.is_zero() {
                self.send_text_now(&mut state);
                return state;
            }
            state =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends buffered text now.
    fn send_text_now(&self, state: &mut State) {
        if let Some((stream, text, _)) = state.text.take() {
            if let Some(rate_limit) = &mut state.rate_limit {
                rate_limit.sent(text.len());
            }
            match stream {
                Stream::Out => self.publish(state, StreamContent::stdout(&text)),
                Stream::Err => self.publish(state, StreamContent::stderr(&text)),
            }
        }
    }

    fn show_live(&self, state: &mut State, content: &str) {
        let Ok(content) = serde_json::from_str::<Value>(content) else { return };
        let (id, data) =
            (content["id"].as_str().unwrap_or_default(), media(content["data"].clone()));
        if content["update"] == true {
            // Of an earlier cell.
            self.publish(state, UpdateDisplayData::new(data, id))
        } else {
            self.show_display(state, id, data)
        }
    }

    /// Shows a live display, or updates it.
    fn show_display(&self, state: &mut State, id: &str, data: Media) {
        if state.live.insert(id.to_owned()) {
            let transient = Some(Transient { display_id: Some(id.to_owned()) });
            self.publish(state, DisplayData { transient, ..DisplayData::new(data) });
        } else {
            self.publish(state, UpdateDisplayData::new(data, id));
        }
    }

    /// Shows or updates the wait message, if it is due.
    fn show_wait(&self, state: &mut State) {
        let Some(wait) = &mut state.wait else { return };
        let is_time = match wait.shown {
            None => wait.since.elapsed() >= WAIT_DELAY,
            Some(shown) => shown.elapsed() >= WAIT_INTERVAL,
        };
        if is_time {
            wait.shown = Some(Instant::now());
            let text = format!("{} ({:.0} s)", wait.what, wait.since.elapsed().as_secs_f64());
            let id = wait_id(state);
            self.send_text_now(state);
            self.show_display(state, &id, media(json!({"text/plain": text})));
        }
    }

    /// Ends the wait: removes the wait message, or replaces it with the final one.
    fn finish_wait(&self, state: &mut State) {
        let Some(wait) = state.wait.take() else { return };
        if wait.shown.is_some() || wait.after.is_some() {
            self.send_text_now(state);
        }
        let id = wait_id(state);
        state.waits += 1;
        let seconds = wait.since.elapsed().as_secs_f64();
        match (wait.shown, wait.after) {
            (None, None) => {}
            (_, Some(after)) => self.show_display(
                state,
                &id,
                media(json!({"text/plain": format!("{after} ({seconds:.1} s)")})),
            ),
            (Some(_), None) if state.sent == state.live.len() && state.live.len() == 1 => {
                state.live.clear();
                self.publish(state, ClearOutput { wait: false });
                state.sent = 0;
            }
            (Some(_), None) => self.show_display(state, &id, media(json!({"text/plain": ""}))),
        }
    }

    fn flush(&self, state: &mut State) {
        let data = std::mem::take(&mut state.pending);
        if !is_nothing(&data) {
            self.publish(state, DisplayData::new(media(json!(data))));
        }
    }

    /// Shows the failure of the cell.
    pub fn failed(&self, failure: &Failure) {
        let (ename, evalue, traceback) =
            (failure.name.clone(), failure.message.clone(), failure.lines.clone());
        let mut state = self.send_text(self.state());
        self.publish(&mut state, ErrorOutput { ename, evalue, traceback });
    }

    /// Sends a comm message, which adds nothing to the display. Its parent is the cell, so that
    /// programs that execute notebooks know the widgets of each cell.
    pub fn publish_comm(&self, content: JupyterMessageContent, metadata: Value) {
        let state = self.state();
        let message = JupyterMessage::new(content, state.cell.as_ref()).with_metadata(metadata);
        (self.send)(message);
    }

    fn publish(&self, state: &mut State, content: impl Into<JupyterMessageContent>) {
        let message = JupyterMessage::new(content, state.cell.as_ref());
        // An update adds nothing to the display.
        state.sent += usize::from(message.message_type() != "update_display_data");
        (self.send)(message);
    }
}

/// The background thread: sends buffered text and updates wait messages for as long as the output
/// exists.
fn run_background(output: &Weak<CellOutput>) {
    while let Some(output) = output.upgrade() {
        let state = output.state();
        let timeout =
            if state.text.is_some() || state.wait.is_some() { BUFFER_TIME } else { IDLE_INTERVAL };
        let mut state =
            output.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
        if let Some(left) =
            state.text.as_ref().and_then(|(.., since)| BUFFER_TIME.checked_sub(since.elapsed()))
        {
            // Whether or not it has been sent meanwhile, the buffering time is over then.
            drop(state);
            std::thread::sleep(left);
            state = output.state();
        }
        state = output.send_text(state);
        output.show_wait(&mut state);
    }
}

/// The display id of the wait message.
fn wait_id(state: &State) -> String {
    let cell = state.cell.as_ref().map_or("", |cell| cell.header.msg_id.as_str());
    format!("dam-wait-{cell}-{}", state.waits)
}

/// Whether there is nothing to show: the value of a cell that ends with a loop is `()`.
fn is_nothing(data: &BTreeMap<String, Value>) -> bool {
    data.is_empty() || data.len() == 1 && data.get("text/plain").is_some_and(|text| text == "()")
}

/// The content of a block: JSON is parsed if its type says that it is JSON.
fn parsed(kind: &str, content: &Value) -> Value {
    let is_json = kind.ends_with("+json") || kind == "application/json";
    let json =
        content.as_str().filter(|_| is_json).and_then(|text| serde_json::from_str(text).ok());
    json.unwrap_or_else(|| content.clone())
}

fn media(data: Value) -> Media {
    serde_json::from_value(data).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn output() -> (Arc<CellOutput>, UnboundedReceiver<JupyterMessage>) {
        let (send, receive) = unbounded_channel();
        (CellOutput::new(move |message| send.send(message).unwrap()), receive)
    }

    fn sent(receive: &mut UnboundedReceiver<JupyterMessage>) -> Vec<String> {
        let next = || {
            receive.try_recv().ok().map(|m| format!("{} {}", m.message_type(), json!(m.content)))
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn representations_of_one_value_are_one_message_and_the_last_is_the_result() {
        let (output, mut receive) = output();
        for (kind, content) in [
            ("text/html", "<b>a</b>"),
            ("text/plain", "a"),
            ("text/html", "<b>b</b>"),
            ("text/plain", "b"),
        ] {
            output.receive(&json!({"block": kind, "content": content}));
        }
        assert_eq!(output.end(None), None);
        let sent = sent(&mut receive);
        assert!(
            sent[0].starts_with("display_data")
                && sent[0].contains("<b>a</b>")
                && sent[0].contains("\"a\""),
            "{sent:?}"
        );
        assert!(sent[1].starts_with("execute_result") && sent[1].contains("<b>b</b>"), "{sent:?}");
        assert_eq!(sent.len(), 2);
    }

    #[test]
    fn notes_before_the_first_cell_runs_are_attached_to_it_at_once() {
        let (output, mut receive) = output();
        let cell =
            JupyterMessage::new(jupyter_protocol::messaging::ExecuteRequest::new("1".into()), None);
        output.note("building; ");
        assert_eq!(sent(&mut receive), [] as [&str; 0], "there is no cell yet");
        output.attach(&cell);
        output.note("this takes minutes");
        let notes: Vec<JupyterMessage> = std::iter::from_fn(|| receive.try_recv().ok()).collect();
        assert!(notes.iter().all(|note| {
            note.parent_header.as_ref().is_some_and(|parent| parent.msg_id == cell.header.msg_id)
        }));
        assert_eq!(
            notes.iter().map(|note| json!(note.content)["text"].clone()).collect::<Vec<_>>(),
            ["building; ", "this takes minutes"]
        );
        output.begin(&cell, 1);
        assert_eq!(sent(&mut receive), [] as [&str; 0], "notes are not repeated");
    }

    #[test]
    fn a_live_display_is_shown_once_and_then_updated() {
        let (output, mut receive) = output();
        for text in ["1", "2"] {
            let content = json!({"id": "x", "data": {"text/plain": text}}).to_string();
            output.receive(&json!({"block": LIVE, "content": content}));
        }
        let sent = sent(&mut receive);
        assert!(
            sent[0].starts_with("display_data") && sent[1].starts_with("update_display_data"),
            "{sent:?}"
        );
    }

    #[test]
    fn text_is_buffered_and_arrives_in_order() {
        let (output, mut receive) = output();
        for i in 0..1000 {
            output.receive(&json!({"out": format!("{i}\n")}));
        }
        output.receive(&json!({"err": "a warning\n"}));
        output.receive(&json!({"block": "text/plain", "content": "7"}));
        assert_eq!(output.end(None), None);
        let sent = sent(&mut receive);
        let kinds: Vec<&str> = sent.iter().map(|sent| sent.split(' ').next().unwrap()).collect();
        let streams = kinds.iter().filter(|kind| **kind == "stream").count();
        assert!((2..6).contains(&streams) && kinds.last() == Some(&"execute_result"), "{kinds:?}");
        assert!(
            sent[0].contains("0\\n1\\n2\\n") && sent[streams - 1].contains("a warning"),
            "{sent:?}"
        );
    }

    #[test]
    fn buffered_text_is_sent_without_further_output() {
        let (output, mut receive) = output();
        output.receive(&json!({"out": "one"}));
        let begin = Instant::now();
        while sent(&mut receive).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(begin.elapsed() >= BUFFER_TIME / 2);
    }

    #[test]
    fn a_wait_message_appears_within_two_seconds_and_is_removed() {
        let (output, mut receive) = output();
        output.begin_wait("compiling", None);
        output.end_wait();
        assert_eq!(sent(&mut receive), [] as [&str; 0], "a short wait has no message");
        output.begin_wait("compiling", None);
        std::thread::sleep(Duration::from_millis(1900));
        let messages = sent(&mut receive);
        assert!(
            messages[0].starts_with("display_data") && messages[0].contains("compiling ("),
            "{messages:?}"
        );
        output.receive(&json!({"runs": true}));
        assert!(sent(&mut receive)[0].starts_with("clear_output"));
        // Output that is already there is not removed with it.
        output.receive(&json!({"out": "kept"}));
        output.begin_wait("compiling", Some("compiled"));
        output.end_wait();
        let messages = sent(&mut receive).join("\n");
        assert!(
            messages.contains("kept")
                && messages.contains("compiled (")
                && !messages.contains("clear_output"),
            "{messages}"
        );
    }

    #[test]
    fn a_panic_in_another_thread_is_reported_and_does_not_end_the_cell() {
        let (output, mut receive) = output();
        let report = json!({"message": "boom", "thread": "worker", "file": "src/lib.rs", "line": 3, "column": 5}).to_string();
        output.receive(&json!({"block": PANIC, "content": report}));
        assert_eq!(output.end(None), None);
        assert!(sent(&mut receive)[0].contains("thread `worker` panicked: boom"));
    }
}
