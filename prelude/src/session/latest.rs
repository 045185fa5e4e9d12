//! The merge most recently wrapped or opened, shared by Rust cells and verbs.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Dam, Session};
use crate::error::{Error, Result};

static LATEST: Mutex<Option<Weak<Mutex<Session>>>> = Mutex::new(None);

/// Returns the merge most recently wrapped or opened anywhere in the program, if it still exists.
///
/// # Errors
/// No merge has been wrapped or opened, or it has been dropped.
pub fn latest() -> Result<Dam> {
    let latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    let dam = latest.as_ref().and_then(Weak::upgrade).map(Dam);
    dam.ok_or_else(|| Error::Refused {
        message: "no merge has been wrapped yet".into(),
        hint: "run load([...])?.wrap(Columns::default())?, or the verbs load and wrap".into(),
    })
}

/// Sets the latest merge.
pub(crate) fn set_latest(dam: Option<&Dam>) {
    *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = dam.map(|dam| Arc::downgrade(&dam.0));
}

impl Dam {
    /// Makes this merge the latest.
    pub(super) fn into_latest(self) -> Self {
        set_latest(Some(&self));
        self
    }

    /// Whether both are handles of the same session.
    pub fn is_same(&self, other: &Dam) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
