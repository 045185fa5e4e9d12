//! The files of a checkpoint: a directory on disk (memory-mapped), a GGUF file, or a model built
//! into this library.

use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use include_dir::{Dir, include_dir};
use memmap2::UncheckedAdvice;

use crate::checkpoint::gguf::Gguf;
use crate::checkpoint::hub::{Hub, HubRef, SnapshotKind, within};
use crate::checkpoint::storage::{Mapped, Stamp};
use crate::checkpoint::storage::{open_file, other_kind};
use crate::error::{Error, Result};

static BUILTIN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/builtin");

/// The weight files of a checkpoint, a single file or an index; the first one present is used.
pub(crate) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Whether a name of [`WEIGHTS`] is an index.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

/// The prefix of a built-in model or dataset.
pub const BUILTIN_PREFIX: &str = "builtin:";

/// A file's bytes, memory-mapped or built in. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Bytes {
    Mapped(Arc<Mapped>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Releases the memory behind `range`; later reads load it from the file again.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(map) = self
            && !range.is_empty()
        {
            // SAFETY: the map is read-only and backed by a file, so no content is lost. This is
            // only advice to the kernel: a failure does not matter.
            let _ = unsafe {
                map.map().unchecked_advise_range(
                    UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// The size and modification time of files at one moment.
pub(crate) type Stamps = Arc<[(PathBuf, Stamp)]>;

/// A collection of files that can be read by name.
#[derive(Clone)]
pub(crate) enum Files {
    Disk(PathBuf),
    Builtin(&'static Dir<'static>, PathBuf),
    Gguf(Arc<Gguf>),
    /// A snapshot in the hub cache, and the specifier that opens it again.
    Hub(PathBuf, String),
}

impl Files {
    /// The files that `spec` refers to: `builtin:NAME`, a directory, the directory of a weight
    /// file, a GGUF file, or a repository on the hub.
    pub fn find(spec: &str) -> Result<Self> {
        if let Some(name) = spec.strip_prefix(BUILTIN_PREFIX) {
            let models: Vec<&str> = builtin_models().collect();
            let dir = BUILTIN.get_dir(name).filter(|_| models.contains(&name));
            let dir = dir.ok_or_else(|| Error::unknown("built-in model", name, models))?;
            return Ok(Files::Builtin(dir, PathBuf::from(spec)));
        }
        let path = Path::new(spec);
        let found = match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                match HubRef::parse(spec, false) {
                    Some(reference) => return Self::from_hub(&reference),
                    None => return Err(Error::io("read", path, e)),
                }
            }
            found => found.map_err(|e| Error::io("read", path, e))?,
        };
        if let Some(what) = other_kind(&found) {
            return Err(Error::NotAFile { path: path.into(), what });
        }
        if found.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            let path = std::path::absolute(path).map_err(|e| Error::io("read", path, e))?;
            return Ok(Files::Gguf(Arc::new(Gguf::open(path)?)));
        }
        let directory = match (found.is_dir(), path.parent()) {
            // A path to the weights stands for their directory.
            (false, Some(parent)) if WEIGHTS.iter().any(|name| path.ends_with(name)) => {
                if parent.as_os_str().is_empty() { Path::new(".") } else { parent }
            }
            _ => path,
        };
        let directory = std::path::absolute(directory).map_err(|e| Error::io("read", path, e))?;
        if !directory.is_dir() {
            return Err(Error::MissingFile { directory, file: "config.json".into() });
        }
        Ok(Files::Disk(directory))
    }

    fn from_hub(reference: &HubRef) -> Result<Self> {
        let snapshot = Hub::from_env()?.snapshot(reference, SnapshotKind::Model)?;
        match &reference.file {
            None => Ok(Files::Hub(snapshot.directory, reference.pinned(&snapshot.commit))),
            Some(file) if file.to_lowercase().ends_with(".gguf") => {
                Ok(Files::Gguf(Arc::new(Gguf::open(snapshot.directory.join(file))?)))
            }
            Some(file) => {
                let reason = format!("`{file}` is not a model");
                let hint = "give only the repository, or one of its .gguf files";
                Err(Error::Hub { repo: reference.repo.clone(), reason, hint })
            }
        }
    }

    /// The path, for messages and to open it again.
    pub fn path(&self) -> &Path {
        match self {
            Files::Disk(path) | Files::Builtin(_, path) | Files::Hub(path, _) => path,
            Files::Gguf(gguf) => &gguf.path,
        }
    }

    /// What could not be converted from a GGUF file.
    pub fn note(&self) -> Option<&str> {
        if let Files::Gguf(gguf) = self { gguf.note.as_deref() } else { None }
    }

    /// The bytes of a file; `None` if it does not exist.
    pub fn get(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            Files::Builtin(dir, _) => {
                Ok(dir.get_file(dir.path().join(name)).map(|f| Bytes::Static(f.contents())))
            }
            Files::Gguf(gguf) => {
                Ok(gguf.side_files.get(name).map(|text| Bytes::Owned(text.clone())))
            }
            Files::Disk(directory) | Files::Hub(directory, _) => {
                if let Files::Hub(directory, _) = self {
                    within(directory, name)?;
                }
                match map(&directory.join(name)) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// The current stamps of config.json and the side files.
    pub fn stamps(&self) -> Stamps {
        let (Files::Disk(directory) | Files::Hub(directory, _)) = self else {
            return Stamps::default();
        };
        let names = self.side_files().files.into_iter().map(|(name, ..)| directory.join(name));
        names.filter_map(|file| Some((file.clone(), Stamp::of(&file).ok()?))).collect()
    }

    /// The bytes of a file, or an error if it is missing.
    pub fn require(&self, name: &str) -> Result<Bytes> {
        self.get(name)?
            .ok_or_else(|| Error::MissingFile { directory: self.path().into(), file: name.into() })
    }
}

/// The names of the built-in models.
pub(crate) fn builtin_models() -> impl Iterator<Item = &'static str> {
    BUILTIN
        .dirs()
        .filter(|d| d.get_file(d.path().join("config.json")).is_some())
        .filter_map(|d| d.path().to_str())
}

/// The names of the built-in datasets (`NAME` to merge on, `NAME-heldout` to score on).
pub(crate) fn builtin_data() -> impl Iterator<Item = &'static str> {
    BUILTIN
        .get_dir("data")
        .into_iter()
        .flat_map(|d| d.files())
        .filter_map(|f| f.path().file_stem()?.to_str())
}

/// The bytes of a built-in dataset.
pub(crate) fn builtin_data_file(name: &str) -> Result<Bytes> {
    BUILTIN
        .get_file(format!("data/{name}.jsonl"))
        .map(|f| Bytes::Static(f.contents()))
        .ok_or_else(|| Error::unknown("built-in dataset", name, builtin_data()))
}

/// Maps a regular file, which may be empty, into memory.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let file = open_file(path)?;
    if file.metadata().map_err(|e| Error::io("read", path, e))?.len() == 0 {
        return Ok(Bytes::Static(&[]));
    }
    Ok(Bytes::Mapped(Arc::new(Mapped::new(&file, path)?)))
}
