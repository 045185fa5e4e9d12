//! Completion at the cursor: verbs, keys, values, names, files, tensors, by the
//! signatures of the verbs.
//!
//! Nothing here waits: no network, bounded listings, and no lock that another thread holds.

mod files;
mod names;
mod tensors;

use crate::syntax::{Argument, Cursor, pair};
use crate::timeline::Context;
use crate::verbs::{Opt, Reading, VERBS, Verb, find};
pub(super) use tensors::tensors;

/// What may be typed at a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completions {
    /// The byte of the line where a candidate goes; it replaces the text up to the cursor.
    pub start: usize,
    /// In the order to show them.
    pub candidates: Vec<Candidate>,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The text.
    pub text: String,
    /// A short description.
    pub about: String,
    /// Whether it completes the word.
    pub whole: bool,
}

impl Candidate {
    /// One that completes the word.
    fn whole(text: impl Into<String>, about: impl Into<String>) -> Self {
        Self { text: text.into(), about: about.into(), whole: true }
    }

    /// One that completes only part of the word.
    fn open(text: impl Into<String>, about: impl Into<String>) -> Self {
        Self { text: text.into(), about: about.into(), whole: false }
    }
}

/// The maximum number of candidates.
const CANDIDATES: usize = 1000;

/// What may be typed at byte `position` of `line`, in this session.
///
/// ```
/// use dam_prelude::assist::complete;
/// use dam_prelude::verbs::Context;
///
/// let found = complete(&Context::default(), "load builtin:base; se", 21);
/// assert_eq!((found.start, found.candidates[0].text.as_str()), (19, "set"));
/// ```
pub fn complete(context: &Context, line: &str, position: usize) -> Completions {
    let Some(mut cursor) = Cursor::at(line, position) else { return Completions::default() };
    let (stem, found) = match cursor.before.first().map(|verb| find(&verb.text)) {
        None => (0, VERBS.iter().map(|verb| Candidate::whole(verb.name, verb.about)).collect()),
        Some(Err(_)) => (0, Vec::new()),
        Some(Ok(verb)) => {
            cursor.word.text = verb.signature.word(&Argument::from(&cursor.word));
            CursorPosition::new(context, verb, &cursor).candidates()
        }
    };
    let typed = cursor.word.text.get(stem..).unwrap_or_default();
    let (start, write) = cursor.place(stem);
    let fits = found
        .into_iter()
        .filter(|candidate| files::goes_on(&candidate.text, typed))
        .take(CANDIDATES);
    let written = fits.map(|c| Candidate { text: write(&c.text, c.whole), ..c });
    Completions { start, candidates: written.collect() }
}

/// The number of bytes of the word that stay, and what may follow them.
type Found = (usize, Vec<Candidate>);

/// A position among the arguments of a verb.
struct CursorPosition<'a> {
    context: &'a Context,
    verb: &'static Verb,
    /// The word at the cursor, up to the cursor.
    typed: &'a str,
    /// The arguments before the cursor.
    before: Reading,
    /// The other arguments of the statement.
    others: Vec<String>,
    /// The options that go with them.
    options: Vec<Opt>,
}

impl<'a> CursorPosition<'a> {
    fn new(context: &'a Context, verb: &'static Verb, cursor: &'a Cursor<'_>) -> Self {
        let before = Reading::of(verb.name, &verb.signature, &cursor.before[1..]);
        let all: Vec<Argument> = cursor.before[1..].iter().chain(&cursor.after).cloned().collect();
        let others = all.iter().map(|argument| verb.signature.word(argument)).collect();
        let reading = Reading::of(verb.name, &verb.signature, &all);
        let options = verb.signature.options(&reading.all_words()).unwrap_or_default();
        let is_early = reading.all_words().len() < verb.signature.options_after;
        let own = |option: &Opt| verb.signature.options.iter().any(|own| own.key == option.key);
        let options = options.into_iter().filter(|option| !is_early || !own(option));
        Self { context, verb, typed: &cursor.word.text, before, others, options: options.collect() }
    }

    fn candidates(&self) -> Found {
        if self.typed.starts_with('-') {
            return (0, self.flags());
        }
        // A path may contain a `=` too.
        if let Some((key, value)) = pair(self.typed)
            && let Some(option) = self.options.iter().find(|option| option.key == key)
        {
            let (kept, found) = self.of_kind(&option.kind, value);
            return (key.len() + 1 + kept, found);
        }
        // Names before a source, and adapters after it, are parts of one word.
        let (stem, mut found) = self.words();
        if stem == 0 {
            found.extend(self.keys());
        }
        if self.typed.is_empty() {
            found.extend(self.flags());
        }
        (stem, found)
    }

    /// Flags that are not there yet.
    fn flags(&self) -> Vec<Candidate> {
        if self.others.iter().filter(|other| is_word(other)).count()
            < self.verb.signature.options_after
        {
            return Vec::new();
        }
        let flags = self.verb.signature.flags.iter().filter(|flag| !self.has(flag));
        flags.map(|flag| Candidate::whole(*flag, "flag")).collect()
    }

    /// Keys that are not there yet.
    fn keys(&self) -> Vec<Candidate> {
        let unused = self.options.iter().filter(|option| !self.has_key(option.key));
        unused.map(|o| Candidate::open(format!("{}=", o.key), o.kind.usage())).collect()
    }

    /// What may be the next word: of the first open slot, and of those after it up to the first
    /// that is required.
    fn words(&self) -> Found {
        let (mut stem, mut all) = (0, Vec::<Candidate>::new());
        for slot in self.before.open_slots() {
            let slot = &self.verb.signature.words[slot];
            let (kept, mut found) = self.of_kind(&slot.kind, self.typed);
            if slot.is_repeated && !slot.kind.is_named() {
                found.retain(|candidate| !self.has(&candidate.text));
            }
            found.retain(|candidate| all.iter().all(|known| known.text != candidate.text));
            stem = stem.max(kept);
            all.extend(found);
            if slot.is_required || stem > 0 {
                break;
            }
        }
        (stem, all)
    }

    /// Whether `KEY=` is there.
    fn has_key(&self, key: &str) -> bool {
        let is_key = |other: &String| other.strip_prefix(key).is_some_and(|r| r.starts_with('='));
        self.others.iter().any(is_key)
    }

    /// Whether an argument is there, alone or as a value.
    fn has(&self, text: &str) -> bool {
        let is_value = |other: &str| other.split_once('=').is_some_and(|(_, value)| value == text);
        self.others.iter().any(|other| other == text || is_value(other))
    }
}

/// Whether an argument is neither an option nor a flag.
fn is_word(argument: &str) -> bool {
    !argument.contains('=') && !argument.starts_with("--")
}

#[cfg(test)]
mod tests;
