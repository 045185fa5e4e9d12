//! Clients without the key cannot exhaust the kernel.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::{own, shared};

/// The socket types of clients, one per kernel socket.
const KINDS: [&str; 5] = ["DEALER", "SUB", "DEALER", "DEALER", "REQ"];

/// A connection without the key that has sent only the greeting.
fn greeting_only(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut greeting = [0u8; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    stream.write_all(&greeting).unwrap();
    stream
}

/// The same after the complete handshake.
fn unauthenticated(port: u16, kind: &str) -> TcpStream {
    let mut stream = greeting_only(port);
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend((kind.len() as u32).to_be_bytes());
    ready.extend(kind.as_bytes());
    stream.write_all(&[&[4, ready.len() as u8][..], &ready].concat()).unwrap();
    stream
}

/// Waits until the kernel disconnects, which it does at once.
fn assert_disconnects(mut stream: TcpStream, what: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let end = stream.read_to_end(&mut Vec::new());
    let reset = end
        .as_ref()
        .is_err_and(|e| [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&e.kind()));
    assert!(end.is_ok() || reset, "{what}: {end:?}");
}

#[test]
fn an_impossible_length_closes_only_its_connection() {
    let mut kernel = shared();
    for (port, kind) in kernel.ports().into_iter().zip(KINDS) {
        // A message before and after the handshake, and a command instead of it.
        for (mut stream, first) in
            [(greeting_only(port), 2u8), (unauthenticated(port, kind), 2), (greeting_only(port), 6)]
        {
            stream.write_all(&[&[first][..], &(1u64 << 62).to_be_bytes()].concat()).unwrap();
            assert_disconnects(stream, &format!("{kind}, {first}"));
        }
    }
    assert_eq!(kernel.run("1 + 1").text("shown"), "2");
}

#[test]
fn a_client_with_too_many_subscriptions_is_disconnected() {
    let mut kernel = shared();
    let mut stream = unauthenticated(kernel.ports()[1], "SUB");
    for i in 0..10_000u32 {
        let topic = i.to_be_bytes();
        // The kernel may have disconnected already.
        if stream.write_all(&[&[0, 5, 1][..], &topic].concat()).is_err() {
            break;
        }
    }
    assert_disconnects(stream, "10,000 subscriptions");
    assert_eq!(kernel.run("1 + 1").text("shown"), "2");
    assert_eq!(kernel.run_with_shared_identity("1 + 1"), "ok");
}

#[test]
fn idle_connections_do_not_block_other_clients() {
    let (mut kernel, _directory) = own();
    // Shell, iopub and control, which a client needs: more connections to each than the limit.
    let [shell, iopub, _, control, _] = kernel.ports();
    let idle: Vec<TcpStream> = (0..140)
        .flat_map(|_| {
            [(shell, "DEALER"), (iopub, "SUB"), (control, "DEALER")]
                .map(|(port, kind)| unauthenticated(port, kind))
        })
        .collect();
    assert_eq!(kernel.run_with_shared_identity("let kept = 7;"), "ok");
    assert_eq!(kernel.run("kept").text("shown"), "7");
    drop(idle);
}

/// The resident memory of a process, in KiB.
fn memory(process: u32) -> u64 {
    let asked = std::process::Command::new("ps")
        .args(["-o", "rss=", "-p", &process.to_string()])
        .output()
        .unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn unauthenticated_messages_do_not_fill_the_memory() {
    const CONNECTIONS: usize = 60;
    let (mut kernel, _directory) = own();
    // After this the kernel has allocated what it needs itself.
    assert_eq!(kernel.run("let kept = 7;").status, "ok");
    kernel.complete("kept.");
    let before = memory(kernel.id());
    let large = vec![7u8; 15 << 20];
    let mut connections = Vec::new();
    for i in 0..CONNECTIONS {
        let mut stream = unauthenticated(kernel.ports()[0], "DEALER");
        // Half of them send a complete message without a valid signature; the others never finish.
        let length = large.len() as u64 + (i % 2) as u64;
        let sent = stream.write_all(&[&[2][..], &length.to_be_bytes(), &large].concat());
        connections.push((stream, sent));
    }
    std::thread::sleep(Duration::from_secs(1));
    let grown = memory(kernel.id()).saturating_sub(before) >> 10;
    assert!(grown < 400, "{grown} MB for {} MB", CONNECTIONS * 15);
    // A large cell of an authenticated client still arrives.
    let cell = kernel.run(&format!("kept // {}", "x".repeat(4 << 20)));
    assert_eq!(cell.text("shown"), "7");
}
