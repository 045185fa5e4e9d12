//! Going back: a moment of a session, kept; and a session of its own that begins there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{Device, Tensor};

use super::{Dam, Models, Session};
use crate::coefficients::Wrap;
use crate::error::{Error, Result};
use crate::show::Scores;
use crate::train::{History, Moments};

/// Counts states of all sessions, so that none has the number of another.
static STATES: AtomicU64 = AtomicU64::new(1);

/// The number of a state that nothing had before.
pub(super) fn new_state() -> u64 {
    STATES.fetch_add(1, Ordering::Relaxed)
}

/// A moment of a session: coefficients, moments of the optimiser, settings, data and what training has come through.
/// Cheap to clone.
#[derive(Clone)]
pub struct Snapshot(Arc<Moment>);

struct Moment {
    models: Models,
    wrap: Wrap,
    values: Vec<Vec<f32>>,
    moments: Vec<Moments>,
    step: usize,
    drawn: usize,
    history: History,
    scores: Option<Scores>,
    state: u64,
}

impl Snapshot {
    /// Steps made until then.
    pub fn steps(&self) -> usize {
        self.0.step
    }

    /// The loss before the last step, where there was one.
    pub fn loss(&self) -> Option<f64> {
        self.0.history.total.last().map(|(_, loss)| *loss)
    }

    /// What `eval` gave last for these coefficients.
    pub fn scores(&self) -> Option<&Scores> {
        self.0.scores.as_ref()
    }

    /// The number of the state, as [`Dam::state`] gives it.
    pub fn state(&self) -> u64 {
        self.0.state
    }
}

impl Dam {
    /// The number of the state that it is in: another after every change of coefficients, settings or data, and the
    /// same again after going back.
    pub fn state(&self) -> u64 {
        self.session().state
    }

    /// This moment, to go back to.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// let start = dam.snapshot()?;
    /// let first = dam.step()?.total;
    /// dam.restore(&start)?;
    /// assert_eq!((dam.steps(), dam.step()?.total), (0, first));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// None on the CPU.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let session = self.session();
        let Session { models, moments, step, drawn, history, scores, state, .. } = &*session;
        let values = session.merge.variables.iter().map(|v| Ok(v.value.flatten_all()?.to_vec1()?)).collect::<Result<_>>()?;
        Ok(Snapshot(Arc::new(Moment {
            models: models.clone(),
            wrap: session.merge.wrap.clone(),
            values,
            moments: moments.clone(),
            step: *step,
            drawn: *drawn,
            history: history.clone(),
            scores: scores.clone(),
            state: *state,
        })))
    }

    /// Goes back to a moment of this session, or of one of the same sources and scheme.
    ///
    /// # Errors
    /// A moment of another merge, or a device that is gone; nothing has changed then.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        let moment = &*snapshot.0;
        let fits = {
            let session = self.session();
            let sizes = session.merge.variables.iter().map(|v| v.value.elem_count());
            let same =
                |(a, b): (&crate::checkpoint::Source, &crate::checkpoint::Source)| a.name() == b.name() && a.spec() == b.spec();
            let (wrap, other) = (&session.merge.wrap, &moment.wrap);
            wrap.title() == other.title()
                && wrap.options == other.options
                && sizes.eq(moment.values.iter().map(Vec::len))
                && session.models.sources.len() == moment.models.sources.len()
                && session.models.sources.iter().zip(&moment.models.sources).all(same)
        };
        if !fits {
            let what = "this is a moment of another merge".into();
            return Err(Error::Sources { what, hint: "restore it in the merge that it was taken of" });
        }
        self.set(moment.models.settings.clone())?;
        let mut session = self.session();
        for (variable, values) in session.merge.variables.iter().zip(&moment.values) {
            variable.value.set(&Tensor::from_slice(values, variable.value.dims(), &Device::Cpu)?)?;
        }
        for (name, data) in &session.models.data.clone() {
            if moment.models.data.get(name).is_none_or(|other| !Arc::ptr_eq(data, other)) {
                session.teachers.forget(name);
            }
        }
        session.models.data = moment.models.data.clone();
        session.moments = moment.moments.clone();
        (session.step, session.drawn, session.state) = (moment.step, moment.drawn, moment.state);
        session.history = moment.history.clone();
        session.scores = moment.scores.clone();
        Ok(())
    }

    /// A session of its own at the same moment: what one does the other does not see.
    ///
    /// # Errors
    /// As for [`Models::wrap`].
    pub fn fork(&self) -> Result<Self> {
        self.fork_at(&self.snapshot()?)
    }

    /// [`Dam::fork`] at another moment.
    ///
    /// # Errors
    /// As for [`Dam::restore`].
    pub fn fork_at(&self, snapshot: &Snapshot) -> Result<Self> {
        let (wrap, start) = {
            let session = self.session();
            (session.merge.wrap.clone(), session.start.clone())
        };
        let dam = Dam::new(snapshot.0.models.clone(), wrap)?;
        dam.restore(snapshot)?;
        dam.session().start = start;
        Ok(dam)
    }
}
