//! The worker: runs cells, completions and documentation in order, on one thread.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use jupyter_protocol::messaging::{
    CompleteReply, ExecuteInput, ExecuteReply, ExecuteRequest, ExecutionCount, InputRequest,
    InspectReply, JupyterMessage, JupyterMessageContent, ReplyError, ReplyStatus, Status,
};
use tokio::sync::mpsc::UnboundedSender;

use super::replies::{aborted, completeness_reply, history_reply, kernel_info, unsupported};
use super::zmtp::own_identity;
use crate::kernel::cells::cell::Cells;
use crate::kernel::cells::complete::{Completer, inspect};
use crate::kernel::cells::engine::Engine;
use crate::kernel::cells::failure::Failure;
use crate::kernel::cells::members::Members;
use crate::kernel::cells::output::CellOutput;
use crate::kernel::comms::channels::Channels;

/// How often a cell that is waiting for input checks whether it was interrupted.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The idle time after which the worker warms up.
const IDLE_TIME: Duration = Duration::from_millis(300);

/// The shared state of the kernel.
pub struct Kernel {
    pub cells: Cells,
    pub comms: Arc<Channels>,
    pub output: Arc<CellOutput>,
    pub iopub: UnboundedSender<JupyterMessage>,
    pub shell: UnboundedSender<JupyterMessage>,
    pub stdin: UnboundedSender<JupyterMessage>,
    /// The code of all executed cells, in order.
    pub history: Mutex<Vec<String>>,
    /// Input replies with the id of the request, if the front end sends one.
    pub answers: Mutex<Receiver<(Option<String>, String)>>,
}

impl Kernel {
    pub fn status(&self, parent: &JupyterMessage, status: Status) {
        let _ = self.iopub.send(JupyterMessage::new(status, Some(parent)));
    }

    fn history(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply to a request that does not need evcxr; none for others.
    pub fn answer(&self, message: &JupyterMessage) -> Option<JupyterMessageContent> {
        Some(match &message.content {
            JupyterMessageContent::KernelInfoRequest(_) => {
                JupyterMessageContent::KernelInfoReply(Box::new(kernel_info()))
            }
            JupyterMessageContent::IsCompleteRequest(request) => {
                completeness_reply(&request.code).into()
            }
            JupyterMessageContent::HistoryRequest(request) => {
                history_reply(request, self.history().clone()).into()
            }
            JupyterMessageContent::CommInfoRequest(request) => {
                self.comms.info(request.target_name.as_deref()).into()
            }
            JupyterMessageContent::ExecuteRequest(_)
            | JupyterMessageContent::CompleteRequest(_)
            | JupyterMessageContent::InspectRequest(_) => return None,
            _ => unsupported(message),
        })
    }

    /// Passes on a message to a widget, which has no reply, also while a cell runs; returns whether
    /// `message` is one. The front end sends the next change of a widget when this one is idle.
    pub fn passes_comm(&self, message: &JupyterMessage) -> bool {
        let is_comm = matches!(
            message.content,
            JupyterMessageContent::CommOpen(_)
                | JupyterMessageContent::CommMsg(_)
                | JupyterMessageContent::CommClose(_)
        );
        if is_comm {
            self.status(message, Status::busy());
            let to_cells = self.comms.request(&message.content, |(content, metadata)| {
                let reply = JupyterMessage::new(content, Some(message)).with_metadata(metadata);
                let _ = self.iopub.send(reply);
            });
            if let Some(to_cells) = to_cells {
                self.cells.send_comm(&to_cells);
            }
            self.status(message, Status::idle());
        }
        is_comm
    }

    /// Runs jobs until the channel closes.
    pub fn work(&self, jobs: &Receiver<Option<JupyterMessage>>) {
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
            // The member index is read beside it, so that the first Tab does not wait for it.
            std::thread::spawn(Members::known);
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
