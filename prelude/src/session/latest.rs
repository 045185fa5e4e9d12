//! The merge that was wrapped or opened last, in a cell or by a verb: so that both go on with the same.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Dam, Session};
use crate::error::{Error, Result};

static LATEST: Mutex<Option<Weak<Mutex<Session>>>> = Mutex::new(None);

/// The merge that was wrapped or opened last, by whatever part of the program, while something holds it.
///
/// # Errors
/// None was, or it is gone.
pub fn latest() -> Result<Dam> {
    let latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    let dam = latest.as_ref().and_then(Weak::upgrade).map(Dam);
    dam.ok_or_else(|| Error::Refused {
        message: "no merge has been wrapped yet".into(),
        hint: "load([...])?.wrap(Columns::default())?; or the verbs load and wrap".into(),
    })
}

/// What is the latest from now on.
pub(crate) fn set_latest(dam: Option<&Dam>) {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = dam.map(|dam| Arc::downgrade(&dam.0));
}

impl Dam {
    /// Makes it the latest.
    pub(super) fn into_latest(self) -> Self {
        set_latest(Some(&self));
        self
    }

    /// Whether both are handles of one session.
    pub fn is(&self, other: &Dam) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
