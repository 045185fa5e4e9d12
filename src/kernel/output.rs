//! What cells show, as Jupyter's messages, in the order in which it was written.
//!
//! Text is gathered for a tenth of a second, as ipykernel does, and sent no faster than Jupyter's server takes it: what
//! comes faster it drops, and with it the value of the cell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dam_prelude::notebook::{LIVE, PANIC};
use jupyter_protocol::media::Media;
use jupyter_protocol::messaging::{
    ClearOutput, DisplayData, ErrorOutput, ExecuteResult, ExecutionCount, JupyterMessage, JupyterMessageContent, StreamContent,
    Transient, UpdateDisplayData,
};
use serde_json::{Value, json};

use super::failure::{Failure, error, panic};
use super::pace::Pace;

/// How long nothing of what a cell wrote may arrive after its end until the rest is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long text waits for more.
const GATHER: Duration = Duration::from_millis(100);

/// How often it is looked whether an output is still there.
const IDLE: Duration = Duration::from_secs(2);

/// Text of this many bytes waits for no more.
const ENOUGH: usize = 1 << 16;

/// How long a cell waits until it says for what, and how often it then says how long.
const QUIET: Duration = Duration::from_millis(1200);
const AGAIN: Duration = Duration::from_secs(2);

/// Sends what the cells say to the cell that runs.
pub struct Output {
    send: Box<dyn Fn(JupyterMessage) + Send + Sync>,
    state: Mutex<State>,
    changed: Condvar,
}

/// Where text is written to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// What a cell waits for.
struct Wait {
    what: String,
    /// What is said when it is over; nothing: what was said goes away.
    after: Option<String>,
    since: Instant,
    /// When it was said last.
    said: Option<Instant>,
}

#[derive(Default)]
struct State {
    cell: Option<JupyterMessage>,
    count: usize,
    /// Text that is gathered, since when, and what it is written to.
    text: Option<(Stream, String, Instant)>,
    /// How fast text may be sent; none: as fast as it comes.
    pace: Option<Pace>,
    /// Forms of one thing, by type, until it is known that no more follow.
    pending: BTreeMap<String, Value>,
    /// Live pictures of this cell.
    live: BTreeSet<String>,
    failure: Option<Failure>,
    /// The panic that was said last: it ended a thread, and maybe the cell.
    panic: Option<Value>,
    wait: Option<Wait>,
    /// How many messages of this cell were sent that it has not taken back, and how often it waited.
    sent: usize,
    waits: usize,
    /// Said before there was a cell.
    notes: String,
    synced: u64,
    /// When something was heard last.
    heard: Option<Instant>,
}

impl Output {
    /// What is to be sent is given to `send`.
    pub fn new(send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with(State::default(), send)
    }

    /// The same for a server that drops text which comes too fast.
    pub fn paced(send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Arc<Self> {
        Self::with(State { pace: Some(Pace::default()), ..State::default() }, send)
    }

    fn with(state: State, send: impl Fn(JupyterMessage) + Send + Sync + 'static) -> Arc<Self> {
        let output = Arc::new(Self { send: Box::new(send), state: Mutex::new(state), changed: Condvar::new() });
        let weak = Arc::downgrade(&output);
        std::thread::spawn(move || tend(&weak));
        output
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
                self.publish(&mut state, StreamContent::stdout(&notes));
            }
        }
    }

    /// What is said from now on belongs to `cell`, the `count`th.
    pub fn begin(&self, cell: &JupyterMessage, count: usize) {
        let mut state = self.drained(self.state());
        let (synced, pace) = (state.synced, state.pace.take());
        *state = State { cell: Some(cell.clone()), count, synced, pace, ..State::default() };
    }

    /// The cell is over, when all that was written before sync `number` has come. Its last thing shown is its result.
    pub fn end(&self, number: Option<u64>) -> Option<Failure> {
        let state = self.synced(self.state(), number);
        let mut state = self.drained(state);
        self.waited(&mut state);
        let data = std::mem::take(&mut state.pending);
        if !is_nothing(&data) {
            let count = ExecutionCount::new(state.count);
            self.publish(&mut state, ExecuteResult::new(count, media(json!(data))));
        }
        state.failure.take()
    }

    /// Whether what was written before sync `number` says that the cell failed.
    pub fn has_failed(&self, number: Option<u64>) -> bool {
        self.synced(self.state(), number).failure.is_some()
    }

    /// Waits until all that was written before sync `number` has come.
    fn synced<'a>(&'a self, mut state: MutexGuard<'a, State>, number: Option<u64>) -> MutexGuard<'a, State> {
        state.heard = Some(Instant::now());
        while let Some(number) = number
            && state.synced < number
            && state.heard.is_none_or(|heard| heard.elapsed() < PATIENCE)
        {
            state = self.changed.wait_timeout(state, GATHER).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Tells a person something that no cell said: with the cell that runs or waits, or with the first that comes.
    pub fn note(&self, text: &str) {
        let mut state = self.state();
        if state.cell.is_some() {
            self.text(&mut state);
            self.publish(&mut state, StreamContent::stdout(text));
        } else {
            state.notes.push_str(text);
        }
    }

    /// The cell waits for `what` from now on, which is said if it takes long, and `after` it, if there is something to
    /// say then.
    pub fn waits(&self, what: &str, after: Option<&str>) {
        let mut state = self.state();
        let after = after.map(str::to_owned);
        match &mut state.wait {
            Some(wait) => (wait.what, wait.after) = (what.to_owned(), after.or(wait.after.take())),
            None => state.wait = Some(Wait { what: what.to_owned(), after, since: Instant::now(), said: None }),
        }
        self.changed.notify_all();
    }

    /// The cell waits no more.
    pub fn goes_on(&self) {
        let mut state = self.state();
        self.waited(&mut state);
    }

    /// Shows something in its forms by type.
    pub fn show(&self, data: &Value) {
        let mut state = self.drained(self.state());
        self.flush(&mut state);
        let forms = data.as_object().into_iter().flatten().filter(|(_, form)| !form.is_null() && *form != "");
        state.pending = forms.map(|(kind, form)| (kind.clone(), form.clone())).collect();
    }

    /// What is said from now on is another thing than what was said before sync `number`.
    pub fn apart(&self, number: Option<u64>) {
        let state = self.synced(self.state(), number);
        let mut state = self.drained(state);
        self.flush(&mut state);
    }

    /// The thing that was said before sync `number`, which is not shown then.
    pub fn taken(&self, number: Option<u64>) -> Value {
        json!(std::mem::take(&mut self.synced(self.state(), number).pending))
    }

    /// Shows something that may be changed later, by its name.
    pub fn show_as(&self, id: &str, data: &Value) {
        let mut state = self.drained(self.state());
        self.waited(&mut state);
        let transient = Some(Transient { display_id: Some(id.to_owned()) });
        self.publish(&mut state, DisplayData { transient, ..DisplayData::new(media(data.clone())) });
    }

    /// Changes what is shown by this name, wherever it is.
    pub fn change(&self, id: &str, data: &Value) {
        self.publish(&mut self.state(), UpdateDisplayData::new(media(data.clone()), id));
    }

    /// Takes a message of the process between, or of cargo.
    pub fn take(&self, message: &Value) {
        let mut state = self.state();
        state.heard = Some(Instant::now());
        if let Some(kind) = message["block"].as_str() {
            let content = &message["content"];
            match kind {
                LIVE => {
                    state = self.drained(state);
                    self.flush(&mut state);
                    self.live(&mut state, content.as_str().unwrap_or_default());
                }
                PANIC => drop(self.panics(state, content.as_str().unwrap_or_default())),
                _ => {
                    state = self.drained(state);
                    // A second form of one type is of a second thing.
                    if state.pending.contains_key(kind) {
                        self.flush(&mut state);
                    }
                    state.pending.insert(kind.to_owned(), content.clone());
                }
            }
        } else if let Some(text) = message["out"].as_str() {
            drop(self.write(state, Stream::Out, text));
        } else if let Some(text) = message["err"].as_str() {
            drop(self.write(state, Stream::Err, text));
        } else if let Some(text) = message["failed"].as_str() {
            state.failure = Some(error(text));
        } else if let Some(text) = message["panicked"].as_str() {
            let said = state.panic.take();
            state.failure = Some(panic(said.as_ref(), text));
            if said.is_some() {
                drop(self.write(state, Stream::Err, text));
            }
        } else if message["runs"] == true {
            self.waited(&mut state);
        } else if let Some(name) = message["building"].as_str() {
            drop(state);
            self.waits(&format!("building {name}"), message["after"].as_str());
        } else if let Some(number) = message["synced"].as_u64() {
            state.synced = number;
            self.changed.notify_all();
        }
    }

    /// A thread has panicked. Of one that is not the cell's nobody else tells.
    fn panics<'a>(&'a self, mut state: MutexGuard<'a, State>, content: &str) -> MutexGuard<'a, State> {
        let Ok(said) = serde_json::from_str::<Value>(content) else { return state };
        let text = match said["thread"].as_str() {
            Some(thread) => {
                let message = said["message"].as_str().unwrap_or_default();
                format!("thread `{thread}` panicked: {message}\n")
            }
            None => String::new(),
        };
        state.panic = Some(said);
        self.write(state, Stream::Err, &text)
    }

    /// Gathers text.
    fn write<'a>(&'a self, state: MutexGuard<'a, State>, to: Stream, text: &str) -> MutexGuard<'a, State> {
        if text.is_empty() {
            return state;
        }
        let mut state = match &state.text {
            Some((stream, ..)) if *stream == to => state,
            _ => self.drained(state),
        };
        self.flush(&mut state);
        self.waited(&mut state);
        let (_, gathered, _) = state.text.get_or_insert_with(|| (to, String::new(), Instant::now()));
        gathered.push_str(text);
        match gathered.len() >= ENOUGH {
            true => self.drained(state),
            false => {
                self.changed.notify_all();
                state
            }
        }
    }

    /// Sends the text that was gathered, as soon as it may be sent. Meanwhile others may change the state.
    fn drained<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        loop {
            let State { text, pace, .. } = &mut *state;
            let Some((_, text, _)) = text else { return state };
            let wait = pace.as_mut().map_or(Duration::ZERO, |pace| pace.wait(text.len()));
            if wait.is_zero() {
                self.text(&mut state);
                return state;
            }
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends the text that was gathered, now.
    fn text(&self, state: &mut State) {
        if let Some((stream, text, _)) = state.text.take() {
            if let Some(pace) = &mut state.pace {
                pace.sent(text.len());
            }
            match stream {
                Stream::Out => self.publish(state, StreamContent::stdout(&text)),
                Stream::Err => self.publish(state, StreamContent::stderr(&text)),
            }
        }
    }

    fn live(&self, state: &mut State, content: &str) {
        let Ok(content) = serde_json::from_str::<Value>(content) else { return };
        self.display(state, content["id"].as_str().unwrap_or_default(), media(content["data"].clone()));
    }

    /// Shows something that changes, or changes it.
    fn display(&self, state: &mut State, id: &str, data: Media) {
        if state.live.insert(id.to_owned()) {
            let transient = Some(Transient { display_id: Some(id.to_owned()) });
            self.publish(state, DisplayData { transient, ..DisplayData::new(data) });
        } else {
            self.publish(state, UpdateDisplayData::new(data, id));
        }
    }

    /// Says for what the cell waits, if it is time.
    fn say_wait(&self, state: &mut State) {
        let Some(wait) = &mut state.wait else { return };
        let is_time = match wait.said {
            None => wait.since.elapsed() >= QUIET,
            Some(said) => said.elapsed() >= AGAIN,
        };
        if is_time {
            wait.said = Some(Instant::now());
            let text = format!("{} ({:.0} s)", wait.what, wait.since.elapsed().as_secs_f64());
            let id = wait_id(state);
            self.text(state);
            self.display(state, &id, media(json!({"text/plain": text})));
        }
    }

    /// The cell goes on: what was said of its waiting is taken back, or what there is to say at the end said instead.
    fn waited(&self, state: &mut State) {
        let Some(wait) = state.wait.take() else { return };
        if wait.said.is_some() || wait.after.is_some() {
            self.text(state);
        }
        let id = wait_id(state);
        state.waits += 1;
        let seconds = wait.since.elapsed().as_secs_f64();
        match (wait.said, wait.after) {
            (None, None) => {}
            (_, Some(after)) => self.display(state, &id, media(json!({"text/plain": format!("{after} ({seconds:.1} s)")}))),
            (Some(_), None) if state.sent == state.live.len() && state.live.len() == 1 => {
                state.live.clear();
                self.publish(state, ClearOutput { wait: false });
                state.sent = 0;
            }
            (Some(_), None) => self.display(state, &id, media(json!({"text/plain": ""}))),
        }
    }

    fn flush(&self, state: &mut State) {
        let data = std::mem::take(&mut state.pending);
        if !is_nothing(&data) {
            self.publish(state, DisplayData::new(media(json!(data))));
        }
    }

    /// Shows why the cell failed.
    pub fn failed(&self, failure: &Failure) {
        let (ename, evalue, traceback) = (failure.name.clone(), failure.message.clone(), failure.lines.clone());
        let mut state = self.drained(self.state());
        self.publish(&mut state, ErrorOutput { ename, evalue, traceback });
    }

    fn publish(&self, state: &mut State, content: impl Into<JupyterMessageContent>) {
        let message = JupyterMessage::new(content, state.cell.as_ref());
        // A change of what is shown is nothing more.
        state.sent += usize::from(message.message_type() != "update_display_data");
        (self.send)(message);
    }
}

/// Sends text that has waited, and says for what a cell waits, while there is an output.
fn tend(output: &Weak<Output>) {
    while let Some(output) = output.upgrade() {
        let state = output.state();
        let patience = if state.text.is_some() || state.wait.is_some() { GATHER } else { IDLE };
        let mut state = output.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        if let Some(left) = state.text.as_ref().and_then(|(.., since)| GATHER.checked_sub(since.elapsed())) {
            // Whoever else has sent it meanwhile, it is over then.
            drop(state);
            std::thread::sleep(left);
            state = output.state();
        }
        state = output.drained(state);
        output.say_wait(&mut state);
    }
}

/// The name of what is said of the cell's waiting.
fn wait_id(state: &State) -> String {
    let cell = state.cell.as_ref().map_or("", |cell| cell.header.msg_id.as_str());
    format!("dam-wait-{cell}-{}", state.waits)
}

/// Whether there is nothing to show: a cell that ends with a loop has no result.
fn is_nothing(data: &BTreeMap<String, Value>) -> bool {
    data.is_empty() || data.len() == 1 && data.get("text/plain").is_some_and(|text| text == "()")
}

fn media(data: Value) -> Media {
    serde_json::from_value(data).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn output() -> (Arc<Output>, UnboundedReceiver<JupyterMessage>) {
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
    fn text_is_gathered_and_comes_in_order() {
        let (output, mut receive) = output();
        for i in 0..1000 {
            output.take(&json!({"out": format!("{i}\n")}));
        }
        output.take(&json!({"err": "a warning\n"}));
        output.take(&json!({"block": "text/plain", "content": "7"}));
        assert_eq!(output.end(None), None);
        let told = told(&mut receive);
        let kinds: Vec<&str> = told.iter().map(|told| told.split(' ').next().unwrap()).collect();
        let streams = kinds.iter().filter(|kind| **kind == "stream").count();
        assert!((2..6).contains(&streams) && kinds.last() == Some(&"execute_result"), "{kinds:?}");
        assert!(told[0].contains("0\\n1\\n2\\n") && told[streams - 1].contains("a warning"), "{told:?}");
    }

    #[test]
    fn text_without_more_is_sent_soon() {
        let (output, mut receive) = output();
        output.take(&json!({"out": "one"}));
        let begin = Instant::now();
        while told(&mut receive).is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(begin.elapsed() >= GATHER / 2);
    }

    #[test]
    fn a_wait_is_said_within_two_seconds_and_taken_back() {
        let (output, mut receive) = output();
        output.waits("compiling", None);
        output.goes_on();
        assert_eq!(told(&mut receive), [] as [&str; 0], "a short one is not said");
        output.waits("compiling", None);
        std::thread::sleep(Duration::from_millis(1900));
        let said = told(&mut receive);
        assert!(said[0].starts_with("display_data") && said[0].contains("compiling ("), "{said:?}");
        output.take(&json!({"runs": true}));
        assert!(told(&mut receive)[0].starts_with("clear_output"));
        // What stands there already is not taken away with it.
        output.take(&json!({"out": "kept"}));
        output.waits("compiling", Some("compiled"));
        output.goes_on();
        let said = told(&mut receive).join("\n");
        assert!(said.contains("kept") && said.contains("compiled (") && !said.contains("clear_output"), "{said}");
    }

    #[test]
    fn a_panic_of_another_thread_is_said_and_ends_no_cell() {
        let (output, mut receive) = output();
        let said = json!({"message": "boom", "thread": "worker", "file": "src/lib.rs", "line": 3, "column": 5}).to_string();
        output.take(&json!({"block": PANIC, "content": said}));
        assert_eq!(output.end(None), None);
        assert!(told(&mut receive)[0].contains("thread `worker` panicked: boom"));
    }
}
