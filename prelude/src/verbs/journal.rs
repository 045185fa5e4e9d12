//! The timeline on disk, so that a crash or a closed terminal loses nothing but the step under way.
//!
//! ```text
//! DIRECTORY/journal.jsonl  a line each: the version, states as they come and change, where one is
//! DIRECTORY/N.dam          the session of state N, as save writes it
//! DIRECTORY/now.dam        the training that is under way
//! ```
//!
//! The journal only grows, by what has changed; of several lines on one thing the last counts. A
//! line that was cut short is the end of it. States without a merge are made again by what was
//! done, which is quick: sources are opened, nothing is computed.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::context::{Context, refuse};
use super::parse::line;
use super::timeline::{Kept, State, Timeline, file_of};
use super::{Statement, find};
use crate::checkpoint::{open_to_write, read_file, replace_file};
use crate::session::step_of;
use crate::{Dam, Error, Result};

/// The journal.
const JOURNAL: &str = "journal.jsonl";

/// What earlier versions wrote in its place, all of it in one object.
const WHOLE: &str = "journal.json";

const NOW: &str = "now.dam";
const VERSION: u32 = 2;
const WHOLE_VERSION: u32 = 1;

/// More than a person makes, and few enough to be read.
const MOST_BYTES: u64 = 256 << 20;

/// Bytes past which a journal is written anew, without what no longer counts.
const LONG: u64 = 8 << 20;

/// Verbs that open or say something, without computing anything.
const MADE_AGAIN: [&str; 4] = ["load", "data", "set", "open"];

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Version(u32),
    State(usize, Line),
    Looked(usize, Words),
    Undone(BTreeMap<String, Vec<usize>>),
    Head(Head),
}

/// Where one is.
#[derive(Serialize, Deserialize)]
struct Head {
    here: usize,
    branch: String,
    branches: BTreeMap<String, usize>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    undone: BTreeMap<String, Vec<usize>>,
}

/// All that a journal says.
struct Journal {
    head: Head,
    states: Vec<Line>,
    /// Bytes of its whole lines; none of what an earlier version wrote.
    length: Option<u64>,
}

/// The journal of earlier versions.
#[derive(Deserialize)]
struct Whole {
    version: u32,
    #[serde(flatten)]
    head: Head,
    states: Vec<Line>,
}

/// A session that goes on.
pub struct Recovered {
    /// The session.
    pub context: Context,
    /// What could not be had again, and what can be done about it.
    pub notes: Vec<String>,
    /// A file of training that was under way, which the session does not have.
    pub unused: Option<PathBuf>,
}

/// A verb and its arguments.
type Words = (String, Vec<String>);

#[derive(Serialize, Deserialize)]
struct Line {
    parent: Option<usize>,
    done: Option<Words>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    looked: Vec<Words>,
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
    /// Writes what is new of the timeline into `directory`, which is for that alone; nothing before
    /// anything was done.
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
            if !state.in_file {
                dam.save_at(snapshot, &directory.join(file_of(number)))?;
                state.in_file = true;
                self.timeline.touched.insert(number);
            }
        }
        self.timeline.directory = Some(directory.into());
        self.timeline.write(directory)?;
        self.timeline.spill()?;
        // What was under way has become a state.
        match std::fs::remove_file(directory.join(NOW)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("write", directory.join(NOW), error))
            }
            _ => Ok(()),
        }
    }

    /// What writes the merge in training, as it is between two steps, into `directory`; training
    /// may go on meanwhile.
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

    /// The sessions that are in `directory`, by their files, each with its step: also where the
    /// journal cannot be read.
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

    /// What [`Context::keep`] wrote, in a line: the last thing done, the step and the loss.
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

    /// Goes on with what [`Context::keep`] wrote, where that stopped; where sources or data of that
    /// state are not there any more, or have changed, in the nearest one before it that can be
    /// made.
    ///
    /// # Errors
    /// Files that are missing or damaged; sources that even the first states need.
    pub fn recover(directory: &Path) -> Result<Recovered> {
        let journal = read(directory)?;
        let Head { here, branch, branches, undone } = journal.head;
        // What a torn line left is cut off, so that the next begins on its own.
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
            kept: None,
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
        timeline.states[0].kept = Some(Kept::default());
        let mut context = Self { timeline, ..Self::default() };
        let mut notes: Vec<String> = context.go_near(here)?.into_iter().collect();
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

    /// Goes to `state`; where it cannot be made, on a branch of its own to the nearest one before
    /// it that can, and says so.
    fn go_near(&mut self, state: usize) -> Result<Option<String>> {
        let Err(error) = self.go(state) else { return Ok(None) };
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
        let Some(near) = way.into_iter().find(|near| self.go(*near).is_ok()) else {
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

    /// Has `state` in memory.
    pub(super) fn bring(&mut self, state: usize) -> Result<()> {
        let states = &self.timeline.states;
        let missing = std::iter::successors(Some(state), |s| states[*s].parent)
            .take_while(|s| states[*s].kept.is_none());
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
            let dam = Dam::open(directory.join(file_of(state)))?;
            let (models, snapshot) = (dam.models(), dam.snapshot()?);
            return Ok(Kept { models, dam: Some((dam, snapshot)), merged: None });
        }
        let parent =
            states[state].parent.and_then(|parent| states[parent].kept.clone()).unwrap_or_default();
        let models = parent.dam.as_ref().map_or(parent.models, |(dam, _)| dam.models());
        let mut scratch = Context { models, ..Self::default() };
        if let Some(done) =
            states[state].done.as_ref().filter(|done| MADE_AGAIN.contains(&done.verb.as_str()))
        {
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
        let kept = states[state].kept.clone().unwrap_or_default();
        let mut scratch =
            Context { models: kept.models, dam: kept.dam.map(|(dam, _)| dam), ..Self::default() };
        if let Some(recipe) = &states[by].recipe {
            scratch.merged = Some(scratch.current().merge_yaml(recipe)?);
        } else if let Some(done) = states[by].done.as_ref().filter(|done| done.verb == "merge") {
            (find(&done.verb)?.run)(&mut scratch, &done.arguments)?;
        } else {
            return refuse(
                format!("the merge of state {by} came from a Rust cell and was not saved"),
                "make it again, or go to another state: history",
            );
        }
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
                    add(Entry::State(*number, self.states[*number].line()))
                })?;
                self.looked
                    .iter()
                    .try_for_each(|(number, looked)| add(Entry::Looked(*number, words(looked))))?;
            }
            None => {
                add(Entry::Version(VERSION))?;
                for (number, state) in self.states.iter().enumerate() {
                    add(Entry::State(number, state.line()))?;
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
    fn line(&self) -> Line {
        Line {
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

/// The journal in `directory`, whose numbers hold together.
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
    let journal = match is_whole {
        true => {
            let whole: Whole = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
            if whole.version != WHOLE_VERSION {
                return Err(newer(whole.version));
            }
            Journal { head: whole.head, states: whole.states, length: None }
        }
        false => {
            let (mut head, mut states, mut length, mut version) =
                (None::<Head>, Vec::<Line>::new(), 0, None);
            let mut undone = BTreeMap::new();
            for (number, line) in text.split_inclusive(|b| *b == b'\n').enumerate() {
                // What was being written when the program ended is no line.
                let Some(entry) = line.strip_suffix(b"\n") else { break };
                let entry: Entry = serde_json::from_slice(entry)
                    .map_err(|e| invalid(format!("line {}: {e}", number + 1)))?;
                match entry {
                    Entry::Version(found) if found == VERSION && number == 0 => {
                        version = Some(found)
                    }
                    Entry::Version(found) => return Err(newer(found)),
                    Entry::State(at, state) if at < states.len() => {
                        let looked = std::mem::take(&mut states[at].looked);
                        states[at] = Line { looked, ..state };
                    }
                    Entry::State(at, state) if at == states.len() => states.push(state),
                    Entry::Looked(at, words) if at < states.len() => states[at].looked.push(words),
                    Entry::Undone(found) => undone = found,
                    Entry::State(at, _) | Entry::Looked(at, _) => {
                        return Err(invalid(format!(
                            "state {at} comes after {} states",
                            states.len()
                        )));
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
        }
    };
    let Journal { head: Head { here, branches, undone, .. }, states, .. } = &journal;
    let known = |state: &usize| *state < states.len();
    // A parent comes before what was made from it.
    let sound = |(i, line): (usize, &Line)| {
        (i == 0) == line.parent.is_none()
            && line.parent.is_none_or(|parent| parent < i)
            && line.merged_by.iter().all(known)
    };
    let named = branches.values().chain(undone.values().flatten());
    match known(here) && { named }.all(known) && states.iter().enumerate().all(sound) {
        true => Ok(journal),
        false => Err(invalid("its states are inconsistent".into())),
    }
}
