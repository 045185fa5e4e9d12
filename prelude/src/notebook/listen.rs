//! What the kernel says, on a socket of its own: a line of JSON each.
//!
//! ```text
//! {"op": "begin"}                        a cell begins: no stop is asked for
//! {"op": "stop"}                         what is under way is to stop
//! {"op": "flush"}                        what was printed is to be written; {"done": true} answers
//! {"op": "verb", "line": "train 50"}     a line of verbs, which is answered by
//!     {"shown": {"text/plain": ...}}     for every verb, and at last
//!     {"done": true} or {"error": ..., "hint": ...}
//! ```

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::run;
use crate::error::Error;
use crate::interrupt;

/// Listens on `socket` until the kernel is gone.
pub fn listen(socket: &OsStr) {
    // Without a socket cells still run; only verbs and stops would not arrive, which the kernel then says.
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
                    interrupt::clear();
                    super::begin();
                }
                Some("stop") => drop(interrupt::request()),
                Some("flush") => {
                    let _ = std::io::stdout().flush();
                    if writeln!(stream, "{}", json!({"done": true})).is_err() {
                        return;
                    }
                }
                Some("verb") => {
                    let Ok(stream) = stream.try_clone() else { return };
                    let line = message["line"].as_str().unwrap_or_default().to_owned();
                    // On a thread of its own, so that a stop is heard meanwhile.
                    std::thread::spawn(move || verb(&line, stream));
                }
                _ => {}
            }
        }
    });
}

fn verb(line: &str, mut stream: UnixStream) {
    let mut say = |message: Value| drop(writeln!(stream, "{message}"));
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(line, |reply| say(json!({"shown": {"text/plain": reply.text, "text/html": reply.html}})))
    }));
    say(match done {
        Ok(Ok(())) => json!({"done": true}),
        Ok(Err(error)) => json!({"error": error.to_string(), "hint": Error::hint(&error)}),
        Err(_) => json!({"error": "the verb failed in a way it should not", "hint": "please report what led to it"}),
    });
}
