//! Recording states, and going from one to another.

use super::Replay;
use super::context::Context;
use super::tree::{Content, State, Timeline};
use crate::error::refuse;
use crate::session::set_latest;
use crate::syntax::Statement;
use crate::{Dam, Error, Merged, Result};

impl Context {
    /// Records what a Rust cell changed as a state of its own, unless the merge is in use.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn note_cell(&mut self) -> Result<()> {
        if self.dam.as_ref().is_some_and(|dam| dam.status().is_none()) {
            return Ok(());
        }
        self.record(None).map(drop)
    }

    /// Records the state that `done` led to, if it changed something; returns whether it did.
    ///
    /// # Errors
    /// None on the CPU.
    pub(crate) fn record(&mut self, done: Option<&Statement>) -> Result<bool> {
        self.remember();
        let before = self.timeline.here;
        let content = self.timeline.states[before].content.as_ref();
        if content.is_some_and(|content| content.is(self)) {
            return Ok(false);
        }
        let merged_before = content.and_then(|content| content.merged.clone());
        let dam = self
            .dam
            .clone()
            .map(|dam| Ok::<_, Error>((dam.clone(), dam.snapshot()?)))
            .transpose()?;
        // A merge that is left keeps no teacher logits, which are large.
        if let Some((left, _)) = content.and_then(|content| content.dam.as_ref())
            && dam.as_ref().is_none_or(|(dam, _)| !dam.is_same(left))
        {
            left.free_caches(self.dam.as_ref());
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
        let content =
            Some(Content { models: self.models.clone(), dam, merged: self.merged.clone() });
        self.timeline.states.push(State {
            parent: Some(before),
            done: done.cloned(),
            looked: Vec::new(),
            step,
            loss,
            scored: None,
            saved: self.dam.as_ref().is_some_and(|dam| self.saved == Some(dam.state())),
            merged_by,
            recipe,
            content,
            in_file: false,
        });
        self.timeline.touch(number);
        self.timeline.undone.remove(&self.timeline.branch);
        self.arrive(number);
        self.timeline.spill()?;
        Ok(true)
    }

    /// Notes the scores of `eval` since the state was recorded.
    fn remember(&mut self) {
        let here = self.timeline.here;
        let state = &mut self.timeline.states[here];
        if let Some(Content { dam: Some((dam, snapshot)), .. }) = &mut state.content
            && dam.state() == snapshot.state()
            && dam.scores().as_ref() != snapshot.scores()
        {
            snapshot.set_scores(dam.scores());
            state.scored =
                snapshot.scores().map(|scores| (scores.mean_accuracy(), scores.mean_loss()));
            self.timeline.touched.insert(here);
        }
    }

    /// Goes to `state` on the current branch.
    ///
    /// # Errors
    /// A state that cannot be rebuilt; nothing has changed then.
    pub(crate) fn go(&mut self, state: usize, replay: Replay) -> Result<()> {
        self.remember();
        self.bring(state, replay)?;
        let content = self.timeline.states[state].content.clone().unwrap_or_default();
        if let Some((dam, snapshot)) = &content.dam {
            dam.restore(snapshot)?;
        }
        let dam = content.dam.map(|(dam, _)| dam);
        if let Some(left) =
            self.dam.as_ref().filter(|left| dam.as_ref().is_none_or(|dam| !dam.is_same(left)))
        {
            left.free_caches(dam.as_ref());
        }
        set_latest(dam.as_ref());
        (self.models, self.dam, self.merged) = (content.models, dam, content.merged);
        self.arrive(state);
        Ok(())
    }

    fn arrive(&mut self, state: usize) {
        let Timeline { here, branch, branches, is_new, .. } = &mut self.timeline;
        (*here, *is_new) = (state, true);
        branches.insert(branch.clone(), state);
    }

    /// Undoes `count` changes.
    ///
    /// # Errors
    /// Nothing to undo.
    pub(crate) fn undo(&mut self, count: usize, replay: Replay) -> Result<()> {
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
        self.go(to, replay)?;
        self.timeline.undone.entry(branch).or_default().extend(&way[..way.len() - 1]);
        Ok(())
    }

    /// Redoes `count` changes that `undo` undid on this branch.
    ///
    /// # Errors
    /// Nothing to redo.
    pub(crate) fn redo(&mut self, count: usize, replay: Replay) -> Result<()> {
        let undone = self.timeline.undone.get(&self.timeline.branch).map_or(&[][..], Vec::as_slice);
        let left = undone.len().saturating_sub(count);
        let Some(to) = undone.get(left).copied() else {
            return refuse("nothing to redo", "history lists all states; switch N goes to state N");
        };
        self.go(to, replay)?;
        if let Some(undone) = self.timeline.undone.get_mut(&self.timeline.branch) {
            undone.truncate(left);
        }
        Ok(())
    }

    /// Goes to `state` again, which `undo` or `switch` has just left.
    ///
    /// # Errors
    /// As for [`Context::go`].
    pub(crate) fn cancel_undo(&mut self, state: usize, replay: Replay) -> Result<()> {
        self.go(state, replay)?;
        if let Some(undone) = self.timeline.undone.get_mut(&self.timeline.branch) {
            let at = undone.iter().position(|undone| *undone == state);
            undone.truncate(at.unwrap_or(undone.len()));
        }
        Ok(())
    }

    /// Starts the branch `name` here; the current one stays as it is.
    ///
    /// # Errors
    /// A name that is invalid or taken.
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

    /// Goes to the end of a branch, or to a state by its number on the current one.
    ///
    /// # Errors
    /// No such branch or state.
    pub(crate) fn switch(&mut self, name: &str, replay: Replay) -> Result<()> {
        let state = self.timeline.find(name)?;
        let Timeline { states, here, branch, branches, .. } = &mut self.timeline;
        let left = branch.clone();
        if branches.contains_key(name) {
            name.clone_into(branch);
            return self.go(state, replay).inspect_err(|_| self.timeline.branch = left);
        }
        match std::iter::successors(Some(*here), |s| states[*s].parent).position(|s| s == state) {
            Some(0) => self.go(state, replay),
            Some(count) => self.undo(count, replay),
            // `redo` does not apply to a state off the path to the current one.
            None => {
                self.go(state, replay)?;
                self.timeline.undone.remove(&left);
                Ok(())
            }
        }
    }

    /// Marks the current merge as saved in a file of the user.
    pub(crate) fn is_saved(&mut self) {
        let Some(dam) = &self.dam else { return };
        self.saved = Some(dam.state());
        let state = &self.timeline.states[self.timeline.here];
        // What was only just opened has no state yet.
        if state.content.as_ref().is_some_and(|content| content.is(self)) {
            self.timeline.states[self.timeline.here].saved = true;
            self.timeline.touch(self.timeline.here);
        }
    }

    /// The merge of a state, as a session of its own.
    ///
    /// # Errors
    /// A state without one.
    pub(crate) fn at(&mut self, state: usize, replay: Replay) -> Result<Dam> {
        self.bring(state, replay)?;
        match self.timeline.states[state].content.as_ref().and_then(|content| content.dam.as_ref())
        {
            Some((dam, snapshot)) => dam.fork_at(snapshot),
            None => {
                refuse(format!("state {state} has no wrapped merge"), "history lists all states")
            }
        }
    }

    /// The statements that led here from an empty session, and the read-only ones between them.
    ///
    /// # Errors
    /// A change that a Rust cell made.
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

impl Content {
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
