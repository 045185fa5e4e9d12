//! The kinds of words and values: how each is shown, and what fits.

use super::fault::Fault;
use crate::Amount;
use crate::checkpoint::{BUILTIN_PREFIX, builtin_data, builtin_models, split_name};
use crate::coefficients::Builtin;
use crate::error::Error;
use crate::methods::MethodEntry;
use crate::train::{SETTINGS, Setting, Settings};

/// The suffixes of mergekit recipes.
pub const RECIPES: &[&str] = &[".yml", ".yaml"];

/// What `mix` sets in place of a source, whose name follows.
pub const LIKE: &str = "like";

/// A kind of word or value.
#[derive(Clone, Copy)]
pub enum Kind {
    /// One of some words.
    OneOf(Words),
    /// Any of several kinds.
    Either(&'static [Kind]),
    /// Values of a kind, separated by commas.
    List(&'static Kind),
    /// An integer of at least 1; this is its placeholder in the usage.
    Count(&'static str),
    /// A number of at least 0; this is its placeholder in the usage.
    Number(&'static str),
    /// A number of bytes; this is its placeholder in the usage.
    Size(&'static str),
    /// Free text, which may contain spaces.
    Text(&'static str),
    /// `[NAME=]SOURCE`.
    Source,
    /// A file or data set.
    Data,
    /// A file, a data set or a task.
    DataOrTask,
    /// `NAME=FILE`, the data of a source.
    SourceData,
    /// `SOURCE=VALUE` or `SOURCE=FACTORx`, coefficients of a source, or `like=SOURCE`.
    SourceAmount,
    /// The name of a loaded source.
    Loaded,
    /// A directory.
    Directory,
    /// A file that `save` wrote.
    Session,
    /// A mergekit recipe.
    Recipe,
    /// A file to write.
    New(NewFile),
    /// A tensor or a glob of tensors.
    Pattern,
    /// A tensor.
    Tensor,
    /// A branch or the number of a state.
    Branch,
    /// The name of a new branch.
    NewBranch,
    /// `KEY` or `KEY=VALUE` of a setting.
    Setting,
    /// The value of a method's parameter of this name.
    Parameter(&'static MethodEntry, &'static str),
    /// The value of a scheme's setting.
    SchemeSetting(&'static Builtin),
}

/// Words to choose from.
#[derive(Clone, Copy)]
pub struct Words {
    /// What they are, for messages.
    pub what: &'static str,
    /// How they are shown in the usage: in capitals, or all of them.
    pub place: Option<&'static str>,
    /// Each with a short description.
    pub all: fn() -> Vec<(&'static str, &'static str)>,
}

/// One of some words that need no description.
macro_rules! plain {
    ($what:literal, $names:expr) => {
        Kind::OneOf(Words {
            what: $what,
            place: None,
            all: || $names.into_iter().map(|name| (name, "")).collect(),
        })
    };
}
pub(super) use plain;

/// A file to write.
#[derive(Clone, Copy)]
pub struct NewFile {
    /// How it is shown in the usage.
    pub place: &'static str,
    /// The suffixes of its name.
    pub suffixes: &'static [&'static str],
    /// The name that completion suggests; none if it suggests only existing files.
    pub suggested: Option<&'static str>,
}

impl Kind {
    /// How it is shown in the usage of a verb.
    pub fn usage(&self) -> String {
        match self {
            Kind::OneOf(Words { place: Some(place), .. }) => (*place).into(),
            Kind::OneOf(words) => words.joined("|"),
            Kind::Either(kinds) => kinds.iter().map(Kind::usage).collect::<Vec<_>>().join("|"),
            Kind::List(Kind::OneOf(words)) => words.joined(","),
            Kind::List(kind) => format!("{},...", kind.usage()),
            Kind::Count(shown) | Kind::Number(shown) | Kind::Size(shown) => (*shown).into(),
            Kind::Text(place) => format!("\"{place}\""),
            Kind::Source => "[NAME=]SOURCE".into(),
            Kind::Data | Kind::Session => "FILE".into(),
            Kind::DataOrTask => "FILE|TASK".into(),
            Kind::SourceData => "NAME=FILE".into(),
            Kind::Loaded => "SOURCE".into(),
            Kind::SourceAmount => format!("SOURCE=VALUE|SOURCE=FACTORx|{LIKE}=SOURCE"),
            Kind::Directory => "DIR".into(),
            Kind::Recipe => "RECIPE.yml".into(),
            Kind::New(NewFile { place, suffixes, .. }) => {
                let each = suffixes.iter().map(|suffix| format!("{place}{suffix}"));
                each.collect::<Vec<_>>().join("|")
            }
            Kind::Pattern => "TENSOR|GLOB".into(),
            Kind::Tensor => "TENSOR".into(),
            Kind::Branch => "NAME|N".into(),
            Kind::NewBranch => "NAME".into(),
            Kind::Setting => "KEY[=VALUE]".into(),
            Kind::Parameter(entry, name) => {
                let key = entry.keys.iter().find(|key| key.name == *name);
                let each = key.filter(|key| key.is_each()).map_or("", |_| ", or one per source");
                format!("{}{each}", key.map_or("", |key| key.default))
            }
            Kind::SchemeSetting(builtin) => {
                let usage = builtin.usage.trim_matches(['[', ']']);
                usage.split_once('=').map_or("", |(_, default)| default).into()
            }
        }
    }

    /// Whether the form of `text` alone identifies this kind.
    pub fn recognises(&self, text: &str) -> bool {
        match self {
            Kind::OneOf(words) => words.names().any(|name| name == text),
            Kind::Either(kinds) => kinds.iter().any(|kind| kind.recognises(text)),
            Kind::Recipe => has_suffix(text, RECIPES),
            Kind::New(file) => has_suffix(text, file.suffixes),
            _ => false,
        }
    }

    /// Whether it is a file recognised by its suffix.
    pub fn has_suffix(&self) -> bool {
        match self {
            Kind::Either(kinds) => kinds.iter().any(Kind::has_suffix),
            Kind::Recipe | Kind::New(_) => true,
            _ => false,
        }
    }

    /// Whether it is a path.
    pub fn is_path(&self) -> bool {
        match self {
            Kind::Either(kinds) => kinds.iter().any(Kind::is_path),
            Kind::Directory | Kind::Recipe | Kind::New(_) => true,
            _ => false,
        }
    }

    /// Whether a name and a `=` may precede it.
    pub fn is_named(&self) -> bool {
        matches!(self, Kind::Source)
    }

    /// The message where it is missing.
    pub fn missing(&self) -> &'static str {
        match self {
            Kind::Text(_) => "the prompt is missing",
            Kind::Source => "no source given",
            Kind::SourceData => "no data given",
            Kind::SourceAmount => "no coefficients given",
            _ => "an argument is missing",
        }
    }

    /// All words to choose from.
    fn words(&self) -> Vec<&'static str> {
        match self {
            Kind::OneOf(words) => words.names().collect(),
            Kind::Either(kinds) => kinds.iter().flat_map(Kind::words).collect(),
            _ => Vec::new(),
        }
    }

    /// Checks the form of `text`, a word of `verb` or the value of its option `key`.
    pub fn check(
        &self,
        verb: &'static str,
        key: Option<&'static str>,
        text: &str,
    ) -> Result<(), Fault> {
        let name = key.unwrap_or(if let Kind::Count(_) = self { verb } else { self.what() });
        let bad = |expected: &str| Error::bad_value(name, text, expected);
        match self {
            Kind::List(kind) => text.split(',').try_for_each(|part| kind.check(verb, key, part)),
            Kind::OneOf(_) | Kind::Either(_) | Kind::Recipe | Kind::New(_)
                if !self.recognises(text) && self.is_closed() =>
            {
                let known = self.words();
                let error = match (self, key) {
                    (Kind::OneOf(_), Some(_)) => Error::none_of(name, text, &known),
                    _ if known.is_empty() => {
                        bad(&format!("a file name such as {}", self.usage().replace('|', " or ")))
                    }
                    _ => Error::unknown(name, text, known.iter().copied()),
                };
                // A file may be typed on until it has its suffix.
                let file = self.has_suffix().then_some(text);
                Err(Fault::new(error, text).before(known.into_iter().chain(file)))
            }
            Kind::Either(kinds) => {
                let fits = kinds.iter().find(|kind| kind.recognises(text));
                fits.map_or(Ok(()), |kind| kind.check(verb, key, text))
            }
            Kind::Count(_) if count(text).is_none() => {
                let zero = text.chars().all(|c| c == '0').then_some(text);
                let is_large = text.parse::<u128>().is_ok_and(|n| n > 0);
                let range = if is_large {
                    "an integer of at most 1000000000"
                } else {
                    "an integer of at least 1"
                };
                Err(Fault::new(bad(range), text).before(zero))
            }
            Kind::Number(_) if number(text).is_none() => {
                Err(Fault::number(bad("a number of at least 0"), text, &[]))
            }
            Kind::Size(_) if bytes(text).is_none() => {
                Err(Fault::new(bad("a size such as 5GB or 500MB"), text).before([text]))
            }
            Kind::SourceData => match text.split_once('=') {
                Some(_) => Ok(()),
                None => {
                    let error = Error::Refused {
                        message: format!("`{text}` does not name a source"),
                        hint: format!("usage: {verb} NAME=FILE..."),
                    };
                    Err(Fault::new(error, text).before([text]))
                }
            },
            Kind::SourceAmount => match text.rsplit_once('=') {
                Some((LIKE, _)) => Ok(()),
                Some((_, value)) => {
                    let amount = value.parse::<Amount>().map(drop);
                    amount.map_err(|error| Fault::new(error, value).before([value]))
                }
                None => {
                    let error = Error::Refused {
                        message: format!("`{text}` does not name a source"),
                        hint: format!("usage: {verb} TENSORS {}", self.usage()),
                    };
                    Err(Fault::new(error, text).before([text]))
                }
            },
            Kind::Setting => check_setting(text),
            Kind::Parameter(entry, parameter) => entry
                .build(&[(parameter, text)])
                .map(drop)
                .map_err(|error| Fault::number(error, text, &["on", "off"])),
            Kind::SchemeSetting(builtin) => (builtin.build)(&[(name, text)])
                .map(drop)
                .map_err(|error| Fault::number(error, text, &[])),
            _ => Ok(()),
        }
    }

    /// Whether every text of this kind is recognised.
    fn is_closed(&self) -> bool {
        match self {
            Kind::Either(kinds) => kinds.iter().all(Kind::is_closed),
            Kind::OneOf(_) | Kind::Recipe | Kind::New(_) => true,
            _ => false,
        }
    }

    /// What it is, for messages.
    fn what(&self) -> &'static str {
        match self {
            Kind::OneOf(words) => words.what,
            Kind::Either(kinds) => kinds.first().map_or("word", Kind::what),
            _ => "file",
        }
    }

    /// Checks names that are built in.
    pub fn check_builtin(&self, text: &str) -> Result<(), Fault> {
        match self {
            Kind::List(kind) => text.split(',').try_for_each(|part| kind.check_builtin(part)),
            Kind::Source => {
                let (_, source) = split_name(text);
                let model = source.split('+').next().unwrap_or(source);
                check_name("built-in model", model, builtin_models())
            }
            Kind::Data | Kind::DataOrTask => check_name("built-in data set", text, builtin_data()),
            Kind::SourceData => {
                let data = text.split_once('=').map_or("", |(_, data)| data);
                check_name("built-in data set", data, builtin_data())
            }
            _ => Ok(()),
        }
    }
}

impl Words {
    /// The words.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        (self.all)().into_iter().map(|(name, _)| name)
    }

    /// The words in one line.
    fn joined(&self, by: &str) -> String {
        self.names().collect::<Vec<_>>().join(by)
    }
}

/// `KEY`, which shows a setting, or `KEY=VALUE`.
fn check_setting(text: &str) -> Result<(), Fault> {
    let keys = || SETTINGS.iter().map(|setting| setting.key);
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    let setting = match Setting::find(key) {
        Ok(setting) => setting,
        Err(_) if value.is_none() && is_value(text) => {
            let message = format!("`{text}` has no key");
            let hint = "settings are written KEY=VALUE, as in lr=1e-3".into();
            return Err(Fault::new(Error::Refused { message, hint }, text).before(keys()));
        }
        Err(error) if value.is_none() => return Err(Fault::new(error, text).before(keys())),
        Err(error) => return Err(Fault::new(error, text)),
    };
    let Some(value) = value else { return Ok(()) };
    let set = Settings::default().set(key, value);
    set.map_err(|error| Fault::number(error, value, setting.words()))
}

/// Whether `text` could be the value of a setting.
fn is_value(text: &str) -> bool {
    text.parse::<f64>().is_ok() || SETTINGS.iter().any(|setting| setting.is_word(text))
}

fn check_name(
    what: &'static str,
    text: &str,
    known: impl Iterator<Item = &'static str>,
) -> Result<(), Fault> {
    let known: Vec<&str> = known.collect();
    match text.strip_prefix(BUILTIN_PREFIX) {
        Some(name) if !known.contains(&name) => {
            Err(Fault::new(Error::unknown(what, name, known.iter().copied()), name).before(known))
        }
        _ => Ok(()),
    }
}

/// Whether `text` is a file name with one of `suffixes`, in any case.
pub fn has_suffix(text: &str, suffixes: &[&str]) -> bool {
    let text = text.to_lowercase();
    let is_stem = |stem: &str| !stem.is_empty() && !stem.ends_with('/');
    suffixes.iter().any(|suffix| text.strip_suffix(suffix).is_some_and(is_stem))
}

/// Whether `text` names a mergekit recipe.
pub fn is_recipe(text: &str) -> bool {
    Kind::Recipe.recognises(text)
}

/// An integer of at least 1.
pub fn count(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n| (1..=1_000_000_000).contains(n))
}

/// A finite number of at least 0.
pub fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0)
}

/// A size such as `5GB` or `100MB`, in bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1)];
    units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor).filter(|n| *n > 0)
    })
}
