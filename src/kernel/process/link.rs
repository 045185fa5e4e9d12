//! The kernel's internal socket. It receives the output of cells and the progress of builds, and
//! sends stop requests and verbs.
//!
//! Only processes of the same user are accepted, and only a descendant of this process is ever
//! killed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::peer;

/// The file name of the kernel's internal socket.
pub const SOCKET: &str = "kernel";

/// The connections to the cells' process and the relay, replaced when the process is restarted, and
/// to a running build.
pub struct Link {
    /// The connection to the relay.
    relay: Mutex<Option<UnixStream>>,
    /// The connection to the prelude in the cells' process.
    prelude: Mutex<Option<UnixStream>>,
    /// The replies of the prelude; null when it has disconnected.
    replies: Mutex<Receiver<Value>>,
    reply_sender: Sender<Value>,
    /// Notified when a cell reads standard input, while one runs.
    input_requests: Mutex<Option<Sender<()>>>,
    /// The connection to the cargo wrapper, during a build.
    cargo: Mutex<Option<Arc<UnixStream>>>,
    /// Whether a build was stopped.
    stopped: AtomicBool,
    /// The process id of the cells' process; 0 if there is none.
    cells: AtomicU32,
    sync_count: AtomicU64,
}

impl Link {
    /// Listens at `path`; calls `on_message` with every message from cells and builds.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn listen(
        path: &Path,
        on_message: impl Fn(Value) + Send + Sync + 'static,
    ) -> Result<Arc<Self>> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let (reply_sender, replies) = channel();
        let link = Arc::new(Self {
            relay: Mutex::default(),
            prelude: Mutex::default(),
            replies: Mutex::new(replies),
            reply_sender,
            input_requests: Mutex::default(),
            cargo: Mutex::default(),
            stopped: AtomicBool::new(false),
            cells: AtomicU32::new(0),
            sync_count: AtomicU64::new(0),
        });
        let on_message = Arc::new(on_message);
        let accepting = Arc::clone(&link);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if !peer::is_same_user(&stream) {
                    continue;
                }
                let (link, on_message) = (Arc::clone(&accepting), Arc::clone(&on_message));
                std::thread::spawn(move || link.serve(stream, &*on_message));
            }
        });
        Ok(link)
    }

    fn serve(&self, stream: UnixStream, on_message: &(dyn Fn(Value) + Send + Sync)) {
        let Ok(writing) = stream.try_clone() else { return };
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let messages =
            &mut lines.by_ref().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        let Some(hello) = messages.next() else { return };
        if hello["hello"] == "cells" {
            self.cells.store(hello["pid"].as_u64().unwrap_or(0) as u32, Ordering::SeqCst);
            on_message(hello.clone());
            *locked(&self.relay) = Some(writing);
            for message in messages {
                match message.get("asks") {
                    // There is no receiver after the cell has ended.
                    Some(_) => drop(
                        locked(&self.input_requests)
                            .as_ref()
                            .map(|input_requests| input_requests.send(())),
                    ),
                    None => on_message(message),
                }
            }
            on_message(json!({"ended": hello["pid"]}));
            return;
        }
        if hello["hello"] == "cargo" {
            let writing = Arc::new(writing);
            *locked(&self.cargo) = Some(Arc::clone(&writing));
            messages.for_each(on_message);
            // The next build may already have connected.
            locked(&self.cargo).take_if(|cargo| Arc::ptr_eq(cargo, &writing));
            return;
        }
        *locked(&self.prelude) = Some(writing);
        for message in messages.chain([Value::Null]) {
            // The receiver lives as long as the sender.
            let _ = self.reply_sender.send(message);
        }
    }

    /// Requests a sync: once everything written so far has been sent, `{"synced": N}` follows, with
    /// the N returned. None if the relay is not connected.
    pub fn sync(&self) -> Option<u64> {
        let number = self.sync_count.fetch_add(1, Ordering::SeqCst) + 1;
        let mut relay = locked(&self.relay);
        writeln!(relay.as_mut()?, "{number}").ok()?;
        Some(number)
    }

    /// Announces a new cell, which clears earlier stop requests.
    pub fn begin(&self) {
        self.send(&json!({"op": "begin"}));
    }

    /// Announces the end of the cell: controls of the notebook run between cells.
    pub fn end(&self) {
        self.send(&json!({"op": "end"}));
    }

    /// Passes on a message to a control.
    pub fn send_comm(&self, message: &Value) {
        self.send(message);
    }

    /// Requests that the running operation stop.
    pub fn stop(&self) {
        self.send(&json!({"op": "stop"}));
    }

    /// Flushes text printed without a newline; waits up to `timeout` for it.
    pub fn flush(&self, timeout: Duration) {
        let replies = self.request(&json!({"op": "flush"}));
        let _ = replies.recv_timeout(timeout);
    }

    /// A receiver that is notified whenever a cell reads standard input.
    pub fn input_requests(&self) -> Receiver<()> {
        let (sender, receiver) = channel();
        *locked(&self.input_requests) = Some(sender);
        receiver
    }

    /// Stops answering cells that read standard input.
    pub fn stop_input_requests(&self) {
        *locked(&self.input_requests) = None;
    }

    /// Sends a line to the cell that is reading; none is end of file.
    pub fn send_input(&self, line: Option<&str>) {
        if let Some(relay) = &mut *locked(&self.relay) {
            // The relay may have ended with the cell.
            let _ = writeln!(relay, "{}", json!({"line": line}));
        }
    }

    /// Stops the current build; returns whether there was one.
    pub fn stop_build(&self) -> bool {
        let cargo = locked(&self.cargo);
        let stopped =
            cargo.as_ref().is_some_and(|cargo| cargo.as_ref().write_all(b"stop\n").is_ok());
        self.stopped.fetch_or(stopped, Ordering::SeqCst);
        stopped
    }

    /// Whether a build was stopped since the last call.
    pub fn was_build_stopped(&self) -> bool {
        self.stopped.swap(false, Ordering::SeqCst)
    }

    /// Whether the prelude is connected.
    pub fn is_attached(&self) -> bool {
        locked(&self.prelude).is_some()
    }

    fn send(&self, message: &Value) {
        let mut prelude = locked(&self.prelude);
        if let Some(stream) = &mut *prelude
            && writeln!(stream, "{message}").is_err()
        {
            *prelude = None;
        }
    }

    /// Sends a request to the prelude. The next replies received belong to it.
    fn request(&self, message: &Value) -> MutexGuard<'_, Receiver<Value>> {
        let replies = locked(&self.replies);
        while replies.try_recv().is_ok() {}
        self.send(message);
        if !self.is_attached() {
            let _ = self.reply_sender.send(Value::Null);
        }
        replies
    }

    /// Runs a line of verbs and passes what each shows to `shown`. The outer error is one of the
    /// connection, the inner one of a verb: its message and hint.
    ///
    /// # Errors
    /// The cells' process has ended.
    pub fn verbs(
        &self,
        line: &str,
        mut shown: impl FnMut(&Value),
    ) -> Result<Result<(), (String, Option<String>)>> {
        let replies = self.request(&json!({"op": "verb", "line": line}));
        loop {
            let answer = replies.recv()?;
            if !answer["shown"].is_null() {
                shown(&answer["shown"]);
            } else if let Some(message) = answer["error"].as_str() {
                return Ok(Err((message.to_owned(), answer["hint"].as_str().map(str::to_owned))));
            } else if answer["done"] == true {
                return Ok(Ok(()));
            } else {
                bail!("the cells' process has ended");
            }
        }
    }

    /// Kills the cells' process.
    pub fn kill(&self) {
        let cells = self.cells.swap(0, Ordering::SeqCst);
        if let Ok(cells) = i32::try_from(cells)
            && cells > 1
            && peer::descends(cells)
        {
            // SAFETY: kill only sends a signal. The process was just found to be a descendant of
            // this one, so the id has not been reused by a foreign process.
            unsafe { libc::kill(cells, libc::SIGKILL) };
        }
        *locked(&self.prelude) = None;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
