//! What a verb's usage says: what may stand where. Help, completion and checks all read the one
//! string.
//!
//! ```text
//! usage  = VERB item...
//! item   = choice|choice...     it must be there
//!        | [choice|choice...]   it may be there
//!        | item...              with `...` behind it, any number of times
//! choice = word                 itself
//!        | --flag
//!        | PLACE or PLACE.end   something that the capitals name; "PLACE" for text
//!        | [NAME=]PLACE         the same, with a name before it or not
//!        | key=value|value      one of the values
//!        | key=value,value      some of them, with commas between
//!        | key=4                a number, such as this
//!        | key=4 of word        only where that word stands
//! ```

use std::fmt;

/// What may stand behind a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In order.
    pub items: Vec<Item>,
}

/// What may stand at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// One of these.
    pub choices: Vec<Choice>,
    /// Whether it may be left out.
    pub optional: bool,
    /// Whether it may come more than once.
    pub repeated: bool,
}

/// One thing that may stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This word.
    Word(&'static str),
    /// This flag.
    Flag(&'static str),
    /// Something of a kind.
    Place(Place),
    /// A key and its value.
    Pair(Pair),
}

/// Something of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of which kind, in capitals.
    pub name: &'static str,
    /// What it ends with, as in `.yml`; empty where that is open.
    pub ending: &'static str,
    /// Whether `NAME=` may stand before it.
    pub named: bool,
    /// Whether it is text, with blanks in it.
    pub text: bool,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key, in capitals where it is of a kind.
    pub key: &'static str,
    /// What may be its value.
    pub values: Vec<Value>,
    /// Whether it is a list with commas.
    pub list: bool,
    /// The word that must stand there too.
    pub of: Option<&'static str>,
}

/// A value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// This word.
    Word(&'static str),
    /// Something of a kind.
    Place(Place),
    /// A number or size such as this.
    Example(&'static str),
}

impl Usage {
    /// Reads the usage of a verb.
    pub fn read(usage: &'static str) -> Self {
        let mut items = Vec::new();
        let mut rest = usage.split_once(' ').map_or("", |(_, rest)| rest).trim_start();
        while !rest.is_empty() {
            let bracketed = rest.starts_with('[').then(|| rest.find(']')).flatten();
            // A bracket within a word, as in `[NAME=]SOURCE`, makes a part of it optional, not the
            // item.
            let whole = bracketed.filter(|close| {
                rest[close + 1..].is_empty() || rest[close + 1..].starts_with([' ', '.'])
            });
            let end = match whole {
                Some(close) => close + rest[close..].find(' ').unwrap_or(rest.len() - close),
                None => rest.find(' ').unwrap_or(rest.len()),
            };
            items.push(Item::read(&rest[..end], whole.is_some()));
            rest = rest[end..].trim_start();
        }
        Self { items }
    }

    /// All flags.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.choices()
            .filter_map(|choice| if let Choice::Flag(flag) = choice { Some(*flag) } else { None })
    }

    /// All keys with their values.
    pub fn pairs(&self) -> impl Iterator<Item = &Pair> {
        self.choices()
            .filter_map(|choice| if let Choice::Pair(pair) = choice { Some(pair) } else { None })
    }

    /// The items that stand in order: those that are words or places, not flags or keys.
    pub fn places(&self) -> Vec<&Item> {
        let stands = |choice: &Choice| matches!(choice, Choice::Word(_) | Choice::Place(_));
        self.items.iter().filter(|item| item.choices.iter().any(stands)).collect()
    }

    fn choices(&self) -> impl Iterator<Item = &Choice> {
        self.items.iter().flat_map(|item| &item.choices)
    }
}

impl Item {
    fn read(text: &'static str, optional: bool) -> Self {
        // `...` stands inside the brackets or behind them.
        let behind = text.ends_with("...") && !text.ends_with(",...");
        let text = if behind { text.trim_end_matches('.') } else { text };
        let text = if optional { text.trim_start_matches('[').trim_end_matches(']') } else { text };
        let is_list = text.ends_with(",...");
        let (text, inside) = match text.strip_suffix("...").filter(|_| !is_list) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let is_pair = !text.starts_with('[') && text.contains('=');
        let choices = match is_pair {
            true => vec![Choice::Pair(Pair::read(text))],
            false => text.split('|').map(Choice::read).collect(),
        };
        Self { choices, optional, repeated: behind || inside }
    }

    /// The places among its choices.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.choices
            .iter()
            .filter_map(|choice| if let Choice::Place(place) = choice { Some(place) } else { None })
    }

    /// Whether a file may stand here that has an ending of its own.
    pub fn may_be_file(&self) -> bool {
        self.places().any(|place| !place.ending.is_empty())
    }

    /// Whether `word` may stand here, as far as its form says.
    pub fn takes(&self, word: &str) -> bool {
        self.choices.iter().any(|choice| match choice {
            Choice::Word(known) => *known == word,
            Choice::Place(place) => place.takes(word),
            Choice::Flag(_) | Choice::Pair(_) => false,
        })
    }
}

impl Choice {
    fn read(text: &'static str) -> Self {
        match Place::read(text) {
            Some(place) => Self::Place(place),
            None if text.starts_with("--") => Self::Flag(text),
            None => Self::Word(text),
        }
    }
}

impl Place {
    /// A place of the kind `name`.
    pub const fn of(name: &'static str) -> Self {
        Self { name, ending: "", named: false, text: false }
    }

    fn read(text: &'static str) -> Option<Self> {
        let (text, named) = text.strip_prefix("[NAME=]").map_or((text, false), |text| (text, true));
        let (text, is_text) = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (name, ending) = text.split_at(text.find('.').unwrap_or(text.len()));
        let capital = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        capital.then_some(Self { name, ending, named, text: is_text })
    }

    /// Whether `word` may stand here, as far as its form says.
    pub fn takes(&self, word: &str) -> bool {
        match self.name {
            "N" => word.parse::<usize>().is_ok(),
            _ => self.ending.is_empty() || word.to_lowercase().ends_with(self.ending),
        }
    }
}

impl Pair {
    fn read(text: &'static str) -> Self {
        let (text, of) =
            text.split_once(" of ").map_or((text, None), |(text, of)| (text, Some(of)));
        let (key, values) = text.split_once('=').unwrap_or((text, ""));
        let list = values.contains(',');
        let values =
            values.strip_suffix(",...").unwrap_or(values).split(if list { ',' } else { '|' });
        let value = |text: &'static str| match Place::read(text) {
            Some(place) => Value::Place(place),
            None if text.starts_with(|c: char| c.is_ascii_digit()) => Value::Example(text),
            None => Value::Word(text),
        };
        Self { key, values: values.map(value).collect(), list, of }
    }

    /// Whether its key is of a kind, such as `NAME`.
    pub fn is_open(&self) -> bool {
        Place::read(self.key).is_some()
    }

    /// The words that may be its value.
    pub fn words(&self) -> impl Iterator<Item = &'static str> {
        self.values
            .iter()
            .filter_map(|value| if let Value::Word(word) = value { Some(*word) } else { None })
    }

    /// Whether only its words may be its value.
    pub fn is_closed(&self) -> bool {
        self.values.iter().all(|value| matches!(value, Value::Word(_)))
    }
}

/// Writes `parts` with `between` between them.
fn joined(f: &mut fmt::Formatter<'_>, parts: &[impl fmt::Display], between: char) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            write!(f, "{between}")?;
        }
        part.fmt(f)?;
    }
    Ok(())
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, &self.items, ' ')
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.optional { "[" } else { "" })?;
        joined(f, &self.choices, '|')?;
        f.write_str(if self.repeated { "..." } else { "" })?;
        f.write_str(if self.optional { "]" } else { "" })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Word(word) | Choice::Flag(word) => f.write_str(word),
            Choice::Place(place) => place.fmt(f),
            Choice::Pair(pair) => pair.fmt(f),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, mark) =
            (if self.named { "[NAME=]" } else { "" }, if self.text { "\"" } else { "" });
        write!(f, "{name}{mark}{}{}{mark}", self.name, self.ending)
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.key)?;
        joined(f, &self.values, if self.list { ',' } else { '|' })?;
        // A list of one is of any number.
        f.write_str(if self.list && self.values.len() == 1 { ",..." } else { "" })?;
        self.of.map_or(Ok(()), |of| write!(f, " of {of}"))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Word(word) | Value::Example(word) => f.write_str(word),
            Value::Place(place) => place.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::VERBS;
    use super::*;

    /// What was read says the same as what was written.
    #[test]
    fn every_usage_is_regular() {
        for verb in VERBS {
            let read = Usage::read(verb.usage);
            assert_eq!(format!("{} {read}", verb.name).trim_end(), verb.usage);
            for choice in read.choices() {
                if let Choice::Word(word) = choice {
                    assert!(
                        word.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                        "`{word}` of {}",
                        verb.usage
                    );
                }
            }
        }
    }

    #[test]
    fn a_usage_says_what_may_stand_where() {
        let usage = Usage::read(
            "wrap [a|b_c] [f=none|tanh] [train=x,y] [init=uniform|METHOD|RECIPE.yml] [rank=4 of b_c] [--force]",
        );
        assert_eq!(usage.flags().collect::<Vec<_>>(), ["--force"]);
        assert_eq!(usage.places().len(), 1);
        assert!(usage.places()[0].takes("b_c") && !usage.places()[0].takes("c"));
        let pairs: Vec<&Pair> = usage.pairs().collect();
        assert_eq!(
            pairs.iter().map(|p| (p.key, p.list, p.is_closed(), p.of)).collect::<Vec<_>>(),
            [
                ("f", false, true, None),
                ("train", true, true, None),
                ("init", false, false, None),
                ("rank", false, false, Some("b_c")),
            ]
        );
        assert_eq!(
            pairs[2].values[2],
            Value::Place(Place { ending: ".yml", ..Place::of("RECIPE") })
        );

        let usage = Usage::read(
            "x [NAME=]SOURCE... [NAME=FILE...] \"PROMPT\" [on=FILE,...] [FILE.svg|FILE.png]",
        );
        let (names, text) = (&usage.items[0], &usage.items[2]);
        assert!(
            names.repeated
                && !names.optional
                && matches!(names.choices[0], Choice::Place(Place { named: true, .. }))
        );
        assert!(matches!(text.choices[0], Choice::Place(Place { text: true, name: "PROMPT", .. })));
        assert!(usage.pairs().next().unwrap().is_open() && usage.pairs().nth(1).unwrap().list);
        assert!(usage.places()[2].takes("a.PNG") && !usage.places()[2].takes("a.jpg"));
    }
}
