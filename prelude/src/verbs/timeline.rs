//! What was done, as a tree of states: every change is one that can be gone back to, and none is
//! lost.
//!
//! ```text
//! 0 ── 1 load ── 2 wrap ── 3 train 100          main
//!                  └────── 4 train 50           cautious
//! ```
//!
//! A state keeps the sources, data and settings, the merge and a moment of it. Moments take memory
//! up to a budget; the oldest beyond it are in files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tempfile::TempDir;

use super::context::{Context, Reply, refuse};
use super::{Statement, find};
use crate::checkpoint::private_directory;
use crate::session::{Snapshot, set_latest};
use crate::{Dam, Error, Merged, Models, Result};

/// The branch that one begins on.
const MAIN: &str = "main";

/// All states, and where one is.
pub struct Timeline {
    pub(super) states: Vec<State>,
    pub(super) here: usize,
    /// The branch that goes along with what is done.
    pub(super) branch: String,
    pub(super) branches: BTreeMap<String, usize>,
    /// States that `undo` came back from, by branch, the last one last: where `redo` goes.
    pub(super) undone: BTreeMap<String, Vec<usize>>,
    /// Whether something is not on disk yet.
    pub(super) is_new: bool,
    /// States that differ from what the journal says of them.
    pub(super) touched: BTreeSet<usize>,
    /// What was looked at, by the number of the state, that the journal does not say.
    pub(super) looked: Vec<(usize, Statement)>,
    /// What the journal says of `undone`.
    pub(super) undone_written: BTreeMap<String, Vec<usize>>,
    /// Where the journal and the states are that have files.
    pub(super) directory: Option<PathBuf>,
    /// The journal's length in bytes; none where it has to be begun.
    pub(super) journal: Option<u64>,
    /// The length that it had when it was written anew.
    pub(super) whole: u64,
    /// Bytes of moments that stay in memory.
    pub(super) budget: usize,
    /// Where moments are that no journal keeps.
    pub(super) spilled: Option<TempDir>,
}

/// Bytes of moments that stay in memory: thousands of small merges, and some states of a large one.
const BUDGET: usize = 256 << 20;

/// What a change led to.
pub struct State {
    /// What it was made from; none: the empty session.
    pub parent: Option<usize>,
    /// What was done; none where a cell of Rust did it, and of the empty session.
    pub done: Option<Statement>,
    /// Steps of the merge until then.
    pub step: usize,
    /// The loss before the last of them.
    pub loss: Option<f64>,
    /// What was looked at then: verbs that change nothing.
    pub looked: Vec<Statement>,
    /// The mean over data sets of what `eval` gave last: exact match, if there is one, and loss.
    pub scored: Option<(Option<f64>, f64)>,
    /// Whether its merge has been taken out: saved, baked, or opened.
    pub(super) saved: bool,
    /// The state that made the merge that is tried, if one is.
    pub(super) merged_by: Option<usize>,
    /// The text of the recipe that makes the merge again that a search found here.
    pub(super) recipe: Option<String>,
    /// None: it is in a file, or is made again.
    pub(super) kept: Option<Kept>,
    /// Whether the file has it.
    pub(super) in_file: bool,
}

/// What a session was.
#[derive(Clone, Default)]
pub(super) struct Kept {
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
            kept: Some(Kept::default()),
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
    /// The journal has to say something else of state `number`.
    fn touch(&mut self, number: usize) {
        self.touched.insert(number);
        self.is_new = true;
    }

    /// Something was looked at in state `number`.
    fn look(&mut self, number: usize, statement: Statement) {
        self.states[number].looked.push(statement.clone());
        self.looked.push((number, statement));
        self.is_new = true;
    }

    /// All states; their numbers are their places. The first is the empty session.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// The number of the state that one is in.
    pub fn here(&self) -> usize {
        self.here
    }

    /// The branch that one is on.
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

    /// Steps of training at the ends of branches, and before a merge was wrapped anew on the way
    /// there, that were not taken out: by branch, the present one first.
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

    /// Whether that is so of the present branch.
    pub fn lacks_saving(&self) -> bool {
        self.unsaved().first().is_some_and(|(name, _)| *name == self.branch)
    }

    /// The state that `name` means: a branch, or a number.
    ///
    /// # Errors
    /// Neither.
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
    /// Has moments in files, the oldest first, until the others fit the budget; that of the present
    /// state stays.
    ///
    /// # Errors
    /// A place that has no room.
    pub(super) fn spill(&mut self) -> Result<()> {
        fn moment(state: &State) -> Option<&(Dam, Snapshot)> {
            state.kept.as_ref()?.dam.as_ref()
        }
        let bytes = |state: &State| moment(state).map_or(0, |(_, snapshot)| snapshot.bytes());
        let mut total: usize = self.states.iter().map(bytes).sum();
        for number in (0..self.states.len()).filter(|number| *number != self.here) {
            if total <= self.budget {
                break;
            }
            let state = &self.states[number];
            let Some((dam, snapshot)) = moment(state).filter(|(_, snapshot)| snapshot.bytes() > 0)
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

impl Context {
    /// Does one statement, and keeps the state that it leads to.
    ///
    /// # Errors
    /// An unknown verb, or what the verb says.
    pub fn run(&mut self, statement: &Statement) -> Result<Reply> {
        let verb = find(&statement.verb)?;
        // What a cell did meanwhile is a state of its own.
        self.record(None)?;
        let before = self.timeline.here;
        let reply = (verb.run)(self, &statement.arguments);
        let statement = exactly(statement, reply.as_ref().ok());
        // Also after an error: steps made before it stay made.
        let changed = self.record(Some(&statement))?;
        if !changed && self.timeline.here == before && reply.is_ok() && verb.rust.is_some() {
            self.timeline.look(before, statement);
        }
        reply
    }

    /// Keeps what was done otherwise than by a verb as a state of its own, unless somebody works on
    /// the merge.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn note_cell(&mut self) -> Result<()> {
        match self.dam.as_ref().is_none_or(|dam| dam.status().is_some()) {
            true => self.record(None).map(drop),
            false => Ok(()),
        }
    }

    /// Keeps the state as `done` left it, if that changed something, which it tells.
    ///
    /// # Errors
    /// None on the CPU.
    pub(super) fn record(&mut self, done: Option<&Statement>) -> Result<bool> {
        self.remember();
        let before = self.timeline.here;
        let kept = self.timeline.states[before].kept.as_ref();
        if kept.is_some_and(|kept| kept.is(self)) {
            return Ok(false);
        }
        let merged_before = kept.and_then(|kept| kept.merged.clone());
        let dam = self
            .dam
            .clone()
            .map(|dam| Ok::<_, Error>((dam.clone(), dam.snapshot()?)))
            .transpose()?;
        // A merge that is left keeps no answers of its teachers, which are large.
        if let Some((left, _)) = kept.and_then(|kept| kept.dam.as_ref())
            && dam.as_ref().is_none_or(|(dam, _)| !dam.is_same(left))
        {
            left.free_caches();
        }
        let number = self.timeline.states.len();
        let (step, loss) = dam.as_ref().map_or((0, None), |(_, s)| (s.steps(), s.loss()));
        let merged_by = match (&self.merged, &merged_before) {
            (None, _) => None,
            (Some(now), Some(then)) if now.is_same(then) => self.timeline.states[before].merged_by,
            _ => Some(number),
        };
        let recipe = self
            .merged
            .as_ref()
            .filter(|_| merged_by == Some(number))
            .and_then(Merged::recipe)
            .map(str::to_owned);
        let done =
            done.map(|done| stepped(done, step.saturating_sub(self.timeline.states[before].step)));
        let kept = Some(Kept { models: self.models.clone(), dam, merged: self.merged.clone() });
        let (looked, scored, in_file) = (Vec::new(), None, false);
        let saved = self.dam.as_ref().is_some_and(|dam| self.saved == Some(dam.state()));
        let parent = Some(before);
        let state = State {
            parent,
            done,
            looked,
            step,
            loss,
            scored,
            saved,
            merged_by,
            recipe,
            kept,
            in_file,
        };
        self.timeline.states.push(state);
        self.timeline.touch(number);
        self.timeline.undone.remove(&self.timeline.branch);
        self.arrive(number);
        self.timeline.spill()?;
        Ok(true)
    }

    /// Notes what `eval` gave since the state was recorded.
    fn remember(&mut self) {
        let here = self.timeline.here;
        let state = &mut self.timeline.states[here];
        if let Some(Kept { dam: Some((dam, snapshot)), .. }) = &mut state.kept
            && dam.state() == snapshot.state()
            && dam.scores().as_ref() != snapshot.scores()
        {
            snapshot.set_scores(dam.scores());
            state.scored =
                snapshot.scores().map(|scores| (scores.mean_accuracy(), scores.mean_loss()));
            self.timeline.touched.insert(here);
        }
    }

    /// Goes to `state`; the branch one is on goes along.
    ///
    /// # Errors
    /// A state that cannot be made again; nothing has changed then.
    pub fn go(&mut self, state: usize) -> Result<()> {
        self.remember();
        self.bring(state)?;
        let kept = self.timeline.states[state].kept.clone().unwrap_or_default();
        if let Some((dam, snapshot)) = &kept.dam {
            dam.restore(snapshot)?;
        }
        let dam = kept.dam.map(|(dam, _)| dam);
        if let Some(left) =
            self.dam.as_ref().filter(|left| dam.as_ref().is_none_or(|dam| !dam.is_same(left)))
        {
            left.free_caches();
        }
        set_latest(dam.as_ref());
        (self.models, self.dam, self.merged) = (kept.models, dam, kept.merged);
        self.arrive(state);
        Ok(())
    }

    fn arrive(&mut self, state: usize) {
        let Timeline { here, branch, branches, is_new, .. } = &mut self.timeline;
        (*here, *is_new) = (state, true);
        branches.insert(branch.clone(), state);
    }

    /// `count` changes back.
    ///
    /// # Errors
    /// Nothing to undo.
    pub fn undo(&mut self, count: usize) -> Result<()> {
        let Timeline { states, here, branch, .. } = &self.timeline;
        let way: Vec<usize> = std::iter::successors(Some(*here), |s| states[*s].parent)
            .take(count.saturating_add(1))
            .collect();
        let (Some(to), branch) = (way.last().copied().filter(|to| to != here), branch.clone())
        else {
            return refuse(
                "nothing to undo",
                "history lists all states; redo restores what was undone",
            );
        };
        self.go(to)?;
        self.timeline.undone.entry(branch).or_default().extend(&way[..way.len() - 1]);
        Ok(())
    }

    /// `count` changes forward again, the way `undo` came on this branch.
    ///
    /// # Errors
    /// Nothing to redo.
    pub fn redo(&mut self, count: usize) -> Result<()> {
        let undone = self.timeline.undone.get(&self.timeline.branch).map_or(&[][..], Vec::as_slice);
        let left = undone.len().saturating_sub(count);
        let Some(to) = undone.get(left).copied() else {
            return refuse("nothing to redo", "history lists all states; switch N goes to state N");
        };
        self.go(to)?;
        if let Some(undone) = self.timeline.undone.get_mut(&self.timeline.branch) {
            undone.truncate(left);
        }
        Ok(())
    }

    /// Goes on from here under a new name; what the branch before had stays there.
    ///
    /// # Errors
    /// A name that is taken or none.
    pub fn begin_branch(&mut self, name: &str) -> Result<()> {
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty()
            || !name.chars().all(plain)
            || name.parse::<usize>().is_ok()
            || name.len() > 64
        {
            return Err(Error::bad_value(
                "branch",
                name,
                "a name of letters, digits, `-`, `_` and `.` that is not a number",
            ));
        }
        if self.timeline.branches.contains_key(name) {
            return refuse(
                format!("there is a branch `{name}` already"),
                format!("go there: switch {name}"),
            );
        }
        // What was undone can be done again on either.
        if let Some(undone) = self.timeline.undone.get(&self.timeline.branch).cloned() {
            self.timeline.undone.insert(name.to_owned(), undone);
        }
        name.clone_into(&mut self.timeline.branch);
        self.timeline.branches.insert(name.to_owned(), self.timeline.here);
        self.timeline.is_new = true;
        Ok(())
    }

    /// Goes to the end of a branch, or on this one to a state by its number.
    ///
    /// # Errors
    /// No such branch or state.
    pub fn switch(&mut self, name: &str) -> Result<()> {
        let state = self.timeline.find(name)?;
        let Timeline { states, here, branch, branches, .. } = &mut self.timeline;
        let left = branch.clone();
        if branches.contains_key(name) {
            name.clone_into(branch);
            return self.go(state).inspect_err(|_| self.timeline.branch = left);
        }
        match std::iter::successors(Some(*here), |s| states[*s].parent).position(|s| s == state) {
            Some(0) => self.go(state),
            Some(count) => self.undo(count),
            // From a state that is not on the way here there is no way forward.
            None => {
                self.go(state)?;
                self.timeline.undone.remove(&left);
                Ok(())
            }
        }
    }

    /// The merge as it is has been taken out.
    pub(super) fn is_saved(&mut self) {
        let Some(dam) = &self.dam else { return };
        self.saved = Some(dam.state());
        let state = &self.timeline.states[self.timeline.here];
        // What was only just opened has no state yet.
        if state.kept.as_ref().is_some_and(|kept| kept.is(self)) {
            self.timeline.states[self.timeline.here].saved = true;
            self.timeline.touch(self.timeline.here);
        }
    }

    /// The merge of a state, as a session of its own.
    ///
    /// # Errors
    /// A state without one.
    pub(super) fn at(&mut self, state: usize) -> Result<Dam> {
        self.bring(state)?;
        match self.timeline.states[state].kept.as_ref().and_then(|kept| kept.dam.as_ref()) {
            Some((dam, snapshot)) => dam.fork_at(snapshot),
            None => {
                refuse(format!("state {state} has no wrapped merge"), "history lists all states")
            }
        }
    }

    /// What led here from an empty session, and what was looked at on the way.
    ///
    /// # Errors
    /// Something that a cell of Rust did.
    pub fn done(&mut self) -> Result<Vec<Statement>> {
        self.record(None)?;
        let Timeline { states, here, .. } = &self.timeline;
        let mut all = states[0].looked.clone();
        for number in self.timeline.path(*here) {
            let Some(done) = states[number].done.clone() else {
                return refuse(
                    "a Rust cell changed the merge; it cannot be exported",
                    "save the coefficients: save FILE",
                );
            };
            all.push(done);
            all.extend(states[number].looked.iter().cloned());
        }
        Ok(all)
    }
}

impl Kept {
    /// Whether this is what `context` is.
    fn is(&self, context: &Context) -> bool {
        let same_dam = match (&self.dam, &context.dam) {
            (Some((dam, snapshot)), Some(now)) => {
                dam.is_same(now) && now.state() == snapshot.state()
            }
            (None, None) => self.models.is_same(&context.models),
            _ => false,
        };
        let same_merged = match (&self.merged, &context.merged) {
            (Some(merged), Some(now)) => merged.is_same(now),
            (merged, now) => merged.is_none() && now.is_none(),
        };
        same_dam && same_merged
    }
}

/// `done` with as many steps as were made, which an interrupt or an error may have cut short.
fn stepped(done: &Statement, steps: usize) -> Statement {
    let mut done = done.clone();
    if ["train", "step"].contains(&done.verb.as_str()) {
        done.arguments = vec![steps.to_string()];
    }
    done
}

/// `done` as what it came to: a search that was stopped is one of as many candidates as it tried.
fn exactly(done: &Statement, reply: Option<&Reply>) -> Statement {
    let mut done = done.clone();
    let fields = reply.map(|reply| &reply.json).filter(|_| done.verb == "evolve");
    if let Some(fields) = fields.filter(|fields| fields.get("stopped") == Some(&true.into())) {
        done.arguments.retain(|argument| !argument.starts_with("budget="));
        done.arguments.extend(fields.get("candidates").map(|tried| format!("budget={tried}")));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::statements;

    /// What does not fit the budget is in files, and comes back to the bit.
    #[test]
    fn moments_beyond_the_budget_are_in_files() {
        let run = |context: &mut Context, text: &str| {
            for statement in statements(text).unwrap() {
                context.run(&statement).unwrap();
            }
        };
        let bytes = |context: &Context| -> Vec<usize> {
            let moment = |state: &State| {
                state
                    .kept
                    .as_ref()
                    .and_then(|k| k.dam.as_ref())
                    .map(|(_, snapshot)| snapshot.bytes())
            };
            context.timeline.states.iter().filter_map(moment).collect()
        };
        let begin = "load builtin:japanese builtin:math; wrap; step; step; step; step; step";
        let (mut large, mut small) = (Context::default(), Context::default());
        run(&mut large, begin);
        let one = bytes(&large).into_iter().max().unwrap();
        small.timeline.budget = 2 * one;
        run(&mut small, begin);
        assert!(bytes(&large).iter().all(|bytes| *bytes > 0));
        assert!(bytes(&small).iter().sum::<usize>() <= 2 * one);
        for context in [&mut large, &mut small] {
            run(context, "undo 4; step");
        }
        let coefficients = |context: &Context| {
            let name = "model.layers.0.mlp.up_proj.weight";
            context.dam().unwrap().coefficients(name).unwrap().to_vec2::<f32>().unwrap()
        };
        assert_eq!(coefficients(&large), coefficients(&small));
        assert_eq!(large.dam().unwrap().history(), small.dam().unwrap().history());
        // The journal takes over what is in files of no journal.
        let place = tempfile::tempdir().unwrap();
        small.keep(place.path()).unwrap();
        let mut again = Context::recover(place.path()).unwrap().context;
        run(&mut again, "undo 2; redo");
        run(&mut small, "undo 2; redo");
        assert_eq!(coefficients(&again), coefficients(&small));
    }
}
