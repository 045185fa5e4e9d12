//! Words that name something: whether there is such a thing, as far as this session knows without running the line.

use super::{Checked, Choice, Fault, Item};
use crate::checkpoint::{BUILTIN_PREFIX, builtin_models, split_name};
use crate::coefficients;
use crate::methods::{GREEDY_SOUP, METHODS};
use crate::session::{DAM, EVOLVE, matching};
use crate::verbs::VERBS;
use crate::verbs::complete::tensors;

/// What is wrong with `word`, which is to name what the first of `left` that takes it says.
pub fn named(checked: &Checked<'_>, left: &[&Item], word: &str) -> Option<Fault> {
    let item = left.iter().find(|item| item.takes(word))?;
    let place = item.choices.iter().find_map(|choice| if let Choice::Place(place) = choice { Some(place.name) } else { None })?;
    let (what, known): (_, Vec<&str>) = match (checked.verb.name, place) {
        (_, "METHOD") => ("method", METHODS.iter().map(|m| m.name).chain([GREEDY_SOUP, DAM, EVOLVE]).collect()),
        (_, "VERB") => ("verb", VERBS.iter().map(|verb| verb.name).collect()),
        (_, "N") if word == "0" => return Some(Fault::new("`0` is not a whole number from 1", word, ["0"])),
        (_, "SOURCE") => {
            let (_, source) = split_name(word);
            return builtin("model", source.split('+').next().unwrap_or(source), builtin_models());
        }
        ("switch" | "diff", "NAME") => {
            let timeline = checked.context.timeline();
            let error = timeline.find(word).err()?;
            return Some(Fault::new(error.to_string(), word, timeline.branches().keys()));
        }
        ("inspect" | "plot", "TENSOR") => return tensor(checked, left, word),
        _ => return None,
    };
    let is_file = word.contains(['.', '/']);
    let is_scheme = coefficients::find(word).is_ok() && checked.verb.name == "wrap";
    (!known.contains(&word) && !is_file && !is_scheme).then(|| Fault::new(format!("unknown {what} `{word}`"), word, known))
}

/// What is wrong with a name that begins as those of what is built in do.
pub fn builtin(what: &str, word: &str, known: impl Iterator<Item = &'static str>) -> Option<Fault> {
    let name = word.strip_prefix(BUILTIN_PREFIX)?;
    let known: Vec<&str> = known.collect();
    (!known.contains(&name)).then(|| Fault::new(format!("unknown built-in {what} `{name}`"), name, known))
}

/// What is wrong with a pattern that no tensor of the sources fits.
fn tensor(checked: &Checked<'_>, left: &[&Item], word: &str) -> Option<Fault> {
    let models = checked.context.known()?;
    let specs = models.sources.first()?.tensors();
    let error = matching(word, specs.iter(), |spec| &spec.name).err()?;
    // A file without its ending may be typed on.
    let is_file = |item: &&Item| item.choices.iter().any(|c| matches!(c, Choice::Place(place) if !place.ending.is_empty()));
    if left.iter().filter(|item| is_file(item)).any(|item| item.takes(word)) {
        return None;
    }
    let more = tensors(&models, word).into_iter().map(|candidate| candidate.text);
    let file = left.iter().any(is_file).then(|| word.to_owned());
    Some(Fault::new(error.to_string(), word, more.chain(file)))
}
