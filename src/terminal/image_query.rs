//! Queries the terminal for its image protocols. Terminals reply at once; without a reply the query
//! times out.

use std::fs::File;
use std::io::{Read, Result, Write};
use std::sync::OnceLock;

use rustix::io::ioctl_fionread;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcgetpgrp, tcsetattr,
};

/// The timeout for a reply, in tenths of a second: it may travel over a slow ssh connection.
const TIMEOUT_DECISECONDS: u8 = 10;

/// The most bytes read of a reply.
const REPLY_BYTES: usize = 256;

/// The query for primary device attributes (DA1, `CSI c`). A 4 in the reply means sixel.
const DEVICE_ATTRIBUTES: &str = "\x1b[c";

/// The query for kitty's graphics protocol: a one-pixel image that is not displayed, then DA1,
/// which terminals without the protocol answer too.
const KITTY_GRAPHICS: &str = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c";

/// Whether the terminal supports sixel images. The terminal is queried once.
pub fn sixel() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| query(DEVICE_ATTRIBUTES).is_ok_and(|answer| names_sixel(&answer)))
}

/// Whether the terminal supports kitty's graphics protocol. The terminal is queried once.
pub fn kitty() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        query(KITTY_GRAPHICS)
            .is_ok_and(|answer| answer.windows(9).any(|bytes| bytes == b"_Gi=31;OK"))
    })
}

/// Sends `request` and returns the reply up to the device attributes; empty if there is none, or if
/// pending keys could be mistaken for it.
fn query(request: &str) -> Result<Vec<u8>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    // SAFETY: getpgrp has no preconditions. A background process that changed the terminal would be
    // stopped.
    let is_ours = tcgetpgrp(&terminal)?.as_raw_pid() == unsafe { libc::getpgrp() };
    if !is_ours || ioctl_fionread(&terminal)? > 0 {
        return Ok(Vec::new());
    }
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    quiet.special_codes[SpecialCodeIndex::VMIN] = 0;
    quiet.special_codes[SpecialCodeIndex::VTIME] = TIMEOUT_DECISECONDS;
    tcsetattr(&terminal, OptionalActions::Now, &quiet)?;
    let answer = exchange(&mut terminal, request);
    tcsetattr(&terminal, OptionalActions::Now, &before)?;
    answer
}

fn exchange(terminal: &mut File, request: &str) -> Result<Vec<u8>> {
    terminal.write_all(request.as_bytes())?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while answer.len() < REPLY_BYTES && terminal.read(&mut byte)? == 1 {
        answer.extend(byte);
        if byte == *b"c" && attributes(&answer).is_some() {
            break;
        }
    }
    Ok(answer)
}

/// The attributes in a reply, `CSI ? 62 ; 4 c`, which may follow other bytes.
fn attributes(answer: &[u8]) -> Option<Vec<&[u8]>> {
    let start = answer.windows(3).rposition(|bytes| bytes == b"\x1b[?")? + 3;
    let numbers = answer[start..].strip_suffix(b"c")?;
    Some(numbers.split(|byte| *byte == b';').collect())
}

fn names_sixel(answer: &[u8]) -> bool {
    attributes(answer).is_some_and(|numbers| numbers[1..].contains(&b"4".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::names_sixel;

    #[test]
    fn attribute_4_after_the_class_means_sixel() {
        // xterm as a VT340, foot, and a reply that follows a key press.
        for answer in ["\x1b[?63;1;2;4;6;9;15;22c", "\x1b[?62;4;22c", "q\x1b[?62;4c"] {
            assert!(names_sixel(answer.as_bytes()), "{answer:?}");
        }
        // VTE, the Linux console, a 4 that is the class, no attribute 4, and incomplete replies.
        for answer in ["\x1b[?65;1;9c", "\x1b[?6c", "\x1b[?4c", "\x1b[?62;14;42c", "", "\x1b[?62;4"]
        {
            assert!(!names_sixel(answer.as_bytes()), "{answer:?}");
        }
    }
}
