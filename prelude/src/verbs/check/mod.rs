//! What of a line no verb would take, told before it is run: unknown verbs, keys, flags and values,
//! and quotation marks that are open. Pure and fast enough for every key that is typed.
//!
//! A word at the very end of the line is still being typed: it is no problem while it may become
//! something known.

mod named;

use std::ops::Range;

use super::arguments::{Prompt, pair};
use super::parse::{Piece, Word, pieces};
use super::usage::{Choice, Item, Pair, Place, Usage, Value};
use super::{Context, VERBS, Verb, find};
use crate::checkpoint::builtin_data;
use crate::error::{Error, Result};
use crate::methods::{self, GREEDY_SOUP, METHODS};
use crate::train::KEYS;
use named::{builtin, named};

/// Something that no verb would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The bytes of the line that it is about.
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
}

/// The problems of `line`, in order. What only running it can tell, such as a file that is not
/// there, is none.
///
/// ```
/// use dam_prelude::verbs::{Context, check};
///
/// let problems = check(&Context::default(), "wrap f=tanh colour=red");
/// assert_eq!(problems[0].range, 12..22);
/// assert_eq!(problems[0].message, "unknown key `colour`");
/// ```
pub fn check(context: &Context, line: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    let (mut statement, mut is_first): (Vec<Word>, _) = (Vec::new(), true);
    for piece in pieces(line) {
        match piece {
            Piece::Word(word) => statement.push(word),
            Piece::Comment(_) => {}
            Piece::End(_) => {
                found.extend(of_statement(context, &statement, line, is_first));
                is_first &=
                    statement.first().is_none_or(|verb| !NAMING.contains(&verb.text.as_str()));
                statement.clear();
            }
        }
    }
    found.extend(of_statement(context, &statement, line, is_first));
    found
}

/// Verbs behind which a session may have other sources, tensors and branches.
const NAMING: [&str; 7] = ["load", "open", "branch", "switch", "undo", "redo", "rust"];

fn of_statement(context: &Context, words: &[Word], line: &str, is_first: bool) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some((verb, arguments)) = words.split_first() {
        let is_typed = |word: &Word| word.range.end == line.len();
        match find(&verb.text) {
            Ok(known) => {
                let mut checked = Checked {
                    context,
                    verb: known,
                    usage: Usage::read(known.usage),
                    is_first,
                    words: Vec::new(),
                };
                let texts: Vec<String> =
                    arguments.iter().map(|word| word.argument(&verb.text)).collect();
                // A prompt may be any text.
                let prompt = if checked.takes_text() { Prompt::text(&texts) } else { 0..0 };
                let others =
                    arguments.iter().zip(&texts).enumerate().filter(|(i, _)| !prompt.contains(i));
                for (_, (word, text)) in others {
                    if let Err(fault) = checked.word(text)
                        && !(is_typed(word)
                            && fault.begins.iter().any(|known| known.starts_with(&fault.typed)))
                    {
                        found.push(Problem { range: word.range.clone(), message: fault.message });
                    }
                }
            }
            Err(_)
                if is_typed(verb)
                    && VERBS.iter().any(|known| known.name.starts_with(&verb.text)) => {}
            Err(error) => {
                found.push(Problem { range: verb.range.clone(), message: error.to_string() })
            }
        }
    }
    let open = words.iter().filter_map(|word| word.open);
    found.extend(open.map(|(at, mark)| Problem {
        range: at..at + mark.len_utf8(),
        message: format!("unclosed quotation mark {mark}"),
    }));
    found
}

/// What is wrong with a word, and what it could become by going on.
struct Fault {
    message: String,
    /// What of it may go on.
    typed: String,
    begins: Vec<String>,
}

impl Fault {
    fn new(
        message: impl Into<String>,
        typed: &str,
        begins: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            message: message.into(),
            typed: typed.into(),
            begins: begins.into_iter().map(Into::into).collect(),
        }
    }
}

/// A statement, as far as its words were read.
struct Checked<'a> {
    context: &'a Context,
    verb: &'static Verb,
    usage: Usage,
    /// Whether the session will be as it is now when this runs: names may be made earlier in the
    /// line.
    is_first: bool,
    /// Its plain words so far.
    words: Vec<String>,
}

impl Checked<'_> {
    fn word(&mut self, word: &str) -> std::result::Result<(), Fault> {
        if word.starts_with("--") {
            return self.flag(word);
        }
        if self.usage.pairs().any(Pair::is_open) && self.verb.name != "merge" {
            return self.open(word);
        }
        match pair(word).filter(|_| self.usage.pairs().next().is_some()) {
            Some((key, value)) => self.pair(key, value),
            None => self.plain(word).map_err(|mut fault| {
                // What is no word may become a key.
                fault.begins.extend(self.usage.pairs().map(|pair| pair.key.to_owned()));
                fault
            }),
        }
    }

    fn takes_text(&self) -> bool {
        self.places().into_iter().flat_map(Item::places).any(|place| place.text)
    }

    fn places(&self) -> Vec<&Item> {
        self.usage.places()
    }

    fn flag(&self, word: &str) -> std::result::Result<(), Fault> {
        let known: Vec<&str> = self.usage.flags().collect();
        match known.contains(&word) {
            true => Ok(()),
            false => Err(Fault::new(format!("unknown flag `{word}`"), word, known)),
        }
    }

    /// A key that the verb names, or that the method or scheme in the statement has.
    fn pair(&self, key: &str, value: &str) -> std::result::Result<(), Fault> {
        let stands = |pair: &&Pair| {
            !pair.is_open() && pair.of.is_none_or(|word| self.words.iter().any(|w| w == word))
        };
        let own: Vec<&Pair> = self.usage.pairs().filter(stands).collect();
        if let Some(pair) = own.iter().find(|pair| pair.key == key) {
            return self.value(pair, value);
        }
        let mut known: Vec<&str> = own.iter().map(|pair| pair.key).collect();
        if self.verb.name == "merge" {
            match self.words.first().map(String::as_str) {
                Some(GREEDY_SOUP) => known.push("data"),
                Some(method) => match methods::find(method) {
                    Ok(entry) => {
                        known.extend(entry.keys.iter().map(|key| key.name).chain(["weights"]));
                        if known.contains(&key) {
                            let built = entry.build(&[(key, value)]).map(drop);
                            return told(built, value, ["on", "off"]);
                        }
                    }
                    // Of a recipe or a method that nobody knows nothing is known.
                    Err(_) => return Ok(()),
                },
                None => known.extend(
                    METHODS.iter().flat_map(|method| method.keys.iter().map(|key| key.name)),
                ),
            }
        }
        match known.contains(&key) {
            true => Ok(()),
            false => Err(Fault::new(format!("unknown key `{key}`"), key, [] as [&str; 0])),
        }
    }

    fn value(&self, pair: &Pair, value: &str) -> std::result::Result<(), Fault> {
        let bad = |value: &str, known: Vec<&str>| {
            let expected = known.join(", ");
            let message = Error::bad_value(pair.key, value, expected).to_string();
            Fault::new(message, value, known)
        };
        if pair.is_closed() {
            let known: Vec<&str> = pair.words().collect();
            let values: Vec<&str> =
                if pair.list { value.split(',').collect() } else { vec![value] };
            let wrong = values.into_iter().find(|value| !known.contains(value));
            return wrong.map_or(Ok(()), |value| Err(bad(value, known)));
        }
        if let Some(Value::Example(example)) = pair.values.first() {
            let is_count = example.parse::<u64>().is_ok();
            return match is_count && value.parse::<u64>().map_or(true, |n| n == 0) {
                true => Err(Fault::new(
                    format!("`{}` takes a whole number from 1", pair.key),
                    value,
                    [""],
                )),
                false => Ok(()),
            };
        }
        let methods = pair
            .values
            .iter()
            .any(|value| matches!(value, Value::Place(Place { name: "METHOD", .. })));
        let ends = pair
            .values
            .iter()
            .any(|v| matches!(v, Value::Place(p) if !p.ending.is_empty() && p.takes(value)));
        let is_recipe = ends || super::arguments::is_recipe(value);
        let known: Vec<&str> = pair.words().chain(METHODS.iter().map(|m| m.name)).collect();
        if !methods || is_recipe || known.contains(&value) || value.contains(['/', '.']) {
            return Ok(());
        }
        let mut fault = bad(value, known);
        // A recipe may be typed on until it has its ending.
        fault.begins.push(value.to_owned());
        Err(fault)
    }

    /// `KEY=VALUE` of settings, `NAME=FILE` of sources.
    fn open(&self, word: &str) -> std::result::Result<(), Fault> {
        let Some((key, value)) = word.split_once('=') else {
            return match self.verb.name {
                "set" if !KEYS.contains(&word) => {
                    Err(Fault::new(format!("unknown key `{word}`"), word, KEYS))
                }
                _ => Ok(()),
            };
        };
        match self.verb.name {
            "set" if !KEYS.contains(&key) => {
                Err(Fault::new(format!("unknown key `{key}`"), key, [] as [&str; 0]))
            }
            "set" => {
                told(crate::Settings::default().set(key, value), value, crate::train::choices(key))
            }
            "data" => {
                let known = self.context.known().unwrap_or_default();
                let names: Vec<&str> = known.names().collect();
                let is_known = names
                    .iter()
                    .any(|name| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')));
                match is_known || names.is_empty() || !self.is_first {
                    true => builtin("dataset", value, builtin_data()).map_or(Ok(()), Err),
                    false => {
                        Err(Fault::new(format!("unknown source `{key}`"), key, [] as [&str; 0]))
                    }
                }
            }
            _ => Ok(()),
        }
    }

    /// A word that stands for itself or for something of a kind.
    fn plain(&mut self, word: &str) -> std::result::Result<(), Fault> {
        let items = self.places();
        let mut next = 0;
        for earlier in &self.words {
            let takes = items.iter().enumerate().skip(next).find(|(_, item)| item.takes(earlier));
            next = takes.map_or(next, |(at, item)| if item.repeated { at } else { at + 1 });
        }
        // Nothing that must be there is passed over.
        let must = items
            .iter()
            .skip(next)
            .position(|item| !item.optional)
            .map_or(items.len(), |at| next + at + 1);
        let left = &items[next.min(items.len())..must];
        let fault = if left.iter().any(|item| item.takes(word)) {
            named(self, left, word)
        } else {
            self.unfit(left, word)
        };
        self.words.push(word.to_owned());
        fault.map_or(Ok(()), Err)
    }

    /// What is wrong with a word that no item that is left takes.
    fn unfit(&self, left: &[&Item], word: &str) -> Option<Fault> {
        let Some(item) = left.first() else {
            return Some(Fault::new("too many arguments", word, [] as [&str; 0]));
        };
        let known = item
            .choices
            .iter()
            .filter_map(|choice| if let Choice::Word(word) = choice { Some(*word) } else { None });
        let known: Vec<&str> = known.collect();
        // A file without an ending that is known may be typed on.
        let is_file = left.iter().any(|item| item.may_be_file());
        match (known.is_empty(), is_file) {
            (false, false) => Some(Fault::new(format!("unknown word `{word}`"), word, known)),
            (false, true) if self.words.is_empty() => {
                Some(Fault::new(format!("unknown word `{word}`"), word, known))
            }
            (true, false) => {
                Some(Fault::new(format!("`{word}` is not a whole number"), word, [""]))
            }
            _ => Some(Fault::new(format!("`{word}` is not expected here"), word, [word])),
        }
    }
}

/// What a value that is refused is told: a number may still be typed on, as `1e` to `1e-3`.
fn told(
    result: Result<()>,
    value: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> std::result::Result<(), Fault> {
    result.map_err(|error| {
        let numeric = value.chars().all(|c| c.is_ascii_digit() || "+-.eE,".contains(c));
        let known = known.into_iter().map(str::to_owned);
        Fault::new(error.to_string(), value, known.chain(numeric.then(|| value.to_owned())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(line: &str) -> Vec<(String, String)> {
        let found = check(&Context::default(), line).into_iter();
        found.map(|problem| (line[problem.range].to_owned(), problem.message)).collect()
    }

    fn marked(line: &str) -> Vec<String> {
        problems(line).into_iter().map(|(marked, _)| marked).collect()
    }

    #[test]
    fn every_example_is_without_problems() {
        for verb in VERBS {
            assert_eq!(problems(verb.example), [], "{}", verb.example);
            // Nor is any of it while it is typed.
            for (end, _) in verb.example.char_indices() {
                let typed = &verb.example[..end];
                let open = typed.matches('"').count() % 2;
                assert_eq!(problems(typed).len(), open, "{typed}: {:?}", problems(typed));
            }
        }
    }

    #[test]
    fn what_is_unknown_is_marked() {
        assert_eq!(marked("laod builtin:base"), ["laod"]);
        assert_eq!(marked("wrap colum"), [] as [&str; 0], "it may become something");
        let mut wrong = Vec::new();
        for (line, words) in [
            ("wrap colums ", vec!["colums"]),
            ("wrap f=tan ", vec!["f=tan"]),
            ("wrap f=tan", vec![]),
            ("wrap f=tax", vec!["f=tax"]),
            ("wrap train=linear,nrom ", vec!["train=linear,nrom"]),
            ("wrap train=linear,norm init=ties rank=2 ", vec!["rank=2"]),
            ("wrap low_rank rank=2 --now; los ", vec!["--now", "los"]),
            ("wrap init=random; wrap init=a.yml; wrap init=tise ", vec!["init=tise"]),
            ("set lr=1e-2 lr=x bath_size=2 ", vec!["lr=x", "bath_size=2"]),
            ("set lr=1e-", vec![]),
            ("set schedule=linear optimizer=adam ", vec!["optimizer=adam"]),
            ("set lr seed sed ", vec!["sed"]),
            ("merge tise ", vec!["tise"]),
            ("merge ties density=0.5 densty=1 ", vec!["densty=1"]),
            ("merge ties density=x ", vec!["density=x"]),
            ("merge slerp t=0.5 out dtype=f64 ", vec!["dtype=f64"]),
            ("merge recipe.yml out --force", vec![]),
            ("step x ", vec!["x"]),
            ("train 5 6 ", vec!["6"]),
            ("train 0 ", vec!["0"]),
            ("plot los ", vec!["los"]),
            ("plot loss a.svg", vec![]),
            ("plot coefficients layers.0 a.svg b", vec!["b"]),
            ("help tarin ", vec!["tarin"]),
            ("generate what is --this f=1", vec![]),
            ("generate what is --this tokens=x --al", vec!["--this", "tokens=x"]),
            ("generate --some what is tokens=4 ", vec!["--some"]),
            ("ask --all", vec![]),
            ("load builtin:mat", vec![]),
            ("load builtin:japanise", vec!["builtin:japanise"]),
            ("load base=builtin:bas builtin:math+adapter ", vec!["base=builtin:bas"]),
            ("data math=builtin:maths ja=b", vec!["math=builtin:maths"]),
            ("inspect no.such ", vec![]),
            ("help penalties; help methods ", vec![]),
            ("help penalty ", vec!["penalty"]),
            ("branch neu; switch neu; diff neu; switch", vec![]),
            ("merge rec", vec![]),
            ("wrap init=rec", vec![]),
            ("switch nob", vec!["nob"]),
            ("switch mai", vec![]),
            ("switch 7", vec!["7"]),
            ("eval a.jsonl b.jsonl --al ", vec!["--al"]),
            ("bake a b ", vec!["b"]),
            ("bake \"a=b\" dtpe=f16 ", vec!["dtpe=f16"]),
            ("merge linear 'a=b' dtype=f32; merge linear a=b ", vec!["a=b"]),
            ("compare dam tise steps=0 on=a,b ", vec!["tise", "steps=0"]),
            ("wrap columns tra", vec![]),
            ("load base=a b+c d=e=f # laod", vec![]),
            ("generate \"what", vec!["\""]),
        ] {
            if marked(line) != words {
                wrong.push(format!("{line}: {:?}, not {words:?}", problems(line)));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn names_of_sources_are_known_once_they_are_loaded() {
        let mut context = Context::default();
        assert_eq!(check(&context, "data ja=x "), []);
        context.models = crate::load(["builtin:japanese", "builtin:math"]).unwrap();
        assert_eq!(check(&context, "data math=x "), []);
        assert_eq!(check(&context, "data japan=x ")[0].message, "unknown source `japan`");
        let marked = |line: &str| {
            check(&context, line).into_iter().map(|p| line[p.range].to_owned()).collect::<Vec<_>>()
        };
        for line in [
            "inspect *.q_pro",
            "inspect norm ",
            "inspect lay",
            "plot coefficients a.s",
            "plot coefficients norm a.svg ",
            "inspect layers.*.mlp.up_proj.w",
            "inspect layers.{0,",
            "inspect layers.*.",
            "load x; data x=y; inspect z ",
        ] {
            assert_eq!(marked(line), [] as [&str; 0], "{line}");
        }
        assert_eq!(
            marked("inspect nosuch.*; plot coefficients mlp ; plot coefficients upp "),
            ["nosuch.*", "mlp", "upp"]
        );
        assert_eq!(marked("inspect nosu"), ["nosu"]);
    }
}
