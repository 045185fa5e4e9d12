//! A session and its history: what verbs act on, the tree of its states, and the journal on disk.
//!
//! ```text
//! context.rs   what there is now: sources, the merge in training, a static merge
//! tree.rs      all states, and the branches that end at them
//! travel.rs    recording a state, and going to another one
//! journal.rs   the tree on disk, for a session that ended without warning
//! ```

mod context;
mod journal;
#[cfg(test)]
mod tests;
mod travel;
mod tree;

use crate::Result;
use crate::syntax::Statement;

pub use context::{Context, Latest};
pub use journal::Recovered;
pub(crate) use journal::recover;
pub use tree::{State, Timeline};

/// Runs a recorded statement once more in a scratch session, to rebuild a part of a state.
pub(crate) type Replay = fn(&mut Context, &Statement, Rebuild) -> Result<()>;

/// The part of a state that a statement rebuilds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rebuild {
    /// Sources, data and settings: files are opened, nothing is computed.
    Sources,
    /// A static merge.
    Merge,
}
