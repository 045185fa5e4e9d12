//! The signature of a verb: its words, options and flags.

use std::fmt::Write;

use super::kind::Kind;
use crate::syntax::Argument;

/// The arguments of a verb.
pub struct Signature {
    /// Words, in order.
    pub words: &'static [Slot],
    /// `KEY=VALUE` options.
    pub options: &'static [Opt],
    /// Further options, which depend on the words.
    pub more: Option<More>,
    /// The number of words before which options and flags are not offered.
    pub options_after: usize,
    /// Flags.
    pub flags: &'static [&'static str],
}

/// A word of a verb.
pub struct Slot {
    pub kind: Kind,
    pub is_required: bool,
    pub is_repeated: bool,
    /// Whether it may follow the words before it.
    pub follows: fn(&[&str]) -> bool,
}

/// A `KEY=VALUE` option.
#[derive(Clone, Copy)]
pub struct Opt {
    pub key: &'static str,
    pub kind: Kind,
}

/// Options that depend on the words.
pub struct More {
    /// How they are shown in the usage.
    pub usage: fn() -> String,
    /// The options for these words; `None` if the words do not determine them, and any key is
    /// accepted.
    pub options: fn(&[&str]) -> Option<Vec<Opt>>,
}

/// A required word.
pub const fn one(kind: Kind) -> Slot {
    Slot { kind, is_required: true, is_repeated: false, follows: |_| true }
}

/// An optional word.
pub const fn optional(kind: Kind) -> Slot {
    Slot { is_required: false, ..one(kind) }
}

/// Words of which there is at least one.
pub const fn some(kind: Kind) -> Slot {
    Slot { is_repeated: true, ..one(kind) }
}

/// Any number of words.
pub const fn any(kind: Kind) -> Slot {
    Slot { is_required: false, ..some(kind) }
}

impl Slot {
    /// The same after certain words only.
    pub const fn after(self, follows: fn(&[&str]) -> bool) -> Self {
        Self { follows, ..self }
    }
}

/// An option.
pub const fn option(key: &'static str, kind: Kind) -> Opt {
    Opt { key, kind }
}

impl Signature {
    /// No arguments.
    pub const EMPTY: Self =
        Self { words: &[], options: &[], more: None, options_after: 0, flags: &[] };

    /// How the verb `name` is used.
    pub fn usage(&self, name: &str) -> String {
        let mut text = name.to_owned();
        for Slot { kind, is_required, is_repeated, .. } in self.words {
            let (open, close) = if *is_required { ("", "") } else { ("[", "]") };
            let more = if *is_repeated { "..." } else { "" };
            let _ = write!(text, " {open}{}{more}{close}", kind.usage());
        }
        for Opt { key, kind } in self.options {
            let _ = write!(text, " [{key}={}]", kind.usage());
        }
        if let Some(more) = &self.more {
            let _ = write!(text, " {}", (more.usage)());
        }
        for flag in self.flags {
            let _ = write!(text, " [{flag}]");
        }
        text
    }

    /// The options for `words`; `None` if any key is accepted.
    pub fn options(&self, words: &[&str]) -> Option<Vec<Opt>> {
        let more = self.more.as_ref().map_or(Some(Vec::new()), |more| (more.options)(words))?;
        Some(self.options.iter().copied().chain(more).collect())
    }

    /// Whether arguments of the form `KEY=VALUE` are options.
    pub fn has_options(&self) -> bool {
        !self.options.is_empty() || self.more.is_some()
    }

    /// Whether its first word is text of any words.
    pub fn takes_text(&self) -> bool {
        matches!(self.words, [Slot { kind: Kind::Text(_), .. }, ..])
    }

    /// An argument as a word: where `a=b` would be an option or a named source but is in quotation
    /// marks, it is the path `./a=b`.
    pub fn word(&self, argument: &Argument) -> String {
        let is_split = self
            .words
            .iter()
            .any(|slot| slot.kind.is_named() || (self.has_options() && slot.kind.is_path()));
        let prefix = if argument.is_whole && is_split { "./" } else { "" };
        format!("{prefix}{}", argument.text)
    }
}
