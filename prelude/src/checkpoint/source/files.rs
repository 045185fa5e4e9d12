//! The files of a checkpoint: a directory on disk (memory-mapped), a GGUF file, or a model built
//! into this library.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use include_dir::Dir;

use crate::checkpoint::gguf::Gguf;
use crate::checkpoint::hub::{Hub, HubRef, SnapshotKind, within};
use crate::checkpoint::side_files::SideFiles;
use crate::checkpoint::storage::{
    BUILTIN_PREFIX, Bytes, Stamp, WEIGHTS, builtin_model, map, other_kind,
};
use crate::error::{Error, Result};

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
            return Ok(Files::Builtin(builtin_model(name)?, PathBuf::from(spec)));
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
            Files::Gguf(gguf) => gguf.path(),
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

    /// The side files.
    pub fn side_files(&self) -> SideFiles {
        match self {
            Files::Builtin(dir, _) => SideFiles::in_builtin(dir),
            Files::Gguf(gguf) => {
                let sizes = gguf.side_files.iter().map(|(name, text)| (*name, text.len() as u64));
                SideFiles::generated(sizes)
            }
            Files::Disk(directory) | Files::Hub(directory, _) => SideFiles::in_directory(directory),
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
