//! The history of lines: in memory for the editor, and in a private file to which each line is
//! appended when it is entered. Sessions that run at the same time share the file: each appends one
//! line per write, and rewriting replaces the whole file.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::state::state_directory;
use dam_prelude::checkpoint::{open_file, open_to_write};
use rustyline::Result;
use rustyline::history::{History, SearchDirection, SearchResult};

/// The most lines kept.
const LINES: usize = 10_000;

/// Longer lines, in bytes, are not written to the file.
const LONGEST: usize = 10_000;

/// The most bytes read, from the end of the file.
const BYTES: u64 = 8 << 20;

/// The most duplicate lines in the file before it is rewritten.
const SPARE: usize = 1000;

/// The history, latest last, without duplicates.
#[derive(Default)]
pub struct LineHistory {
    entries: Vec<String>,
    file: Option<PathBuf>,
}

/// The path of the history file.
pub fn path() -> Option<PathBuf> {
    Some(state_directory()?.join("history"))
}

impl LineHistory {
    /// The lines in `file`, to which new lines will be appended. Without a readable file the
    /// history starts empty.
    pub fn open(file: Option<PathBuf>) -> Self {
        let text = file.as_deref().and_then(read).unwrap_or_default();
        let read: Vec<String> =
            text.lines().filter(|line| !line.is_empty()).map(unescaped).collect();
        let count = read.len();
        let entries = latest(read);
        if let Some(file) =
            file.as_deref().filter(|_| count > LINES || count > entries.len() + SPARE)
        {
            // If rewriting fails, the file stays as it is.
            let _ = rewrite(file, &entries);
        }
        Self { entries, file }
    }

    fn push(&mut self, line: String) -> bool {
        // A line that begins with a space is not recorded.
        if line.trim().is_empty() || line.starts_with(char::is_whitespace) {
            return false;
        }
        if let Some(file) = self.file.as_deref().filter(|_| line.len() <= LONGEST) {
            // A failed write, such as on a full disk, must not lose the line.
            let _ = add(file, &line);
        }
        self.entries.retain(|known| *known != line);
        self.entries.push(line);
        let spare = self.entries.len().saturating_sub(LINES);
        self.entries.drain(..spare);
        true
    }

    fn found(
        &self,
        start: usize,
        dir: SearchDirection,
        fits: impl Fn(&str) -> Option<usize>,
    ) -> Option<SearchResult<'_>> {
        let one = |(idx, entry): (usize, &'_ String)| fits(entry).map(|pos| (idx, pos));
        let all = self.entries.iter().enumerate();
        let (idx, pos) = match dir {
            SearchDirection::Forward => all.skip(start).find_map(one),
            SearchDirection::Reverse => all
                .rev()
                .skip(self.entries.len().saturating_sub(start.saturating_add(1)))
                .find_map(one),
        }?;
        Some(SearchResult { entry: Cow::Borrowed(&self.entries[idx]), idx, pos })
    }
}

/// The latest lines, each at its last position.
fn latest(lines: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> =
        lines.into_iter().rev().filter(|line| seen.insert(line.clone())).take(LINES).collect();
    kept.reverse();
    kept
}

/// The end of the file, as text.
fn read(file: &Path) -> Option<String> {
    let mut file = open_file(file).ok()?;
    let length = file.metadata().ok()?.len();
    let skipped = length.saturating_sub(BYTES);
    file.seek(SeekFrom::Start(skipped)).ok()?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be truncated.
    let text = if skipped > 0 { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    Some(text.to_owned())
}

/// Creates the file readable only by its owner.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

fn add(file: &Path, line: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let text = format!("{}\n", escaped(line));
    for _ in 0..3 {
        let mut opened =
            open_to_write(private(OpenOptions::new().append(true).create(true)), file)?;
        // A lock held elsewhere is not waited for: a line is appended in one write.
        let _ = opened.try_lock();
        if is_same(&opened, file) {
            return opened.write_all(text.as_bytes());
        }
    }
    Ok(())
}

/// Whether `opened` is still the file at `path`, and not one that a rewrite has replaced.
#[cfg(unix)]
fn is_same(opened: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    opened.metadata().ok().map(id) == std::fs::metadata(path).ok().map(id)
}

/// Without inode numbers: an open file cannot be replaced.
#[cfg(not(unix))]
fn is_same(_: &File, _: &Path) -> bool {
    true
}

/// Replaces the content of `file` with `lines`, unless another session is writing.
fn rewrite(file: &Path, lines: &[String]) -> std::io::Result<()> {
    let opened = open_to_write(OpenOptions::new().append(true), file)?;
    if opened.try_lock().is_err() {
        return Ok(());
    }
    let temporary = file.with_extension(format!("{}", std::process::id()));
    let text: String = lines.iter().map(|line| escaped(line) + "\n").collect();
    let written = private(OpenOptions::new().write(true).create_new(true)).open(&temporary);
    let done = written
        .and_then(|mut new| new.write_all(text.as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, file));
    if done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

/// A line as stored in the file: newlines become `\n`.
fn escaped(line: &str) -> String {
    line.replace('\\', "\\\\").replace('\n', "\\n")
}

fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                other => text.extend(other.or(Some('\\'))),
            },
            c => text.push(c),
        }
    }
    text
}

impl History for LineHistory {
    fn get(&self, index: usize, _: SearchDirection) -> Result<Option<SearchResult<'_>>> {
        let found = self.entries.get(index);
        Ok(found.map(|entry| SearchResult { entry: Cow::Borrowed(entry), idx: index, pos: 0 }))
    }

    fn add(&mut self, line: &str) -> Result<bool> {
        Ok(self.push(line.to_owned()))
    }

    fn add_owned(&mut self, line: String) -> Result<bool> {
        Ok(self.push(line))
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn set_max_len(&mut self, len: usize) -> Result<()> {
        let spare = self.entries.len().saturating_sub(len);
        self.entries.drain(..spare);
        Ok(())
    }

    /// Duplicates are never kept.
    fn ignore_dups(&mut self, _: bool) -> Result<()> {
        Ok(())
    }

    /// Lines that begin with a space are never kept.
    fn ignore_space(&mut self, _: bool) {}

    fn save(&mut self, path: &Path) -> Result<()> {
        let text: String = self.entries.iter().map(|line| escaped(line) + "\n").collect();
        let options = &mut OpenOptions::new();
        let mut file =
            open_to_write(private(options.write(true).create(true).truncate(true)), path)?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Lines are appended to the file when they are entered.
    fn append(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        *self = Self::open(Some(path.to_owned()));
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.entries.clear();
        Ok(())
    }

    fn search(
        &self,
        term: &str,
        start: usize,
        dir: SearchDirection,
    ) -> Result<Option<SearchResult<'_>>> {
        Ok(self.found(start, dir, |entry| entry.find(term).filter(|_| !term.is_empty())))
    }

    fn starts_with(
        &self,
        term: &str,
        start: usize,
        dir: SearchDirection,
    ) -> Result<Option<SearchResult<'_>>> {
        Ok(self.found(start, dir, |entry| {
            (entry.starts_with(term) && !term.is_empty()).then_some(term.len())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicate_lines_are_removed_and_search_works() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/er/history");
        let mut lines = LineHistory::open(Some(file.clone()));
        for line in ["load a", "wrap", " secret", "", "load a", "generate 'a\nb\\n'"] {
            lines.push(line.to_owned());
        }
        // Another session appends a line in between.
        LineHistory::open(Some(file.clone())).push("eval".into());
        lines.push("bake".into());
        let again = LineHistory::open(Some(file.clone()));
        assert_eq!(again.entries, ["wrap", "load a", "generate 'a\nb\\n'", "eval", "bake"]);
        let find = |term, start, dir| {
            again.search(term, start, dir).unwrap().map(|found| (found.idx, found.pos))
        };
        assert_eq!(find("a", 4, SearchDirection::Reverse), Some((4, 1)));
        assert_eq!(find("load", 4, SearchDirection::Reverse), Some((1, 0)));
        assert_eq!(find("load", 0, SearchDirection::Reverse), None);
        assert_eq!(find("e", 3, SearchDirection::Forward), Some((3, 0)));
        assert_eq!(find("", 3, SearchDirection::Forward), None);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_long_file_is_trimmed_to_the_latest_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history");
        let text: String = (0..LINES + 500).map(|i| format!("step {i}\n")).collect();
        std::fs::write(&file, [text.as_bytes(), b"not \xff text\n"].concat()).unwrap();
        let lines = LineHistory::open(Some(file.clone()));
        assert_eq!((lines.entries.len(), lines.entries[0].as_str()), (LINES, "step 501"));
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), LINES);
        assert!(LineHistory::open(None).entries.is_empty());
        assert!(LineHistory::open(Some(dir.path().to_owned())).entries.is_empty());
    }

    /// A named pipe at the path does not block: the session has no stored history.
    #[test]
    #[cfg(unix)]
    fn a_named_pipe_is_not_used_as_history() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history");
        let name = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
        // SAFETY: the path is a NUL-terminated string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let mut lines = LineHistory::open(Some(file.clone()));
        assert!(lines.push("load a".into()) && lines.push("wrap".into()));
        assert_eq!(lines.entries, ["load a", "wrap"]);
        assert!(rewrite(&file, &lines.entries).is_err() && lines.save(&file).is_err());
    }

    #[test]
    fn concurrent_sessions_lose_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history");
        std::thread::scope(|scope| {
            for session in 0..8 {
                let file = file.clone();
                scope.spawn(move || {
                    let mut lines = LineHistory::open(Some(file));
                    (0..50).for_each(|i| assert!(lines.push(format!("step {session} {i}"))));
                });
            }
        });
        assert_eq!(LineHistory::open(Some(file)).entries.len(), 400);
    }
}
