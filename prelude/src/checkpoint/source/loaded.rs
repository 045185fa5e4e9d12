//! A source model: architecture, tensors, tokenizer and side files, all verified when loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::DType;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::checked::Hashes;
use super::files::{Files, Stamps};
use super::numbering::Numbering;
use super::paging::Paging;
use super::resident::Resident;
use super::specifier::split_adapters;
use crate::checkpoint::config::{Architecture, Kind, TensorSpec, is_wrapper};
use crate::checkpoint::hub::HubRef;
use crate::checkpoint::side_files::SideFiles;
use crate::checkpoint::storage::{BUILTIN_PREFIX, Bytes, View};
use crate::checkpoint::tensors::unsupported_family::{self, OUTPUT};
use crate::checkpoint::tensors::{Buffer, TensorNames};
use crate::checkpoint::tokenizer::{BoundedTokenizer, Chat};
use crate::error::{Error, Result};

/// A loaded source. Cheap to clone; the weights stay memory-mapped in their own dtype.
#[derive(Clone)]
pub struct Source(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub name: String,
    pub spec: String,
    pub files: Files,
    /// The stamps of its side files when it was opened.
    pub stamps: Stamps,
    /// `None` if it is not supported.
    pub architecture: Option<Architecture>,
    /// Why it is not supported: the key of config.json and the reason.
    pub unsupported: Option<(String, String)>,
    pub family: String,
    pub tensors: Vec<TensorSpec>,
    pub views: BTreeMap<String, View>,
    pub buffers: BTreeMap<String, Buffer>,
    /// The stored names of its tensors.
    pub names: Arc<TensorNames>,
    pub unused: Vec<String>,
    /// Notes for the user.
    pub notes: Vec<String>,
    pub tokenizer: Option<Arc<BoundedTokenizer>>,
    pub chat: Arc<Chat>,
    pub fingerprint: OnceLock<String>,
    /// The source as it was opened, if this one has other rows or a separate output layer.
    pub original: Option<Source>,
    /// The shared token numbering, if it differs from the one on disk.
    pub numbering: Option<Arc<Numbering>>,
    /// Files that replace its own, because of the numbering or an adapter; `None` hides a file.
    pub replaced: BTreeMap<&'static str, Option<Bytes>>,
    /// The copies of its weights on a device.
    pub resident: Resident,
    /// The layers that stay in main memory.
    pub paging: Paging,
    /// The hashes of blocks of its tensors, by name, of those that are known.
    pub hashes: Hashes,
}

impl Inner {
    /// A copy without what is known of its weights: the fingerprint, the hashes of blocks, and
    /// where they are in memory or on a device.
    pub fn copy(&self) -> Self {
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
            resident: Resident::default(),
            paging: Paging::default(),
            hashes: Hashes::default(),
        }
    }
}

impl Source {
    /// A pointer that is unique among open sources.
    pub(crate) fn identity(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
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
        if is_wrapper(&self.0.family) && self.0.architecture.is_some() {
            &self.0.tensors
                [self.0.tensors.partition_point(|spec| !unsupported_family::is_rest(&spec.name))..]
        } else {
            &[]
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

/// The number of rows of the vocabulary tensors.
pub(super) fn rows_of(architecture: Option<&Architecture>, tensors: &[TensorSpec]) -> usize {
    let embedding = || {
        tensors.iter().filter(|t| t.kind == Kind::Embedding).map(|t| t.shape[0]).max().unwrap_or(0)
    };
    architecture.map_or_else(embedding, |architecture| architecture.vocabulary)
}
