//! The timeline on disk, so that a crash or a closed terminal loses at most the current step.
//!
//! ```text
//! DIRECTORY/journal.jsonl  the version, states as they are made and changed, the current state
//! DIRECTORY/N.dam          the session of state N, as save writes it
//! DIRECTORY/now.dam        the training that is running
//! ```
//!
//! The journal is only appended to; of several lines about one thing the last counts. A truncated
//! line ends it. States without a merge are rebuilt from their statements, which is quick: sources
//! are opened, nothing is computed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::context::Context;
use super::tree::{Content, State, Timeline, file_of};
use super::{Rebuild, Replay};
use crate::checkpoint::{open_to_write, read_file, replace_file};
use crate::error::refuse;
use crate::session::step_of;
use crate::syntax::{Argument, Statement, line};
use crate::{Dam, Error, Result};

/// The journal.
const JOURNAL: &str = "journal.jsonl";

/// The journal of earlier versions: a single object.
const WHOLE: &str = "journal.json";

const NOW: &str = "now.dam";
const VERSION: u32 = 2;
const WHOLE_VERSION: u32 = 1;

/// The maximum size of a journal: more than a person makes.
const MOST_BYTES: u64 = 256 << 20;

/// The size in bytes past which a journal is rewritten without superseded lines.
const LONG: u64 = 8 << 20;

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Version(u32),
    State(usize, StateEntry),
    Looked(usize, RecordedWords),
    Undone(BTreeMap<String, Vec<usize>>),
    Head(Head),
}

/// The current state.
#[derive(Serialize, Deserialize)]
struct Head {
    here: usize,
    branch: String,
    branches: BTreeMap<String, usize>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    undone: BTreeMap<String, Vec<usize>>,
}

/// The content of a journal.
struct Journal {
    head: Head,
    states: Vec<StateEntry>,
    /// The bytes of its complete lines; none in the format of earlier versions.
    length: Option<u64>,
}

/// The journal of earlier versions.
#[derive(Deserialize)]
struct Whole {
    version: u32,
    #[serde(flatten)]
    head: Head,
    states: Vec<StateEntry>,
}

/// A resumed session.
pub struct Recovered {
    /// The session.
    pub context: Context,
    /// What could not be resumed, and what to do about it.
    pub notes: Vec<String>,
    /// The file of running training that could not be resumed.
    pub unused: Option<PathBuf>,
}

/// A verb and its arguments.
type RecordedWords = (String, Vec<Argument>);

#[derive(Serialize, Deserialize)]
struct StateEntry {
    parent: Option<usize>,
    done: Option<RecordedWords>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    looked: Vec<RecordedWords>,
    step: usize,
    loss: Option<f64>,
    scored: Option<(Option<f64>, f64)>,
    #[serde(default)]
    saved: bool,
    merged_by: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recipe: Option<String>,
    in_file: bool,
}

impl Context {
    /// Writes what is new in the timeline to `directory`, which holds nothing else; does nothing
    /// before the first change.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn keep(&mut self, directory: &Path) -> Result<()> {
        self.record(None)?;
        if !self.timeline.is_new {
            return Ok(());
        }
        for (number, state) in self.timeline.states.iter_mut().enumerate() {
            let Some(Content { dam: Some((dam, snapshot)), .. }) = &state.content else { continue };
            if !state.in_file {
                dam.save_at(snapshot, &directory.join(file_of(number)))?;
                state.in_file = true;
                self.timeline.touched.insert(number);
            }
        }
        self.timeline.directory = Some(directory.into());
        self.timeline.write(directory)?;
        self.timeline.spill()?;
        // What was running has become a state.
        match std::fs::remove_file(directory.join(NOW)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("write", directory.join(NOW), error))
            }
            _ => Ok(()),
        }
    }

    /// Returns a function that writes the merge in training, as it is between two steps, to
    /// `directory`; training may go on meanwhile.
    ///
    /// # Errors
    /// As for [`Context::keep`].
    pub fn keep_now(
        dam: &Dam,
        directory: &Path,
    ) -> Result<impl FnOnce() -> Result<()> + Send + use<>> {
        let (state, file) = (dam.state_to_save()?, directory.join(NOW));
        Ok(move || replace_file(&file, &state.bytes()?).map(drop))
    }

    /// The files of sessions in `directory`, each with its step, even if the journal is unreadable.
    pub fn saved_in(directory: &Path) -> Vec<(PathBuf, usize)> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let session = |path: PathBuf| Some((path.clone(), step_of(&path)?));
        let mut all: Vec<_> = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "dam"))
            .filter_map(session)
            .collect();
        all.sort_by(|(a, m), (b, n)| (m, a).cmp(&(n, b)));
        all
    }

    /// A one-line summary of what [`Context::keep`] wrote: the last change, the step and the loss.
    ///
    /// # Errors
    /// A journal that is missing or damaged.
    pub fn summary(directory: &Path) -> Result<String> {
        let journal = read(directory)?;
        let here = &journal.states[journal.head.here];
        let done = here.done.clone().map(|words| line(&statement(words)));
        let loss = here.loss.map(|loss| format!(", loss {loss:.4}")).unwrap_or_default();
        let step = if here.in_file { format!("step {}{loss}, ", here.step) } else { String::new() };
        let now = step_of(&directory.join(NOW)).filter(|step| *step > here.step);
        let under_way =
            now.map(|step| format!("; training was running, at step {step}")).unwrap_or_default();
        let changes = match (journal.states.len() - 1, done) {
            (0, _) => "nothing done yet".to_owned(),
            (1, Some(done)) => format!("1 change: {done}"),
            (1, None) => "1 change, undone".to_owned(),
            (count, Some(done)) => format!("{count} changes, the last: {done}"),
            (count, None) => format!("{count} changes, all undone"),
        };
        Ok(format!("{step}{changes}{under_way}"))
    }

    /// Goes to `state`; if it cannot be rebuilt, to the nearest earlier state that can, on a new
    /// branch, and returns a note about it.
    fn go_near(&mut self, state: usize, replay: Replay) -> Result<Option<String>> {
        let Err(error) = self.go(state, replay) else { return Ok(None) };
        let states = &self.timeline.states;
        let way: Vec<usize> = std::iter::successors(states[state].parent, |s| states[*s].parent)
            .take_while(|s| *s > 0)
            .collect();
        let left = self.timeline.branch.clone();
        let names =
            std::iter::once("recovered".to_owned()).chain((2..).map(|n| format!("recovered-{n}")));
        self.timeline.branch = names
            .into_iter()
            .find(|name| !self.timeline.branches.contains_key(name))
            .unwrap_or_default();
        let Some(near) = way.into_iter().find(|near| self.go(*near, replay).is_ok()) else {
            return Err(error);
        };
        let (lost, branch) = (
            self.timeline.states[state].done.as_ref().map_or_else(String::new, line),
            &self.timeline.branch,
        );
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Ok(Some(format!(
            "state {state} (`{lost}`) cannot be rebuilt: {error}{hint}\nthis is state {near}, on the new branch `{branch}`; \
             the later states are kept: once this is fixed, switch {left}"
        )))
    }

    /// Brings `state` into memory.
    pub(super) fn bring(&mut self, state: usize, replay: Replay) -> Result<()> {
        let states = &self.timeline.states;
        let missing = std::iter::successors(Some(state), |s| states[*s].parent)
            .take_while(|s| states[*s].content.is_none());
        // A state with a file needs no earlier one.
        let mut chain: Vec<usize> = Vec::new();
        for number in missing {
            chain.push(number);
            if states[number].in_file {
                break;
            }
        }
        for number in chain.into_iter().rev() {
            let content = self.rebuilt(number, replay)?;
            self.timeline.states[number].content = Some(content);
        }
        if let Some(by) = self.timeline.states[state].merged_by {
            self.bring_merged(state, by, replay)?;
        }
        Ok(())
    }

    /// `state` from its file, or from its parent and its statement.
    fn rebuilt(&self, state: usize, replay: Replay) -> Result<Content> {
        let Timeline { states, directory, .. } = &self.timeline;
        if let (true, Some(directory)) = (states[state].in_file, directory) {
            let dam = Dam::open(directory.join(file_of(state)))?;
            let (models, snapshot) = (dam.models(), dam.snapshot()?);
            return Ok(Content { models, dam: Some((dam, snapshot)), merged: None });
        }
        let parent = states[state]
            .parent
            .and_then(|parent| states[parent].content.clone())
            .unwrap_or_default();
        let models = parent.dam.as_ref().map_or(parent.models, |(dam, _)| dam.models());
        let mut scratch = Context { models, ..Self::default() };
        if let Some(done) = &states[state].done {
            replay(&mut scratch, done, Rebuild::Sources)?;
        }
        Ok(Content { models: scratch.models, dam: None, merged: None })
    }

    /// Rebuilds the static merge that state `by` made.
    fn bring_merged(&mut self, state: usize, by: usize, replay: Replay) -> Result<()> {
        let Timeline { states, .. } = &self.timeline;
        if states[state].content.as_ref().is_some_and(|content| content.merged.is_some()) {
            return Ok(());
        }
        let content = states[state].content.clone().unwrap_or_default();
        let mut scratch = Context {
            models: content.models,
            dam: content.dam.map(|(dam, _)| dam),
            ..Self::default()
        };
        if let Some(recipe) = &states[by].recipe {
            scratch.merged = Some(scratch.current().merge_yaml(recipe)?);
        } else if let Some(done) = &states[by].done {
            replay(&mut scratch, done, Rebuild::Merge)?;
        }
        if scratch.merged.is_none() {
            return refuse(
                format!("the merge of state {by} came from a Rust cell and was not saved"),
                "make it again, or go to another state: history",
            );
        }
        if let Some(content) = &mut self.timeline.states[state].content {
            content.merged = scratch.merged;
        }
        Ok(())
    }
}

/// Resumes the session that [`Context::keep`] wrote; if sources or data of its state are missing or
/// have changed, at the nearest earlier state that can be rebuilt.
///
/// # Errors
/// Files that are missing or damaged; sources that even the first states need.
pub(crate) fn recover(directory: &Path, replay: Replay) -> Result<Recovered> {
    let journal = read(directory)?;
    let Head { here, branch, branches, undone } = journal.head;
    // A truncated last line is cut off, so that the next one starts on its own.
    if let Some(length) = journal.length {
        let file = directory.join(JOURNAL);
        let cut = open_to_write(OpenOptions::new().write(true), &file)
            .and_then(|file| file.set_len(length));
        cut.map_err(|e| Error::io("write", &file, e))?;
    }
    let states = journal.states.into_iter().map(|line| State {
        parent: line.parent,
        done: line.done.map(statement),
        looked: line.looked.into_iter().map(statement).collect(),
        step: line.step,
        loss: line.loss,
        scored: line.scored,
        saved: line.saved,
        merged_by: line.merged_by,
        recipe: line.recipe,
        content: None,
        in_file: line.in_file,
    });
    let mut timeline = Timeline {
        states: states.collect(),
        here,
        branch,
        branches,
        undone_written: undone.clone(),
        undone,
        directory: Some(directory.into()),
        journal: journal.length,
        ..Timeline::default()
    };
    timeline.states[0].content = Some(Content::default());
    let mut context = Context { timeline, ..Context::default() };
    let mut notes: Vec<String> = context.go_near(here, replay)?.into_iter().collect();
    let is_elsewhere = !notes.is_empty();
    let training = directory.join(NOW);
    let step = step_of(&training);
    let mut unused = None;
    if training.is_file() && step.is_none_or(|step| step > context.timeline.states[here].step) {
        // Opening reads all sources, and makes what is opened the latest.
        let opened = (!is_elsewhere).then(|| Dam::open(&training)).transpose();
        if let Ok(Some(dam)) = opened {
            (context.dam, context.merged) = (Some(dam), None);
            context.record(Some(&statement(("train".into(), Vec::new()))))?;
        } else {
            let at = step.map(|step| format!(", at step {step},")).unwrap_or_default();
            let why = opened.err().map(|error| format!(": {error}")).unwrap_or_default();
            notes.push(format!("the training that was running{at} could not be resumed{why}"));
            unused = Some(training);
        }
    }
    Ok(Recovered { context, notes, unused })
}

fn words(statement: &Statement) -> RecordedWords {
    (statement.verb.clone(), statement.arguments.clone())
}

fn statement((verb, arguments): RecordedWords) -> Statement {
    Statement::new(verb, arguments)
}

impl Timeline {
    /// Brings the journal in `directory` up to date.
    fn write(&mut self, directory: &Path) -> Result<()> {
        let file = directory.join(JOURNAL);
        let begun = self.journal.filter(|length| *length < LONG.max(2 * self.whole));
        let mut text = String::new();
        let mut add = |entry: Entry| -> Result<()> {
            let line = serde_json::to_string(&entry)
                .map_err(|e| Error::Json { file: file.clone(), reason: e.to_string() })?;
            text.push_str(&line);
            text.push('\n');
            Ok(())
        };
        match begun {
            Some(_) => {
                self.touched.iter().try_for_each(|number| {
                    add(Entry::State(*number, self.states[*number].entry()))
                })?;
                self.looked
                    .iter()
                    .try_for_each(|(number, looked)| add(Entry::Looked(*number, words(looked))))?;
            }
            None => {
                add(Entry::Version(VERSION))?;
                for (number, state) in self.states.iter().enumerate() {
                    add(Entry::State(number, state.entry()))?;
                    state
                        .looked
                        .iter()
                        .try_for_each(|looked| add(Entry::Looked(number, words(looked))))?;
                }
            }
        }
        if begun.is_none() || self.undone != self.undone_written {
            add(Entry::Undone(self.undone.clone()))?;
        }
        let (branch, branches) = (self.branch.clone(), self.branches.clone());
        add(Entry::Head(Head { here: self.here, branch, branches, undone: BTreeMap::new() }))?;
        match begun {
            Some(length) => {
                append(&file, length, text.as_bytes()).map_err(|e| Error::io("write", &file, e))?;
                self.journal = Some(length + text.len() as u64);
            }
            None => {
                replace_file(&file, text.as_bytes())?;
                (self.journal, self.whole) = (Some(text.len() as u64), text.len() as u64);
                let _ = std::fs::remove_file(directory.join(WHOLE));
            }
        }
        self.touched.clear();
        self.looked.clear();
        self.undone_written = self.undone.clone();
        self.is_new = false;
        Ok(())
    }
}

impl State {
    fn entry(&self) -> StateEntry {
        StateEntry {
            parent: self.parent,
            done: self.done.as_ref().map(words),
            // Each has an entry of its own.
            looked: Vec::new(),
            step: self.step,
            loss: self.loss,
            scored: self.scored,
            saved: self.saved,
            merged_by: self.merged_by,
            recipe: self.recipe.clone(),
            in_file: self.in_file,
        }
    }
}

/// Adds `bytes` to `file` after its first `length`; after an error it is as it was.
fn append(file: &Path, length: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = open_to_write(OpenOptions::new().write(true), file)?;
    let added = file
        .seek(SeekFrom::Start(length))
        .and_then(|_| file.write_all(bytes))
        .and_then(|()| file.sync_data());
    if added.is_err() {
        let _ = file.set_len(length);
    }
    added
}

/// Reads the journal in `directory` and checks that it is consistent.
fn read(directory: &Path) -> Result<Journal> {
    let (lines, whole) = (directory.join(JOURNAL), directory.join(WHOLE));
    let (file, is_whole) =
        if lines.exists() || !whole.exists() { (lines, false) } else { (whole, true) };
    let invalid = |reason: String| Error::Json { file: file.clone(), reason };
    let text = read_file(&file, MOST_BYTES)?;
    let newer = |version: u32| {
        invalid(format!(
            "it has version {version}, this program reads {VERSION} and {WHOLE_VERSION}"
        ))
    };
    let journal = if is_whole {
        let whole: Whole = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
        if whole.version != WHOLE_VERSION {
            return Err(newer(whole.version));
        }
        Journal { head: whole.head, states: whole.states, length: None }
    } else {
        let (mut head, mut states, mut length, mut version) =
            (None::<Head>, Vec::<StateEntry>::new(), 0, None);
        let mut undone = BTreeMap::new();
        for (number, line) in text.split_inclusive(|b| *b == b'\n').enumerate() {
            // A line that was still being written when the program ended is ignored.
            let Some(entry) = line.strip_suffix(b"\n") else { break };
            let entry: Entry = serde_json::from_slice(entry)
                .map_err(|e| invalid(format!("line {}: {e}", number + 1)))?;
            match entry {
                Entry::Version(found) if found == VERSION && number == 0 => version = Some(found),
                Entry::Version(found) => return Err(newer(found)),
                Entry::State(at, state) if at < states.len() => {
                    let looked = std::mem::take(&mut states[at].looked);
                    states[at] = StateEntry { looked, ..state };
                }
                Entry::State(at, state) if at == states.len() => states.push(state),
                Entry::Looked(at, words) if at < states.len() => states[at].looked.push(words),
                Entry::Undone(found) => undone = found,
                Entry::State(at, _) | Entry::Looked(at, _) => {
                    return Err(invalid(format!("state {at} comes after {} states", states.len())));
                }
                Entry::Head(found) => head = Some(found),
            }
            length += line.len() as u64;
        }
        match (version, head) {
            (Some(_), Some(head)) => {
                Journal { head: Head { undone, ..head }, states, length: Some(length) }
            }
            _ => return Err(invalid("it is truncated before its first complete state".into())),
        }
    };
    let Journal { head: Head { here, branches, undone, .. }, states, .. } = &journal;
    let known = |state: &usize| *state < states.len();
    // A parent comes before what was made from it.
    let sound = |(i, line): (usize, &StateEntry)| {
        (i == 0) == line.parent.is_none()
            && line.parent.is_none_or(|parent| parent < i)
            && line.merged_by.iter().all(known)
    };
    let named = branches.values().chain(undone.values().flatten());
    let consistent = known(here) && { named }.all(known) && states.iter().enumerate().all(sound);
    if consistent { Ok(journal) } else { Err(invalid("its states are inconsistent".into())) }
}
