//! A proxy between Jupyter clients and the kernel's sockets. It gives each connection a unique
//! identity and limits the size of messages.
//!
//! A Jupyter client uses its session id as the identity of its ZeroMQ sockets, and replies are
//! routed by it. Behind a gateway two connections may have the same identity, because JupyterLab's
//! server leaves a connection behind when a page connects twice; replies would then go to whichever
//! came last. So on the sockets that send replies, the proxy appends a number to each identity.
//! Before a client has authenticated with the key it may announce a message of any length, and the
//! sockets would allocate that much. So the proxy limits the size of a message on all five sockets,
//! and the total over all connections. Everything else passes unchanged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, copy};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The pause after a socket error.
pub const PAUSE: Duration = Duration::from_millis(20);

/// The timeout of the handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The most connections per socket.
const CONNECTIONS: usize = 128;

/// The limit on open files that is requested: each connection uses three, one to the client and two
/// to the sockets.
const OPEN_FILES: libc::rlim_t = 4096;

/// The most bytes of buffers over all connections of all sockets. A connection keeps the buffer of
/// its largest message. Messages of up to `SMALL_MESSAGE` bytes are not counted; they add at most
/// 12 MB.
const BUFFER_LIMIT: u64 = 48 << 20;
const SMALL_MESSAGE: u64 = 32 << 10;

/// The length of the greeting in ZMTP 3.0 (<https://rfc.zeromq.org/spec/23>), and the most bytes of
/// the handshake after it.
const GREETING: u64 = 64;
const HANDSHAKE: u64 = 4096;

/// The bits of the first byte of a frame: more frames follow; the length has eight bytes instead of
/// one; the frame is a command.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The most frames per message.
const FRAMES: usize = 256;

/// The longest identity, in bytes.
const IDENTITY: usize = 255;

/// The length of the connection number at the end of an identity, in bytes.
const NUMBER: usize = size_of::<u64>();

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

    fn port(self, info: &ConnectionInfo) -> u16 {
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
    fn max_bytes(self) -> u64 {
        match self {
            Self::Shell | Self::Control | Self::Stdin => 16 << 20,
            Self::Iopub | Self::Heartbeat => 4096,
        }
    }

    /// The most messages per connection. Subscriptions are kept forever and searched for every
    /// message.
    fn max_messages(self) -> u64 {
        if self == Self::Iopub { 64 } else { u64::MAX }
    }

    /// Whether a number is added to the identities of clients.
    fn is_numbered(self) -> bool {
        matches!(self, Self::Shell | Self::Control)
    }
}

/// The connection info of the internal sockets: files in `directory` instead of the public ports.
pub fn internal_info(info: &ConnectionInfo, directory: &Path) -> ConnectionInfo {
    ConnectionInfo {
        transport: Transport::IPC,
        ip: directory.join("behind").display().to_string(),
        ..info.clone()
    }
}

/// Accepts clients and connects them to the internal sockets at `internal`.
///
/// # Errors
/// A port is in use.
pub async fn serve_clients(info: &ConnectionInfo, internal: &ConnectionInfo) -> Result<()> {
    raise_file_limit();
    let clients = Arc::new(Clients::default());
    for channel in Channel::ALL {
        let port = channel.port(info);
        let listener = match info.transport {
            Transport::TCP => Listener::Tcp(
                TcpListener::bind((info.ip.as_str(), port))
                    .await
                    .with_context(|| format!("cannot listen on port {port} of {}", info.ip))?,
            ),
            Transport::IPC => {
                let path = format!("{}-{port}", info.ip);
                Listener::Unix(
                    UnixListener::bind(&path)
                        .with_context(|| format!("cannot listen on {path}"))?,
                )
            }
        };
        let socket = PathBuf::from(format!("{}-{port}", internal.ip));
        tokio::spawn(serve(listener, channel, socket, Arc::clone(&clients)));
    }
    Ok(())
}

/// Raises the limit on open files to what all connections may need, as far as permitted.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if is_known && limit.rlim_cur < OPEN_FILES {
        limit.rlim_cur = OPEN_FILES.min(limit.rlim_max);
        // SAFETY: the pointer is to a live rlimit. On failure fewer connections are possible.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// The connected clients of all sockets.
#[derive(Default)]
struct Clients(Mutex<ClientTable>);

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
    fn register(&self, channel: Channel) -> Option<(u64, Arc<Notify>)> {
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

    fn unregister(&self, number: u64) {
        self.table().all.remove(&number);
    }

    fn record_message(&self, number: u64) {
        if let Some(client) = self.table().all.get_mut(&number) {
            client.has_sent_message = true;
        }
    }

    /// Reserves a buffer for a message of `bytes`. Above the limit, other clients with buffers are
    /// disconnected: first those that have sent no complete message, then the least recently used;
    /// Jupyter clients reconnect. Returns false if this client itself has been disconnected.
    fn reserve(&self, number: u64, bytes: u64) -> bool {
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

/// A listener for clients.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection to a client.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                Ok(Box::new(client))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Connects every client to `socket`.
async fn serve(listener: Listener, channel: Channel, socket: PathBuf, clients: Arc<Clients>) {
    loop {
        let Ok(client) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some((number, end)) = clients.register(channel) else { continue };
        let (socket, clients) = (socket.clone(), Arc::clone(&clients));
        // A failed connection does not affect others.
        tokio::spawn(async move {
            tokio::select! {
                _ = forward(client, channel, &socket, number, &clients) => {}
                () = end.notified() => {}
            }
            clients.unregister(number);
        });
    }
}

/// The identity of the client without the number, which it uses on its other sockets.
pub fn own_identity(numbered: &[u8]) -> Vec<u8> {
    numbered[..numbered.len().saturating_sub(NUMBER)].to_vec()
}

/// Forwards both directions until one ends.
async fn forward(
    client: Box<dyn Stream>,
    channel: Channel,
    socket: &Path,
    number: u64,
    clients: &Clients,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_socket, mut to_socket) = UnixStream::connect(socket).await?.into_split();
    let upstream = async {
        timeout(
            HANDSHAKE_TIME,
            forward_handshake(
                &mut from_client,
                &mut to_socket,
                channel.is_numbered().then_some(number),
            ),
        )
        .await??;
        forward_messages(from_client, to_socket, channel, number, clients).await
    };
    tokio::select! {
        done = upstream => done,
        done = copy(&mut from_socket, &mut to_client) => done.map(drop),
    }
}

/// Forwards the greeting and the handshake, with `number` appended to the identity.
async fn forward_handshake(
    from_client: &mut (impl AsyncRead + Unpin),
    to_socket: &mut (impl AsyncWrite + Unpin),
    number: Option<u64>,
) -> std::io::Result<()> {
    // Both sides wait for the start of the other's greeting before they continue.
    copy(&mut from_client.take(GREETING), to_socket).await?;
    let ready = match from_client.read_u8().await? {
        COMMAND => u64::from(from_client.read_u8().await?),
        first if first == COMMAND | LONG => from_client.read_u64().await?,
        _ => return Err(std::io::ErrorKind::InvalidData.into()),
    };
    if ready > HANDSHAKE {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    from_client.take(ready).read_to_end(&mut body).await?;
    let with_number =
        append_number(&body, number.unwrap_or_default()).ok_or(std::io::ErrorKind::InvalidData)?;
    let body = if number.is_some() { with_number } else { body };
    match u8::try_from(body.len()) {
        Ok(length) => to_socket.write_all(&[COMMAND, length]).await?,
        Err(_) => {
            to_socket.write_u8(COMMAND | LONG).await?;
            to_socket.write_u64(body.len() as u64).await?;
        }
    }
    to_socket.write_all(&body).await
}

/// Forwards messages within the limits of `channel`; a violation ends the connection.
async fn forward_messages(
    from_client: impl AsyncRead + Unpin,
    to_socket: impl AsyncWrite + Unpin,
    channel: Channel,
    number: u64,
    clients: &Clients,
) -> std::io::Result<()> {
    let (mut from_client, mut to_socket) = (BufReader::new(from_client), BufWriter::new(to_socket));
    for _ in 0..channel.max_messages() {
        let accepts = |bytes| bytes <= channel.max_bytes() && clients.reserve(number, bytes);
        forward_message(&mut from_client, &mut to_socket, accepts).await?;
        clients.record_message(number);
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// Forwards one message; `accepts` returns whether it may have this many bytes.
async fn forward_message(
    from_client: &mut (impl AsyncRead + Unpin),
    to_socket: &mut (impl AsyncWrite + Unpin),
    accepts: impl Fn(u64) -> bool,
) -> std::io::Result<()> {
    let mut bytes = 0u64;
    for _ in 0..FRAMES {
        let first = from_client.read_u8().await?;
        let length = match first & LONG {
            0 => u64::from(from_client.read_u8().await?),
            _ => from_client.read_u64().await?,
        };
        bytes = bytes.saturating_add(length);
        // ZMTP 3.0 has no commands after the handshake.
        if first & !(MORE | LONG) != 0 || !accepts(bytes) {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        to_socket.write_u8(first).await?;
        match first & LONG {
            0 => to_socket.write_u8(length as u8).await?,
            _ => to_socket.write_u64(length).await?,
        }
        if copy(&mut (&mut *from_client).take(length), to_socket).await? < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first & MORE == 0 {
            return to_socket.flush().await;
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// The body of a READY command with a number appended to the identity; none if the body is invalid.
fn append_number(ready: &[u8], number: u64) -> Option<Vec<u8>> {
    const NAME: &[u8] = b"\x05READY";
    let mut rest = ready.strip_prefix(NAME)?;
    let (mut body, mut identity) = (NAME.to_vec(), Vec::new());
    while let Some((length, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(usize::from(*length))?;
        let (length, after) = after.split_first_chunk()?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if name == b"Identity" {
            identity = value.get(..value.len().min(IDENTITY - NUMBER))?.to_vec();
        } else {
            body.extend_from_slice(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    identity.extend_from_slice(&number.to_be_bytes());
    body.extend_from_slice(b"\x08Identity");
    body.extend_from_slice(&u32::try_from(identity.len()).ok()?.to_be_bytes());
    body.extend_from_slice(&identity);
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_appended_to_the_identity_and_nothing_else_changes() {
        let ready = b"\x05READY\x08Identity\0\0\0\x02me\x0bSocket-Type\0\0\0\x06DEALER";
        let expected =
            b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x0ame\0\0\0\0\0\0\0\x07";
        assert_eq!(append_number(ready, 7).as_deref(), Some(expected.as_slice()));
        for length in 6..ready.len() {
            let whole = [6, 21].contains(&length);
            assert_eq!(append_number(&ready[..length], 7).is_some(), whole, "{length} bytes");
        }
        assert_eq!(append_number(b"\x05ERROR", 7), None);
        assert_eq!(append_number(b"\x05READY\x00\xff\xff\xff\xff", 7), None);
    }

    /// What passes of `from_client`, and whether the stream ended between two messages.
    async fn forwarded(from_client: &[u8], channel: Channel) -> (bool, Vec<u8>) {
        let mut to_socket = Vec::new();
        let clients = Clients::default();
        let (number, _) = clients.register(channel).unwrap();
        let done = forward_messages(from_client, &mut to_socket, channel, number, &clients).await;
        (done.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof), to_socket)
    }

    #[test]
    fn messages_pass_within_the_limits() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let two = b"\x01\x02ab\x00\x01c\x02\0\0\0\0\0\0\0\x02de";
            assert_eq!(forwarded(two, Channel::Shell).await, (true, two.to_vec()));
            let frame = |first: u8, length: u64| {
                let claim = [&[first | LONG][..], &length.to_be_bytes()].concat();
                [claim, vec![7; length.min(5000) as usize]].concat()
            };
            assert!(forwarded(&frame(0, 4096), Channel::Iopub).await.0);
            assert!(
                !forwarded(&[frame(MORE, 4000), frame(0, 97)].concat(), Channel::Iopub).await.0,
                "the message has 4097 bytes"
            );
            for channel in Channel::ALL {
                for length in [1 << 62, u64::MAX, (16 << 20) + 1] {
                    assert_eq!(forwarded(&frame(0, length), channel).await, (false, Vec::new()));
                }
                assert!(
                    !forwarded(&[MORE, 0].repeat(FRAMES + 1), channel).await.0,
                    "frames without end"
                );
                for first in [COMMAND, 8, 128] {
                    assert_eq!(
                        forwarded(&[first, 0], channel).await,
                        (false, Vec::new()),
                        "{first}"
                    );
                }
            }
            // One subscription to everything is enough.
            assert!(forwarded(&[0, 1, 1].repeat(64)[..192 - 3], Channel::Iopub).await.0);
            assert!(
                !forwarded(&[0, 1, 1].repeat(10_000), Channel::Iopub).await.0,
                "subscriptions without end"
            );
            assert!(forwarded(&[0, 1, 1].repeat(10_000), Channel::Heartbeat).await.0);
        });
    }

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
