//! Reading the arguments of a verb by its signature.
//!
//! The same reading serves running, which takes the first fault as its error, and checking while a
//! line is typed, which underlines every fault.

use std::ops::Range;

use super::fault::Fault;
use super::kind::{bytes, count, number};
use super::signature::{Opt, Signature};
use crate::error::{Error, Result, refuse};
use crate::syntax::Argument;

/// The validated arguments of a verb.
pub struct Arguments {
    /// The words of each slot.
    slots: Vec<Vec<String>>,
    options: Vec<(String, String)>,
    flags: Vec<String>,
}

/// The valid arguments, and an indexed fault for each of the others.
pub struct Reading {
    verb: &'static str,
    signature: &'static Signature,
    pub arguments: Arguments,
    pub faults: Vec<(usize, Fault)>,
}

impl Arguments {
    /// Reads `given`.
    ///
    /// # Errors
    /// The first argument that does not fit, or a missing one.
    pub fn read(
        verb: &'static str,
        signature: &'static Signature,
        given: &[Argument],
    ) -> Result<Self> {
        let Reading { arguments, faults, .. } = Reading::of(verb, signature, given);
        if let Some((_, fault)) = faults.into_iter().min_by_key(|(at, _)| *at) {
            return Err(*fault.error);
        }
        for (slot, words) in signature.words.iter().zip(&arguments.slots) {
            if slot.is_required && words.is_empty() {
                return refuse(slot.kind.missing(), format!("usage: {}", signature.usage(verb)));
            }
        }
        Ok(arguments)
    }

    /// The words of a slot.
    pub fn words(&self, slot: usize) -> &[String] {
        self.slots.get(slot).map_or(&[], Vec::as_slice)
    }

    /// The word of a slot.
    pub fn word(&self, slot: usize) -> Option<&str> {
        self.words(slot).first().map(String::as_str)
    }

    /// The word of a required slot.
    pub fn text(&self, slot: usize) -> String {
        self.word(slot).unwrap_or_default().to_owned()
    }

    /// The number in a slot.
    pub fn number(&self, slot: usize) -> Option<usize> {
        self.word(slot).and_then(count)
    }

    /// All options, in the order given.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of `key`.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// The integer value of `key`.
    pub fn count(&self, key: &str) -> Option<usize> {
        self.option(key).and_then(count)
    }

    /// The number that is the value of `key`.
    pub fn number_of(&self, key: &str) -> Option<f64> {
        self.option(key).and_then(number)
    }

    /// The value of `key` in bytes.
    pub fn bytes(&self, key: &str) -> Option<u64> {
        self.option(key).and_then(bytes)
    }

    /// The values of `key`, which are separated by commas.
    pub fn list(&self, key: &str) -> impl Iterator<Item = &str> {
        self.option(key).into_iter().flat_map(|values| values.split(','))
    }

    /// The choice that the value of `key` names.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.option(key)?;
        choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice)
    }

    /// Whether `flag` is given.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }
}

impl Reading {
    /// Reads the arguments of `verb` as far as they fit.
    pub fn of(verb: &'static str, signature: &'static Signature, given: &[Argument]) -> Self {
        let slots = vec![Vec::new(); signature.words.len()];
        let arguments = Arguments { slots, options: Vec::new(), flags: Vec::new() };
        let mut reading = Self { verb, signature, arguments, faults: Vec::new() };
        let text = if signature.takes_text() { text_range(signature, given) } else { 0..0 };
        if !text.is_empty() {
            let words: Vec<&str> = given[text.clone()].iter().map(|a| a.text.as_str()).collect();
            reading.word(text.start, words.join(" "));
        }
        let others = || given.iter().enumerate().filter(|(at, _)| !text.contains(at));
        // Words come first: they decide which options there are.
        for (at, argument) in others() {
            if !argument.is_flag() && option_of(signature, argument).is_none() {
                reading.word(at, signature.word(argument));
            }
        }
        let options = signature.options(&reading.all_words());
        for (at, argument) in others() {
            if argument.is_flag() {
                reading.flag(at, &argument.text);
            } else if let Some(pair) = option_of(signature, argument) {
                reading.option(at, pair, options.as_deref());
            }
        }
        reading
    }

    /// All words, slot by slot.
    pub fn all_words(&self) -> Vec<&str> {
        self.arguments.slots.iter().flatten().map(String::as_str).collect()
    }

    /// The slots that may take another word, in order.
    pub fn open_slots(&self) -> Vec<usize> {
        let words = self.all_words();
        let slots = self.signature.words.iter().zip(&self.arguments.slots).enumerate();
        slots
            .filter(|(_, (slot, filled))| slot.is_repeated || filled.is_empty())
            .filter(|(_, (slot, _))| (slot.follows)(&words))
            .map(|(at, _)| at)
            .collect()
    }

    /// Puts a word into the slot that recognises it, or else into the first open one.
    fn word(&mut self, at: usize, word: String) {
        let (verb, signature) = (self.verb, self.signature);
        let open = self.open_slots();
        let kind = |slot: &usize| &signature.words[*slot].kind;
        let found = open.iter().find(|slot| kind(slot).recognises(&word)).or(open.first());
        let refused = |message: &str| Error::Refused {
            message: message.into(),
            hint: format!("usage: {}", signature.usage(verb)),
        };
        let fault = match found {
            Some(slot) if word.is_empty() => Some(Fault::new(refused(kind(slot).missing()), &word)),
            Some(slot) => {
                let checked = kind(slot).check(verb, None, &word);
                self.arguments.slots[*slot].push(word.clone());
                checked.err()
            }
            None => Some(Fault::new(refused("too many arguments"), &word)),
        };
        // It may become a file with a suffix, or the key of an option.
        let file = open.iter().any(|slot| kind(slot).has_suffix()).then_some(word);
        let keys = signature.options(&self.all_words()).unwrap_or_default();
        let known = keys.into_iter().map(|option| option.key.to_owned()).chain(file);
        self.faults.extend(fault.map(|fault| (at, fault.before(known))));
    }

    fn option(&mut self, at: usize, (key, value): (&str, &str), options: Option<&[Opt]>) {
        let known = options.unwrap_or_default();
        let fault = match known.iter().find(|option| option.key == key) {
            _ if self.arguments.option(key).is_some() => {
                let message = format!("`{key}` is given twice");
                Some(Fault::new(Error::Refused { message, hint: "give it once".into() }, key))
            }
            Some(option) => option.kind.check(self.verb, Some(option.key), value).err(),
            None if options.is_none() => None,
            None => Some(Fault::new(Error::unknown("key", key, known.iter().map(|o| o.key)), key)),
        };
        self.arguments.options.push((key.to_owned(), value.to_owned()));
        self.faults.extend(fault.map(|fault| (at, fault)));
    }

    fn flag(&mut self, at: usize, flag: &str) {
        let signature = self.signature;
        if signature.flags.contains(&flag) {
            self.arguments.flags.push(flag.to_owned());
            return;
        }
        let refused =
            |hint: String| Error::Refused { message: format!("unknown flag `{flag}`"), hint };
        let error = if signature.takes_text() {
            refused(format!("quote the prompt; usage: {}", signature.usage(self.verb)))
        } else if signature.flags.is_empty() {
            refused("this verb has no flags".into())
        } else {
            Error::unknown("flag", flag, signature.flags.iter().copied())
        };
        self.faults.push((at, Fault::new(error, flag).before(signature.flags.iter().copied())));
    }
}

fn option_of<'a>(signature: &Signature, argument: &'a Argument) -> Option<(&'a str, &'a str)> {
    argument.pair().filter(|_| signature.has_options())
}

/// The arguments that are the text of a verb, quoted or not: flags may precede and follow it,
/// options follow it. A single argument is always text, unless the verb also works without.
fn text_range(signature: &Signature, given: &[Argument]) -> Range<usize> {
    let is_flag = |argument: &Argument| argument.is_flag() && argument.text.len() > 2;
    let is_option = |argument: &Argument| {
        let key = argument.pair().map(|(key, _)| key);
        is_flag(argument) || signature.options.iter().any(|option| Some(option.key) == key)
    };
    let least = usize::from(signature.words.first().is_none_or(|slot| slot.is_required));
    let most = given.len().saturating_sub(least);
    let begin = given[..most].iter().take_while(|argument| is_flag(argument)).count();
    let behind = given.iter().skip(begin + least).rev().take_while(|argument| is_option(argument));
    begin..given.len() - behind.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::find;

    fn read(verb: &str, given: &[Argument]) -> Result<Arguments> {
        let verb = find(verb).unwrap();
        Arguments::read(verb.name, &verb.signature, given)
    }

    #[test]
    fn a_prompt_is_any_words_and_options_follow_it() {
        let read = |words: &[&str]| {
            let words: Vec<Argument> = words.iter().map(|word| (*word).into()).collect();
            super::tests::read("generate", &words)
                .map(|a| (a.text(0), a.count("tokens").unwrap_or(64), a.flags.len()))
                .map_err(|e| e.to_string())
        };
        let ok = |text: &str, limit, flags| Ok((text.to_owned(), limit, flags));
        assert_eq!(read(&["What is 12 plus 7?"]), ok("What is 12 plus 7?", 64, 0));
        assert_eq!(read(&["what", "is", "x=1", "tokens=5", "--all"]), ok("what is x=1", 5, 1));
        assert_eq!(read(&["--all", "what", "is", "tokens=5"]), ok("what is", 5, 1));
        assert_eq!(read(&["set", "tokens=5", "now", "--"]), ok("set tokens=5 now --", 64, 0));
        assert_eq!(read(&["--all"]), ok("--all", 64, 0));
        assert_eq!(read(&["tokens=5"]), ok("tokens=5", 64, 0));
        assert_eq!(read(&["--all", "tokens=5"]), ok("tokens=5", 64, 1));
        let quoted = &crate::syntax::statements("generate \"--x is what?\" tokens=5").unwrap()[0];
        let quoted = super::tests::read("generate", &quoted.arguments).unwrap();
        assert_eq!((quoted.text(0).as_str(), quoted.count("tokens")), ("--x is what?", Some(5)));
        assert_eq!(read(&["--", "what"]), ok("-- what", 64, 0));
        assert!(read(&["git", "push", "--force"]).unwrap_err().contains("`--force`"));
        assert!(read(&["a", "tokens=0"]).unwrap_err().contains("`0`"));
        assert!(read(&[]).unwrap_err().contains("prompt is missing"));
        assert!(read(&[""]).unwrap_err().contains("prompt is missing"));
    }

    #[test]
    fn options_stand_alone_where_a_prompt_may_be_missing() {
        let read = |line: &str| {
            let statement = &crate::syntax::statements(line).unwrap()[0];
            let read = super::tests::read(&statement.verb, &statement.arguments).unwrap();
            (read.word(0).map(str::to_owned), read.count("row"))
        };
        assert_eq!(read("trace row=3 of=math"), (None, Some(3)));
        assert_eq!(read("trace x=1 is row=3"), (Some("x=1 is".into()), Some(3)));
        assert_eq!(read("trace \"row=3\""), (Some("row=3".into()), None));
    }

    #[test]
    fn a_quoted_equals_sign_makes_a_path() {
        let words = |line: &str| {
            let statement = &crate::syntax::statements(line).unwrap()[0];
            let read = read(&statement.verb, &statement.arguments);
            read.map(|a| a.slots.concat().join(" ")).map_err(|e| e.to_string())
        };
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(words("bake \"o=p\" dtype=f16"), ok("./o=p"));
        assert_eq!(words("merge linear 'o2=p' dtype=f32"), ok("linear ./o2=p"));
        assert_eq!(words("load \"x=b\" m=\"x=b\" n='a b'"), ok("./x=b m=x=b n=a b"));
        assert_eq!(words("load x\"=\"b \"./c=d\""), ok("./x=b ./c=d"));
        // Elsewhere it stays as it is.
        assert_eq!(words("data \"m=a b\""), ok("m=a b"));
        assert_eq!(words("set \"lr=1\""), ok("lr=1"));
        assert_eq!(words("generate \"x=1\""), ok("x=1"));
        assert_eq!(words("save \"o=p\""), ok("o=p"));
        assert!(words("bake o=p").unwrap_err().contains("unknown key `o`"));
    }
}
