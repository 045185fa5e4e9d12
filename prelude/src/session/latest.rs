//! The merge that was wrapped or opened last, in a cell or by a verb: so that both go on with the same.

use std::sync::{Mutex, PoisonError, Weak};

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

impl Dam {
    /// Makes it the latest.
    pub(super) fn into_latest(self) -> Self {
        *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::sync::Arc::downgrade(&self.0));
        self
    }

    /// Whether both are handles of one session.
    pub fn is(&self, other: &Dam) -> bool {
        std::sync::Arc::ptr_eq(&self.0, &other.0)
    }
}
