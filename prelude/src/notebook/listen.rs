//! Receives the kernel's messages on a socket, one line of JSON each.
//!
//! ```text
//! {"op": "begin"}                        a cell starts: clears the stop flag
//! {"op": "end"}                          it has ended: controls may run
//! {"op": "stop"}                         sets the stop flag, and stops desks
//! {"op": "comm", "id": ..., ...}         an event of a control
//! {"op": "flush"}                        writes buffered output; the reply is {"done": true}
//! {"op": "verb", "line": "train 50"}     runs a line of verbs; the replies are
//!     {"shown": {"text/plain": ...}}     one per verb, and finally
//!     {"done": true} or {"error": ..., "hint": ...}
//! ```

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::widgets::model;
use super::{desk, run, turns};
use crate::error::Error;
use crate::interrupt;

/// Receives messages on `socket` until the kernel closes it.
pub fn listen(socket: &OsStr) {
    // Without a socket, cells still run, but verbs and stops do not arrive; the kernel reports
    // that.
    let Ok(mut stream) = UnixStream::connect(socket) else { return };
    let Ok(reading) = stream.try_clone() else { return };
    if writeln!(stream, "{}", json!({"hello": "prelude"})).is_err() {
        return;
    }
    std::thread::spawn(move || {
        for line in BufReader::new(reading).lines() {
            let Ok(line) = line else { return };
            let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
            match message["op"].as_str() {
                Some("begin") => {
                    turns::begin_cell();
                    super::begin();
                }
                Some("end") => turns::end_cell(),
                Some("stop") => {
                    interrupt::request();
                    desk::stop_all();
                }
                Some("comm") => model::deliver(&message),
                Some("flush") => {
                    let _ = std::io::stdout().flush();
                    if writeln!(stream, "{}", json!({"done": true})).is_err() {
                        return;
                    }
                }
                Some("verb") => {
                    let Ok(stream) = stream.try_clone() else { return };
                    let line = message["line"].as_str().unwrap_or_default().to_owned();
                    // Runs on its own thread, so that a stop can be received meanwhile.
                    std::thread::spawn(move || verb(&line, stream));
                }
                _ => {}
            }
        }
    });
}

fn verb(line: &str, mut stream: UnixStream) {
    let mut send = |message: Value| drop(writeln!(stream, "{message}"));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(line, |reply| {
            send(json!({"shown": {"text/plain": reply.text, "text/html": reply.html}}))
        })
    }));
    send(match done {
        Ok(Ok(())) => json!({"done": true}),
        Ok(Err(error)) => json!({"error": error.to_string(), "hint": Error::hint(&error)}),
        Err(_) => {
            let hint = "this is a bug in dam: please report the steps that led to it";
            json!({"error": format!("internal error in `{line}`"), "hint": hint})
        }
    });
}
