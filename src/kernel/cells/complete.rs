//! Completion and documentation at the cursor of a cell.

use std::collections::HashMap;

use dam_prelude::assist;
use dam_prelude::verbs::{Context, find};
use serde_json::{Map, Value, json};

use super::code::{self, without_verbs};
use super::engine::{Candidates, Engine};
use super::members::{Members, Rank, name};

/// The completions at a position.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Completions {
    pub words: Vec<String>,
    /// The kind of each word, if known.
    kinds: Vec<&'static str>,
    /// The range of characters that a word replaces.
    pub start: usize,
    pub end: usize,
}

impl Completions {
    /// The metadata from which JupyterLab shows the kind of each word.
    pub fn metadata(&self) -> Map<String, Value> {
        let one = |(word, kind): (&String, &&str)| json!({"text": word, "type": kind, "start": self.start, "end": self.end});
        let kinds: Vec<Value> = self.words.iter().zip(&self.kinds).map(one).collect();
        let name = "_jupyter_types_experimental";
        if kinds.is_empty() {
            Map::new()
        } else {
            Map::from_iter([(name.to_owned(), kinds.into())])
        }
    }
}

/// Computes completions, with a cache of the types of expressions.
#[derive(Default)]
pub struct Completer {
    known: HashMap<String, Option<String>>,
}

/// The name of the variable that probes the type of an expression.
const PROBE: &str = "dam_probe";

impl Completer {
    /// The completions at character `cursor` of a cell.
    pub fn complete(&mut self, engine: &mut Engine, cell: &str, cursor: usize) -> Completions {
        let position = code::position(cell, cursor);
        let line = cell[..position].rsplit('\n').next().unwrap_or_default();
        if let Some(verbs) = code::verbs(line.trim_start()) {
            let line = &line[verbs.as_ptr() as usize - line.as_ptr() as usize..];
            // Verbs, keys, values, methods and files are completed here; names of loaded models are
            // known only to the cells' process.
            let found = assist::complete(&Context::default(), line, line.len());
            let typed = line.get(found.start..).unwrap_or_default().chars().count();
            let words = found.candidates.into_iter().map(|found| found.text).collect();
            return Completions { words, kinds: Vec::new(), start: cursor - typed, end: cursor };
        }
        let cell = without_verbs(cell);
        let Some((start, end, words)) = engine.completions(&cell, position) else {
            return Completions { start: cursor, end: cursor, ..Completions::default() };
        };
        let words = words
            .into_iter()
            .filter_map(|(word, kind)| Some((code::inserted(&word)?, kind)))
            .collect();
        let words = self.rank_members(engine, &cell[..start], words);
        let (words, kinds) = words.into_iter().unzip();
        Completions {
            words,
            kinds,
            start: code::cursor(&cell, start),
            end: code::cursor(&cell, end),
        }
    }

    /// The members that may follow `before`, those of the type itself first, without hidden ones.
    fn rank_members(&mut self, engine: &mut Engine, before: &str, words: Candidates) -> Candidates {
        let of = match before.trim_end() {
            value if value.ends_with('.') => {
                let value = value.trim_end_matches('.');
                let compute = || type_of(engine, value);
                self.known.entry(value.to_owned()).or_insert_with(compute).clone()
            }
            path if path.ends_with("::") => {
                let path = path.trim_end_matches("::");
                path.rfind(|c: char| !c.is_alphanumeric() && c != '_')
                    .map_or(Some(path), |at| path.get(at + 1..))
                    .map(str::to_owned)
            }
            _ => return words,
        };
        let members = Members::known();
        let rank = |word: &(String, &str)| {
            members.rank(of.as_deref(), word.0.trim_end_matches(['(', ')']))
        };
        let mut words: Candidates =
            words.into_iter().filter(|word| rank(word) != Rank::Hidden).collect();
        words.sort_by_key(rank);
        words
    }

    /// Clears the cache: the variables may have changed.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

/// The name of the type of the expression that `code` ends with; none if it is unknown.
fn type_of(engine: &mut Engine, code: &str) -> Option<String> {
    // The last statement becomes the initialiser of a variable, whose type rust-analyzer reports.
    let at = code::last_expression(code);
    let probe = format!("{}let {PROBE} = {};\n{PROBE}", &code[..at], &code[at..]);
    let (text, _) = engine.documentation(&probe, probe.len())?;
    let (_, kind) = text.split_once(&format!("let {PROBE}: "))?;
    name(kind.lines().next()?)
}

/// The documentation of the item at character `cursor` of a cell, by MIME type.
pub fn inspect(engine: &mut Engine, cell: &str, cursor: usize) -> Option<Value> {
    let position = code::position(cell, cursor);
    let line = cell[..position].rsplit('\n').next().unwrap_or_default();
    if let Some(line) = code::verbs(line.trim_start()) {
        let verb = find(line.split_whitespace().next()?).ok()?;
        return Some(
            json!({"text/plain": format!("{}\n  {}\n  example: {}", verb.usage(), verb.about, verb.example)}),
        );
    }
    let cell = without_verbs(cell);
    // Between the parentheses of a call, the documentation is that of the function.
    let end = code::word_end(&cell, code::call_parenthesis(&cell, position).unwrap_or(position));
    // evcxr recognises a method by the parenthesis after it.
    let end = if cell[end..].starts_with('(') { end + 1 } else { end };
    let (text, html) = engine.documentation(&cell, end)?;
    Some(json!({"text/plain": text, "text/html": html}))
}
