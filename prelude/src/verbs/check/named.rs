//! Words that name something: whether there is such a thing, as far as this session knows without running the line.

use super::{Checked, Choice, Fault, Item};
use crate::checkpoint::{BUILTIN_PREFIX, builtin_models, split_name};
use crate::coefficients;
use crate::methods::{GREEDY_SOUP, METHODS};
use crate::session::{DAM, EVOLVE, matching};
use crate::show::short_name;
use crate::verbs::complete::tensors;
use crate::verbs::{TOPICS, VERBS};

/// What is wrong with `word`, which is to name what the first of `left` that takes it says.
pub fn named(checked: &Checked<'_>, left: &[&Item], word: &str) -> Option<Fault> {
    let item = left.iter().find(|item| item.takes(word))?;
    let mut places =
        item.choices.iter().filter_map(|choice| if let Choice::Place(place) = choice { Some(place.name) } else { None });
    let (what, known): (_, Vec<&str>) = match (checked.verb.name, places.next()?) {
        (_, "METHOD") => ("method", METHODS.iter().map(|m| m.name).chain([GREEDY_SOUP, DAM, EVOLVE]).collect()),
        (_, "VERB") => ("word", VERBS.iter().map(|verb| verb.name).chain(TOPICS.iter().map(|topic| topic.name)).collect()),
        (_, "N") if word == "0" => return Some(Fault::new("`0` is not a whole number from 1", word, ["0"])),
        (_, "SOURCE") => {
            let (_, source) = split_name(word);
            return builtin("model", source.split('+').next().unwrap_or(source), builtin_models());
        }
        ("switch" | "diff", "NAME") if checked.is_first => {
            let timeline = checked.context.timeline();
            let error = timeline.find(word).err()?;
            return Some(Fault::new(error.to_string(), word, timeline.branches().keys()));
        }
        ("inspect" | "plot", "TENSOR") if checked.is_first => return tensor(checked, left, word),
        _ => return None,
    };
    let is_file = word.contains(['.', '/']);
    let is_scheme = coefficients::find(word).is_ok() && checked.verb.name == "wrap";
    // What may be a file too may be typed on until it has its ending.
    let file = left.iter().any(|item| may_be_file(item)).then_some(word);
    let fault = || Fault::new(format!("unknown {what} `{word}`"), word, known.iter().copied().chain(file));
    (!known.contains(&word) && !is_file && !is_scheme).then(fault)
}

/// What is wrong with a name that begins as those of what is built in do.
pub fn builtin(what: &str, word: &str, known: impl Iterator<Item = &'static str>) -> Option<Fault> {
    let name = word.strip_prefix(BUILTIN_PREFIX)?;
    let known: Vec<&str> = known.collect();
    (!known.contains(&name)).then(|| Fault::new(format!("unknown built-in {what} `{name}`"), name, known))
}

/// Whether a file with an ending of its own may stand there.
fn may_be_file(item: &Item) -> bool {
    item.choices.iter().any(|choice| matches!(choice, Choice::Place(place) if !place.ending.is_empty()))
}

/// What is wrong with a pattern that no tensor of the sources fits, or more than the one that `plot` takes.
fn tensor(checked: &Checked<'_>, left: &[&Item], word: &str) -> Option<Fault> {
    let models = checked.context.known()?;
    let specs = models.sources.first()?.tensors();
    let several = checked.verb.name == "inspect";
    let message = match matching(word, specs.iter(), |spec| &spec.name) {
        Ok(found) if found.len() > 1 && !several && !found.iter().any(|spec| short_name(&spec.name) == word) => {
            format!("`{word}` is {} tensors, and the picture is of one", found.len())
        }
        Ok(_) => return None,
        Err(error) => error.to_string(),
    };
    if left.iter().filter(|item| may_be_file(item)).any(|item| item.takes(word)) {
        return None;
    }
    let more = tensors(&models, word, several).into_iter().map(|candidate| candidate.text);
    // A file without its ending may be typed on, and so may letters or names of which some are to fit.
    let is_open = [('{', '}'), ('[', ']')].iter().any(|(open, close)| word.rfind(*open) > word.rfind(*close));
    let typed = (is_open || left.iter().any(|item| may_be_file(item))).then(|| word.to_owned());
    Some(Fault::new(message, word, more.chain(typed)))
}
