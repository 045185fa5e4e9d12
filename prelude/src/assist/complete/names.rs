//! What may be typed for each kind of word or value.

use super::files::{self, Wanted};
use super::{Candidate, CursorPosition, Found, tensors};
use crate::checkpoint::BASE;
use crate::syntax::pair;
use crate::train::{SETTINGS, Setting};
use crate::verbs::{Kind, LIKE, NewFile, RECIPES, Words, split_source};

impl CursorPosition<'_> {
    /// The completions of `typed` as a word of this kind.
    pub fn of_kind(&self, kind: &Kind, typed: &str) -> Found {
        let found = match kind {
            Kind::OneOf(Words { all, .. }) => {
                all().into_iter().map(|(word, about)| Candidate::whole(word, about)).collect()
            }
            Kind::Either(kinds) => {
                let each = kinds.iter().map(|kind| self.of_kind(kind, typed));
                return each
                    .reduce(|(a, mut all), (b, mut found)| {
                        // Directories lead to files of every kind.
                        found.retain(|candidate| all.iter().all(|c| c.text != candidate.text));
                        all.extend(found);
                        (a.max(b), all)
                    })
                    .unwrap_or_default();
            }
            Kind::List(kind) => return self.list(kind, typed),
            Kind::Source => return self.source(typed),
            Kind::SourceData => return self.source_data(typed),
            Kind::SourceAmount => return self.source_amount(typed),
            Kind::Loaded => {
                let known = self.context.known().unwrap_or_default();
                known.names().map(|name| Candidate::whole(name, "source")).collect()
            }
            Kind::Setting => return self.setting(typed),
            Kind::Data => files::data(typed),
            Kind::DataOrTask => files::data_or_task(typed),
            Kind::Directory => files::paths(typed, Wanted::Directories),
            Kind::Session => files::paths(typed, files::SESSIONS),
            Kind::Recipe => files::paths(typed, Wanted::Files(RECIPES)),
            Kind::New(NewFile { suffixes, suggested, .. }) => match suggested {
                // Where a tensor may be named, what is typed is more likely one.
                Some(name) if !self.may_be_tensor() => files::written(typed, suffixes, name),
                _ => files::paths(typed, Wanted::Files(suffixes)),
            },
            Kind::Pattern | Kind::Tensor => {
                let several = matches!(kind, Kind::Pattern);
                let models = self.context.known();
                models.map(|models| tensors(&models, typed, several)).unwrap_or_default()
            }
            Kind::Branch => {
                let timeline = self.context.timeline();
                let others =
                    timeline.branches().iter().filter(|(name, _)| *name != timeline.branch());
                let about = |state: &usize| format!("a branch that ends at state {state}");
                others.map(|(name, state)| Candidate::whole(name, about(state))).collect()
            }
            Kind::Parameter(entry, name) => {
                let key = entry.keys.iter().find(|key| key.name == *name);
                let is_switch = key.is_some_and(|key| ["on", "off"].contains(&key.default));
                let words: &[&str] = if is_switch { &["on", "off"] } else { &[] };
                words.iter().map(|word| Candidate::whole(*word, "")).collect()
            }
            Kind::Count(_)
            | Kind::Number(_)
            | Kind::Size(_)
            | Kind::Text(_)
            | Kind::NewBranch
            | Kind::SchemeSetting(_) => Vec::new(),
        };
        (0, found)
    }

    /// The last of values that are separated by commas.
    fn list(&self, kind: &Kind, typed: &str) -> Found {
        let done = typed.rfind(',').map_or(0, |at| at + 1);
        let used: Vec<&str> = typed[..done].split(',').collect();
        let (stem, mut found) = self.of_kind(kind, &typed[done..]);
        found.retain(|candidate| !used.contains(&candidate.text.as_str()));
        if let Kind::OneOf(_) = kind {
            found.iter_mut().for_each(|candidate| candidate.whole = false);
        }
        (done + stem, found)
    }

    /// Whether the word may be a tensor.
    fn may_be_tensor(&self) -> bool {
        let open = self.before.open_slots();
        open.into_iter().any(|slot| matches!(self.verb.signature.words[slot].kind, Kind::Tensor))
    }

    /// A setting, or its value.
    fn setting(&self, typed: &str) -> Found {
        let now = self.context.known().unwrap_or_default().settings;
        let value = |key: &str| now.get(key).unwrap_or_default();
        let Some((key, _)) = typed.split_once('=') else {
            let unused = SETTINGS.iter().filter(|setting| !self.has_key(setting.key));
            let one = |Setting { key, about, .. }: &Setting| {
                Candidate::open(format!("{key}="), format!("{about} (now {})", value(key)))
            };
            return (0, unused.map(one).collect());
        };
        let words = Setting::find(key).map(Setting::words).unwrap_or_default();
        let about = |word: &str| if value(key) == word { "current value" } else { "" };
        let one = |word: &&'static str| Candidate::whole(*word, about(word));
        (key.len() + 1, words.iter().map(one).collect())
    }

    /// The name of a source, before its coefficients or after `like=`.
    fn source_amount(&self, typed: &str) -> Found {
        let known = self.context.known().unwrap_or_default();
        let names = known.names().map(str::to_owned);
        match typed.split_once('=') {
            Some((LIKE, _)) => {
                let one = |name| Candidate::whole(name, "source");
                (LIKE.len() + 1, names.map(one).collect())
            }
            Some(_) => (0, Vec::new()),
            None => {
                let unused = names.filter(|name| !self.has_key(name));
                let one = |name| Candidate::open(format!("{name}="), "its coefficients");
                let like = Candidate::open(format!("{LIKE}="), "those of a source");
                (0, unused.map(one).chain([like]).collect())
            }
        }
    }

    /// The name of a source, or its data.
    fn source_data(&self, typed: &str) -> Found {
        let known = self.context.known().unwrap_or_default();
        if let Some((name, file)) = split_source(typed, known.names()) {
            let mut found = files::data(file);
            found.retain(|candidate| !self.has(&candidate.text));
            return (name.len() + 1, found);
        }
        let about = |name: &str| if known.has_data(name) { "has data" } else { "has no data yet" };
        let unused = known.names().filter(|name| !self.has_key(name));
        (0, unused.map(|name| Candidate::open(format!("{name}="), about(name))).collect())
    }

    /// `[NAME=]SOURCE`, with adapters behind a `+`.
    fn source(&self, typed: &str) -> Found {
        let name = pair(typed).map(|(name, _)| name).filter(|name| !name.is_empty());
        let named = name.map_or(0, |name| name.len() + 1);
        if let Some(plus) = typed[named..].rfind('+') {
            let stem = named + plus + 1;
            return (stem, files::adapters(&typed[stem..]));
        }
        let known = self.context.known().unwrap_or_default();
        let is_loaded =
            |text: &str| known.sources.iter().any(|source| source.spec() == text) || self.has(text);
        let mut found: Vec<Candidate> =
            files::sources(&typed[named..]).into_iter().filter(|c| !is_loaded(&c.text)).collect();
        let has_base = known.names().any(|name| name == BASE) || self.has_key(BASE);
        if named == 0 && !has_base {
            found.push(Candidate::open(format!("{BASE}="), "marks the base model"));
        }
        (named, found)
    }
}
