//! Finds the side files of a source by walking its directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use include_dir::Dir;

use super::group::{Group, MAX_DEPTH, MAX_FILE_BYTES, group, is_data, is_module, is_weights};

/// The maximum number of directory entries to examine.
const MAX_ENTRIES: usize = 10_000;

/// The side files of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct SideFiles {
    /// Names with group and size in bytes, sorted.
    pub files: Vec<(String, Group, u64)>,
    /// Files that were left out, with the reason.
    pub left_out: Vec<(String, &'static str)>,
}

impl SideFiles {
    /// The side files in a directory on disk.
    pub fn in_directory(directory: &Path) -> Self {
        let mut side_files = Self::default();
        let mut walk = Walk { roots: roots(directory), entries: 0, side_files: &mut side_files };
        walk.directory(directory, "", 0);
        side_files.sorted()
    }

    /// The side files of a built-in model.
    pub fn in_builtin(dir: &Dir<'_>) -> Self {
        let mut side_files = Self::default();
        walk_builtin(dir, dir.path(), &mut side_files);
        side_files.sorted()
    }

    /// Generated side files, with their sizes in bytes.
    pub fn generated<'a>(sizes: impl Iterator<Item = (&'a str, u64)>) -> Self {
        let mut side_files = Self::default();
        sizes.for_each(|(name, size)| side_files.add(name.to_owned(), size));
        side_files.sorted()
    }

    fn sorted(mut self) -> Self {
        self.files.sort();
        self.left_out.sort();
        self
    }

    fn add(&mut self, name: String, size: u64) {
        match group(&name) {
            Some(_) if size > MAX_FILE_BYTES => self.left_out.push((name, "too large")),
            Some(group) => self.files.push((name, group, size)),
            None if is_data(&name.to_lowercase()) => self.left_out.push((name, "data")),
            None => {}
        }
    }

    /// Replaces files by others of the given sizes, or hides them (`None`). A tokenizer that comes
    /// with its own settings hides all other tokenizer files.
    pub fn with(mut self, replaced: &BTreeMap<&str, Option<u64>>) -> Self {
        let stands_alone = replaced.get("tokenizer.json").is_some_and(Option::is_some);
        let stands_alone = stands_alone && replaced.contains_key("tokenizer_config.json");
        let is_hidden = |name: &str, group| {
            replaced.contains_key(name) || stands_alone && group == Group::Tokenizer
        };
        self.files.retain(|(name, group, _)| !is_hidden(name, *group));
        replaced
            .iter()
            .filter_map(|(name, size)| Some((*name, (*size)?)))
            .for_each(|(name, size)| self.add(name.into(), size));
        self.files.sort();
        self
    }
}

fn walk_builtin(dir: &Dir<'_>, root: &Path, side_files: &mut SideFiles) {
    for file in dir.files() {
        if let Some(name) = file.path().strip_prefix(root).ok().and_then(Path::to_str) {
            side_files.add(name.to_owned(), file.contents().len() as u64);
        }
    }
    dir.dirs().for_each(|dir| walk_builtin(dir, root, side_files));
}

/// The directories in which files of `directory` may be: itself, and the blobs of the hub cache
/// that a snapshot links to.
fn roots(directory: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(directory).ok();
    let snapshot = real.as_deref().filter(|d| d.parent().is_some_and(|p| p.ends_with("snapshots")));
    let blobs = snapshot.and_then(|d| fs::canonicalize(d.parent()?.parent()?.join("blobs")).ok());
    real.clone().into_iter().chain(blobs).collect()
}

/// A walk of a directory on disk.
struct Walk<'a> {
    roots: Vec<PathBuf>,
    entries: usize,
    side_files: &'a mut SideFiles,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, prefix: &str, depth: usize) {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        // Names that are not valid UTF-8 cannot be recorded.
        let named = entries.filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())));
        let mut entries: Vec<(String, PathBuf)> =
            named.take(MAX_ENTRIES.saturating_sub(self.entries)).collect();
        self.entries += entries.len();
        entries.sort();
        if depth > 0
            && !is_module(prefix)
            && entries.iter().any(|(name, _)| name == "config.json" || is_weights(name))
        {
            // Another model with its own files.
            return;
        }
        for (name, path) in entries {
            let name = format!("{prefix}{name}");
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_dir() {
                let entered = group(&format!("{name}/x")).is_some()
                    && depth < MAX_DEPTH
                    && self.is_inside(&path);
                if entered {
                    self.directory(&path, &format!("{name}/"), depth + 1);
                }
            } else if meta.is_file() {
                if self.is_inside(&path) {
                    self.side_files.add(name, meta.len());
                } else if group(&name).is_some() {
                    self.side_files.left_out.push((name, "a link that leaves its directory"));
                }
            }
        }
    }

    /// Whether `path`, with links resolved, is within the checkpoint.
    fn is_inside(&self, path: &Path) -> bool {
        fs::canonicalize(path)
            .is_ok_and(|real| self.roots.iter().any(|root| real.starts_with(root)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokenizer_with_its_own_settings_hides_the_other() {
        let with = |replaced: &[(&'static str, Option<u64>)]| {
            let mut side_files = SideFiles::default();
            ["a.txt", "chat_template.json", "tokenizer.json"]
                .iter()
                .for_each(|name| side_files.add((*name).to_owned(), 1));
            let files = side_files.with(&replaced.iter().copied().collect()).files;
            files
                .into_iter()
                .map(|(name, _, size)| format!("{name} {size}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        assert_eq!(
            with(&[("tokenizer.json", Some(2))]),
            "a.txt 1, chat_template.json 1, tokenizer.json 2"
        );
        assert_eq!(
            with(&[("tokenizer.json", Some(2)), ("tokenizer_config.json", None)]),
            "a.txt 1, tokenizer.json 2"
        );
        assert_eq!(with(&[("chat_template.json", None)]), "a.txt 1, tokenizer.json 1");
    }

    #[test]
    fn links_that_leave_the_directory_and_large_files_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |name: &str, bytes: &[u8]| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("secret.txt", b"secret");
        write("model/config.json", b"{}");
        write("model/1_Pooling/config.json", b"{}");
        write("model/2_Dense/model.safetensors", b"dense");
        write("model/other/config.json", b"{}");
        write("model/other/notes.txt", b"of another model");
        write("model/pictures/a.png", b"a");
        write("model/train.jsonl", b"{}");
        write("model/.git/config", b"");
        fs::File::create(root.join("model/large.json"))
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        std::os::unix::fs::symlink("../secret.txt", root.join("model/NOTICE")).unwrap();
        std::os::unix::fs::symlink("..", root.join("model/up")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("model/broken.json")).unwrap();
        std::os::unix::fs::symlink("config.json", root.join("model/alias.json")).unwrap();
        let side_files = SideFiles::in_directory(&root.join("model"));
        let names: Vec<&str> = side_files.files.iter().map(|(name, ..)| name.as_str()).collect();
        let expected = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "alias.json",
            "config.json",
            "pictures/a.png",
        ];
        assert_eq!(names, expected);
        let left: Vec<(&str, &str)> =
            side_files.left_out.iter().map(|(name, why)| (name.as_str(), *why)).collect();
        assert_eq!(
            left,
            [
                ("NOTICE", "a link that leaves its directory"),
                ("large.json", "too large"),
                ("train.jsonl", "data")
            ]
        );

        // A snapshot of the hub cache consists of links to blobs.
        write("hub/models--o--n/blobs/1", b"{}");
        write("hub/models--o--n/snapshots/c/x", b"");
        fs::remove_file(root.join("hub/models--o--n/snapshots/c/x")).unwrap();
        let snapshot = root.join("hub/models--o--n/snapshots/c");
        std::os::unix::fs::symlink("../../blobs/1", snapshot.join("tokenizer.json")).unwrap();
        std::os::unix::fs::symlink("../../../../secret.txt", snapshot.join("vocab.json")).unwrap();
        let side_files = SideFiles::in_directory(&snapshot);
        assert_eq!(side_files.files, [("tokenizer.json".to_owned(), Group::Tokenizer, 2)]);
        assert_eq!(side_files.left_out.len(), 1);
    }
}
