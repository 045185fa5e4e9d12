//! Opens regular files only. A named pipe or device is an error at once; `open` would block, or a
//! read never end.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens the regular file `path` for reading. Pipes and devices are recognized after a non-blocking
/// open.
///
/// # Errors
/// A missing file, or something that is not a regular file.
pub fn open_file(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| match e.raw_os_error() {
        // These cannot be opened.
        Some(libc::ENXIO) => Error::NotAFile { path: path.into(), what: "a socket or a device" },
        _ => Error::io("read", path, e),
    })?;
    let io = |e| Error::io("read", path, e);
    let metadata = file.metadata().map_err(io)?;
    match other_kind(&metadata) {
        Some(what) => Err(Error::NotAFile { path: path.into(), what }),
        None if metadata.is_dir() => Err(io(io::ErrorKind::IsADirectory.into())),
        None => Ok(file),
    }
}

/// Opens the regular file `path` for writing, with `options`.
///
/// # Errors
/// A location without write permission, or something that is not a regular file.
pub fn open_to_write(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // Opening a pipe without a reader fails at once; one with a reader is recognized afterwards.
    let file = options.custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Reads the regular file `path`, of at most `limit` bytes.
///
/// # Errors
/// As for [`open_file`]; a file that is too large.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, io) = (open_file(path)?, |e| Error::io("read", path, e));
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        Err(io(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has more than {limit} bytes"),
        )))
    } else {
        Ok(bytes)
    }
}

/// Creates a temporary directory that only the user can access, whatever the umask.
///
/// # Errors
/// A location without write permission.
pub fn private_directory(prefix: &str) -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir()
}

/// Names the type of anything that is neither a regular file nor a directory.
pub(crate) fn other_kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    match kind {
        _ if kind.is_file() || kind.is_dir() => None,
        _ if kind.is_fifo() => Some("a pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_directories_are_only_accessible_to_the_user() {
        let directory = private_directory("dam-test-").unwrap();
        assert_eq!(
            std::fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn pipes_devices_and_sockets_are_errors_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        assert_eq!(read_file(&at("file"), 4).unwrap(), b"text");
        assert!(read_file(&at("file"), 3).unwrap_err().to_string().contains("more than 3 bytes"));
        let fifo = std::ffi::CString::new(at("fifo").to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
        for (path, word) in [
            (at("fifo"), "pipe"),
            (at("link"), "pipe"),
            (at("socket"), "socket"),
            ("/dev/zero".into(), "device"),
        ] {
            let error = open_file(&path).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(matches!(open_file(&at("absent")), Err(Error::NotFound { .. })));
        for path in [at("fifo"), at("link"), at("socket"), "/dev/null".into()] {
            open_to_write(OpenOptions::new().append(true).create(true), &path).unwrap_err();
        }
        // The same for writing to a pipe that has a reader.
        let _reader =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(at("fifo")).unwrap();
        open_to_write(OpenOptions::new().append(true), &at("fifo")).unwrap_err();
        open_to_write(OpenOptions::new().append(true).create(true), &at("new")).unwrap();
    }
}
