//! Serves Jupyter's sockets.
//!
//! Cells, completions and documentation are handled in order on one thread. Everything else is
//! answered at once, so that a kernel that is running a cell can still be queried, interrupted and
//! shut down. For every request on the shell and control sockets the kernel reports busy before it
//! and idle after it: JupyterLab does not accept a reply otherwise.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::messaging::{
    CompleteReply, ExecuteInput, ExecuteReply, ExecuteRequest, ExecutionCount, HistoryEntry,
    HistoryReply, HistoryRequest, InputRequest, InspectReply, InterruptReply, IsCompleteReply,
    JupyterMessage, JupyterMessageContent, KernelInfoReply, LanguageInfo, ReplyError, ReplyStatus,
    ShutdownReply, Status, UnknownMessage,
};
use jupyter_zmq_client::{
    RouterRecvConnection, RouterSendConnection, create_kernel_control_connection,
    create_kernel_heartbeat_connection, create_kernel_iopub_connection,
    create_kernel_shell_connection, create_kernel_stdin_connection,
};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::proxy::{PAUSE, internal_info, own_identity, serve_clients};
use crate::kernel::cells::cell::Cells;
use crate::kernel::cells::code::{Completeness, completeness};
use crate::kernel::cells::complete::{Completer, inspect};
use crate::kernel::cells::engine::Engine;
use crate::kernel::cells::failure::Failure;
use crate::kernel::cells::members::Members;
use crate::kernel::cells::output::CellOutput;
use crate::kernel::files;
use crate::kernel::process::link::{Link, SOCKET};

/// How long shutdown waits for the worker thread to clean up.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long shutdown waits for the last messages to be delivered.
const LINGER: Duration = Duration::from_millis(200);

/// How often a cell that is waiting for input checks whether it was interrupted.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The idle time after which the worker warms up.
const IDLE_TIME: Duration = Duration::from_millis(300);

/// The shared state of the kernel.
struct Kernel {
    cells: Cells,
    output: Arc<CellOutput>,
    iopub: UnboundedSender<JupyterMessage>,
    shell: UnboundedSender<JupyterMessage>,
    stdin: UnboundedSender<JupyterMessage>,
    /// The code of all executed cells, in order.
    history: Mutex<Vec<String>>,
    /// Input replies with the id of the request, if the front end sends one.
    answers: Mutex<Receiver<(Option<String>, String)>>,
}

/// Serves the connection described by `file` until shutdown, with the internal sockets in
/// `directory`.
///
/// # Errors
/// The file is not a connection file, or a port is in use.
pub fn serve(file: &Path, directory: &Path) -> Result<()> {
    let text = files::text(file)?;
    let info: ConnectionInfo = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not a connection file of Jupyter, which starts the kernel itself: jupyter lab",
            file.display()
        )
    })?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(sockets(info, directory))
}

async fn sockets(info: ConnectionInfo, directory: &Path) -> Result<()> {
    let session = uuid();
    let internal = internal_info(&info, directory);
    let mut heartbeat = create_kernel_heartbeat_connection(&internal).await?;
    let mut iopub_socket = create_kernel_iopub_connection(&internal, &session).await?;
    let (shell_send, shell) = create_kernel_shell_connection(&internal, &session).await?.split();
    let (mut control_send, mut control) =
        create_kernel_control_connection(&internal, &session).await?.split();
    let (stdin_send, mut stdin_socket) =
        create_kernel_stdin_connection(&internal, &session).await?.split();
    serve_clients(&info, &internal).await?;
    let (iopub, mut published) = unbounded_channel::<JupyterMessage>();
    let (shell_out, replies) = unbounded_channel();
    let (stdin, input_requests) = unbounded_channel();
    let (answer, answers) = channel();
    let (work, jobs) = channel();

    let shown = iopub.clone();
    // Without a receiver the kernel is shutting down.
    let output = CellOutput::paced(move |message| drop(shown.send(message)));
    let receiver = Arc::clone(&output);
    let socket = directory.join(SOCKET);
    let link = Link::listen(&socket, move |message| receiver.receive(&message))?;
    let cells = Cells::new(link, Arc::clone(&output), socket);
    let (history, answers) = (Mutex::default(), Mutex::new(answers));
    let kernel =
        Arc::new(Kernel { cells, output, iopub, shell: shell_out, stdin, history, answers });
    let working = Arc::clone(&kernel);
    let worker = std::thread::spawn(move || working.work(&jobs));

    tokio::spawn(async move {
        loop {
            // A client that disconnects halfway does not affect others.
            if heartbeat.single_heartbeat().await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(message) = published.recv().await {
            let _ = iopub_socket.send(message.with_zmq_identities(Vec::new())).await;
        }
    });
    tokio::spawn(send(replies, shell_send));
    tokio::spawn(send(input_requests, stdin_send));
    tokio::spawn(async move {
        loop {
            let Ok(message) = stdin_socket.read().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let question = message.parent_header.map(|question| question.msg_id);
            if let JupyterMessageContent::InputReply(reply) = message.content
                && answer.send((question, reply.value)).is_err()
            {
                return;
            }
        }
    });
    tokio::spawn(receive_shell(Arc::clone(&kernel), shell, work.clone()));
    tokio::spawn(exit_with_parent());
    // The member index is read now, so that the first Tab does not wait for it.
    std::thread::spawn(Members::known);

    loop {
        let Ok(message) = control.read().await else { continue };
        kernel.status(&message, Status::busy());
        let (reply, last): (JupyterMessageContent, bool) = match &message.content {
            JupyterMessageContent::InterruptRequest(_) => {
                kernel.cells.interrupt();
                (InterruptReply::new().into(), false)
            }
            JupyterMessageContent::ShutdownRequest(request) => (
                ShutdownReply { restart: request.restart, ..ShutdownReply::default() }.into(),
                true,
            ),
            JupyterMessageContent::KernelInfoRequest(_) => {
                (JupyterMessageContent::KernelInfoReply(Box::new(kernel_info())), false)
            }
            _ => (unsupported(&message), false),
        };
        if last {
            kernel.cells.shut_down();
            let _ = work.send(None);
        }
        // The client may have disconnected.
        let _ = control_send.send(JupyterMessage::new(reply, Some(&message))).await;
        kernel.status(&message, Status::idle());
        if last {
            break;
        }
    }
    let cleaned = tokio::task::spawn_blocking(move || worker.join().is_ok());
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, cleaned).await;
    tokio::time::sleep(LINGER).await;
    Ok(())
}

/// Sends messages on a socket. Messages to a client that has disconnected are lost: Jupyter's
/// servers query a new kernel over short-lived connections.
async fn send(mut messages: UnboundedReceiver<JupyterMessage>, mut socket: RouterSendConnection) {
    while let Some(message) = messages.recv().await {
        let _ = socket.send(message).await;
    }
}

/// Receives requests on the shell socket.
async fn receive_shell(
    kernel: Arc<Kernel>,
    mut shell: RouterRecvConnection,
    work: Sender<Option<JupyterMessage>>,
) {
    loop {
        // Messages that are malformed or wrongly signed are ignored.
        let Ok(message) = shell.read().await else { continue };
        if matches!(message.content, JupyterMessageContent::ExecuteRequest(_)) {
            kernel.output.attach(&message);
        }
        match kernel.answer(&message) {
            Some(reply) => {
                kernel.status(&message, Status::busy());
                let _ = kernel.shell.send(JupyterMessage::new(reply, Some(&message)));
                kernel.status(&message, Status::idle());
            }
            None if work.send(Some(message)).is_err() => return,
            None => {}
        }
    }
}

/// Exits when the parent process has ended.
async fn exit_with_parent() {
    let started = std::os::unix::process::parent_id();
    if std::env::var_os("JPY_PARENT_PID").is_none() {
        return;
    }
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if std::os::unix::process::parent_id() != started {
            std::process::exit(0);
        }
    }
}

impl Kernel {
    fn status(&self, parent: &JupyterMessage, status: Status) {
        let _ = self.iopub.send(JupyterMessage::new(status, Some(parent)));
    }

    fn history(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply to a request that does not need evcxr; none for others.
    fn answer(&self, message: &JupyterMessage) -> Option<JupyterMessageContent> {
        Some(match &message.content {
            JupyterMessageContent::KernelInfoRequest(_) => {
                JupyterMessageContent::KernelInfoReply(Box::new(kernel_info()))
            }
            JupyterMessageContent::IsCompleteRequest(request) => {
                match completeness(&request.code) {
                    Completeness::Complete => IsCompleteReply::complete(),
                    Completeness::Incomplete(depth) => {
                        IsCompleteReply::incomplete("    ".repeat(depth))
                    }
                    Completeness::Invalid => IsCompleteReply::invalid(),
                }
                .into()
            }
            JupyterMessageContent::HistoryRequest(request) => self.history_reply(request).into(),
            JupyterMessageContent::CommInfoRequest(_) => {
                jupyter_protocol::messaging::CommInfoReply::default().into()
            }
            JupyterMessageContent::ExecuteRequest(_)
            | JupyterMessageContent::CompleteRequest(_)
            | JupyterMessageContent::InspectRequest(_) => return None,
            _ => unsupported(message),
        })
    }

    /// The reply to a history request.
    fn history_reply(&self, request: &HistoryRequest) -> HistoryReply {
        let all = self.history().clone();
        let entries = all.into_iter().enumerate().map(|(i, code)| (i + 1, code));
        let entries: Vec<(usize, String)> = match request {
            HistoryRequest::Tail { n, .. } => {
                let entries: Vec<_> = entries.collect();
                let first = entries.len().saturating_sub(usize::try_from(*n).unwrap_or(0));
                entries[first..].to_vec()
            }
            HistoryRequest::Range { start, stop, .. } => {
                let in_range = |i: &usize| {
                    *i as i64 >= i64::from(*start) && (*stop == 0 || (*i as i64) < i64::from(*stop))
                };
                entries.filter(|(i, _)| in_range(i)).collect()
            }
            HistoryRequest::Search { pattern, .. } => {
                let part = pattern.trim_matches('*');
                entries.filter(|(_, code)| code.contains(part)).collect()
            }
        };
        HistoryReply::new(
            entries.into_iter().map(|(i, code)| HistoryEntry::Input(0, i, code)).collect(),
        )
    }

    /// Runs jobs until the channel closes.
    fn work(&self, jobs: &Receiver<Option<JupyterMessage>>) {
        let (engine, completer) = (self.cells.start(), Completer::default());
        let mut worker = Worker {
            engine,
            completer,
            count: 0,
            has_run: false,
            is_warm: false,
            seen: BTreeSet::new(),
        };
        while let Some(job) = worker.next(jobs, &self.cells) {
            // Cells that were queued when this one failed are aborted.
            for job in self.job(&mut worker, &job, jobs) {
                let Some(job) = job else { return };
                match &job.content {
                    JupyterMessageContent::ExecuteRequest(_) => {
                        self.status(&job, Status::busy());
                        self.reply(&job, aborted(&job));
                        self.status(&job, Status::idle());
                    }
                    _ => drop(self.job(&mut worker, &job, jobs)),
                }
            }
        }
    }

    /// Runs one job. If a cell fails, returns the jobs queued by then, of which cells are to be
    /// aborted.
    fn job(
        &self,
        worker: &mut Worker,
        job: &JupyterMessage,
        jobs: &Receiver<Option<JupyterMessage>>,
    ) -> Vec<Option<JupyterMessage>> {
        let mut waiting = Vec::new();
        self.status(job, Status::busy());
        match (&job.content, &mut worker.engine) {
            (JupyterMessageContent::ExecuteRequest(request), _) => {
                let (reply, failure) = self.execute(worker, job, request);
                worker.has_run = true;
                if failure.is_some() && request.stop_on_error {
                    waiting = jobs.try_iter().collect();
                }
                failure.inspect(|failure| self.output.failed(failure));
                self.reply(job, reply);
            }
            (JupyterMessageContent::CompleteRequest(request), Ok(engine)) => {
                let found = worker.completer.complete(engine, &request.code, request.cursor_pos);
                let metadata = found.metadata();
                let (matches, cursor_start, cursor_end) = (found.words, found.start, found.end);
                self.reply(
                    job,
                    CompleteReply {
                        matches,
                        cursor_start,
                        cursor_end,
                        metadata,
                        ..CompleteReply::default()
                    },
                );
            }
            (JupyterMessageContent::InspectRequest(request), Ok(engine)) => {
                let found = inspect(engine, &request.code, request.cursor_pos);
                let data = found
                    .clone()
                    .and_then(|data| serde_json::from_value(data).ok())
                    .unwrap_or_default();
                self.reply(
                    job,
                    InspectReply { found: found.is_some(), data, ..InspectReply::default() },
                );
            }
            (JupyterMessageContent::CompleteRequest(request), Err(_)) => {
                let (cursor_start, cursor_end) = (request.cursor_pos, request.cursor_pos);
                self.reply(
                    job,
                    CompleteReply { cursor_start, cursor_end, ..CompleteReply::default() },
                );
            }
            _ => self.reply(job, InspectReply::default()),
        }
        self.status(job, Status::idle());
        waiting
    }

    fn reply(&self, to: &JupyterMessage, content: impl Into<JupyterMessageContent>) {
        let _ = self.shell.send(JupyterMessage::new(content, Some(to)));
    }

    /// Runs a cell; returns the reply, and the failure if there is one.
    fn execute(
        &self,
        worker: &mut Worker,
        job: &JupyterMessage,
        request: &ExecuteRequest,
    ) -> (ExecuteReply, Option<Failure>) {
        let Worker { engine, completer, count, .. } = worker;
        completer.forget();
        if request.store_history && !request.silent {
            *count += 1;
            self.history().push(request.code.clone());
        }
        let execution_count = ExecutionCount::new(*count);
        if !request.silent {
            let input = ExecuteInput { code: request.code.clone(), execution_count };
            let _ = self.iopub.send(JupyterMessage::new(input, Some(job)));
        }
        self.output.begin(job, *count);
        let ask = |prompt: &str, password: bool| self.ask(job, request, prompt, password);
        let done = match engine {
            Ok(engine) => self.cells.run(engine, &request.code, *count, &ask),
            Err(error) => Err(Failure::new(
                "error",
                &format!("{error:#}"),
                "hint: `dam jupyter doctor` shows what is missing",
            )),
        };
        let mut reply = ExecuteReply {
            execution_count,
            user_expressions: Some(Default::default()),
            ..ExecuteReply::default()
        };
        if let Err(failure) = &done {
            reply.status = ReplyStatus::Error;
            let (ename, evalue, traceback) =
                (failure.name.clone(), failure.message.clone(), failure.lines.clone());
            reply.error = Some(Box::new(ReplyError { ename, evalue, traceback }));
        }
        (reply, done.err())
    }

    /// Requests a line of input for the cell of `job`; none if the front end does not allow it or
    /// the cell is being stopped.
    fn ask(
        &self,
        job: &JupyterMessage,
        request: &ExecuteRequest,
        prompt: &str,
        password: bool,
    ) -> Option<String> {
        if !request.allow_stdin {
            return None;
        }
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // Discards late answers to requests of interrupted cells.
        while answers.try_recv().is_ok() {}
        let client = job.zmq_identities.iter().map(|name| own_identity(name).into()).collect();
        let input_request = InputRequest { prompt: prompt.to_owned(), password };
        let input_request =
            JupyterMessage::new(input_request, Some(job)).with_zmq_identities(client);
        let name = input_request.header.msg_id.clone();
        let _ = self.stdin.send(input_request);
        loop {
            match answers.recv_timeout(POLL_INTERVAL) {
                Ok((question, answer))
                    if question.as_ref().is_none_or(|question| *question == name) =>
                {
                    return Some(answer);
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if !self.cells.is_cancelled() => {}
                Err(_) => return None,
            }
        }
    }
}

/// The state of the worker thread: evcxr, unless it failed to start; the completion cache; the
/// execution count.
struct Worker {
    engine: Result<Engine>,
    completer: Completer,
    count: usize,
    /// Whether a cell has run since the variables were last updated.
    has_run: bool,
    is_warm: bool,
    /// The types of variables whose members have been looked up.
    seen: BTreeSet<String>,
}

impl Worker {
    /// The next job; none at the end. While the queue is idle, likely completions are prepared,
    /// because JupyterLab waits at most one second for a list, and the table of variables is
    /// updated.
    fn next(
        &mut self,
        jobs: &Receiver<Option<JupyterMessage>>,
        cells: &Cells,
    ) -> Option<JupyterMessage> {
        let mut next = jobs.recv_timeout(IDLE_TIME);
        while let Err(RecvTimeoutError::Timeout) = next {
            if !self.warm_up(cells) {
                return jobs.recv().ok().flatten();
            }
            next = jobs.recv_timeout(Duration::ZERO);
        }
        next.ok().flatten()
    }

    /// Does one background task; returns whether there was one.
    fn warm_up(&mut self, cells: &Cells) -> bool {
        let Ok(engine) = &mut self.engine else { return false };
        if std::mem::take(&mut self.has_run) {
            cells.update_variables(engine);
            return true;
        }
        if !std::mem::replace(&mut self.is_warm, true) {
            engine.warm_up();
            return true;
        }
        let new = engine.variables().into_iter().find(|(_, kind)| !self.seen.contains(kind));
        new.is_some_and(|(name, kind)| {
            let code = format!("{name}.");
            self.completer.complete(engine, &code, code.chars().count());
            self.seen.insert(kind)
        })
    }
}

/// The reply to an aborted cell, which has no execution count.
fn aborted(cell: &JupyterMessage) -> JupyterMessageContent {
    let request =
        UnknownMessage { msg_type: cell.header.msg_type.clone(), ..UnknownMessage::default() };
    request.reply(json!({"status": "aborted"}))
}

/// The reply to an unknown request.
fn unsupported(message: &JupyterMessage) -> JupyterMessageContent {
    let request =
        UnknownMessage { msg_type: message.header.msg_type.clone(), ..UnknownMessage::default() };
    request.reply(json!({"status": "error", "ename": "unknown", "evalue": "unsupported request", "traceback": []}))
}

fn uuid() -> String {
    JupyterMessage::new(Status::idle(), None).header.msg_id
}

/// The kernel info.
fn kernel_info() -> KernelInfoReply {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: "5.3".into(),
        implementation: "dam".into(),
        implementation_version: version.clone(),
        language_info: LanguageInfo {
            name: "rust".into(),
            version,
            mimetype: Some("text/rust".into()),
            file_extension: Some(".rs".into()),
            pygments_lexer: Some("rust".into()),
            codemirror_mode: Some(jupyter_protocol::messaging::CodeMirrorMode::Simple("rust".into())),
            nbconvert_exporter: Some("script".into()),
        },
        banner: "DAM Lab: merge language models one step at a time. The prelude is in scope; %help lists the verbs.".into(),
        help_links: Vec::new(),
        debugger: false,
        error: None,
    }
}
