//! save and open: stores a session in one safetensors file; training continues from it exactly.
//! Tensors, f32: `c.KEY` (parameters of the scheme; with columns, the coefficients under the name
//! of their tensor), `m.KEY` and `v.KEY` (moments of the optimiser). The rest is JSON in the
//! metadata, with a checksum of the JSON and the tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::snapshot::{Snapshot, SnapshotContent};
use super::{Dam, Models, Session};
use crate::checkpoint::{Source, Written, hash, map, mix, replace_file};
use crate::coefficients::{COLUMNS, Options, Scheme, Variable, Wrap, find};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::show::Scores;
use crate::train::{History, Moments, Settings};

const KEY: &str = "dam";

/// The start of the JSON, before the digits of its checksum; files of older versions have no
/// checksum.
const CHECKSUM: &str = "{\"checksum\":\"";

const VERSION: u32 = 2;

/// The first version, which has the columns scheme only; it can still be read.
const COLUMNS_ALONE: u32 = 1;

/// The maximum number of steps and of drawn examples.
const MOST: usize = 1 << 48;

/// Returns the JSON of a session from the bytes of its file, or the reason it cannot be read.
fn session_text(bytes: &[u8]) -> std::result::Result<String, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY).cloned());
    text.ok_or_else(|| "it contains no session".into())
}

/// Returns the step of the session in `file`.
pub(crate) fn step_of(file: &Path) -> Option<usize> {
    let text = session_text(&map(file).ok()?).ok()?;
    serde_json::from_str::<Saved>(&text).ok().map(|saved| saved.step)
}

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    sources: Vec<SavedSource>,
    data: BTreeMap<String, SavedData>,
    settings: Settings,
    #[serde(default)]
    scheme: SavedScheme,
    #[serde(alias = "columns")]
    options: Options,
    step: usize,
    drawn: usize,
    losses: Vec<f64>,
    /// The terms of `losses`, by name and step; empty in files of older versions.
    #[serde(default)]
    terms: Vec<(String, Vec<(usize, f64)>)>,
    scores: Option<Scores>,
    /// Describes the start of the coefficients if they do not start as the scheme has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct SavedScheme {
    name: String,
    settings: Vec<(String, String)>,
}

impl Default for SavedScheme {
    fn default() -> Self {
        Self { name: COLUMNS.into(), settings: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
struct SavedSource {
    name: String,
    spec: String,
    fingerprint: String,
}

#[derive(Serialize, Deserialize)]
struct SavedData {
    spec: String,
    fingerprint: String,
}

fn data_fingerprint(data: &Dataset) -> String {
    let ids =
        data.examples.iter().flat_map(|e| e.ids.iter().copied().chain([u32::MAX, e.prompt as u32]));
    format!("{:016x}", ids.fold(0, |hash, id| mix(hash, u64::from(id))))
}

/// `values` in little-endian bytes.
fn le(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; 4 * values.len()];
    bytes
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(values)
        .for_each(|(to, value)| *to = value.to_le_bytes());
    bytes
}

/// A checksum of a session's JSON and of its tensors in the order of their names; it notices
/// accidents, not forgery.
fn checksum<'a>(text: &str, tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut tensors: Vec<(&str, &[u8])> = tensors.collect();
    tensors.sort_unstable();
    let sum = tensors.iter().fold(hash(text.as_bytes()), |sum, (name, bytes)| {
        mix(mix(sum, hash(name.as_bytes())), hash(bytes))
    });
    format!("{sum:016x}")
}

/// Inserts `sum` as the first key of the JSON object `text`.
fn sealed(text: &str, sum: &str) -> String {
    format!("{CHECKSUM}{sum}\",{}", text.strip_prefix('{').unwrap_or(text))
}

/// Returns the checksum that [`sealed`] inserted and the text without it, if there is one.
fn unsealed(text: &str) -> Option<(&str, String)> {
    let (sum, rest) = text.strip_prefix(CHECKSUM)?.split_once("\",")?;
    Some((sum, format!("{{{rest}")))
}

/// Reads the content of the snapshot in `file`, whose merge has these `variables`.
///
/// # Errors
/// The file is missing or damaged, or is of another merge.
pub(super) fn content(file: &Path, variables: &[Variable]) -> Result<SnapshotContent> {
    let bytes = map(file)?;
    let invalid = |reason: String| Error::SessionFile { file: file.into(), reason };
    let text = session_text(&bytes).map_err(invalid)?;
    let saved: Saved = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
    saved.content(&bytes, &text, variables).map_err(invalid)
}

impl Saved {
    /// Returns the content for a merge with these `variables`, or the reason it is invalid. `text`
    /// is the JSON in `bytes`.
    fn content(
        &self,
        bytes: &[u8],
        text: &str,
        variables: &[Variable],
    ) -> std::result::Result<SnapshotContent, String> {
        // Impossibly large counts would overflow later arithmetic.
        if self.step > MOST || self.drawn > MOST {
            return Err(format!("the step {} is out of range", self.step));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        if let Some((expected, text)) = unsealed(text) {
            let all = tensors.iter().map(|(name, view)| (name, view.data()));
            if expected != checksum(&text, all) {
                return Err("it is damaged: the checksum does not match the contents".into());
            }
        }
        let read = |name: String| -> std::result::Result<Vec<f32>, String> {
            let view = tensors.tensor(&name).map_err(|e| format!("`{name}`: {e}"))?;
            let (values, rest) = view.data().as_chunks::<4>();
            if view.dtype() != Dtype::F32 || !rest.is_empty() {
                return Err(format!("`{name}` is not f32"));
            }
            let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
            match values.iter().any(|x| !x.is_finite()) {
                true => Err(format!("`{name}` is not finite")),
                false => Ok(values),
            }
        };
        let (mut values, mut moments) = (Vec::new(), Vec::new());
        for Variable { key, value, .. } in variables {
            let c = read(format!("c.{key}"))?;
            let found = Moments { m: read(format!("m.{key}"))?, v: read(format!("v.{key}"))? };
            let fits = |n: usize| n == 0 || n == value.elem_count();
            if c.len() != value.elem_count()
                || !fits(found.m.len())
                || found.v.len() != found.m.len()
            {
                return Err(format!("`{key}` has the wrong number of coefficients"));
            }
            if let Some(square) = found.v.iter().find(|v| **v < 0.0) {
                return Err(format!(
                    "the mean square `{square}` of a gradient of `{key}` is negative"
                ));
            }
            values.push(c);
            moments.push(found);
        }
        if self.losses.len() > self.step {
            return Err(format!("it has {} losses for {} steps", self.losses.len(), self.step));
        }
        let first = self.step + 1 - self.losses.len();
        let total = self.losses.iter().enumerate().map(|(i, loss)| (first + i, *loss)).collect();
        let history = History { total, terms: self.terms.clone() };
        Ok(SnapshotContent { values, moments, drawn: self.drawn, history })
    }
}

impl Session {
    pub(super) fn save(&self, file: &Path) -> Result<Written> {
        if file.exists() && !map(file).is_ok_and(|bytes| session_text(&bytes).is_ok()) {
            return Err(Error::NotReplaced { path: file.into(), what: "a session" });
        }
        replace_file(file, &self.serialized(&self.snapshot()?)?)
    }

    /// Returns the session file for the state at `snapshot`.
    pub(super) fn serialized(&self, snapshot: &Snapshot) -> Result<Vec<u8>> {
        let (models, content) = (&snapshot.models, snapshot.content(self)?);
        let source = |s: &Source| -> Result<SavedSource> {
            Ok(SavedSource {
                name: s.name().into(),
                spec: s.spec().into(),
                fingerprint: s.fingerprint()?.into(),
            })
        };
        let data =
            |d: &Dataset| SavedData { spec: d.spec.clone(), fingerprint: data_fingerprint(d) };
        let saved = Saved {
            version: VERSION,
            sources: models.sources.iter().map(source).collect::<Result<_>>()?,
            data: models.data.iter().map(|(name, d)| (name.clone(), data(d))).collect(),
            settings: models.settings.clone(),
            scheme: SavedScheme {
                name: self.merge.wrap.scheme.name(),
                settings: self
                    .merge
                    .wrap
                    .scheme
                    .settings()
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect(),
            },
            options: self.merge.wrap.options.clone(),
            step: snapshot.step,
            drawn: content.drawn,
            losses: content.history.total.iter().map(|(_, loss)| *loss).collect(),
            terms: content.history.terms.clone(),
            scores: snapshot.scores.clone(),
            start: snapshot.start.clone(),
        };
        let invalid = |reason: String| Error::SessionFile { file: "session".into(), reason };
        let text = serde_json::to_string(&saved).map_err(|e| invalid(e.to_string()))?;
        let mut tensors = Vec::new();
        for ((variable, values), moments) in
            self.merge.variables.iter().zip(&content.values).zip(&content.moments)
        {
            let (key, shape) = (&variable.key, variable.value.dims().to_vec());
            tensors.push((format!("c.{key}"), shape, le(values)));
            for (kind, values) in [("m", &moments.m), ("v", &moments.v)] {
                tensors.push((format!("{kind}.{key}"), vec![values.len()], le(values)));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>();
        let sum = checksum(
            &text,
            tensors.iter().map(|(name, _, bytes)| (name.as_str(), bytes.as_slice())),
        );
        let metadata = Some(HashMap::from([(KEY.to_owned(), sealed(&text, &sum))]));
        views
            .and_then(|views| safetensors::serialize(views, metadata))
            .map_err(|e| invalid(e.to_string()))
    }
}

impl Dam {
    /// Opens a file written by [`Dam::save`]. Sources and data are read again and must not have
    /// changed.
    ///
    /// ```
    /// use dam_prelude::{Columns, Dam, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// dam.train(2)?;
    /// let directory = tempfile::tempdir()?;
    /// dam.save(directory.path().join("session"))?;
    /// let opened = Dam::open(directory.path().join("session"))?;
    /// assert_eq!(opened.step()?.total, dam.step()?.total);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The file is not a session; sources or data are missing or have changed; the scheme is not
    /// built in (use
    /// [`Dam::open_with`]).
    pub fn open(file: impl AsRef<Path>) -> Result<Self> {
        Self::opened(file.as_ref(), |saved| {
            let SavedScheme { name, settings } = &saved.scheme;
            let Ok(builtin) = find(name) else {
                return Err(Error::UnknownScheme {
                    file: file.as_ref().into(),
                    scheme: name.clone(),
                });
            };
            let settings: Vec<(&str, &str)> =
                settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            (builtin.build)(&settings)
        })
    }

    /// Like [`Dam::open`], for a session with your own scheme `scheme`.
    ///
    /// # Errors
    /// As for `open`; the session has a scheme of another name or other parameters.
    pub fn open_with(file: impl AsRef<Path>, scheme: impl Scheme + 'static) -> Result<Self> {
        Self::opened(file.as_ref(), |saved| match saved.scheme.name == scheme.name() {
            true => Ok(Arc::new(scheme)),
            false => {
                let reason =
                    format!("its scheme is `{}`, not `{}`", saved.scheme.name, scheme.name());
                Err(Error::SessionFile { file: file.as_ref().into(), reason })
            }
        })
    }

    fn opened(file: &Path, scheme: impl FnOnce(&Saved) -> Result<Arc<dyn Scheme>>) -> Result<Self> {
        let bytes = map(file)?;
        let invalid = |reason: String| Error::SessionFile { file: file.into(), reason };
        let text = session_text(&bytes).map_err(invalid)?;
        let saved: Saved = serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        if ![COLUMNS_ALONE, VERSION].contains(&saved.version) {
            return Err(invalid(format!(
                "it has version {}; this program reads version {VERSION}",
                saved.version
            )));
        }
        let wrap = Wrap { scheme: scheme(&saved)?, options: saved.options.clone() };
        let mut models = Models { settings: saved.settings.clone(), ..Models::default() };
        for source in &saved.sources {
            let opened = Source::open_as(Some(&source.name), &source.spec)?;
            if opened.fingerprint()? != source.fingerprint {
                return Err(invalid(format!(
                    "source `{}` ({}) has changed since the session was saved",
                    source.name, source.spec
                )));
            }
            models.add(opened)?;
        }
        models.data.clear();
        for (name, data) in &saved.data {
            models.data(name, &data.spec)?;
            if models.data.get(name).map(|d| data_fingerprint(d)).as_ref()
                != Some(&data.fingerprint)
            {
                return Err(invalid(format!(
                    "data of `{name}` ({}) has changed since the session was saved",
                    data.spec
                )));
            }
        }
        let dam = Dam::new(models, wrap)?;
        {
            let mut session = dam.session();
            let content =
                saved.content(&bytes, &text, &session.merge.variables).map_err(invalid)?;
            for (variable, values) in session.merge.variables.iter().zip(&content.values) {
                variable.value.set(&Tensor::from_slice(
                    values,
                    variable.value.dims(),
                    &Device::Cpu,
                )?)?;
            }
            (session.step, session.drawn, session.scores) =
                (saved.step, content.drawn, saved.scores);
            (session.moments, session.history) = (content.moments, content.history);
            session.start = saved.start;
        }
        Ok(dam.into_latest())
    }
}
