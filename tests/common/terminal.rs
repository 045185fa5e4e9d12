//! Runs a program in a pseudo-terminal: types input, and reads the screen as a user would see it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a text may take to appear before the test fails.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Keys that are not characters.
pub const ENTER: &str = "\r";
pub const TAB: &str = "\t";
pub const ESCAPE: &str = "\x1b";
pub const UP: &str = "\x1b[A";
pub const DOWN: &str = "\x1b[B";
pub const RIGHT: &str = "\x1b[C";
pub const LEFT: &str = "\x1b[D";
pub const BACKSPACE: &str = "\x7f";

/// The character that Ctrl and a letter produce.
pub fn ctrl(letter: char) -> String {
    char::from(letter.to_ascii_uppercase() as u8 & 0x1f).to_string()
}

/// A program in its terminal. The program is killed on drop.
pub struct Terminal {
    child: Child,
    master: File,
    output: Arc<Mutex<TerminalOutput>>,
}

struct TerminalOutput {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

impl Terminal {
    /// `dam` in `directory`, which is also its home, in a terminal with 100 columns and 30 rows,
    /// once the prompt has appeared.
    pub fn dam(directory: &Path) -> Self {
        let terminal = Self::start(dam(directory), 30, 100);
        terminal.wait_for("dam>");
        terminal
    }

    /// `command` in a terminal.
    pub fn start(mut command: Command, rows: u16, columns: u16) -> Self {
        let (master, slave) = open(rows, columns);
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // Makes the terminal the controlling terminal of the program.
        // SAFETY: the closure only makes system calls, which is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() >= 0 && libc::ioctl(0, libc::TIOCSCTTY, 0) >= 0 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
        let child = command.spawn().unwrap();
        drop((command, slave));
        let output = Arc::new(Mutex::new(TerminalOutput {
            parser: vt100::Parser::new(some(rows), some(columns), 0),
            bytes: Vec::new(),
        }));
        let (shared, mut reader) = (output.clone(), master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut chunk = [0; 1 << 16];
            while let Ok(count @ 1..) = reader.read(&mut chunk) {
                let mut output = shared.lock().unwrap();
                output.parser.process(&chunk[..count]);
                output.bytes.extend_from_slice(&chunk[..count]);
            }
        });
        Self { child, master, output }
    }

    /// Types `keys` unchanged.
    pub fn send(&mut self, keys: impl AsRef<[u8]>) {
        self.master.write_all(keys.as_ref()).unwrap();
    }

    /// Types a line and Enter.
    pub fn line(&mut self, text: &str) {
        self.send(format!("{text}{ENTER}"));
    }

    /// Pastes `text` as bracketed paste.
    pub fn paste(&mut self, text: &str) {
        self.send(format!("\x1b[200~{text}\x1b[201~"));
    }

    /// The screen as text without trailing spaces.
    pub fn screen(&self) -> String {
        let output = self.output.lock().unwrap();
        let rows = output.parser.screen().rows(0, output.parser.screen().size().1.get());
        let text = rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n");
        text.trim_end().to_owned()
    }

    /// The last non-empty line of the screen.
    pub fn last_line(&self) -> String {
        self.screen().lines().last().unwrap_or_default().to_owned()
    }

    /// The position of the cursor: row and column, from 0.
    pub fn cursor(&self) -> (u16, u16) {
        self.output.lock().unwrap().parser.screen().cursor_position()
    }

    /// The cell of the first character of `text`, with its style, once the text is on the screen.
    pub fn cell(&self, text: &str) -> vt100::Cell {
        self.wait_for(text);
        let output = self.output.lock().unwrap();
        let screen = output.parser.screen();
        let (rows, columns) = screen.size();
        let columns = columns.get();
        let shown = |cell: &vt100::Cell| {
            if cell.has_contents() { cell.contents().to_owned() } else { " ".to_owned() }
        };
        for row in 0..rows.get() {
            for column in 0..columns {
                let rest = (column..columns).filter_map(|c| screen.cell(row, c)).map(shown);
                if rest.take(text.chars().count()).collect::<String>() == text {
                    return screen.cell(row, column).unwrap().clone();
                }
            }
        }
        panic!("`{text}` is not on the screen:\n{}", screen.contents());
    }

    /// Everything written to the terminal so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.output.lock().unwrap().bytes.clone()
    }

    /// Waits until `text` is on the screen; returns the screen.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(&format!("`{text}`"), |screen| screen.contains(text))
    }

    /// Waits until the last line is a prompt that contains `text`.
    pub fn wait_for_prompt(&self, text: &str) -> String {
        self.wait_until(&format!("a prompt with `{text}`"), |screen| {
            screen.lines().last().is_some_and(|last| {
                last.starts_with("dam") && last.contains('>') && last.contains(text)
            })
        })
    }

    /// Waits until `text` appears in the output after the first `from` bytes; returns where it
    /// ends. Polls fast enough to measure latency.
    pub fn wait_for_bytes(&self, from: usize, text: &str) -> usize {
        let start = Instant::now();
        let place = || {
            self.output.lock().unwrap().bytes[from..]
                .windows(text.len())
                .position(|bytes| bytes == text.as_bytes())
        };
        loop {
            if let Some(at) = place() {
                return from + at + text.len();
            }
            assert!(start.elapsed() < TIMEOUT, "`{}` was not written", text.escape_debug());
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Waits until the screen satisfies `fits`; returns it.
    pub fn wait_until(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if fits(&screen) {
                return screen;
            }
            assert!(start.elapsed() < TIMEOUT, "{what} did not appear on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resizes the terminal.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.output.lock().unwrap().parser.screen_mut().set_size(some(rows), some(columns));
        let size = size(rows, columns);
        // SAFETY: the descriptor is open, and the pointer is to a live winsize.
        assert_eq!(
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) },
            0
        );
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the program at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until the program has ended.
    pub fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < TIMEOUT, "the program does not end:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The `dam` program in `directory`, which is also its home, isolated from the files and settings
/// of the user.
pub fn dam(directory: &Path) -> Command {
    let mut command = super::dam(directory);
    command
        .env("HOME", directory)
        .env("XDG_STATE_HOME", directory.join("state"))
        .env("TERM", "xterm-256color");
    command.env("LANG", "C.UTF-8").env("PAGER", "cat");
    for other in [
        "NO_COLOR",
        "DAM_EDIT",
        "LC_ALL",
        "LC_CTYPE",
        "HF_HOME",
        "HF_HUB_CACHE",
        "XDG_CACHE_HOME",
        "COLORTERM",
    ] {
        command.env_remove(other);
    }
    command
}

fn some(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

fn size(rows: u16, columns: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Opens a pseudo-terminal: the master and the slave.
fn open(rows: u16, columns: u16) -> (File, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let mut size = size(rows, columns);
    // SAFETY: the pointers are to live variables, or null where permitted; the two descriptors are
    // owned by nothing else.
    unsafe {
        let done = libc::openpty(
            &raw mut master,
            &raw mut slave,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &raw mut size,
        );
        assert_eq!(done, 0, "no pseudo-terminal");
        libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
        libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}
