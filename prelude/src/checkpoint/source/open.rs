//! Opens and verifies a source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::checked::{Checks, cache_directory};
use super::files::Files;
use super::loaded::{Inner, Source, rows_of};
use super::paging::Paging;
use super::resident::Resident;
use super::specifier::{default_name, split_adapters, split_name};
use super::weights;
use crate::checkpoint::adapter::{self, Adapter, Base};
use crate::checkpoint::config::{Architecture, is_wrapper, other_than_language_model};
use crate::checkpoint::storage::{ADAPTER_CONFIG, Bytes};
use crate::checkpoint::tensors::unsupported_family::{self, OUTPUT};
use crate::checkpoint::tensors::{Runnable, TensorNames, prepare};
use crate::checkpoint::tokenizer::{Chat, beyond, read_tokenizer};
use crate::error::{Error, Result};
use crate::work::Work;

impl Source {
    /// Opens and verifies `[NAME=]SOURCE`: a Hugging Face directory, a GGUF file, a hub repository
    /// or `builtin:NAME`, each optionally followed by `+ADAPTER`.
    ///
    /// # Errors
    /// Missing or corrupt files, or values that are not finite.
    pub fn open(spec: &str) -> Result<Self> {
        let (name, place) = split_name(spec);
        Self::open_as(name, place)
    }

    /// Opens `place` with any name; the default is the name of its directory.
    ///
    /// # Errors
    /// As for [`Source::open`].
    pub(crate) fn open_as(name: Option<&str>, place: &str) -> Result<Self> {
        let (place, adapters) = split_adapters(place);
        let files = Files::find(place)?;
        let stamps = files.stamps();
        let config = files.require("config.json").map_err(|error| adapter_error(&files, error))?;
        let config_file = files.path().join("config.json");
        let mut archive = weights::open(&files).map_err(|error| adapter_error(&files, error))?;
        let prepared = prepare(&mut archive, &config_file, &config)?;
        let family = Architecture::family_of(&config_file, &config)?;
        let runs = match Architecture::parse(&config_file, &config) {
            Err(Error::UnknownFamily { .. }) => Runnable::No,
            _ => Runnable::Yes,
        };
        let names = TensorNames::normalize(&mut archive, &family, runs)?;
        let mut notes: Vec<String> = files.note().map(str::to_owned).into_iter().collect();
        notes.extend(archive.notes.iter().chain(&prepared.notes).chain(&names.notes).cloned());
        let adapters = adapters
            .into_iter()
            .map(|path| Adapter::open(Path::new(path)))
            .collect::<Result<Vec<_>>>()?;
        let paths: Vec<PathBuf> = adapters.iter().map(|adapter| adapter.path.clone()).collect();
        let is_prepared = prepared.config.is_some();
        let config = prepared.config.unwrap_or_else(|| config.to_vec());
        let mut base = Base::new(&config_file, config, &mut archive.tensors)?;
        let mut overrides = adapter::FileOverrides::new();
        for adapter in adapters {
            notes.extend(adapter.add_side_files(&mut overrides)?);
            let adapter = if is_wrapper(&family) {
                adapter.renamed(|name| names.known_as(name))
            } else {
                adapter
            };
            adapter.apply_to(&mut base)?;
        }
        let Base { config, is_changed, notes: changes, .. } = base;
        let is_changed = is_changed || is_prepared;
        notes.extend(changes);
        let (architecture, unsupported) = match Architecture::parse(&config_file, &config) {
            Ok(architecture) => {
                let has_output = architecture.tied || archive.tensors.contains_key(OUTPUT);
                match other_than_language_model(&config, has_output) {
                    Some(reason) => (None, Some(("architectures".into(), reason))),
                    None => (Some(architecture), None),
                }
            }
            Err(Error::UnknownFamily { .. }) => (None, None),
            // An unsupported model can still be merged by methods without a forward pass.
            Err(Error::Config { key, reason, .. }) => (None, Some((key, reason))),
            Err(error) => return Err(error),
        };
        // Without a forward pass, all stored tensors are merged.
        let (tensors, buffers) = match &architecture {
            Some(architecture) if is_wrapper(&family) => {
                let mut buffers = archive.buffers.clone();
                buffers.retain(|name, _| unsupported_family::is_rest(name));
                (
                    architecture
                        .tensors()
                        .into_iter()
                        .chain(unsupported_family::rest(&archive)?)
                        .collect(),
                    buffers,
                )
            }
            Some(architecture) => (architecture.tensors(), BTreeMap::new()),
            None => (
                unsupported_family::tensors(&archive, &config_file, &config)?,
                archive.buffers.clone(),
            ),
        };
        if architecture.as_ref().is_some_and(|a| !a.tied) && !archive.tensors.contains_key(OUTPUT) {
            return Err(Error::NoOutputLayer { file: archive.file });
        }
        let bytes = archive.tensors.values().map(|view| view.bytes().len() as u64).sum();
        let work = Work::begin("load", place, Some(bytes));
        let checks = Checks::new(cache_directory(), archive.tensors.values());
        let views = tensors.par_iter().map(|spec| {
            let view = archive.shaped(&spec.name, &spec.shape)?;
            checks.check(&spec.name, &view, &work)?;
            Ok((spec.name.clone(), view))
        });
        let views = views.collect::<Result<BTreeMap<_, _>>>()?;
        let hashes = checks.finish();
        drop(work);
        let unused =
            archive.tensors.keys().filter(|name| !views.contains_key(*name)).cloned().collect();
        let side = |name: &str| match overrides.get(name) {
            Some((directory, bytes)) => {
                Ok(bytes.clone().map(|bytes| (directory.join(name), bytes)))
            }
            None => Ok(files.get(name)?.map(|bytes| (files.path().join(name), bytes))),
        };
        let tokenizer = match side("tokenizer.json")? {
            Some((file, bytes)) => Some(Arc::new(read_tokenizer(&file, &bytes)?)),
            None => None,
        };
        let chat = Arc::new(Chat::read(side)?);
        let rows = rows_of(architecture.as_ref(), &tensors);
        notes.extend(
            tokenizer
                .as_deref()
                .filter(|_| rows > 0)
                .and_then(|text| beyond(&text.tokenizer, rows)),
        );
        let mut replaced: BTreeMap<&'static str, Option<Bytes>> =
            overrides.into_iter().map(|(name, (_, bytes))| (name, bytes)).collect();
        if is_changed {
            replaced.insert("config.json", Some(Bytes::Owned(Arc::new(config))));
        }
        let name = match name {
            Some(name) => name.to_owned(),
            None => match &files {
                Files::Hub(_, pinned) if paths.is_empty() => {
                    pinned.split(['/', '@']).nth(1).unwrap_or("model").to_owned()
                }
                _ => default_name(paths.last().map_or(files.path(), PathBuf::as_path)),
            },
        };
        let spec = match &files {
            Files::Disk(_) | Files::Gguf(_) => files.path().display().to_string(),
            Files::Builtin(..) => place.to_owned(),
            Files::Hub(_, pinned) => pinned.clone(),
        };
        let spec = paths.iter().fold(spec, |spec, path| format!("{spec}+{}", path.display()));
        Ok(Self(Arc::new(Inner {
            name,
            spec,
            files,
            stamps,
            architecture,
            unsupported,
            family,
            tensors,
            views,
            buffers,
            names: Arc::new(names),
            unused,
            notes,
            tokenizer,
            chat,
            fingerprint: OnceLock::new(),
            original: None,
            numbering: None,
            replaced,
            resident: Resident::default(),
            paging: Paging::default(),
            hashes,
        })))
    }
}

/// Returns `error`, or a better one if `files` belong to an adapter.
fn adapter_error(files: &Files, error: Error) -> Error {
    match (&error, files.get(ADAPTER_CONFIG)) {
        (Error::MissingFile { .. } | Error::Sources { .. }, Ok(Some(json))) => {
            adapter::needs_base(files.path(), &json)
        }
        _ => error,
    }
}
