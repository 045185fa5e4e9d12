//! Forwards ZMTP 3.0 (<https://rfc.zeromq.org/spec/23>), the protocol of ZeroMQ sockets:
//! a greeting, a handshake with the identity of the client, and messages of frames.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};

/// The length of the greeting, and the most bytes of the handshake after it.
const GREETING: u64 = 64;
const HANDSHAKE: u64 = 4096;

/// The bits of the first byte of a frame: more frames follow; the length has eight bytes instead of
/// one; the frame is a command.
pub const MORE: u8 = 1;
pub const LONG: u8 = 2;
pub const COMMAND: u8 = 4;

/// The most frames per message.
pub const FRAMES: usize = 256;

/// The longest identity, in bytes.
const IDENTITY: usize = 255;

/// The length of the connection number at the end of an identity, in bytes.
const NUMBER: usize = size_of::<u64>();

/// The identity of the client without the number, which it uses on its other sockets.
pub fn own_identity(numbered: &[u8]) -> Vec<u8> {
    numbered[..numbered.len().saturating_sub(NUMBER)].to_vec()
}

/// Forwards the greeting and the handshake, with `number` appended to the identity.
pub async fn forward_handshake(
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

/// Forwards one message; `accepts` returns whether it may have this many bytes.
pub async fn forward_message(
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
}
