//! Models and datasets on the Hugging Face hub.

mod contained;
mod digest;
mod download;
mod snapshot;

pub(crate) use snapshot::{Hub, HubRef, SnapshotKind, cached_names, within};
