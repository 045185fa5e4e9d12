//! The clients of each socket, and the limits on their number and on the memory of their messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jupyter_protocol::ConnectionInfo;
use tokio::sync::Notify;

/// The most connections per socket.
const CONNECTIONS: usize = 128;

/// The most bytes of buffers over all connections of all sockets. A connection keeps the buffer of
/// its largest message. Messages of up to `SMALL_MESSAGE` bytes are not counted; they add at most
/// 12 MB.
const BUFFER_LIMIT: u64 = 48 << 20;
const SMALL_MESSAGE: u64 = 32 << 10;

/// The sockets of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Shell,
    Control,
    Stdin,
    Iopub,
    Heartbeat,
}

impl Channel {
    /// All sockets.
    pub const ALL: [Self; 5] =
        [Self::Shell, Self::Control, Self::Stdin, Self::Iopub, Self::Heartbeat];

    pub fn port(self, info: &ConnectionInfo) -> u16 {
        match self {
            Self::Shell => info.shell_port,
            Self::Control => info.control_port,
            Self::Stdin => info.stdin_port,
            Self::Iopub => info.iopub_port,
            Self::Heartbeat => info.hb_port,
        }
    }

    /// The largest message, in bytes: cells and answers on the first three, topics and heartbeats
    /// on the others.
    pub fn max_bytes(self) -> u64 {
        match self {
            Self::Shell | Self::Control | Self::Stdin => 16 << 20,
            Self::Iopub | Self::Heartbeat => 4096,
        }
    }

    /// The most messages per connection. Subscriptions are kept forever and searched for every
    /// message.
    pub fn max_messages(self) -> u64 {
        if self == Self::Iopub { 64 } else { u64::MAX }
    }

    /// Whether a number is added to the identities of clients.
    pub fn is_numbered(self) -> bool {
        matches!(self, Self::Shell | Self::Control)
    }
}

/// The connected clients of all sockets.
#[derive(Default)]
pub struct Clients(Mutex<ClientTable>);

#[derive(Default)]
struct ClientTable {
    /// By connection number, oldest first.
    all: BTreeMap<u64, Client>,
    /// The logical clock.
    clock: u64,
}

/// A connected client.
struct Client {
    channel: Channel,
    /// Whether it has sent a complete message.
    has_sent_message: bool,
    /// The size of its buffer in bytes, 0 if small, and when it last needed it.
    buffer: u64,
    last_use: u64,
    /// Notifies the connection that it is closed.
    end: Arc<Notify>,
}

impl Clients {
    fn table(&self) -> MutexGuard<'_, ClientTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client on `channel`; returns its number and what ends it. At the limit, the oldest
    /// client that has sent no complete message is disconnected; none if there is no such client.
    pub fn register(&self, channel: Channel) -> Option<(u64, Arc<Notify>)> {
        let mut table = self.table();
        if table.all.values().filter(|client| client.channel == channel).count() >= CONNECTIONS {
            let silent = table
                .all
                .iter()
                .find(|(_, client)| client.channel == channel && !client.has_sent_message);
            let silent = *silent?.0;
            table.disconnect(silent);
        }
        let (number, end) = (table.tick(), Arc::new(Notify::new()));
        let client = Client {
            channel,
            has_sent_message: false,
            buffer: 0,
            last_use: number,
            end: Arc::clone(&end),
        };
        table.all.insert(number, client);
        Some((number, end))
    }

    pub fn unregister(&self, number: u64) {
        self.table().all.remove(&number);
    }

    pub fn record_message(&self, number: u64) {
        if let Some(client) = self.table().all.get_mut(&number) {
            client.has_sent_message = true;
        }
    }

    /// Reserves a buffer for a message of `bytes`. Above the limit, other clients with buffers are
    /// disconnected: first those that have sent no complete message, then the least recently used;
    /// Jupyter clients reconnect. Returns false if this client itself has been disconnected.
    pub fn reserve(&self, number: u64, bytes: u64) -> bool {
        let mut table = self.table();
        let now = table.tick();
        let Some(client) = table.all.get_mut(&number) else { return false };
        if bytes <= SMALL_MESSAGE {
            return true;
        }
        (client.buffer, client.last_use) = (client.buffer.max(bytes), now);
        while table.all.values().map(|client| client.buffer).sum::<u64>() > BUFFER_LIMIT {
            let others =
                table.all.iter().filter(|(other, client)| **other != number && client.buffer > 0);
            let Some((first, _)) =
                others.min_by_key(|(_, client)| (client.has_sent_message, client.last_use))
            else {
                break;
            };
            let first = *first;
            table.disconnect(first);
        }
        true
    }
}

impl ClientTable {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn disconnect(&mut self, number: u64) {
        if let Some(client) = self.all.remove(&number) {
            client.end.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the client that `end` belongs to has been disconnected.
    fn is_ended(end: &Notify) -> bool {
        let mut waiting = std::pin::pin!(end.notified());
        std::future::Future::poll(
            waiting.as_mut(),
            &mut std::task::Context::from_waker(std::task::Waker::noop()),
        )
        .is_ready()
    }

    #[test]
    fn the_oldest_silent_client_is_disconnected_at_the_limit() {
        let clients = Clients::default();
        let all: Vec<_> =
            (0..CONNECTIONS).map(|_| clients.register(Channel::Shell).unwrap()).collect();
        clients.record_message(all[0].0);
        assert!(clients.register(Channel::Iopub).is_some());
        assert!(all.iter().all(|(_, end)| !is_ended(end)), "each socket has its own limit");
        assert!(clients.register(Channel::Shell).is_some());
        assert_eq!(all.iter().map(|(_, end)| is_ended(end)).position(|ended| ended), Some(1));
        // Clients that have sent a message are never disconnected; one that leaves makes room.
        clients.table().all.values_mut().for_each(|client| client.has_sent_message = true);
        assert!(clients.register(Channel::Shell).is_none());
        clients.unregister(all[5].0);
        assert!(clients.register(Channel::Shell).is_some());
    }

    #[test]
    fn the_buffers_of_all_clients_have_one_limit() {
        let (clients, large) = (Clients::default(), Channel::Shell.max_bytes());
        let all: Vec<_> = (0..6).map(|_| clients.register(Channel::Shell).unwrap()).collect();
        let ended = || all.iter().map(|(_, end)| is_ended(end)).collect::<Vec<_>>();
        // The first two have sent complete messages, the first one more than the second; the last
        // sends only small ones.
        assert!(clients.reserve(all[5].0, SMALL_MESSAGE));
        for i in [0, 1, 0, 2] {
            assert!(clients.reserve(all[i].0, large));
            if i < 2 {
                clients.record_message(all[i].0);
            }
        }
        assert_eq!(ended(), [false; 6]);
        assert!(clients.reserve(all[3].0, large));
        assert_eq!(ended(), [false, false, true, false, false, false]);
        clients.record_message(all[3].0);
        assert!(clients.reserve(all[4].0, large));
        assert_eq!(
            ended(),
            [false, true, false, false, false, false],
            "the others were notified before"
        );
        assert!(!clients.reserve(all[2].0, 1), "the client was disconnected");
        let buffers: u64 = clients.table().all.values().map(|client| client.buffer).sum();
        assert!(buffers <= BUFFER_LIMIT, "{buffers}");
    }
}
