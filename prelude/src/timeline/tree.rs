//! The history of a session as a tree of states: every change can be undone, and none is lost.
//!
//! ```text
//! 0 ── 1 load ── 2 wrap ── 3 train 100          main
//!                  └────── 4 train 50           cautious
//! ```
//!
//! A state keeps the sources, data and settings, and the merge with a snapshot of its coefficients
//! and optimiser. Snapshots take memory up to a budget; beyond it the oldest are moved to files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::checkpoint::private_directory;
use crate::error::refuse;
use crate::session::Snapshot;
use crate::syntax::Statement;
use crate::{Dam, Error, Merged, Models, Result};

/// The first branch.
const MAIN: &str = "main";

/// All states, and the current one.
pub struct Timeline {
    pub(super) states: Vec<State>,
    pub(super) here: usize,
    /// The current branch, which follows every change.
    pub(super) branch: String,
    pub(super) branches: BTreeMap<String, usize>,
    /// The states that `undo` left, by branch, the last one last: where `redo` goes.
    pub(super) undone: BTreeMap<String, Vec<usize>>,
    /// Whether the journal lacks something.
    pub(super) is_new: bool,
    /// The states that differ from their entries in the journal.
    pub(super) touched: BTreeSet<usize>,
    /// Statements that only looked at a state, with its number, that the journal lacks.
    pub(super) looked: Vec<(usize, Statement)>,
    /// `undone` as the journal has it.
    pub(super) undone_written: BTreeMap<String, Vec<usize>>,
    /// The directory of the journal and of the states with files.
    pub(super) directory: Option<PathBuf>,
    /// The journal's length in bytes; none before it is begun.
    pub(super) journal: Option<u64>,
    /// Its length when it was last rewritten.
    pub(super) whole: u64,
    /// The bytes of snapshots that stay in memory.
    pub(super) budget: usize,
    /// The directory of snapshots that are in no journal.
    pub(super) spilled: Option<TempDir>,
}

/// The bytes of snapshots that stay in memory: thousands of small merges, or a few states of a
/// large one.
const BUDGET: usize = 256 << 20;

/// The result of a change.
pub struct State {
    /// The state before it; none for the empty session.
    pub parent: Option<usize>,
    /// The statement that led here; none for a Rust cell, and for the empty session.
    pub done: Option<Statement>,
    /// The number of training steps.
    pub step: usize,
    /// The loss before the last of them.
    pub loss: Option<f64>,
    /// The statements that were run in this state and changed nothing.
    pub looked: Vec<Statement>,
    /// The latest result of `eval`, averaged over data sets: exact match, if any, and loss.
    pub scored: Option<(Option<f64>, f64)>,
    /// Whether its merge is in a file of the user: saved, baked, or opened.
    pub(super) saved: bool,
    /// The state that made the static merge, if there is one.
    pub(super) merged_by: Option<usize>,
    /// The recipe of the merge that a search found here.
    pub(super) recipe: Option<String>,
    /// None if it is in a file, or has to be rebuilt.
    pub(super) content: Option<Content>,
    /// Whether it is in a file.
    pub(super) in_file: bool,
}

/// The content of a state.
#[derive(Clone, Default)]
pub(super) struct Content {
    pub models: Models,
    pub dam: Option<(Dam, Snapshot)>,
    pub merged: Option<Merged>,
}

impl Default for Timeline {
    fn default() -> Self {
        let empty = State {
            parent: None,
            done: None,
            looked: Vec::new(),
            step: 0,
            loss: None,
            scored: None,
            saved: false,
            merged_by: None,
            recipe: None,
            content: Some(Content::default()),
            in_file: false,
        };
        let (branch, branches) = (MAIN.to_owned(), BTreeMap::from([(MAIN.to_owned(), 0)]));
        Self {
            states: vec![empty],
            here: 0,
            branch,
            branches,
            undone: BTreeMap::new(),
            is_new: false,
            touched: BTreeSet::new(),
            looked: Vec::new(),
            undone_written: BTreeMap::new(),
            directory: None,
            journal: None,
            whole: 0,
            budget: BUDGET,
            spilled: None,
        }
    }
}

impl Timeline {
    /// State `number` has changed since the journal was written.
    pub(super) fn touch(&mut self, number: usize) {
        self.touched.insert(number);
        self.is_new = true;
    }

    /// Records a read-only statement that ran in the current state.
    pub(crate) fn look(&mut self, statement: Statement) {
        self.states[self.here].looked.push(statement.clone());
        self.looked.push((self.here, statement));
        self.is_new = true;
    }

    /// All states by number. The first is the empty session.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The number of the current state.
    pub fn here(&self) -> usize {
        self.here
    }

    /// The current branch.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// Every branch with its last state.
    pub fn branches(&self) -> &BTreeMap<String, usize> {
        &self.branches
    }

    /// The states from the first change to `state`.
    pub fn path(&self, state: usize) -> Vec<usize> {
        let mut path: Vec<usize> =
            std::iter::successors(Some(state), |s| self.states[*s].parent).collect();
        path.pop();
        path.reverse();
        path
    }

    /// Whether the current state is `state` or was made from it.
    pub(crate) fn is_after(&self, state: usize) -> bool {
        state == 0 || self.path(self.here).contains(&state)
    }

    /// The unsaved training steps of each branch, the current one first: those at its end, and
    /// those of earlier merges on the way there.
    pub fn unsaved(&self) -> Vec<(&str, usize)> {
        let mut counted = BTreeSet::new();
        let mut ends: Vec<(&String, &usize)> = self.branches.iter().collect();
        ends.sort_by_key(|(name, _)| **name != self.branch);
        let mut all = Vec::new();
        for (name, end) in ends {
            let path = self.path(*end);
            let (mut saved, mut lost) = (0, 0);
            for (i, at) in path.iter().enumerate() {
                let state = &self.states[*at];
                if state.saved {
                    saved = state.step;
                }
                let next = path.get(i + 1).map(|next| self.states[*next].step);
                // Where another branch ends, it counts.
                let is_others = next.is_some() && self.branches.values().any(|end| end == at);
                if next.is_none_or(|next| next < state.step) {
                    lost += if !is_others && counted.insert(*at) {
                        state.step - saved.min(state.step)
                    } else {
                        0
                    };
                    saved = 0;
                }
            }
            if lost > 0 {
                all.push((name.as_str(), lost));
            }
        }
        all
    }

    /// Whether the current branch has unsaved steps.
    pub fn lacks_saving(&self) -> bool {
        self.unsaved().first().is_some_and(|(name, _)| *name == self.branch)
    }

    /// The state named `name`: the end of a branch, or a number.
    ///
    /// # Errors
    /// No such branch or state.
    pub fn find(&self, name: &str) -> Result<usize> {
        if let Some(state) = self.branches.get(name) {
            return Ok(*state);
        }
        match name.parse::<usize>() {
            Ok(number) if number < self.states.len() => Ok(number),
            Ok(number) => refuse(
                format!("there is no state {number}"),
                format!("the last is {}: history", self.states.len() - 1),
            ),
            Err(_) => Err(Error::unknown("branch", name, self.branches.keys().map(String::as_str))),
        }
    }
}

impl Timeline {
    /// Moves snapshots to files, the oldest first, until the rest fit the budget; that of the
    /// current state stays.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn spill(&mut self) -> Result<()> {
        fn snapshot(state: &State) -> Option<&(Dam, Snapshot)> {
            state.content.as_ref()?.dam.as_ref()
        }
        let bytes = |state: &State| snapshot(state).map_or(0, |(_, snapshot)| snapshot.bytes());
        let mut total: usize = self.states.iter().map(bytes).sum();
        for number in (0..self.states.len()).filter(|number| *number != self.here) {
            if total <= self.budget {
                break;
            }
            let state = &self.states[number];
            let Some((dam, snapshot)) =
                snapshot(state).filter(|(_, snapshot)| snapshot.bytes() > 0)
            else {
                continue;
            };
            let file = match (&self.directory, state.in_file) {
                (Some(directory), true) => directory.join(file_of(number)),
                _ => {
                    let io = |e| Error::io("write", std::env::temp_dir(), e);
                    let spilled = self
                        .spilled
                        .take()
                        .map_or_else(|| private_directory("dam-states-").map_err(io), Ok)?;
                    let file = spilled.path().join(file_of(number));
                    self.spilled = Some(spilled);
                    dam.save_at(snapshot, &file)?;
                    file
                }
            };
            total -= snapshot.bytes();
            snapshot.spill(&file);
        }
        Ok(())
    }
}

/// The file of state `number`.
pub(super) fn file_of(number: usize) -> String {
    format!("{number}.dam")
}
