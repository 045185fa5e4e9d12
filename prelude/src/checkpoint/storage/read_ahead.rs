//! A thread that reads from the disk what is needed next, while the other threads compute.

use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::View;

/// Smaller tensors are read when they are needed.
const LEAST_BYTES: u64 = 1 << 20;

impl View {
    /// Begins to read it from its file on a thread of its own, in larger requests than those of the
    /// threads that use it. It returns at once.
    pub(crate) fn prefetch(&self) {
        if self.mapped_bytes() >= LEAST_BYTES {
            read_ahead(vec![self.clone()]);
        }
    }
}

/// Begins to read `views` from their files, in order, after those that were asked for before. It
/// returns at once.
pub(in crate::checkpoint) fn read_ahead(views: Vec<View>) {
    static QUEUE: OnceLock<Option<Sender<Vec<View>>>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let (sender, receiver) = channel::<Vec<View>>();
        let read = move || receiver.iter().flatten().for_each(|view| view.read_ahead());
        // Without a thread, files are read when they are needed.
        thread::Builder::new().name("read-ahead".into()).spawn(read).ok().map(|_| sender)
    });
    if let Some(queue) = queue {
        let _ = queue.send(views);
    }
}
