//! The timeline on disk, so that a crash or a closed terminal loses nothing but the step under way.
//!
//! ```text
//! DIRECTORY/journal.json   all states, what was done, branches, where one is
//! DIRECTORY/N.dam          the session of state N, as save writes it
//! DIRECTORY/now.dam        the training that is under way
//! ```
//!
//! States without a merge are made again by what was done, which is quick: sources are opened, nothing is computed.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::context::{Context, refuse};
use super::parse::line;
use super::timeline::{Kept, State, Timeline};
use super::{Statement, find};
use crate::checkpoint::{read_file, replace_file};
use crate::session::step_of;
use crate::{Dam, Error, Result};

const JOURNAL: &str = "journal.json";
const NOW: &str = "now.dam";
const VERSION: u32 = 1;

/// More than a person makes, and few enough to be read.
const MOST_BYTES: u64 = 64 << 20;

/// Verbs that open or say something, without computing anything.
const MADE_AGAIN: [&str; 4] = ["load", "data", "set", "open"];

#[derive(Serialize, Deserialize)]
struct Journal {
    version: u32,
    here: usize,
    branch: String,
    branches: BTreeMap<String, usize>,
    undone: BTreeMap<String, Vec<usize>>,
    states: Vec<Line>,
}

/// A verb and its arguments.
type Words = (String, Vec<String>);

#[derive(Serialize, Deserialize)]
struct Line {
    parent: Option<usize>,
    done: Option<Words>,
    looked: Vec<Words>,
    step: usize,
    loss: Option<f64>,
    scored: Option<(Option<f64>, f64)>,
    #[serde(default)]
    saved: bool,
    merged_by: Option<usize>,
    in_file: bool,
}

impl Context {
    /// Writes what is new of the timeline into `directory`, which is for that alone; nothing before anything was done.
    ///
    /// # Errors
    /// A place that has no room or may not be written.
    pub fn keep(&mut self, directory: &Path) -> Result<()> {
        self.record(None)?;
        if !self.timeline.is_new {
            return Ok(());
        }
        for (number, state) in self.timeline.states.iter_mut().enumerate() {
            let Some(Kept { dam: Some((dam, snapshot)), .. }) = &state.kept else { continue };
            if state.in_file {
                continue;
            }
            let file = directory.join(format!("{number}.dam"));
            match dam.state() == snapshot.state() {
                true => dam.save(file)?,
                false => dam.fork_at(snapshot)?.save(file)?,
            };
            state.in_file = true;
        }
        let line = |s: &State| Line {
            parent: s.parent,
            done: s.done.as_ref().map(words),
            looked: s.looked.iter().map(words).collect(),
            step: s.step,
            loss: s.loss,
            scored: s.scored,
            saved: s.saved,
            merged_by: s.merged_by,
            in_file: s.in_file,
        };
        let Timeline { here, branch, branches, undone, states, .. } = &self.timeline;
        let (states, branch) = (states.iter().map(line).collect(), branch.clone());
        let (branches, undone) = (branches.clone(), undone.clone());
        let journal = Journal { version: VERSION, here: *here, branch, branches, undone, states };
        let file = directory.join(JOURNAL);
        let text = serde_json::to_string(&journal).map_err(|e| Error::Json { file: file.clone(), reason: e.to_string() })?;
        replace_file(&file, text.as_bytes())?;
        self.timeline.is_new = false;
        // What was under way has become a state.
        match std::fs::remove_file(directory.join(NOW)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("write", directory.join(NOW), error)),
            _ => Ok(()),
        }
    }

    /// Writes the merge in training into `directory`, between two steps.
    ///
    /// # Errors
    /// As for [`Context::keep`].
    pub fn keep_now(dam: &Dam, directory: &Path) -> Result<()> {
        dam.save(directory.join(NOW)).map(drop)
    }

    /// What [`Context::keep`] wrote, in a line: the last thing done, the step and the loss.
    ///
    /// # Errors
    /// A journal that is missing or damaged.
    pub fn summary(directory: &Path) -> Result<String> {
        let journal = read(&directory.join(JOURNAL))?;
        let here = &journal.states[journal.here];
        let done = here.done.clone().map_or_else(String::new, |words| line(&statement(words)));
        let loss = here.loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
        let step = if here.in_file { format!("step {}{loss}, ", here.step) } else { String::new() };
        let now = step_of(&directory.join(NOW)).filter(|step| *step > here.step);
        let under_way = now.map(|step| format!("; training was under way, at step {step}")).unwrap_or_default();
        let changes = match journal.states.len() - 1 {
            1 => "1 change".to_owned(),
            count => format!("{count} changes"),
        };
        Ok(format!("{step}{changes}, the last: {done}{under_way}"))
    }

    /// Goes on with what [`Context::keep`] wrote, where that stopped.
    ///
    /// # Errors
    /// Files that are missing or damaged; sources or data that are not there any more, or have changed.
    pub fn recover(directory: &Path) -> Result<Self> {
        let file = directory.join(JOURNAL);
        let journal = read(&file)?;
        let states = journal.states.into_iter().map(|line| State {
            parent: line.parent,
            done: line.done.map(statement),
            looked: line.looked.into_iter().map(statement).collect(),
            step: line.step,
            loss: line.loss,
            scored: line.scored,
            saved: line.saved,
            merged_by: line.merged_by,
            kept: None,
            in_file: line.in_file,
        });
        let mut timeline = Timeline {
            states: states.collect(),
            here: journal.here,
            branch: journal.branch,
            branches: journal.branches,
            undone: journal.undone,
            is_new: false,
            directory: Some(directory.into()),
        };
        timeline.states[0].kept = Some(Kept::default());
        let mut context = Self { timeline, ..Self::default() };
        context.go(journal.here)?;
        let now = directory.join(NOW);
        if now.is_file()
            && let Ok(dam) = Dam::open(&now)
            && dam.steps() > context.timeline.states[journal.here].step
        {
            context.dam = Some(dam);
            context.merged = None;
            context.record(Some(&statement(("train".into(), Vec::new()))))?;
        }
        Ok(context)
    }

    /// Has `state` in memory.
    pub(super) fn bring(&mut self, state: usize) -> Result<()> {
        let states = &self.timeline.states;
        let missing = std::iter::successors(Some(state), |s| states[*s].parent).take_while(|s| states[*s].kept.is_none());
        // A state that a file has needs none of those before it.
        let mut chain: Vec<usize> = Vec::new();
        for number in missing {
            chain.push(number);
            if states[number].in_file {
                break;
            }
        }
        for number in chain.into_iter().rev() {
            let kept = self.made(number)?;
            self.timeline.states[number].kept = Some(kept);
        }
        if let Some(by) = self.timeline.states[state].merged_by {
            self.bring_merged(state, by)?;
        }
        Ok(())
    }

    /// `state` from its file, or by what was done after its parent.
    fn made(&self, state: usize) -> Result<Kept> {
        let Timeline { states, directory, .. } = &self.timeline;
        if let (true, Some(directory)) = (states[state].in_file, directory) {
            let dam = Dam::open(directory.join(format!("{state}.dam")))?;
            let (models, snapshot) = (dam.models(), dam.snapshot()?);
            return Ok(Kept { models, dam: Some((dam, snapshot)), merged: None });
        }
        let parent = states[state].parent.and_then(|parent| states[parent].kept.clone()).unwrap_or_default();
        let models = parent.dam.as_ref().map_or(parent.models, |(dam, _)| dam.models());
        let mut scratch = Context { models, ..Self::default() };
        if let Some(done) = states[state].done.as_ref().filter(|done| MADE_AGAIN.contains(&done.verb.as_str())) {
            (find(&done.verb)?.run)(&mut scratch, &done.arguments)?;
        }
        Ok(Kept { models: scratch.models, dam: None, merged: None })
    }

    /// Makes the merge that trains nothing again, which state `by` made.
    fn bring_merged(&mut self, state: usize, by: usize) -> Result<()> {
        let Timeline { states, .. } = &self.timeline;
        if states[state].kept.as_ref().is_some_and(|kept| kept.merged.is_some()) {
            return Ok(());
        }
        let Some(done) = states[by].done.clone().filter(|done| done.verb == "merge") else {
            return refuse(
                format!("the merge of state {by} was searched for, and is not kept"),
                "search again: evolve; or go to another state: history",
            );
        };
        let kept = states[state].kept.clone().unwrap_or_default();
        let mut scratch = Context { models: kept.models, dam: kept.dam.map(|(dam, _)| dam), ..Self::default() };
        (find(&done.verb)?.run)(&mut scratch, &done.arguments)?;
        if let Some(kept) = &mut self.timeline.states[state].kept {
            kept.merged = scratch.merged;
        }
        Ok(())
    }
}

fn words(statement: &Statement) -> Words {
    (statement.verb.clone(), statement.arguments.clone())
}

fn statement((verb, arguments): Words) -> Statement {
    Statement { verb, arguments, line: 1 }
}

/// The journal in `file`, whose numbers hold together.
fn read(file: &Path) -> Result<Journal> {
    let invalid = |reason: String| Error::Json { file: file.into(), reason };
    let journal: Journal = serde_json::from_slice(&read_file(file, MOST_BYTES)?).map_err(|e| invalid(e.to_string()))?;
    let Journal { version, here, branches, undone, states, .. } = &journal;
    if *version != VERSION {
        return Err(invalid(format!("it has version {version}, this program reads {VERSION}")));
    }
    let known = |state: &usize| *state < states.len();
    // A parent comes before what was made from it.
    let sound = |(i, line): (usize, &Line)| {
        (i == 0) == line.parent.is_none() && line.parent.is_none_or(|parent| parent < i) && line.merged_by.iter().all(known)
    };
    let named = branches.values().chain(undone.values().flatten());
    match known(here) && { named }.all(known) && states.iter().enumerate().all(sound) {
        true => Ok(journal),
        false => Err(invalid("its states do not hold together".into())),
    }
}
