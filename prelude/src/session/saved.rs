//! save and open: training continues exactly from a saved session.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::models::Models;
use super::session_file::{
    COLUMNS_ALONE, Saved, SavedData, SavedScheme, SavedSource, VERSION, data_fingerprint,
    session_text,
};
use super::snapshot::Snapshot;
use super::snapshot_content::SnapshotContent;
use super::{Dam, Session};
use crate::checkpoint::{Source, Written, map, replace_file};
use crate::coefficients::{Scheme, Wrap, find};
use crate::data::Dataset;
use crate::error::{Error, Result};

impl Session {
    pub(super) fn save(&self, file: &Path) -> Result<Written> {
        if file.exists() && !map(file).is_ok_and(|bytes| session_text(&bytes).is_ok()) {
            return Err(Error::NotReplaced { path: file.into(), what: "a session" });
        }
        replace_file(file, &self.state_to_save(&self.snapshot()?)?.bytes()?)
    }

    /// Returns the state at `snapshot` as it is saved.
    pub(super) fn state_to_save(&self, snapshot: &Snapshot) -> Result<StateToSave> {
        let variables = self.merge.variables.iter();
        Ok(StateToSave {
            snapshot: snapshot.clone(),
            content: snapshot.content(self)?,
            variables: variables.map(|v| (v.key.clone(), v.value.dims().to_vec())).collect(),
        })
    }
}

/// A state of a session, apart from the session: another thread can write it while training goes
/// on.
pub(crate) struct StateToSave {
    snapshot: Snapshot,
    content: Arc<SnapshotContent>,
    /// The key and shape of every variable of the merge.
    variables: Vec<(String, Vec<usize>)>,
}

impl StateToSave {
    /// Returns the contents of the session file.
    ///
    /// # Errors
    /// A source's weights cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.saved()?.bytes(&self.variables, &self.content)
    }

    /// Returns the JSON part.
    fn saved(&self) -> Result<Saved> {
        let Self { snapshot, content, .. } = self;
        let (scheme, settings, options) = &snapshot.wrap;
        let source = |s: &Source| -> Result<SavedSource> {
            Ok(SavedSource {
                name: s.name().into(),
                spec: s.spec().into(),
                fingerprint: s.fingerprint()?.into(),
            })
        };
        let data =
            |d: &Dataset| SavedData { spec: d.spec.clone(), fingerprint: data_fingerprint(d) };
        let models = &snapshot.models;
        Ok(Saved {
            version: VERSION,
            sources: models.sources.iter().map(source).collect::<Result<_>>()?,
            data: models.data.iter().map(|(name, d)| (name.clone(), data(d))).collect(),
            settings: models.settings.clone(),
            scheme: SavedScheme {
                name: scheme.clone(),
                settings: settings
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), value.clone()))
                    .collect(),
            },
            options: options.clone(),
            step: snapshot.step,
            drawn: content.drawn,
            losses: content.history.total.iter().map(|(_, loss)| *loss).collect(),
            terms: content.history.terms.clone(),
            scores: snapshot.scores.clone(),
            start: snapshot.start.clone(),
        })
    }
}

impl Dam {
    /// Writes the session at `snapshot`, in the format of [`Dam::save`].
    ///
    /// # Errors
    /// As for [`Dam::save`].
    pub(crate) fn save_at(&self, snapshot: &Snapshot, file: &Path) -> Result<()> {
        let state = self.session().state_to_save(snapshot)?;
        replace_file(file, &state.bytes()?).map(drop)
    }

    /// Returns the state that [`Dam::save`] would write now.
    ///
    /// # Errors
    /// As for [`Dam::snapshot`].
    pub(crate) fn state_to_save(&self) -> Result<StateToSave> {
        let session = self.session();
        session.state_to_save(&session.snapshot()?)
    }

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
        Self::opened(file.as_ref(), |saved| {
            if saved.scheme.name != scheme.name() {
                let reason =
                    format!("its scheme is `{}`, not `{}`", saved.scheme.name, scheme.name());
                return Err(Error::SessionFile { file: file.as_ref().into(), reason });
            }
            Ok(Arc::new(scheme))
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
            session.step = saved.step;
            session.drawn = content.drawn;
            session.scores = saved.scores;
            session.moments = content.moments;
            session.history = content.history;
            session.start = saved.start;
        }
        Ok(dam.into_latest())
    }
}
