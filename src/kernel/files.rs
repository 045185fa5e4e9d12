//! Files and directories that are safe to use: private, regular, of limited size.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;
use dam_prelude::checkpoint::read_file;

/// A directory for sockets that only the owner can enter, whatever the umask.
///
/// # Errors
/// The directory cannot be created.
pub fn own_directory() -> Result<tempfile::TempDir> {
    /// The longest path of a directory that leaves room for the name of a socket.
    const LONGEST: usize = 70;
    let only_me = std::fs::Permissions::from_mode(0o700);
    let mut place = std::env::temp_dir();
    if place.as_os_str().len() > LONGEST {
        place = "/tmp".into();
    }
    let directory =
        tempfile::Builder::new().prefix("dam-").permissions(only_me.clone()).tempdir_in(place)?;
    std::fs::set_permissions(directory.path(), only_me)?;
    Ok(directory)
}

/// The text of a regular file of limited size.
///
/// # Errors
/// It is not such a file, or not UTF-8.
pub fn text(file: &Path) -> dam_prelude::Result<String> {
    /// The largest file, in bytes.
    const LONGEST: u64 = 64 << 20;
    let invalid = |error| dam_prelude::Error::Io {
        action: "read",
        path: file.into(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    };
    String::from_utf8(read_file(file, LONGEST)?).map_err(invalid)
}
