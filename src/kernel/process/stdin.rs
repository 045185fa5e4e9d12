//! The standard input of the cells' process, through which evcxr sends commands and from which a
//! cell may read lines.
//!
//! A cell that reads would block forever unless the kernel notices. On Linux the state of a thread
//! shows it (`/proc/PID/syscall`), and the input is a sequenced-packet socket: an empty packet
//! reads as one end of file, and later commands still arrive. On other systems the input is a pipe,
//! and only requests by `evcxr_input` are noticed.

use std::process::Stdio;

use anyhow::Result;

/// The write end.
pub struct CellInput(
    #[cfg(target_os = "linux")] std::os::fd::OwnedFd,
    #[cfg(not(target_os = "linux"))] std::io::PipeWriter,
);

/// The largest packet, in bytes: smaller than the buffers of readers, because the rest of a packet
/// is lost.
#[cfg(target_os = "linux")]
const PACKET: usize = 4096;

/// The write end, and the read end for the cells' process.
///
/// # Errors
/// There are no file descriptors left.
#[cfg(target_os = "linux")]
pub fn pair() -> Result<(CellInput, Stdio)> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for both descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: both descriptors are open and owned by nothing else.
    let [ours, theirs] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((CellInput(ours), theirs.into()))
}

/// The write end, and the read end for the cells' process.
///
/// # Errors
/// There are no file descriptors left.
#[cfg(not(target_os = "linux"))]
pub fn pair() -> Result<(CellInput, Stdio)> {
    let (theirs, ours) = std::io::pipe()?;
    Ok((CellInput(ours), theirs.into()))
}

impl CellInput {
    /// Writes a line.
    ///
    /// # Errors
    /// The read end is closed.
    #[cfg(target_os = "linux")]
    pub fn write_line(&mut self, line: &[u8]) -> Result<()> {
        line.chunks(PACKET).try_for_each(|packet| self.send(packet))
    }

    #[cfg(target_os = "linux")]
    fn send(&self, packet: &[u8]) -> Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open, and the pointer and length are those of a slice.
        let sent = unsafe {
            libc::send(self.0.as_raw_fd(), packet.as_ptr().cast(), packet.len(), libc::MSG_NOSIGNAL)
        };
        if sent < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// The read end is closed.
    #[cfg(not(target_os = "linux"))]
    pub fn write_line(&mut self, line: &[u8]) -> Result<()> {
        use std::io::Write;
        Ok(self.0.write_all(line)?)
    }

    /// Signals end of file to the current reader.
    ///
    /// # Errors
    /// The read end is closed.
    #[cfg(target_os = "linux")]
    pub fn end_of_file(&mut self) -> Result<()> {
        self.send(&[])
    }

    /// Does nothing: whether a cell is reading is unknown.
    ///
    /// # Errors
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn end_of_file(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Whether a thread of `process`, or of one of its descendants, is blocked reading standard input.
#[cfg(target_os = "linux")]
pub fn is_reading(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return false };
    threads.flatten().any(|thread| {
        let text =
            |file: &str| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let mut call =
            text("syscall").split_whitespace().map(str::to_owned).collect::<Vec<_>>().into_iter();
        let reads = call.next().and_then(|number| number.parse().ok()).is_some_and(
            |number: libc::c_long| {
                [libc::SYS_read, libc::SYS_readv, libc::SYS_recvfrom].contains(&number)
            },
        );
        reads && call.next().is_some_and(|fd| fd == "0x0")
            || text("children")
                .split_whitespace()
                .filter_map(|child| child.parse().ok())
                .any(is_reading)
    })
}

/// Unknown on this system.
#[cfg(not(target_os = "linux"))]
pub fn is_reading(_: u32) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Read;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_blocked_reader_is_detected_and_receives_a_line_or_end_of_file() {
        let (mut input, theirs) = pair().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "a=$(head -n1); b=$(head -n1); echo $a-$b-$(cat)"])
            .stdin(theirs)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let until_it_waits = |child: &std::process::Child| {
            let begin = Instant::now();
            while !is_reading(child.id()) {
                assert!(begin.elapsed() < Duration::from_secs(10));
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        until_it_waits(&child);
        input.write_line(b"one\n").unwrap();
        until_it_waits(&child);
        input.write_line(b"two\n").unwrap();
        until_it_waits(&child);
        input.end_of_file().unwrap();
        let mut printed = String::new();
        child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        child.wait().unwrap();
        assert_eq!(printed, "one-two-\n");
    }
}
