//! Which pictures the terminal draws, by its own answers. Terminals answer at once; one that does not is not waited for.

use std::fs::File;
use std::io::{Read, Result, Write};
use std::sync::OnceLock;

use rustix::io::ioctl_fionread;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcgetpgrp, tcsetattr};

/// How long an answer is waited for, in tenths of a second: it may come over ssh from the other side of the world.
const PATIENCE: u8 = 10;

/// More bytes than any answer has.
const MOST: usize = 256;

/// What it is (DA1, `CSI c`): sixel is a 4 in the answer.
const WHAT: &str = "\x1b[c";

/// Whether it draws a picture of kitty's protocol, of one pixel that it is not to show, and then what it is, which
/// terminals that know nothing of it answer too.
const KITTY: &str = "\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c";

/// Whether it draws sixel pictures. It is asked once.
pub fn sixel() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| ask(WHAT).is_ok_and(|answer| names_sixel(&answer)))
}

/// Whether it draws those of kitty's protocol. It is asked once.
pub fn kitty() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| ask(KITTY).is_ok_and(|answer| answer.windows(9).any(|bytes| bytes == b"_Gi=31;OK")))
}

/// What the terminal answers to `question`, up to what it is; nothing if it does not answer, or if keys wait that would
/// be taken for it.
fn ask(question: &str) -> Result<Vec<u8>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    // SAFETY: it can be called at any time. In the background a program that changes the terminal is stopped.
    let is_ours = tcgetpgrp(&terminal)?.as_raw_pid() == unsafe { libc::getpgrp() };
    if !is_ours || ioctl_fionread(&terminal)? > 0 {
        return Ok(Vec::new());
    }
    let before = tcgetattr(&terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    quiet.special_codes[SpecialCodeIndex::VMIN] = 0;
    quiet.special_codes[SpecialCodeIndex::VTIME] = PATIENCE;
    tcsetattr(&terminal, OptionalActions::Now, &quiet)?;
    let answer = answered(&mut terminal, question);
    tcsetattr(&terminal, OptionalActions::Now, &before)?;
    answer
}

fn answered(terminal: &mut File, question: &str) -> Result<Vec<u8>> {
    terminal.write_all(question.as_bytes())?;
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while answer.len() < MOST && terminal.read(&mut byte)? == 1 {
        answer.extend(byte);
        if byte == *b"c" && attributes(&answer).is_some() {
            break;
        }
    }
    Ok(answer)
}

/// The numbers of an answer, `CSI ? 62 ; 4 c`, with whatever is before it.
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
    fn a_four_behind_the_class_is_sixel() {
        // xterm as a VT340, foot, and one that had a key in its way.
        for answer in ["\x1b[?63;1;2;4;6;9;15;22c", "\x1b[?62;4;22c", "q\x1b[?62;4c"] {
            assert!(names_sixel(answer.as_bytes()), "{answer:?}");
        }
        // VTE, Linux's console, a class 4 that is none, and no answer.
        for answer in ["\x1b[?65;1;9c", "\x1b[?6c", "\x1b[?4c", "\x1b[?62;14;42c", "", "\x1b[?62;4"] {
            assert!(!names_sixel(answer.as_bytes()), "{answer:?}");
        }
    }
}
