//! Words that name something: whether there is such a thing, as far as this session knows without
//! running the line.

use super::{Checked, Fault, Item};
use crate::checkpoint::{BUILTIN_PREFIX, builtin_models, split_name};
use crate::coefficients;
use crate::methods::{GREEDY_SOUP, METHODS};
use crate::session::{DAM, EVOLVE, matching, single};
use crate::verbs::complete::tensors;
use crate::verbs::{TOPICS, VERBS};

/// What is wrong with `word`, which is to name what the first of `left` that takes it says.
pub fn named(checked: &Checked<'_>, left: &[&Item], word: &str) -> Option<Fault> {
    let item = left.iter().find(|item| item.takes(word))?;
    let (what, known): (_, Vec<&str>) = match (checked.verb.name, item.places().next()?.name) {
        (_, "METHOD") => {
            ("method", METHODS.iter().map(|m| m.name).chain([GREEDY_SOUP, DAM, EVOLVE]).collect())
        }
        (_, "VERB") => (
            "word",
            VERBS
                .iter()
                .map(|verb| verb.name)
                .chain(TOPICS.iter().map(|topic| topic.name))
                .collect(),
        ),
        (_, "N") if word == "0" => {
            return Some(Fault::new("`0` is not a whole number from 1", word, ["0"]));
        }
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
    let file = left.iter().any(|item| item.may_be_file()).then_some(word);
    let fault =
        || Fault::new(format!("unknown {what} `{word}`"), word, known.iter().copied().chain(file));
    (!known.contains(&word) && !is_file && !is_scheme).then(fault)
}

/// What is wrong with a name that begins as those of what is built in do.
pub fn builtin(what: &str, word: &str, known: impl Iterator<Item = &'static str>) -> Option<Fault> {
    let name = word.strip_prefix(BUILTIN_PREFIX)?;
    let known: Vec<&str> = known.collect();
    (!known.contains(&name))
        .then(|| Fault::new(format!("unknown built-in {what} `{name}`"), name, known))
}

/// What is wrong with a pattern that no tensor of the sources fits, or more than the one that
/// `plot` takes.
fn tensor(checked: &Checked<'_>, left: &[&Item], word: &str) -> Option<Fault> {
    let models = checked.context.known()?;
    let specs = models.sources.first()?.tensors();
    let several = checked.verb.name == "inspect";
    let error = match several {
        true => matching(word, specs.iter(), |spec| &spec.name).err()?,
        false => single(word, specs.iter(), |spec| &spec.name).err()?,
    };
    if left.iter().any(|item| item.may_be_file() && item.takes(word)) {
        return None;
    }
    let more = tensors(&models, word, several).into_iter().map(|candidate| candidate.text);
    // A file without its ending may be typed on, and so may letters or names of which some are to
    // fit.
    let is_open =
        [('{', '}'), ('[', ']')].iter().any(|(open, close)| word.rfind(*open) > word.rfind(*close));
    let typed = (is_open || left.iter().any(|item| item.may_be_file())).then(|| word.to_owned());
    Some(Fault::new(error.to_string(), word, more.chain(typed)))
}
