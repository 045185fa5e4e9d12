//! What a line may go on to where the cursor is: verbs, keys, values, names, files, tensors. What
//! may stand where is read from the verbs' [usage](super::usage); this file only knows what the
//! places in capitals are.
//!
//! Nothing here waits: no network, bounded listings, and no lock that another thread holds.

mod cursor;
mod files;
mod places;
mod tensors;

use super::arguments::pair;
use super::usage::{Choice, Pair, Usage, Value};
use super::{Context, VERBS, Verb, find};
use cursor::Cursor;
pub(super) use tensors::tensors;

/// What may stand at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completions {
    /// The byte of the line from which on a candidate replaces what is there, up to the cursor.
    pub start: usize,
    /// In the order in which they are best shown.
    pub candidates: Vec<Candidate>,
}

/// One thing that may stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What one would type.
    pub text: String,
    /// What it is, in a few words.
    pub about: String,
    /// Whether the word ends with it.
    pub whole: bool,
}

impl Candidate {
    /// One that the word ends with.
    fn whole(text: impl Into<String>, about: impl Into<String>) -> Self {
        Self { text: text.into(), about: about.into(), whole: true }
    }

    /// One behind which the word goes on.
    fn open(text: impl Into<String>, about: impl Into<String>) -> Self {
        Self { text: text.into(), about: about.into(), whole: false }
    }
}

/// More than anyone looks through.
const CANDIDATES: usize = 1000;

/// What may stand at byte `position` of `line`, in this session.
///
/// ```
/// use dam_prelude::verbs::{Context, complete};
///
/// let found = complete(&Context::default(), "load builtin:base; se", 21);
/// assert_eq!((found.start, found.candidates[0].text.as_str()), (19, "set"));
/// ```
pub fn complete(context: &Context, line: &str, position: usize) -> Completions {
    let Some(cursor) = Cursor::at(line, position) else { return Completions::default() };
    let typed = cursor.word.text.as_str();
    let (stem, found) = match cursor.before.first() {
        None => (0, VERBS.iter().map(|verb| Candidate::whole(verb.name, verb.about)).collect()),
        Some(verb) => match find(verb) {
            Ok(verb) => {
                Asked { context, verb, usage: Usage::read(verb.usage), cursor: &cursor }.arguments()
            }
            Err(_) => (0, Vec::new()),
        },
    };
    let typed = typed.get(stem..).unwrap_or_default();
    let (start, write) = cursor.place(stem);
    let fits = found
        .into_iter()
        .filter(|candidate| files::goes_on(&candidate.text, typed))
        .take(CANDIDATES);
    let written = fits.map(|c| Candidate { text: write(&c.text, c.whole), ..c });
    Completions { start, candidates: written.collect() }
}

/// What is asked for: the arguments of a verb, at a cursor.
struct Asked<'a> {
    context: &'a Context,
    verb: &'static Verb,
    usage: Usage,
    cursor: &'a Cursor<'a>,
}

/// How many bytes of the word stay, and what may stand behind them.
type Found = (usize, Vec<Candidate>);

impl Asked<'_> {
    fn typed(&self) -> &str {
        &self.cursor.word.text
    }

    fn arguments(&self) -> Found {
        let typed = self.typed();
        if typed.starts_with('-') {
            return (0, self.flags());
        }
        if let Some(found) = self.value() {
            return found;
        }
        // Names before a source, and adapters behind it, are parts of one word.
        let (stem, places) = self.places();
        let keys = if stem == 0 { self.keys() } else { Vec::new() };
        let flags = if typed.is_empty() { self.flags() } else { Vec::new() };
        (stem, places.into_iter().chain(keys).chain(flags).collect())
    }

    /// Flags that are not there yet.
    fn flags(&self) -> Vec<Candidate> {
        let unused =
            self.usage.flags().filter(|flag| !self.cursor.others().any(|word| word == *flag));
        unused
            .filter(|_| places::writes(self.verb, self.cursor))
            .map(|flag| Candidate::whole(flag, "flag"))
            .collect()
    }

    /// Keys that are not there yet.
    fn keys(&self) -> Vec<Candidate> {
        let is_used = |key: &str| {
            self.cursor
                .others()
                .any(|word| word.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))
        };
        let stands = |pair: &&Pair| {
            pair.of.is_none_or(|word| self.cursor.others().any(|other| other == word))
        };
        let own = self.usage.pairs().filter(|pair| !pair.is_open()).filter(stands);
        let own = own.filter(|_| places::writes(self.verb, self.cursor)).map(|pair| {
            let values = Pair { key: "", of: None, ..pair.clone() }.to_string();
            Candidate::open(format!("{}=", pair.key), values.trim_start_matches('=').to_owned())
        });
        places::keys(self.context, self.verb, self.cursor)
            .into_iter()
            .chain(own)
            .filter(|c| !is_used(c.text.trim_end_matches('=')))
            .collect()
    }

    /// What may be the value, where the word has a key.
    fn value(&self) -> Option<Found> {
        let typed = self.typed();
        let (key, value) = self.parted(typed)?;
        let stem = key.len() + 1;
        if let Some(pair) = self.usage.pairs().find(|pair| pair.key == key) {
            let done = if pair.list { value.rfind(',').map_or(0, |at| at + 1) } else { 0 };
            let used: Vec<&str> = value[..done].split(',').collect();
            let values = pair.values.iter().flat_map(|value| match value {
                Value::Word(word) => vec![word_of(word, pair.list)],
                Value::Place(place) => {
                    places::of(self.context, self.verb, self.cursor, *place, &typed[stem + done..])
                        .1
                }
                Value::Example(_) => Vec::new(),
            });
            return Some((
                stem + done,
                values.filter(|c| !used.contains(&c.text.as_str())).collect(),
            ));
        }
        // Keys of a kind: those of settings and methods, or names of sources, which may hold a `=`.
        let open = self.usage.pairs().find(|pair| pair.is_open())?;
        Some(places::value(self.context, self.verb, self.cursor, open, typed))
    }

    /// What may stand in order: of the first item that is not there yet, and of those behind it up
    /// to the first that must be.
    fn places(&self) -> Found {
        let items = self.usage.places();
        let mut next = 0;
        for word in self
            .cursor
            .before
            .iter()
            .skip(1)
            .filter(|word| !word.starts_with("--") && !self.has_key(word))
        {
            let takes = items
                .iter()
                .enumerate()
                .skip(next)
                .find(|(at, item)| item.takes(word) || *at + 1 == items.len());
            let Some((at, item)) = takes else { break };
            next = if item.repeated { at } else { at + 1 };
        }
        let (mut stem, mut found) = (0, Vec::new());
        for item in items.into_iter().skip(next) {
            for choice in &item.choices {
                match choice {
                    Choice::Word(word) => {
                        found.push(Candidate::whole(*word, places::word(self.verb, word)))
                    }
                    Choice::Place(place) => {
                        let (kept, more) =
                            places::of(self.context, self.verb, self.cursor, *place, self.typed());
                        stem = stem.max(kept);
                        found.extend(more);
                    }
                    Choice::Flag(_) | Choice::Pair(_) => {}
                }
            }
            if !item.optional || stem > 0 {
                break;
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|candidate: &Candidate| seen.insert(candidate.text.clone()));
        (stem, found)
    }

    /// Whether a word is a key and its value.
    fn has_key(&self, word: &str) -> bool {
        self.parted(word).is_some_and(|(key, _)| {
            self.usage.pairs().any(|pair| pair.is_open() || pair.key == key)
        })
    }

    /// A word in two, if it is one that the verb parts at a `=`. Names of sources may be any.
    fn parted<'w>(&self, word: &'w str) -> Option<(&'w str, &'w str)> {
        if self.verb.name == "data" { word.split_once('=') } else { pair(word) }
    }
}

fn word_of(word: &str, list: bool) -> Candidate {
    if list { Candidate::open(word, "") } else { Candidate::whole(word, "") }
}

#[cfg(test)]
mod tests;
