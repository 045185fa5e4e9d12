//! Clients that are told apart by where they are, not by what they call themselves.
//!
//! A client of Jupyter gives its connections the name of its session (the identity of a ZeroMQ socket), by which replies
//! find it. Behind a gateway two connections may have one name, as JupyterLab's server leaves one behind where a page
//! connects twice, and replies would go to whichever came last. So connections pass through here, where a number is
//! added to each one's name; nothing else of what they say is changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// How long a socket that failed is left alone.
pub const PAUSE: Duration = Duration::from_millis(20);

/// The bytes of a greeting of ZMTP 3.0 (<https://rfc.zeromq.org/spec/23>), and the most that its handshake may have then.
const GREETING: u64 = 64;
const HANDSHAKE: u64 = 4096;

/// The bits of a frame's first byte: its length has eight bytes and not one; it is a command.
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The most bytes of an identity.
const IDENTITY: usize = 255;

/// The bytes of a connection's number, which ends its identity.
const NUMBER: usize = size_of::<u64>();

/// Where a socket that clients reach at `port` is bound instead, so that they can pass through here: a file in
/// `directory`. Sockets that are files already are left where they are.
pub fn behind(info: &ConnectionInfo, directory: &Path) -> ConnectionInfo {
    match info.transport {
        Transport::IPC => info.clone(),
        Transport::TCP => {
            ConnectionInfo { transport: Transport::IPC, ip: directory.join("behind").display().to_string(), ..info.clone() }
        }
    }
}

/// Lets clients through to the socket that is bound `behind` a port.
///
/// # Errors
/// A port that is taken.
pub async fn tell_apart(info: &ConnectionInfo, behind: &ConnectionInfo, port: u16) -> Result<()> {
    if info.transport == Transport::IPC {
        return Ok(());
    }
    let listener = TcpListener::bind((info.ip.as_str(), port)).await;
    let listener = listener.with_context(|| format!("cannot listen at port {port} of {}", info.ip))?;
    let socket = PathBuf::from(format!("{}-{port}", behind.ip));
    tokio::spawn(async move {
        let mut number = 0;
        loop {
            let Ok((client, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            number += 1;
            let socket = socket.clone();
            // A client that goes away, or says what is no handshake, is not the last.
            tokio::spawn(async move { pass(client, &socket, number).await.ok() });
        }
    });
    Ok(())
}

/// The identity that the client itself has on its other sockets.
pub fn own_identity(numbered: &[u8], info: &ConnectionInfo) -> Vec<u8> {
    let number = if info.transport == Transport::TCP { NUMBER } else { 0 };
    numbered[..numbered.len().saturating_sub(number)].to_vec()
}

/// Passes on what both say, until one of them ends.
async fn pass(client: TcpStream, socket: &Path, number: u64) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (mut said, mut answered) = client.into_split();
    let (mut answers, mut heard) = UnixStream::connect(socket).await?.into_split();
    let there = async {
        // Both sides look at the beginning of the other's greeting before they go on.
        copy(&mut (&mut said).take(GREETING), &mut heard).await?;
        let ready = match said.read_u8().await? {
            COMMAND => u64::from(said.read_u8().await?),
            first if first == COMMAND | LONG => said.read_u64().await?,
            _ => return Err(std::io::ErrorKind::InvalidData.into()),
        };
        let mut body = Vec::new();
        (&mut said).take(ready.min(HANDSHAKE)).read_to_end(&mut body).await?;
        let body = numbered(&body, number).ok_or(std::io::ErrorKind::InvalidData)?;
        match u8::try_from(body.len()) {
            Ok(length) => heard.write_all(&[COMMAND, length]).await?,
            Err(_) => {
                heard.write_u8(COMMAND | LONG).await?;
                heard.write_u64(body.len() as u64).await?;
            }
        }
        heard.write_all(&body).await?;
        copy(&mut said, &mut heard).await
    };
    tokio::select! {
        done = there => done,
        done = copy(&mut answers, &mut answered) => done,
    }?;
    Ok(())
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
}
