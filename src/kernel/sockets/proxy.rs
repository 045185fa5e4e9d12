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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter, copy};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::time::timeout;

use super::clients::{Channel, Clients};
use super::zmtp::{forward_handshake, forward_message};

/// The pause after a socket error.
pub const PAUSE: Duration = Duration::from_millis(20);

/// The timeout of the handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The limit on open files that is requested: each connection uses three, one to the client and two
/// to the sockets.
const OPEN_FILES: libc::rlim_t = 4096;

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

#[cfg(test)]
mod tests {
    use super::super::zmtp::{COMMAND, FRAMES, LONG, MORE};
    use super::*;

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
}
