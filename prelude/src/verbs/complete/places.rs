//! What the places of a usage are: which names, files, methods and keys may stand there.

use super::super::usage::{Pair, Place, Value};
use super::super::{Context, TOPICS, VERBS, Verb};
use super::cursor::Cursor;
use super::files::{self, Wanted};
use super::{Candidate, Found, tensors};
use crate::checkpoint::BASE;
use crate::coefficients::SCHEMES;
use crate::methods::{self, GREEDY_SOUP, METHODS};
use crate::session::{DAM, EVOLVE};
use crate::show::Figure;
use crate::train::{KEYS, about, choices};

/// What may stand at `place`, of which `typed` is there.
pub fn of(context: &Context, verb: &Verb, cursor: &Cursor<'_>, place: Place, typed: &str) -> Found {
    let is_there = |text: &str| {
        cursor
            .others()
            .any(|word| word == text || word.split_once('=').is_some_and(|(_, w)| w == text))
    };
    let without_those =
        |found: Vec<Candidate>| found.into_iter().filter(|c| !is_there(&c.text)).collect();
    let of_tensors = cursor.others().any(|word| ["coefficients", "histogram"].contains(&word));
    let found = match (verb.name, place.name) {
        (_, "SOURCE") => return source(context, cursor, typed),
        ("save" | "open", "FILE") => files::paths(typed, files::SESSIONS),
        // Where a tensor may stand, what is typed is more likely one.
        (_, "FILE") if place.ending == ".svg" && of_tensors => {
            files::paths(typed, Wanted::Files(&Figure::FORMATS))
        }
        (_, "FILE") if place.ending == ".svg" => files::written(typed, &Figure::FORMATS, ""),
        // What stands first is more likely a method.
        ("merge", "FILE") if method(cursor).is_none() => Vec::new(),
        ("bake" | "merge", "FILE") => files::written(typed, GGUF, ""),
        (_, "FILE") if !place.ending.is_empty() => Vec::new(),
        (_, "FILE") => without_those(files::data(typed)),
        (_, "DIR") => files::paths(typed, Wanted::Directories),
        (_, "RECIPE") => files::paths(typed, Wanted::Files(&[".yml", ".yaml"])),
        ("plot", "TENSOR") if !of_tensors => Vec::new(),
        (_, "TENSOR" | "GLOB") => context
            .known()
            .map(|models| tensors::tensors(&models, typed, verb.name != "plot"))
            .unwrap_or_default(),
        (_, "METHOD") => without_those(methods(verb)),
        (_, "VERB") => VERBS.iter().map(|verb| Candidate::whole(verb.name, verb.about)).collect(),
        (_, "TOPIC") => {
            TOPICS.iter().map(|topic| Candidate::whole(topic.name, topic.about)).collect()
        }
        ("export", "NAME") => files::written(typed, EXPORTS, "merge"),
        (_, "NAME") => names(context, verb),
        _ => Vec::new(),
    };
    (0, found)
}

/// Names that `NAME` may stand for. A verb that names something else than sources says here what.
fn names(context: &Context, verb: &Verb) -> Vec<Candidate> {
    match verb.name {
        "data" => {
            let known = context.known().unwrap_or_default();
            let about =
                |name: &str| if known.has_data(name) { "has data" } else { "has no data yet" };
            known.names().map(|name| Candidate::whole(name, about(name))).collect()
        }
        "switch" | "diff" => {
            let timeline = context.timeline();
            let others = timeline.branches().iter().filter(|(name, _)| *name != timeline.branch());
            others
                .map(|(name, state)| {
                    Candidate::whole(name, format!("a branch that ends at state {state}"))
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

/// What `bake` writes beside directories.
const GGUF: &[&str] = &[".gguf"];

/// What `export` writes.
const EXPORTS: &[&str] = &[".ipynb", ".dam", ".rs"];

/// `[NAME=]SOURCE`, with adapters behind a `+`.
fn source(context: &Context, cursor: &Cursor<'_>, typed: &str) -> Found {
    let plain = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
    };
    let named =
        typed.split_once('=').filter(|(name, _)| plain(name)).map_or(0, |(name, _)| name.len() + 1);
    if let Some(plus) = typed[named..].rfind('+') {
        let stem = named + plus + 1;
        return (stem, files::adapters(&typed[stem..]));
    }
    let known = context.known().unwrap_or_default();
    let is_loaded = |text: &str| {
        known.sources.iter().any(|source| source.spec() == text)
            || cursor.others().any(|word| {
                word == text || word.split_once('=').is_some_and(|(_, place)| place == text)
            })
    };
    let mut found: Vec<Candidate> =
        files::sources(&typed[named..]).into_iter().filter(|c| !is_loaded(&c.text)).collect();
    let has_base = known.names().any(|name| name == BASE)
        || cursor.others().any(|word| word.starts_with("base="));
    if named == 0 && !has_base {
        found.push(Candidate::open(format!("{BASE}="), "marks the base model"));
    }
    (named, found)
}

/// The methods that a verb knows.
fn methods(verb: &Verb) -> Vec<Candidate> {
    let all = METHODS.iter().map(|method| Candidate::whole(method.name, method.about));
    let soup = Candidate::whole(GREEDY_SOUP, "sources that are added while the loss does not rise");
    match verb.name {
        "merge" => all.chain([soup]).collect(),
        "compare" => {
            let trained = [
                Candidate::whole(DAM, "coefficients that are trained"),
                Candidate::whole(EVOLVE, "weights by evolution"),
            ];
            trained.into_iter().chain(all).chain([soup]).collect()
        }
        _ => all.collect(),
    }
}

/// The method that `merge` is told to use.
fn method<'a>(cursor: &'a Cursor<'_>) -> Option<&'a str> {
    cursor
        .others()
        .skip_while(|word| *word == "merge")
        .find(|word| !word.contains('=') && !word.starts_with("--"))
}

/// Keys that do not stand in the usage by name: settings, and what a method takes.
pub fn keys(context: &Context, verb: &Verb, cursor: &Cursor<'_>) -> Vec<Candidate> {
    match verb.name {
        "set" => {
            let settings = context.known().unwrap_or_default().settings;
            let now = |key: &str| settings.get(key).unwrap_or_default();
            KEYS.iter()
                .map(|key| {
                    Candidate::open(format!("{key}="), format!("{} (now {})", about(key), now(key)))
                })
                .collect()
        }
        "merge" => match method(cursor) {
            Some(GREEDY_SOUP) => vec![Candidate::open("data=", "files that the loss is of")],
            Some(name) => {
                let keys = methods::find(name).map(|entry| entry.keys).unwrap_or_default();
                let each =
                    |key: &methods::Key| if key.is_each() { ", or one a source" } else { "" };
                let one = |key: &methods::Key| {
                    Candidate::open(
                        format!("{}=", key.name),
                        format!("{}{}", key.default, each(key)),
                    )
                };
                keys.iter().map(one).collect()
            }
            None => Vec::new(),
        },
        "data" => names(context, verb)
            .into_iter()
            .map(|c| Candidate::open(format!("{}=", c.text), c.about))
            .collect(),
        _ => Vec::new(),
    }
}

/// What may be the value in `typed`, of a key that is of the kind that `open` says.
pub fn value(
    context: &Context,
    verb: &Verb,
    cursor: &Cursor<'_>,
    open: &Pair,
    typed: &str,
) -> Found {
    let known = context.known().unwrap_or_default();
    // The name of a source may itself hold a `=`.
    let name = known.names().find(|name| {
        open.key == "NAME" && typed.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
    });
    let key = name.or_else(|| typed.split_once('=').map(|(key, _)| key)).unwrap_or_default();
    let stem = (key.len() + 1).min(typed.len());
    let switch = || ["on", "off"].map(|word| Candidate::whole(word, "")).into();
    let found = match verb.name {
        "set" => {
            let now = known.settings.get(key);
            let about = |word: &str| if now.as_deref() == Some(word) { "as it is" } else { "" };
            choices(key).into_iter().map(|word| Candidate::whole(word, about(word))).collect()
        }
        "merge" if method(cursor) == Some(GREEDY_SOUP) => {
            let done = typed[stem..].rfind(',').map_or(0, |at| at + 1);
            return (stem + done, files::data(&typed[stem + done..]));
        }
        "merge" => {
            let entry = method(cursor).and_then(|name| methods::find(name).ok());
            let default = entry
                .and_then(|entry| entry.keys.iter().find(|k| k.name == key))
                .map(|k| k.default);
            if default.is_some_and(|default| ["on", "off"].contains(&default)) {
                switch()
            } else {
                Vec::new()
            }
        }
        _ => {
            let places = open.values.iter().filter_map(|value| {
                if let Value::Place(place) = value { Some(*place) } else { None }
            });
            places.flat_map(|place| of(context, verb, cursor, place, &typed[stem..]).1).collect()
        }
    };
    (stem, found)
}

/// What a word of a usage is.
pub fn word(verb: &Verb, word: &str) -> &'static str {
    match (verb.name, word) {
        ("wrap", name) => {
            SCHEMES.iter().find(|scheme| scheme.name == name).map_or("", |scheme| scheme.about)
        }
        ("plot", "loss") => "every term over steps",
        ("plot", "coefficients") => "their mean by layer and source, or those of one tensor",
        ("plot", "histogram") => "of all coefficients, or of one tensor's",
        ("plot", "distances") => "how far sources are apart, and where their signs conflict",
        ("plot", "lean") => "each source's share, layer by layer",
        _ => "",
    }
}

/// Whether keys and flags of the usage may stand there: those of `merge` say how a merge is
/// written, and need a directory to write to.
pub fn writes(verb: &Verb, cursor: &Cursor<'_>) -> bool {
    let words = cursor.others().filter(|word| !word.contains('=') && !word.starts_with("--"));
    verb.name != "merge" || words.count() > 2
}
