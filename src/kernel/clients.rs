//! What stands between the kernel's sockets and whoever connects: clients are told apart, and what cannot be meant is
//! not passed on.
//!
//! A client of Jupyter gives its connections the name of its session (the identity of a ZeroMQ socket), by which replies
//! find it. Behind a gateway two connections may have one name, as JupyterLab's server leaves one behind where a page
//! connects twice, and replies would go to whichever came last. So where replies are sent a number is added to each
//! one's name. And before anybody has shown that he knows the key he may claim to send any number of bytes, for which
//! the sockets themselves would make room: so what a message may have is bounded here, on all five sockets. Nothing
//! else of what they say is changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, copy};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a socket that failed is left alone.
pub const PAUSE: Duration = Duration::from_millis(20);

/// How long a client has to say who it is.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The most connections that a socket has at once.
const CONNECTIONS: usize = 128;

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
        tokio::spawn(serve(listener, channel, PathBuf::from(format!("{}-{port}", behind.ip))));
    }
    Ok(())
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
async fn serve(listener: Listener, channel: Channel, socket: PathBuf) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut number = 0;
    loop {
        let Ok(client) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        number += 1;
        let socket = socket.clone();
        // A client that goes away, or says what is no handshake, is not the last.
        tokio::spawn(async move {
            let _ = pass(client, channel, &socket, number).await;
            drop(place);
        });
    }
}

/// The identity that the client itself has on its other sockets.
pub fn own_identity(numbered: &[u8]) -> Vec<u8> {
    numbered[..numbered.len().saturating_sub(NUMBER)].to_vec()
}

/// Passes on what both say, until one of them ends.
async fn pass(client: Box<dyn Stream>, channel: Channel, socket: &Path, number: u64) -> std::io::Result<()> {
    let (mut said, mut answered) = tokio::io::split(client);
    let (mut answers, mut heard) = UnixStream::connect(socket).await?.into_split();
    let there = async {
        timeout(HANDSHAKE_TIME, shake_hands(&mut said, &mut heard, channel.is_numbered().then_some(number))).await??;
        messages(said, heard, channel.most()).await
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
    let mut body = Vec::new();
    said.take(ready.min(HANDSHAKE)).read_to_end(&mut body).await?;
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

/// Passes on messages of at most `most` bytes; one that has, or claims, more is the end.
async fn messages(said: impl AsyncRead + Unpin, heard: impl AsyncWrite + Unpin, most: u64) -> std::io::Result<()> {
    let (mut said, mut heard) = (BufReader::new(said), BufWriter::new(heard));
    let (mut bytes, mut frames) = (0u64, 0);
    loop {
        let first = said.read_u8().await?;
        let length = match first & LONG {
            0 => u64::from(said.read_u8().await?),
            _ => said.read_u64().await?,
        };
        (bytes, frames) = (bytes.saturating_add(length), frames + 1);
        // After the handshake ZMTP 3.0 knows no commands.
        if first & !(MORE | LONG) != 0 || bytes > most || frames > FRAMES {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        heard.write_u8(first).await?;
        match first & LONG {
            0 => heard.write_u8(length as u8).await?,
            _ => heard.write_u64(length).await?,
        }
        if copy(&mut (&mut said).take(length), &mut heard).await? < length {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if first & MORE == 0 {
            heard.flush().await?;
            (bytes, frames) = (0, 0);
        }
    }
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
    async fn passed(said: &[u8], most: u64) -> (bool, Vec<u8>) {
        let mut heard = Vec::new();
        let done = messages(said, &mut heard, most).await;
        // What ends between two messages ends well.
        (done.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof), heard)
    }

    #[test]
    fn messages_pass_unless_they_claim_too_much() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let two = b"\x01\x02ab\x00\x01c\x02\0\0\0\0\0\0\0\x02de";
            assert_eq!(passed(two, 3).await, (true, two.to_vec()));
            assert!(!passed(b"\x01\x02ab\x00\x02cd", 3).await.0, "the message has four bytes");
            let mut claim = vec![LONG];
            claim.extend((1u64 << 62).to_be_bytes());
            assert_eq!(passed(&claim, 1 << 20).await, (false, Vec::new()));
            claim[1..].copy_from_slice(&u64::MAX.to_be_bytes());
            assert_eq!(passed(&claim, u64::MAX - 1).await, (false, Vec::new()));
            assert!(!passed(&[MORE, 0].repeat(FRAMES + 1), 1 << 20).await.0, "frames without end");
            for first in [COMMAND, 8, 128] {
                assert_eq!(passed(&[first, 0], 1 << 20).await, (false, Vec::new()), "{first}");
            }
        });
    }
}
