//! Static checks of a line, before it is run: unknown verbs, words, keys, flags, values and
//! names, and open quotation marks. Fast enough for every key that is typed.
//!
//! A word at the very end of the line is still being typed: it is no problem while it may become
//! something known.

use std::ops::Range;

use super::complete::tensors;
use crate::error::Error;
use crate::session::{matching, single};
use crate::syntax::{Argument, Piece, Word, pieces};
use crate::timeline::Context;
use crate::verbs::{Fault, Kind, LIKE, Reading, VERBS, Verb, find, split_source};

/// A problem in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its bytes in the line.
    pub range: Range<usize>,
    /// What is wrong.
    pub message: String,
}

/// The problems of `line`, in order. What shows only when it runs, such as a missing file, is not
/// among them.
///
/// ```
/// use dam_prelude::assist::check;
/// use dam_prelude::verbs::Context;
///
/// let problems = check(&Context::default(), "wrap f=tanh colour=red");
/// assert_eq!(problems[0].range, 12..22);
/// assert_eq!(problems[0].message, "unknown key `colour`");
/// ```
pub fn check(context: &Context, line: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    // Whether names in the session will be as they are now when the statement runs.
    let mut names_hold = true;
    let pieces = pieces(line);
    for statement in pieces.split(|piece| matches!(piece, Piece::End(_))) {
        let words: Vec<&Word> = (statement.iter())
            .filter_map(|piece| if let Piece::Word(word) = piece { Some(word) } else { None })
            .collect();
        let Some((first, arguments)) = words.split_first() else { continue };
        let is_typed = |word: &Word| word.range.end == line.len();
        match find(&first.text) {
            Ok(verb) => {
                let names = names_hold.then_some(context);
                for (at, fault) in faults(names, verb, arguments) {
                    if !(is_typed(arguments[at]) && fault.may_pass()) {
                        let (range, message) = (arguments[at].range.clone(), fault.error);
                        found.push(Problem { range, message: message.to_string() });
                    }
                }
                names_hold &= !verb.renames;
            }
            Err(_) if is_typed(first) && VERBS.iter().any(|v| v.name.starts_with(&first.text)) => {}
            Err(error) => {
                found.push(Problem { range: first.range.clone(), message: error.to_string() });
            }
        }
        found.extend(words.iter().filter_map(|word| word.open).map(|(at, mark)| Problem {
            range: at..at + mark.len_utf8(),
            message: format!("unclosed quotation mark {mark}"),
        }));
    }
    found
}

/// The faults of the arguments of `verb`, in order, each with the index of its argument; those of
/// names in the session if there is one.
fn faults(names: Option<&Context>, verb: &'static Verb, words: &[&Word]) -> Vec<(usize, Fault)> {
    let given: Vec<Argument> = words.iter().map(|word| Argument::from(*word)).collect();
    let Reading { arguments, mut faults, .. } = Reading::of(verb.name, &verb.signature, &given);
    let is_sound = |at: usize, faults: &[(usize, Fault)]| faults.iter().all(|(i, _)| *i != at);
    for (slot, kind) in verb.signature.words.iter().map(|slot| slot.kind).enumerate() {
        for word in arguments.words(slot) {
            let at = given.iter().position(|argument| verb.signature.word(argument) == *word);
            let Some(at) = at.filter(|at| is_sound(*at, &faults)) else { continue };
            let checked = kind.check_builtin(word);
            let known = checked.and_then(|()| {
                names.map_or(Ok(()), |context| check_name(context, verb, slot, word))
            });
            faults.extend(known.err().map(|fault| (at, fault)));
        }
    }
    let mut unknown = Vec::new();
    for (at, argument) in given.iter().enumerate().filter(|(at, _)| is_sound(*at, &faults)) {
        let Some((key, value)) = argument.pair() else { continue };
        let Some(option) = verb.signature.options.iter().find(|option| option.key == key) else {
            continue;
        };
        let known = option.kind.check_builtin(value).and_then(|()| {
            names.map_or(Ok(()), |context| check_loaded(context, &option.kind, value))
        });
        unknown.extend(known.err().map(|fault| (at, fault)));
    }
    faults.extend(unknown);
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// Checks the value of an option that names a loaded source.
fn check_loaded(context: &Context, kind: &Kind, name: &str) -> Result<(), Fault> {
    let known = context.known().unwrap_or_default();
    let is_known = known.names().next().is_none() || known.names().any(|known| known == name);
    if is_known || !matches!(kind, Kind::Loaded) {
        return Ok(());
    }
    Err(Fault::new(Error::unknown("source", name, known.names()), name).before(known.names()))
}

/// Checks a word that names something in the session.
fn check_name(context: &Context, verb: &Verb, slot: usize, word: &str) -> Result<(), Fault> {
    match verb.signature.words[slot].kind {
        kind @ (Kind::SourceData | Kind::SourceAmount) => {
            let known = context.known().unwrap_or_default();
            let name = match (kind, word.rsplit_once('=')) {
                (Kind::SourceAmount, Some((LIKE, source))) => source,
                (Kind::SourceAmount, Some((source, _))) => source,
                _ => split_source(word, known.names()).map_or(word, |(name, _)| name),
            };
            if known.names().next().is_none() || known.names().any(|known| known == name) {
                return Ok(());
            }
            Err(Fault::new(Error::unknown("source", name, known.names()), name))
        }
        Kind::Branch => {
            let timeline = context.timeline();
            let found = timeline.find(word).map(drop);
            found.map_err(|error| Fault::new(error, word).before(timeline.branches().keys()))
        }
        Kind::Pattern | Kind::Tensor => {
            let is_pattern = matches!(verb.signature.words[slot].kind, Kind::Pattern);
            let Some(models) = context.known() else { return Ok(()) };
            let Some(source) = models.sources.first() else { return Ok(()) };
            let specs = source.tensors();
            let error = if is_pattern {
                matching(word, specs.iter(), |spec| &spec.name).err()
            } else {
                single(word, specs.iter(), |spec| &spec.name).err()
            };
            let Some(error) = error else { return Ok(()) };
            let more = tensors(&models, word, is_pattern).into_iter().map(|found| found.text);
            // An open `{` or `[` may be closed, and a file may still get its suffix.
            let is_open =
                [('{', '}'), ('[', ']')].iter().any(|(a, b)| word.rfind(*a) > word.rfind(*b));
            let is_file = verb.signature.words.iter().any(|slot| slot.kind.has_suffix());
            let typed = (is_open || is_file).then(|| word.to_owned());
            Err(Fault::new(error, word).before(more.chain(typed)))
        }
        _ => Ok(()),
    }
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
            // Nor has any part of it while it is typed.
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
        assert_eq!(marked("trace hi like=maths of=math "), ["like=maths"]);
        for line in [
            "trace hi like=mat",
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
