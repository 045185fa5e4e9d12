//! What stands between the kernel's sockets and whoever connects: clients are told apart, and what cannot be meant is
//! not passed on.
//!
//! A client of Jupyter gives its connections the name of its session (the identity of a ZeroMQ socket), by which replies
//! find it. Behind a gateway two connections may have one name, as JupyterLab's server leaves one behind where a page
//! connects twice, and replies would go to whichever came last. So where replies are sent a number is added to each
//! one's name. And before anybody has shown that he knows the key he may claim to send any number of bytes, for which
//! the sockets themselves would make room: so what a message may have is bounded here, on all five sockets, and what all
//! of them have together. Nothing else of what they say is changed.

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

/// How long a socket that failed is left alone.
pub const PAUSE: Duration = Duration::from_millis(20);

/// How long a client has to say who it is.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The most connections that a socket has at once.
const CONNECTIONS: usize = 128;

/// The files that this process may have open for them: each connection is three, one here and two between here and the
/// sockets.
const FILES: libc::rlim_t = 4096;

/// The most bytes for which there is room over all connections of all sockets, as long as they last: once a large message
/// has passed, its room is kept for the next. Those of messages up to `SMALL` are not counted; they are 12 MB at the most.
const ROOM: u64 = 48 << 20;
const SMALL: u64 = 32 << 10;

/// The bytes of a greeting of ZMTP 3.0 (<https://rfc.zeromq.org/spec/23>), and the most that its handshake may have then.
const GREETING: u64 = 64;
const HANDSHAKE: u64 = 4096;

/// The bits of a frame's first byte: more frames of the message follow; its length has eight bytes and not one; it is a
/// command.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The most frames of a message.
const FRAMES: usize = 256;

/// The most bytes of an identity.
const IDENTITY: usize = 255;

/// The bytes of a connection's number, which ends its identity.
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
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Shell, Self::Control, Self::Stdin, Self::Iopub, Self::Heartbeat];

    fn port(self, info: &ConnectionInfo) -> u16 {
        match self {
            Self::Shell => info.shell_port,
            Self::Control => info.control_port,
            Self::Stdin => info.stdin_port,
            Self::Iopub => info.iopub_port,
            Self::Heartbeat => info.hb_port,
        }
    }

    /// The most bytes of a message: cells and answers on the first, names of topics and signs of life on the others.
    fn most(self) -> u64 {
        match self {
            Self::Shell | Self::Control | Self::Stdin => 16 << 20,
            Self::Iopub | Self::Heartbeat => 4096,
        }
    }

    /// The most messages of one connection. What a client wants to hear of is kept for ever, and looked through at
    /// each message.
    fn messages(self) -> u64 {
        if self == Self::Iopub { 64 } else { u64::MAX }
    }

    /// Whether its clients get a number.
    fn is_numbered(self) -> bool {
        matches!(self, Self::Shell | Self::Control)
    }
}

/// Where the sockets are bound instead of where clients reach them: files in `directory`.
pub fn behind(info: &ConnectionInfo, directory: &Path) -> ConnectionInfo {
    ConnectionInfo { transport: Transport::IPC, ip: directory.join("behind").display().to_string(), ..info.clone() }
}

/// Lets clients through to the sockets that are bound `behind`.
///
/// # Errors
/// A port that is taken.
pub async fn let_through(info: &ConnectionInfo, behind: &ConnectionInfo) -> Result<()> {
    allow_files();
    let clients = Arc::new(Clients::default());
    for channel in Channel::ALL {
        let port = channel.port(info);
        let listener = match info.transport {
            Transport::TCP => Listener::Tcp(
                TcpListener::bind((info.ip.as_str(), port))
                    .await
                    .with_context(|| format!("cannot listen at port {port} of {}", info.ip))?,
            ),
            Transport::IPC => {
                let path = format!("{}-{port}", info.ip);
                Listener::Unix(UnixListener::bind(&path).with_context(|| format!("cannot listen at {path}"))?)
            }
        };
        let socket = PathBuf::from(format!("{}-{port}", behind.ip));
        tokio::spawn(serve(listener, channel, socket, Arc::clone(&clients)));
    }
    Ok(())
}

/// Lets this process open as many files as all connections may need, where it may decide that.
fn allow_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: there is room for what is written.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if is_known && limit.rlim_cur < FILES {
        limit.rlim_cur = FILES.min(limit.rlim_max);
        // SAFETY: what is read is there. If it may not be, there are fewer connections.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// The clients of all sockets.
#[derive(Default)]
struct Clients(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// By the number of their connection, the oldest first.
    all: BTreeMap<u64, Client>,
    /// How much has happened.
    clock: u64,
}

/// A client that is connected.
struct Client {
    channel: Channel,
    /// Whether it has sent a whole message.
    has_spoken: bool,
    /// The bytes for which it has room, unless they are few, and when it needed some last.
    room: u64,
    latest: u64,
    /// Tells it that it is hung up on.
    end: Arc<Notify>,
}

impl Clients {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more on `channel`: its number, and what ends it. If there are too many, the oldest that has sent no whole
    /// message makes room; there may be none.
    fn enter(&self, channel: Channel) -> Option<(u64, Arc<Notify>)> {
        let mut known = self.known();
        if known.all.values().filter(|client| client.channel == channel).count() >= CONNECTIONS {
            let silent = known.all.iter().find(|(_, client)| client.channel == channel && !client.has_spoken);
            let silent = *silent?.0;
            known.hang_up(silent);
        }
        let (number, end) = (known.tick(), Arc::new(Notify::new()));
        let client = Client { channel, has_spoken: false, room: 0, latest: number, end: Arc::clone(&end) };
        known.all.insert(number, client);
        Some((number, end))
    }

    fn leave(&self, number: u64) {
        self.known().all.remove(&number);
    }

    fn has_spoken(&self, number: u64) {
        if let Some(client) = self.known().all.get_mut(&number) {
            client.has_spoken = true;
        }
    }

    /// Makes room for a message of `bytes`. If there is too little, others that have some are hung up on: first who has
    /// sent no whole message, then who has not needed it for longest; clients of Jupyter connect again. Tells whether it
    /// was done, which it is not for who was hung up on.
    fn make_room(&self, number: u64, bytes: u64) -> bool {
        let mut known = self.known();
        let now = known.tick();
        let Some(client) = known.all.get_mut(&number) else { return false };
        if bytes <= SMALL {
            return true;
        }
        (client.room, client.latest) = (client.room.max(bytes), now);
        while known.all.values().map(|client| client.room).sum::<u64>() > ROOM {
            let others = known.all.iter().filter(|(other, client)| **other != number && client.room > 0);
            let Some((first, _)) = others.min_by_key(|(_, client)| (client.has_spoken, client.latest)) else { break };
            let first = *first;
            known.hang_up(first);
        }
        true
    }
}

impl Known {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(client) = self.all.remove(&number) {
            client.end.notify_one();
        }
    }
}

/// Where clients come from.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What a client says and hears.
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

/// Lets every client through to `socket`.
async fn serve(listener: Listener, channel: Channel, socket: PathBuf, clients: Arc<Clients>) {
    loop {
        let Ok(client) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some((number, end)) = clients.enter(channel) else { continue };
        let (socket, clients) = (socket.clone(), Arc::clone(&clients));
        // A client that goes away, or says what is no handshake, is not the last.
        tokio::spawn(async move {
            tokio::select! {
                _ = pass(client, channel, &socket, number, &clients) => {}
                () = end.notified() => {}
            }
            clients.leave(number);
        });
    }
}

/// The identity that the client itself has on its other sockets.
pub fn own_identity(numbered: &[u8]) -> Vec<u8> {
    numbered[..numbered.len().saturating_sub(NUMBER)].to_vec()
}

/// Passes on what both say, until one of them ends.
async fn pass(client: Box<dyn Stream>, channel: Channel, socket: &Path, number: u64, clients: &Clients) -> std::io::Result<()> {
    let (mut said, mut answered) = tokio::io::split(client);
    let (mut answers, mut heard) = UnixStream::connect(socket).await?.into_split();
    let there = async {
        timeout(HANDSHAKE_TIME, shake_hands(&mut said, &mut heard, channel.is_numbered().then_some(number))).await??;
        messages(said, heard, channel, number, clients).await
    };
    tokio::select! {
        done = there => done,
        done = copy(&mut answers, &mut answered) => done.map(drop),
    }
}

/// Passes on greeting and handshake, with `number` at the end of the name.
async fn shake_hands(
    said: &mut (impl AsyncRead + Unpin),
    heard: &mut (impl AsyncWrite + Unpin),
    number: Option<u64>,
) -> std::io::Result<()> {
    // Both sides look at the beginning of the other's greeting before they go on.
    copy(&mut said.take(GREETING), heard).await?;
    let ready = match said.read_u8().await? {
        COMMAND => u64::from(said.read_u8().await?),
        first if first == COMMAND | LONG => said.read_u64().await?,
        _ => return Err(std::io::ErrorKind::InvalidData.into()),
    };
    if ready > HANDSHAKE {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    said.take(ready).read_to_end(&mut body).await?;
    let with_number = numbered(&body, number.unwrap_or_default()).ok_or(std::io::ErrorKind::InvalidData)?;
    let body = if number.is_some() { with_number } else { body };
    match u8::try_from(body.len()) {
        Ok(length) => heard.write_all(&[COMMAND, length]).await?,
        Err(_) => {
            heard.write_u8(COMMAND | LONG).await?;
            heard.write_u64(body.len() as u64).await?;
        }
    }
    heard.write_all(&body).await
}

/// Passes on as many messages as `channel` takes, each of at most so many bytes; one that has, or claims, more is the end.
async fn messages(
    said: impl AsyncRead + Unpin,
    heard: impl AsyncWrite + Unpin,
    channel: Channel,
    number: u64,
    clients: &Clients,
) -> std::io::Result<()> {
    let (mut said, mut heard) = (BufReader::new(said), BufWriter::new(heard));
    for _ in 0..channel.messages() {
        let room = |bytes| bytes <= channel.most() && clients.make_room(number, bytes);
        message(&mut said, &mut heard, room).await?;
        clients.has_spoken(number);
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// Passes on a message; `room` tells whether it may have so many bytes.
async fn message(
    said: &mut (impl AsyncRead + Unpin),
    heard: &mut (impl AsyncWrite + Unpin),
    room: impl Fn(u64) -> bool,
) -> std::io::Result<()> {
    let mut bytes = 0u64;
    for _ in 0..FRAMES {
        let first = said.read_u8().await?;
        let length = match first & LONG {
            0 => u64::from(said.read_u8().await?),
            _ => said.read_u64().await?,
        };
        bytes = bytes.saturating_add(length);
        // After the handshake ZMTP 3.0 knows no commands.
        if first & !(MORE | LONG) != 0 || !room(bytes) {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        heard.write_u8(first).await?;
        match first & LONG {
            0 => heard.write_u8(length as u8).await?,
            _ => heard.write_u64(length).await?,
        }
        if copy(&mut (&mut *said).take(length), heard).await? < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first & MORE == 0 {
            return heard.flush().await;
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// The body of a command READY, with a number at the end of the identity; nothing if it is none.
fn numbered(ready: &[u8], number: u64) -> Option<Vec<u8>> {
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
    fn a_number_ends_the_identity_and_all_else_stays() {
        let ready = b"\x05READY\x08Identity\0\0\0\x02me\x0bSocket-Type\0\0\0\x06DEALER";
        let expected = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x0ame\0\0\0\0\0\0\0\x07";
        assert_eq!(numbered(ready, 7).as_deref(), Some(expected.as_slice()));
        for length in 6..ready.len() {
            let whole = [6, 21].contains(&length);
            assert_eq!(numbered(&ready[..length], 7).is_some(), whole, "{length} bytes");
        }
        assert_eq!(numbered(b"\x05ERROR", 7), None);
        assert_eq!(numbered(b"\x05READY\x00\xff\xff\xff\xff", 7), None);
    }

    /// What passes of `said`, and whether it ended well, which is between two messages.
    async fn passed(said: &[u8], channel: Channel) -> (bool, Vec<u8>) {
        let mut heard = Vec::new();
        let clients = Clients::default();
        let (number, _) = clients.enter(channel).unwrap();
        let done = messages(said, &mut heard, channel, number, &clients).await;
        (done.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof), heard)
    }

    #[test]
    fn messages_pass_unless_they_claim_too_much() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let two = b"\x01\x02ab\x00\x01c\x02\0\0\0\0\0\0\0\x02de";
            assert_eq!(passed(two, Channel::Shell).await, (true, two.to_vec()));
            let frame = |first: u8, length: u64| {
                let claim = [&[first | LONG][..], &length.to_be_bytes()].concat();
                [claim, vec![7; length.min(5000) as usize]].concat()
            };
            assert!(passed(&frame(0, 4096), Channel::Iopub).await.0);
            assert!(!passed(&[frame(MORE, 4000), frame(0, 97)].concat(), Channel::Iopub).await.0, "the message has 4097 bytes");
            for channel in Channel::ALL {
                for length in [1 << 62, u64::MAX, (16 << 20) + 1] {
                    assert_eq!(passed(&frame(0, length), channel).await, (false, Vec::new()));
                }
                assert!(!passed(&[MORE, 0].repeat(FRAMES + 1), channel).await.0, "frames without end");
                for first in [COMMAND, 8, 128] {
                    assert_eq!(passed(&[first, 0], channel).await, (false, Vec::new()), "{first}");
                }
            }
            // Who is told of everything needs to say so once.
            assert!(passed(&[0, 1, 1].repeat(64)[..192 - 3], Channel::Iopub).await.0);
            assert!(!passed(&[0, 1, 1].repeat(10_000), Channel::Iopub).await.0, "subscriptions without end");
            assert!(passed(&[0, 1, 1].repeat(10_000), Channel::Heartbeat).await.0);
        });
    }

    /// Whether who is ended by `end` is hung up on.
    fn is_ended(end: &Notify) -> bool {
        let mut waiting = std::pin::pin!(end.notified());
        std::future::Future::poll(waiting.as_mut(), &mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[test]
    fn the_oldest_that_says_nothing_makes_room_for_another() {
        let clients = Clients::default();
        let all: Vec<_> = (0..CONNECTIONS).map(|_| clients.enter(Channel::Shell).unwrap()).collect();
        clients.has_spoken(all[0].0);
        assert!(clients.enter(Channel::Iopub).is_some());
        assert!(all.iter().all(|(_, end)| !is_ended(end)), "each socket has its own");
        assert!(clients.enter(Channel::Shell).is_some());
        assert_eq!(all.iter().map(|(_, end)| is_ended(end)).position(|ended| ended), Some(1));
        // Nobody is hung up on who has spoken; who goes makes room.
        clients.known().all.values_mut().for_each(|client| client.has_spoken = true);
        assert!(clients.enter(Channel::Shell).is_none());
        clients.leave(all[5].0);
        assert!(clients.enter(Channel::Shell).is_some());
    }

    #[test]
    fn all_messages_together_have_so_much_room() {
        let (clients, large) = (Clients::default(), Channel::Shell.most());
        let all: Vec<_> = (0..6).map(|_| clients.enter(Channel::Shell).unwrap()).collect();
        let ended = || all.iter().map(|(_, end)| is_ended(end)).collect::<Vec<_>>();
        // The first two have spoken, the first once more than the second; the last only says little.
        assert!(clients.make_room(all[5].0, SMALL));
        for i in [0, 1, 0, 2] {
            assert!(clients.make_room(all[i].0, large));
            if i < 2 {
                clients.has_spoken(all[i].0);
            }
        }
        assert_eq!(ended(), [false; 6]);
        assert!(clients.make_room(all[3].0, large));
        assert_eq!(ended(), [false, false, true, false, false, false]);
        clients.has_spoken(all[3].0);
        assert!(clients.make_room(all[4].0, large));
        assert_eq!(ended(), [false, true, false, false, false, false], "the others were told before");
        assert!(!clients.make_room(all[2].0, 1), "who was hung up on");
        let rooms: u64 = clients.known().all.values().map(|client| client.room).sum();
        assert!(rooms <= ROOM, "{rooms}");
    }
}
