//! Identifies the process at the other end of a socket.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// The most generations between a process and its ancestor.
const GENERATIONS: usize = 64;

/// Whether `stream` was connected by a process of the same user.
pub fn is_same_user(stream: &UnixStream) -> bool {
    // SAFETY: geteuid has no arguments and cannot fail.
    user(stream) == Some(unsafe { libc::geteuid() })
}

#[cfg(target_os = "linux")]
fn user(stream: &UnixStream) -> Option<libc::uid_t> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the pointers are to live values of the right size.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    (done == 0).then_some(found.uid)
}

#[cfg(not(target_os = "linux"))]
fn user(stream: &UnixStream) -> Option<libc::uid_t> {
    let (mut user, mut group) = (0, 0);
    // SAFETY: the descriptor is open, and the pointers are to live values of the right size.
    let done = unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut user, &raw mut group) };
    (done == 0).then_some(user)
}

/// Whether `process` is a descendant of this process.
pub fn descends(process: i32) -> bool {
    let own = std::process::id().cast_signed();
    let ancestors = std::iter::successors(parent(process), |process| parent(*process));
    ancestors.take(GENERATIONS).any(|process| process == own)
}

/// The parent of `process`.
#[cfg(target_os = "linux")]
fn parent(process: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The process name is in parentheses and may contain some itself.
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|parent| *parent > 0)
}

/// The parent of `process`.
#[cfg(not(target_os = "linux"))]
fn parent(process: i32) -> Option<i32> {
    let output = std::process::Command::new("ps")
        .args(["-o", "ppid=", "-p", &process.to_string()])
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok().filter(|parent| *parent > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_children_of_this_process_are_its_descendants() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (parent, child_id) = (std::os::unix::process::parent_id(), child.id());
        let found = [child_id, parent, 1, std::process::id(), 999_999_999]
            .map(|process| descends(process.cast_signed()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [true, false, false, false, false]);
    }

    #[test]
    fn the_user_at_the_other_end_is_identified() {
        let (one, other) = UnixStream::pair().unwrap();
        assert!(is_same_user(&one) && is_same_user(&other));
    }
}
