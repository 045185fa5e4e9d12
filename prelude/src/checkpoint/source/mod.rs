//! A source model: architecture, tensors, tokenizer and side files, all verified when loaded.

mod config_differences;
mod files;
mod restack;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::DType;
use rayon::prelude::*;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use self::files::Stamps;
use self::vocabulary::{align, config_of};
use crate::checkpoint::adapter::{self, Adapter, Base};
use crate::checkpoint::config::{Architecture, Kind, TensorSpec, is_wrapper};
use crate::checkpoint::hub::HubRef;
use crate::checkpoint::side_files::SideFiles;
use crate::checkpoint::storage::View;
use crate::checkpoint::tensors::prepare;
use crate::checkpoint::tensors::unsupported_family::{self, OUTPUT};
use crate::checkpoint::tensors::{Archive, Buffer};
use crate::checkpoint::tensors::{Runnable, TensorNames};
use crate::checkpoint::tokenizer::Chat;
use crate::checkpoint::tokenizer::{BoundedTokenizer, beyond, read_tokenizer};
use crate::error::{Error, Result};
use crate::work::Work;
pub(crate) use config_differences::ConfigDifference;
pub(crate) use files::{
    BUILTIN_PREFIX, Bytes, Files, WEIGHTS, builtin_data, builtin_data_file, builtin_models,
    is_index, map,
};
pub(crate) use restack::{Restacked, move_layers};
pub use vocabulary::MissingTokens;
pub(crate) use vocabulary::{NO_ROW, Numbering, Renumbered, extend};

/// A loaded source. Cheap to clone; the weights stay memory-mapped in their own dtype.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    name: String,
    spec: String,
    files: Files,
    /// The stamps of its side files when it was opened.
    stamps: Stamps,
    /// `None` if it is not supported.
    architecture: Option<Architecture>,
    /// Why it is not supported: the key of config.json and the reason.
    unsupported: Option<(String, String)>,
    family: String,
    tensors: Vec<TensorSpec>,
    views: BTreeMap<String, View>,
    buffers: BTreeMap<String, Buffer>,
    /// The stored names of its tensors.
    names: Arc<TensorNames>,
    unused: Vec<String>,
    /// Notes for the user.
    notes: Vec<String>,
    tokenizer: Option<Arc<BoundedTokenizer>>,
    chat: Arc<Chat>,
    fingerprint: OnceLock<String>,
    /// The source as it was opened, if this one has other rows or a separate output layer.
    original: Option<Source>,
    /// The shared token numbering, if it differs from the one on disk.
    numbering: Option<Arc<Numbering>>,
    /// Files that replace its own, because of the numbering or an adapter; `None` hides a file.
    replaced: BTreeMap<&'static str, Option<Bytes>>,
}

impl Inner {
    /// A copy without its fingerprint.
    fn copy(&self) -> Self {
        Self {
            name: self.name.clone(),
            spec: self.spec.clone(),
            files: self.files.clone(),
            stamps: self.stamps.clone(),
            architecture: self.architecture.clone(),
            unsupported: self.unsupported.clone(),
            family: self.family.clone(),
            tensors: self.tensors.clone(),
            views: self.views.clone(),
            buffers: self.buffers.clone(),
            names: self.names.clone(),
            unused: self.unused.clone(),
            notes: self.notes.clone(),
            tokenizer: self.tokenizer.clone(),
            chat: self.chat.clone(),
            fingerprint: OnceLock::new(),
            original: self.original.clone(),
            numbering: self.numbering.clone(),
            replaced: self.replaced.clone(),
        }
    }
}

impl Source {
    /// A pointer that is unique among open sources.
    pub(crate) fn identity(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }

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
        let mut archive = Archive::open(&files).map_err(|error| adapter_error(&files, error))?;
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
            adapter.add_side_files(&mut overrides)?;
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
            Ok(architecture) => (Some(architecture), None),
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
        let views = tensors
            .par_iter()
            .map(|spec| Ok((spec.name.clone(), archive.checked(&spec.name, &spec.shape, &work)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
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
        })))
    }

    /// The source as it was opened, with its own token numbering.
    pub(crate) fn original(&self) -> &Self {
        self.0.original.as_ref().unwrap_or(self)
    }

    /// The shared token numbering, if it differs from the one on disk.
    pub(crate) fn numbering(&self) -> Option<&Numbering> {
        self.0.numbering.as_deref()
    }

    /// Whether its output layer is its embedding.
    fn is_tied(&self) -> Result<bool> {
        if let Some(architecture) = &self.0.architecture {
            return Ok(architecture.tied);
        }
        let says_so = self.config_json()?.get("tie_word_embeddings") == Some(&Value::Bool(true));
        Ok(says_so && !self.0.views.contains_key(OUTPUT) && self.embedding().is_some())
    }

    /// Its embedding; if there are several candidates, the one with the most rows.
    fn embedding(&self) -> Option<&TensorSpec> {
        let embeddings =
            self.0.tensors.iter().filter(|t| t.kind == Kind::Embedding && t.shape.len() == 2);
        embeddings.max_by_key(|t| t.shape[0])
    }

    /// Parses config.json.
    fn config_json(&self) -> Result<Map<String, Value>> {
        let bytes = self.side_file("config.json")?.unwrap_or(Bytes::Static(b"{}"));
        serde_json::from_slice(&bytes).map_err(|e| self.json(&e))
    }

    fn json(&self, error: &serde_json::Error) -> Error {
        Error::Json { file: self.path().join("config.json"), reason: error.to_string() }
    }

    /// This tied source with a separate output layer, a copy of its embedding.
    ///
    /// # Errors
    /// A config.json that is not a JSON object.
    fn untied(&self) -> Result<Self> {
        let inner = &self.0;
        let Some(embedding) = self.embedding().cloned() else { return Ok(self.clone()) };
        let architecture = inner.architecture.clone().map(|a| Architecture { tied: false, ..a });
        let output = architecture.as_ref().map_or(OUTPUT, Architecture::output).to_owned();
        let tensors = match &architecture {
            Some(architecture) => architecture.tensors(),
            None => {
                let spec = TensorSpec {
                    name: output.clone(),
                    kind: Kind::Linear,
                    shape: embedding.shape.clone(),
                };
                let place = inner.tensors.partition_point(|t| t.name < spec.name);
                let (before, after) = inner.tensors.split_at(place);
                before.iter().chain([&spec]).chain(after).cloned().collect()
            }
        };
        let mut views = inner.views.clone();
        views.insert(output, self.view(&embedding.name)?.clone());
        let mut config = self.config_json()?;
        adapter::untied(&mut config);
        let config = serde_json::to_vec_pretty(&config).map_err(|e| self.json(&e))?;
        let mut replaced = inner.replaced.clone();
        replaced.insert("config.json", Some(Bytes::Owned(Arc::new(config))));
        let note =
            "tied, but another source is not: its embedding is also merged as the output layer";
        let notes = inner.notes.iter().cloned().chain([note.to_owned()]).collect();
        let original = Some(self.original().clone());
        Ok(Self(Arc::new(Inner {
            architecture,
            tensors,
            views,
            replaced,
            notes,
            original,
            ..inner.copy()
        })))
    }

    /// This source with another token numbering.
    ///
    /// # Errors
    /// A config.json that is not a JSON object.
    pub(crate) fn with_numbering(&self, seen: Renumbered) -> Result<Self> {
        let Renumbered { numbering, rows, views: gathered, extended } = seen;
        let inner = &self.0;
        let here = |id: u32| match numbering.row_map.get(id as usize) {
            Some(row) => Some(*row).filter(|row| *row != NO_ROW),
            None => Some(id),
        };
        let architecture = inner.architecture.clone().map(|a| {
            let eos = a.eos.iter().filter_map(|id| here(*id)).collect();
            Architecture { vocabulary: rows, eos, ..a }
        });
        let mut tensors = inner.tensors.clone();
        for spec in tensors.iter_mut().filter(|spec| gathered.contains_key(&spec.name)) {
            spec.shape[0] = rows;
        }
        let mut views = inner.views.clone();
        views.extend(gathered);
        let config = self.side_file("config.json")?.unwrap_or(Bytes::Static(b"{}"));
        let config = config_of(&config, rows, here).map_err(|e| self.json(&e))?;
        let (tokenizer, file) = extended
            .map_or_else(|| (inner.tokenizer.clone(), None), |(t, file)| (Some(t), Some(file)));
        let files = [("config.json", Some(config)), ("tokenizer.json", file)];
        let mut replaced = inner.replaced.clone();
        replaced.extend(
            files
                .into_iter()
                .filter_map(|(name, bytes)| Some((name, Some(Bytes::Owned(Arc::new(bytes?)))))),
        );
        let (original, numbering) = (Some(self.original().clone()), Some(Arc::new(numbering)));
        Ok(Self(Arc::new(Inner {
            architecture,
            tensors,
            views,
            tokenizer,
            original,
            numbering,
            replaced,
            ..inner.copy()
        })))
    }

    /// This source with another chat template (Jinja).
    ///
    /// # Errors
    /// A tokenizer_config.json that is not a JSON object.
    pub(crate) fn with_chat_template(&self, template: &str) -> Result<Self> {
        const CONFIG: &str = "tokenizer_config.json";
        let inner = &self.0;
        let mut replaced = inner.replaced.clone();
        let owned = |bytes: Vec<u8>| Some(Bytes::Owned(Arc::new(bytes)));
        replaced.insert("chat_template.jinja", owned(template.as_bytes().to_vec()));
        if let Some(bytes) = self.side_file(CONFIG)? {
            let json = |e: serde_json::Error| Error::Json {
                file: self.path().join(CONFIG),
                reason: e.to_string(),
            };
            let mut config: Map<String, Value> = serde_json::from_slice(&bytes).map_err(json)?;
            config.remove("chat_template");
            replaced.insert(CONFIG, owned(serde_json::to_vec_pretty(&config).map_err(json)?));
        }
        let chat = Arc::new(inner.chat.with_template(template));
        Ok(Self(Arc::new(Inner { chat, replaced, ..inner.copy() })))
    }

    /// This source with these special tokens for templates.
    #[cfg(test)]
    pub(crate) fn with_special_tokens(&self, bos: &str, eos: &str) -> Self {
        let mut chat = (*self.0.chat).clone();
        chat.tokens.extend([("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())]);
        Self(Arc::new(Inner { chat: Arc::new(chat), ..self.0.copy() }))
    }

    /// Maps the token `id` of its own tokenizer to a row here; `None` if it has no row.
    pub(crate) fn row_of(&self, id: u32) -> Option<u32> {
        match self.numbering().filter(|numbering| !numbering.is_reference) {
            Some(numbering) => {
                numbering.row_map.get(id as usize).copied().filter(|row| *row != NO_ROW)
            }
            None => Some(id).filter(|id| (*id as usize) < self.vocabulary_rows()),
        }
    }

    /// The number of rows of its vocabulary tensors.
    pub(crate) fn vocabulary_rows(&self) -> usize {
        rows_of(self.0.architecture.as_ref(), &self.0.tensors)
    }

    /// The names of the tensors with one row per token: the embedding, and the output layer if it
    /// is separate.
    pub(crate) fn vocabulary_tensors(&self) -> Vec<String> {
        if let Some(architecture) = &self.0.architecture {
            let names = [TensorSpec::EMBEDDING, architecture.output()];
            return names
                .into_iter()
                .take(if architecture.tied { 1 } else { 2 })
                .map(str::to_owned)
                .collect();
        }
        let rows = self.vocabulary_rows();
        let has_rows = |t: &&TensorSpec| t.shape.len() == 2 && t.shape[0] == rows;
        let is_vocabulary = |t: &&TensorSpec| t.kind == Kind::Embedding || t.name == OUTPUT;
        self.0
            .tensors
            .iter()
            .filter(has_rows)
            .filter(is_vocabulary)
            .map(|t| t.name.clone())
            .collect()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The specifier that opens it again: an absolute path or `builtin:NAME`.
    pub fn spec(&self) -> &str {
        &self.0.spec
    }

    /// The specifier without adapters, and the adapters.
    pub(crate) fn base_and_adapters(&self) -> (&str, Vec<&str>) {
        split_adapters(self.spec())
    }

    /// Its repository, if it is from the hub.
    pub(crate) fn hub_ref(&self) -> Option<HubRef> {
        match &self.0.files {
            Files::Hub(_, pinned) => HubRef::parse(pinned, false),
            _ => None,
        }
    }

    /// The name of the built-in model, if it is one.
    pub fn builtin(&self) -> Option<&str> {
        self.0.spec.strip_prefix(BUILTIN_PREFIX)
    }

    /// Its path, or `builtin:NAME`.
    pub fn path(&self) -> &Path {
        self.0.files.path()
    }

    /// Its architecture.
    ///
    /// # Errors
    /// An unsupported family or configuration: its tensors can be merged by methods that need no
    /// forward pass.
    pub fn architecture(&self) -> Result<&Architecture> {
        let file = || self.path().join("config.json");
        let unsupported = || match &self.0.unsupported {
            Some((key, reason)) => {
                Error::Config { file: file(), key: key.clone(), reason: reason.clone() }
            }
            None => Architecture::unknown(&file(), &self.0.family),
        };
        self.0.architecture.as_ref().ok_or_else(unsupported)
    }

    /// Why it is not supported, if it is not.
    pub fn unsupported_reason(&self) -> Option<String> {
        self.architecture().err().map(|error| error.to_string())
    }

    /// Its `model_type`, also if it is not supported.
    pub fn family(&self) -> &str {
        &self.0.family
    }

    /// The tensors to merge: those of its architecture in the order of computation, or all stored
    /// tensors by name if its family is not supported.
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.0.tensors
    }

    /// The tensors of a multimodal model outside its decoder, such as the vision tower and its
    /// projector.
    pub fn rest(&self) -> &[TensorSpec] {
        match is_wrapper(&self.0.family) && self.0.architecture.is_some() {
            true => {
                &self.0.tensors[self
                    .0
                    .tensors
                    .partition_point(|spec| !unsupported_family::is_rest(&spec.name))..]
            }
            false => &[],
        }
    }

    /// A description of [`Source::rest`], if there are any.
    pub(crate) fn describe_rest(&self) -> Option<String> {
        let rest = self.rest();
        let parts: BTreeSet<&str> =
            rest.iter().filter_map(|spec| spec.name.split('.').next()).collect();
        let parts = parts.into_iter().collect::<Vec<_>>().join(", ");
        (!rest.is_empty())
            .then(|| format!("{} tensors outside the text decoder ({parts})", rest.len()))
    }

    /// The stored name of the tensor `name`.
    pub(crate) fn stored_name(&self, name: &str) -> String {
        self.0.names.stored(name)
    }

    /// Stored integers and booleans that no decoder uses.
    pub(crate) fn buffers(&self) -> &BTreeMap<String, Buffer> {
        &self.0.buffers
    }

    /// Its tokenizer.json, if it has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.0.tokenizer.as_deref().map(|text| &text.tokenizer)
    }

    /// The maximum size in bytes of a text for its tokenizer; more would not fit into memory.
    pub(crate) fn longest_text(&self) -> usize {
        self.0.tokenizer.as_ref().map_or(0, |text| text.longest)
    }

    /// Its chat template (Jinja), if it has one.
    pub fn chat_template(&self) -> Option<&str> {
        self.0.chat.template.as_deref()
    }

    /// Its chat templates and special tokens.
    pub(crate) fn chat(&self) -> &Chat {
        &self.0.chat
    }

    /// Notes for the user: what could not be converted, and how ambiguities were resolved.
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// The names of stored tensors that no layer uses.
    pub fn unused(&self) -> &[String] {
        &self.0.unused
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.0.views.values().map(|v| v.shape.iter().product::<usize>()).sum()
    }

    /// The size of the stored weights in bytes.
    pub fn bytes(&self) -> usize {
        self.original().0.views.values().map(|v| v.bytes().len()).sum()
    }

    /// The most common dtype of the weights, by size; f32 for block formats, which are decoded to
    /// it.
    pub fn dtype(&self) -> DType {
        let mut bytes: [(DType, usize); 3] = [(DType::F32, 0), (DType::F16, 0), (DType::BF16, 0)];
        for view in self.0.views.values() {
            for (dtype, total) in &mut bytes {
                *total += if view.dtype == *dtype { view.shape.iter().product() } else { 0 };
            }
        }
        bytes.into_iter().max_by_key(|(_, total)| *total).map_or(DType::F32, |(dtype, _)| dtype)
    }

    /// The most common storage format of the weights, for tables: `bf16`, `Q4_1 + LoRA`.
    pub fn format(&self) -> String {
        let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
        for view in self.0.views.values() {
            *bytes.entry(view.format()).or_default() += view.bytes().len();
        }
        let main = bytes
            .into_iter()
            .max_by_key(|(_, bytes)| *bytes)
            .map_or_else(String::new, |(format, _)| format);
        let adapted = self.0.views.values().any(|view| !view.deltas.is_empty());
        if adapted { format!("{main} + LoRA") } else { main }
    }

    /// A view of the tensor `name`.
    pub(crate) fn view(&self, name: &str) -> Result<&View> {
        let missing = || Error::MissingTensor { file: self.path().into(), tensor: name.into() };
        self.0.views.get(name).ok_or_else(missing)
    }

    /// Its side files.
    pub(crate) fn side_files(&self) -> SideFiles {
        let replaced = self
            .0
            .replaced
            .iter()
            .map(|(name, bytes)| (*name, bytes.as_ref().map(|b| b.len() as u64)));
        self.0.files.side_files().with(&replaced.collect())
    }

    /// The bytes of a side file, if it exists.
    pub(crate) fn side_file(&self, name: &str) -> Result<Option<Bytes>> {
        match self.0.replaced.get(name) {
            Some(found) => Ok(found.clone()),
            None => self.0.files.get(name),
        }
    }

    /// Returns an error if a weight file has changed since it was loaded.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let mut files = BTreeMap::new();
        self.0.views.values().for_each(|view| view.files(&mut files));
        files.values().try_for_each(|file| file.check())
    }

    /// Returns an error if a weight file or a side file has changed since it was loaded.
    ///
    /// # Errors
    /// [`Error::Changed`].
    pub(crate) fn check_files_unchanged(&self) -> Result<()> {
        self.check_unchanged()?;
        self.0.stamps.iter().try_for_each(|(file, stamp)| stamp.check(file))
    }

    /// A fingerprint of the configuration and all weights, to detect changes.
    pub(crate) fn fingerprint(&self) -> Result<&str> {
        if let Some(source) = &self.0.original {
            return source.fingerprint();
        }
        if let Some(known) = self.0.fingerprint.get() {
            return Ok(known);
        }
        self.check_unchanged()?;
        let config = hash(&self.0.files.require("config.json")?);
        let views: Vec<(&String, &View)> = self.0.views.iter().collect();
        let work =
            Work::begin("save", format!("reading {}", self.name()), Some(self.bytes() as u64));
        let hashes = views.par_iter().map(|(name, view)| {
            let layout = hash(format!("{name}{:?}{:?}", view.dtype, view.shape).as_bytes());
            let block = |bytes: &[u8]| work.advance(bytes.len() as u64).map(|()| hash(bytes));
            let blocks =
                view.bytes().par_chunks(1 << 20).map(block).collect::<Result<Vec<u64>>>()?;
            let added = view
                .layout()
                .into_iter()
                .chain(view.deltas.iter().flat_map(|delta| delta.parts()).map(u64::from));
            Ok(blocks.into_iter().chain(added).fold(layout, mix))
        });
        let hashes = hashes.collect::<Result<Vec<u64>>>()?;
        Ok(self
            .0
            .fingerprint
            .get_or_init(|| format!("{:016x}", hashes.into_iter().fold(config, mix))))
    }

    /// The first difference in names and shapes of tensors that satisfy `counts`; vocabulary rows
    /// may differ.
    fn difference(&self, other: &Source, counts: impl Fn(&str) -> bool) -> Option<String> {
        let (a, b) = (self, other);
        let shapes = |s: &Self| -> BTreeMap<String, (Vec<usize>, bool)> {
            let free = s.vocabulary_tensors();
            let shape =
                |t: &TensorSpec| (t.name.clone(), (t.shape.clone(), free.contains(&t.name)));
            s.tensors().iter().filter(|t| counts(&t.name)).map(shape).collect()
        };
        let (mut left, mut right) = (shapes(a), shapes(b));
        // A tied output layer is merged as a separate one.
        if a.is_tied().unwrap_or(false) != b.is_tied().unwrap_or(false) {
            left.remove(OUTPUT);
            right.remove(OUTPUT);
        }
        // A difference in shapes is more informative than a missing tensor.
        let shape = left.iter().find_map(|(name, (x, free))| match right.get(name) {
            Some((y, true)) if *free && x.get(1..) == y.get(1..) => None,
            Some((y, _)) if x != y => Some(format!("tensor `{name}` has shape {x:?} and {y:?}")),
            _ => None,
        });
        let only = |name: &String, s: &Self| format!("only `{}` has tensor `{name}`", s.name());
        let of_a = || left.keys().find(|name| !right.contains_key(*name)).map(|name| only(name, a));
        let of_b = || right.keys().find(|name| !left.contains_key(*name)).map(|name| only(name, b));
        shape.or_else(of_a).or_else(of_b)
    }

    /// Returns an error that names the first tensor that differs from `other`, except for
    /// vocabulary rows. Sources that pass can be merged by methods without a forward pass.
    ///
    /// # Errors
    /// A difference in names or shapes.
    pub(crate) fn check_mergeable(&self, other: &Source) -> Result<()> {
        self.differs(other, self.difference(other, |_| true))
    }

    /// [`Source::check_mergeable`] for tensors outside layers, for models with restacked layers.
    ///
    /// # Errors
    /// A difference in names or shapes.
    pub(crate) fn check_stackable(&self, other: &Source) -> Result<()> {
        let stacks = [self.stacks()?, other.stacks()?];
        let outside = |name: &str| stacks.iter().all(|stacks| stacks.layer_of(name).is_none());
        self.differs(other, self.difference(other, outside))
    }

    fn differs(&self, other: &Source, difference: Option<String>) -> Result<()> {
        match difference {
            Some(difference) => Err(Error::Incompatible {
                first: self.name().into(),
                second: other.name().into(),
                difference,
            }),
            None => Ok(()),
        }
    }

    /// Returns an error that names the first difference in architecture from `other`. A merged
    /// model can only be trained if all sources run the same way.
    ///
    /// # Errors
    /// A difference in architecture, or an unsupported source.
    pub(crate) fn check_trainable(&self, other: &Source) -> Result<()> {
        let Some(difference) = self.architecture()?.difference(other.architecture()?) else {
            return Ok(());
        };
        Err(Error::Sources {
            what: format!(
                "`{}` and `{}` cannot be trained together: {difference}",
                self.name(),
                other.name()
            ),
            hint: "merge without training, which uses the configuration of the base or first source: merge linear; to train, \
                   load sources with the same configuration",
        })
    }
}

/// The number of rows of the vocabulary tensors.
fn rows_of(architecture: Option<&Architecture>, tensors: &[TensorSpec]) -> usize {
    let embedding = || {
        tensors.iter().filter(|t| t.kind == Kind::Embedding).map(|t| t.shape[0]).max().unwrap_or(0)
    };
    architecture.map_or_else(embedding, |architecture| architecture.vocabulary)
}

/// Gives `sources` a shared token numbering if their vocabularies differ.
///
/// # Errors
/// Tokenizers of which none can split text into the tokens of all.
pub(crate) fn with_shared_numbering(sources: &[Source]) -> Result<Vec<Source>> {
    let sources: Vec<Source> = sources.iter().map(|s| s.original().clone()).collect();
    let tied = sources.iter().map(Source::is_tied).collect::<Result<Vec<_>>>()?;
    // If one source has a separate output layer, all get one.
    let is_mixed = tied.contains(&true) && tied.contains(&false);
    let one = |(source, tied): (Source, bool)| {
        if tied && is_mixed { source.untied() } else { Ok(source) }
    };
    let sources = sources.into_iter().zip(tied).map(one).collect::<Result<Vec<_>>>()?;
    match align(&sources)? {
        Some(seen) => {
            sources.iter().zip(seen).map(|(source, seen)| source.with_numbering(seen)).collect()
        }
        None => Ok(sources),
    }
}

/// Returns `error`, or a better one if `files` belong to an adapter.
fn adapter_error(files: &Files, error: Error) -> Error {
    match (&error, files.get(adapter::CONFIG)) {
        (Error::MissingFile { .. } | Error::Sources { .. }, Ok(Some(json))) => {
            adapter::needs_base(files.path(), &json)
        }
        _ => error,
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}={}, {} parameters)", self.name(), self.spec(), self.parameters())
    }
}

/// The views of the tensor `spec`, one per source.
pub(crate) fn views(sources: &[Source], spec: &TensorSpec) -> Result<Vec<View>> {
    sources.iter().map(|s| s.view(&spec.name).cloned()).collect()
}

/// The common dtype of `views`; f32 if they differ.
pub(crate) fn common_dtype(views: &[View]) -> DType {
    let first = views.first().map_or(DType::F32, |view| view.dtype);
    if views.iter().all(|view| view.dtype == first) { first } else { DType::F32 }
}

/// Splits `SOURCE+ADAPTER...`; an existing path with a `+` in its name stays whole.
fn split_adapters(spec: &str) -> (&str, Vec<&str>) {
    let (mut source, mut adapters) = (spec, Vec::new());
    while !Path::new(source).exists() {
        let Some((rest, adapter)) = source.rsplit_once('+') else { break };
        adapters.insert(0, adapter);
        source = rest;
    }
    (source, adapters)
}

/// Splits `NAME=SOURCE`; a name consists of letters, digits, `-` and `_`. An existing path with `=`
/// stays whole, unless the part after the `=` exists too.
pub(crate) fn split_name(spec: &str) -> (Option<&str>, &str) {
    let plain =
        |s: &str| !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    match spec.split_once('=') {
        Some((name, rest))
            if plain(name) && (Path::new(rest).exists() || !Path::new(spec).exists()) =>
        {
            (Some(name), rest)
        }
        _ => (None, spec),
    }
}

fn default_name(path: &Path) -> String {
    let text = path.display().to_string();
    let last = text.strip_prefix(BUILTIN_PREFIX).or_else(|| path.file_name()?.to_str());
    last.filter(|s| !s.is_empty()).unwrap_or("model").to_owned()
}

/// One step of a hash that detects accidental changes, not forgery.
pub(crate) fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// A hash that detects accidental changes, not forgery.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let start = rest.iter().fold(bytes.len() as u64, |h, b| mix(h, u64::from(*b)));
    words.iter().fold(start, |h, word| mix(h, u64::from_le_bytes(*word)))
}
