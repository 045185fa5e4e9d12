//! The file of a saved session, in safetensors format.
//! Tensors, f32: `c.KEY` (parameters of the scheme; with columns, the coefficients under the name
//! of their tensor), `m.KEY` and `v.KEY` (moments of the optimiser). The rest is JSON in the
//! metadata, with a checksum of the JSON and the tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::snapshot_content::SnapshotContent;
use crate::checkpoint::{hash, map, mix};
use crate::coefficients::{COLUMNS, Options, Variable};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::show::Scores;
use crate::train::{History, Moments, Settings};

const KEY: &str = "dam";

/// The start of the JSON, before the digits of its checksum; files of older versions have no
/// checksum.
const CHECKSUM: &str = "{\"checksum\":\"";

/// The version of the files that are written.
pub(super) const VERSION: u32 = 2;

/// The first version, which has the columns scheme only; it can still be read.
pub(super) const COLUMNS_ALONE: u32 = 1;

/// The maximum number of steps and of drawn examples.
const MOST: usize = 1 << 48;

/// Returns the JSON of a session from the bytes of its file, or the reason it cannot be read.
pub(super) fn session_text(bytes: &[u8]) -> std::result::Result<String, String> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get(KEY).cloned());
    text.ok_or_else(|| "it contains no session".into())
}

/// Returns the step of the session in `file`.
pub(crate) fn step_of(file: &Path) -> Option<usize> {
    let text = session_text(&map(file).ok()?).ok()?;
    serde_json::from_str::<Saved>(&text).ok().map(|saved| saved.step)
}

/// The JSON of a session.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    pub version: u32,
    pub sources: Vec<SavedSource>,
    pub data: BTreeMap<String, SavedData>,
    pub settings: Settings,
    #[serde(default)]
    pub scheme: SavedScheme,
    #[serde(alias = "columns")]
    pub options: Options,
    pub step: usize,
    pub drawn: usize,
    pub losses: Vec<f64>,
    /// The terms of `losses`, by name and step; empty in files of older versions.
    #[serde(default)]
    pub terms: Vec<(String, Vec<(usize, f64)>)>,
    pub scores: Option<Scores>,
    /// Describes the start of the coefficients if they do not start as the scheme has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedScheme {
    pub name: String,
    pub settings: Vec<(String, String)>,
}

impl Default for SavedScheme {
    fn default() -> Self {
        Self { name: COLUMNS.into(), settings: Vec::new() }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedSource {
    pub name: String,
    pub spec: String,
    pub fingerprint: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct SavedData {
    pub spec: String,
    pub fingerprint: String,
}

/// A fingerprint of a dataset's tokens.
pub(super) fn data_fingerprint(data: &Dataset) -> String {
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

/// A checksum of a session's JSON and of its tensors in the order of their names; it detects
/// accidental damage, not tampering.
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
    /// Returns the file of this session, whose merge has variables of these keys and shapes with
    /// `content`.
    ///
    /// # Errors
    /// Values that JSON or safetensors cannot represent.
    pub fn bytes(
        &self,
        variables: &[(String, Vec<usize>)],
        content: &SnapshotContent,
    ) -> Result<Vec<u8>> {
        let invalid = |reason: String| Error::SessionFile { file: "session".into(), reason };
        let text = serde_json::to_string(self).map_err(|e| invalid(e.to_string()))?;
        let mut tensors = Vec::new();
        for (((key, shape), values), moments) in
            variables.iter().zip(&content.values).zip(&content.moments)
        {
            tensors.push((format!("c.{key}"), shape.clone(), le(values)));
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

    /// Returns the content for a merge with these `variables`, or the reason it is invalid. `text`
    /// is the JSON in `bytes`.
    pub fn content(
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
            if values.iter().any(|x| !x.is_finite()) {
                return Err(format!("`{name}` is not finite"));
            }
            Ok(values)
        };
        let mut values = Vec::new();
        let mut moments = Vec::new();
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
