//! What could stand at the cursor of a cell, and what is known of it.
//!
//! rust-analyzer finds every name that the compiler knows, private ones and those of traits that every type has among
//! them, and evcxr does not say which is which. What the documentation of a name begins with does: the path of what it
//! belongs to, and how it is declared.

use std::collections::HashMap;

use dam_prelude::verbs::{self, Context, find};
use serde_json::{Map, Value, json};

use super::code::{self, without_verbs};
use super::engine::{Engine, Words};

/// Words that could stand somewhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub words: Vec<String>,
    /// What each is, if that is known.
    kinds: Vec<&'static str>,
    /// The characters of the cell that a word takes the place of.
    pub start: usize,
    pub end: usize,
}

impl Found {
    /// What JupyterLab draws before each word.
    pub fn metadata(&self) -> Map<String, Value> {
        let one = |(word, kind): (&String, &&str)| json!({"text": word, "type": kind, "start": self.start, "end": self.end});
        let kinds: Vec<Value> = self.words.iter().zip(&self.kinds).map(one).collect();
        let name = "_jupyter_types_experimental";
        if kinds.is_empty() { Map::new() } else { Map::from_iter([(name.to_owned(), kinds.into())]) }
    }
}

/// How near a member is to the type that it is looked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Its own.
    Own,
    /// Of a trait.
    Trait,
    /// One that is not to be offered.
    Hidden,
}

/// What is known of members: by the code before them.
#[derive(Default)]
pub struct Completer {
    known: HashMap<(String, String), Rank>,
}

/// The most members that are looked at.
const MOST: usize = 150;

impl Completer {
    /// What could stand at character `cursor` of a cell.
    pub fn complete(&mut self, engine: &mut Engine, cell: &str, cursor: usize) -> Found {
        let position = code::position(cell, cursor);
        let line = cell[..position].rsplit('\n').next().unwrap_or_default();
        if let Some(verbs) = code::verbs(line.trim_start()) {
            let line = &line[verbs.as_ptr() as usize - line.as_ptr() as usize..];
            // What is loaded the cells' process knows; verbs, keys, values, methods and files are known here.
            let found = verbs::complete(&Context::default(), line, line.len());
            let typed = line.get(found.start..).unwrap_or_default().chars().count();
            let words = found.candidates.into_iter().map(|found| found.text).collect();
            return Found { words, kinds: Vec::new(), start: cursor - typed, end: cursor };
        }
        let cell = without_verbs(cell);
        let Some((start, end, words)) = engine.completions(&cell, position) else {
            return Found { start: cursor, end: cursor, ..Found::default() };
        };
        let words = words.into_iter().filter_map(|(word, kind)| Some((code::inserted(&word)?, kind))).collect();
        let words = self.ranked(engine, &cell[..start], words);
        let (words, kinds) = words.into_iter().unzip();
        Found { words, kinds, start: code::cursor(&cell, start), end: code::cursor(&cell, end) }
    }

    /// Members behind `before`, the type's own first, without those that are not to be offered.
    fn ranked(&mut self, engine: &mut Engine, before: &str, words: Words) -> Words {
        if !before.trim_end().ends_with('.') || words.len() > MOST {
            return words;
        }
        let mut ranked: Vec<(Rank, (String, &'static str))> = Vec::new();
        for (word, kind) in words {
            let name = word.trim_end_matches(['(', ')']).to_owned();
            let key = (before.to_owned(), name);
            let rank = *self.known.entry(key).or_insert_with_key(|(before, name)| {
                let call = if word.contains('(') { "(" } else { "" };
                let code = format!("{before}{name}{call}");
                engine.documentation(&code, code.len()).map_or(Rank::Own, |(text, _)| rank(&text))
            });
            ranked.push((rank, (word, kind)));
        }
        ranked.retain(|(rank, _)| *rank != Rank::Hidden);
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, word)| word).collect()
    }

    /// Variables may be others now.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

/// The crate of the cells, all of which a cell may name.
const CELLS: &str = "ctx";

/// Traits that every type has and that are not told as such.
const CONVERSIONS: [&str; 6] =
    ["core::convert::", "core::borrow::", "alloc::borrow::", "core::any::", "either::into_either::", "typenum::"];

/// The one trait that every type of a kind has and that is asked for by name.
const WANTED: &str = "ToString";

/// What the documentation of a member says of how near it is:
///
/// ```text
/// dam_prelude::session::Dam        alloc::borrow
/// pub fn train(...)                impl<T> ToOwned for T
/// ```
fn rank(documentation: &str) -> Rank {
    let mut lines = documentation.lines().map(str::trim).filter(|line| !line.is_empty());
    let (owner, declared) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let Some((head, of)) = declared.strip_prefix("impl").and_then(|rest| rest.split_once(" for ")) {
        // Of a trait that every type has.
        let is_blanket =
            head.starts_with('<') && head.split(['<', '>', ',', ':', ' ']).any(|word| !word.is_empty() && word == of);
        return if is_blanket && !head.ends_with(WANTED) { Rank::Hidden } else { Rank::Trait };
    }
    let of_cells = owner == CELLS || owner.starts_with(&format!("{CELLS}::"));
    match declared {
        _ if CONVERSIONS.iter().any(|of| owner.starts_with(of)) => Rank::Hidden,
        _ if declared.contains("trait ") => Rank::Trait,
        "" => Rank::Own,
        _ if declared.starts_with("pub ") || of_cells => Rank::Own,
        _ => Rank::Hidden,
    }
}

/// The documentation of what is at character `cursor` of a cell, in its forms by type.
pub fn inspect(engine: &mut Engine, cell: &str, cursor: usize) -> Option<Value> {
    let position = code::position(cell, cursor);
    let line = cell[..position].rsplit('\n').next().unwrap_or_default();
    if let Some(line) = code::verbs(line.trim_start()) {
        let verb = find(line.split_whitespace().next()?).ok()?;
        return Some(json!({"text/plain": format!("{}\n  {}\n  example: {}", verb.usage, verb.about, verb.example)}));
    }
    let cell = without_verbs(cell);
    // In the brackets of a call it is about what is called.
    let end = code::word_end(&cell, code::called(&cell, position).unwrap_or(position));
    // evcxr finds methods by the bracket after them.
    let end = if cell[end..].starts_with('(') { end + 1 } else { end };
    let (text, html) = engine.documentation(&cell, end)?;
    Some(json!({"text/plain": text, "text/html": html}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_told_apart_by_how_they_are_declared() {
        let ranks = [
            "dam_prelude::session::Dam\n\npub fn train(&self, steps: usize) -> Result<TrainReport>\n\n\nsteps optimiser steps.",
            "dam_prelude::session::Dam\n\nfn session(&self) -> MutexGuard<'_, Session>",
            "dam_prelude::session::Dam\n\npub(crate) fn rest(&self)",
            "alloc::borrow\n\nimpl<T> ToOwned for T\nfn to_owned(&self) -> T",
            "core::convert::TryInto\n\npub trait TryInto<T>\npub fn try_into(self) -> Result<T, Self::Error>",
            "alloc::string\n\nimpl<T> ToString for T\nfn to_string(&self) -> String",
            "dam_prelude::session\n\nimpl Debug for Dam\nfn fmt(&self)",
            "ctx::Own\n\nfn of_a_cell(&self)",
        ]
        .map(rank);
        use Rank::{Hidden, Own, Trait};
        assert_eq!(ranks, [Own, Hidden, Hidden, Hidden, Hidden, Trait, Trait, Own]);
    }
}
