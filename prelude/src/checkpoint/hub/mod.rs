//! Models and datasets on the Hugging Face hub, and the cache that is shared with Python's
//! `huggingface_hub`: `snapshot.rs` fetches, `choose.rs` says what, `download.rs` gets one file.

mod cache;
mod choose;
mod client;
mod contained;
mod digest;
mod download;
mod partial_file;
mod reference;
mod remote_file;
mod snapshot;

pub(crate) use cache::{cached_names, within};
pub(crate) use choose::SnapshotKind;
pub(crate) use reference::HubRef;
pub(crate) use snapshot::Hub;
