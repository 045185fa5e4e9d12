//! What verbs share in reading their arguments.

use std::ops::Range;

use crate::Error;
use crate::Result;

use super::context::refuse;

/// Arguments sorted into plain words, `KEY=VALUE` pairs and `--flags`.
pub struct Arguments<'a> {
    pub words: Vec<&'a str>,
    pub pairs: Vec<(&'a str, &'a str)>,
    pub flags: Vec<&'a str>,
}

impl<'a> Arguments<'a> {
    /// Sorts `arguments`; only `keys` and `flags` are known.
    ///
    /// # Errors
    /// An unknown key or flag, with the nearest.
    pub fn read(arguments: &'a [String], keys: &[&str], flags: &[&str]) -> Result<Self> {
        let mut sorted = Self { words: Vec::new(), pairs: Vec::new(), flags: Vec::new() };
        for argument in arguments {
            if argument.starts_with("--") {
                if !flags.contains(&argument.as_str()) {
                    if flags.is_empty() {
                        return refuse(
                            format!("unknown flag `{argument}`"),
                            "this verb has no flags",
                        );
                    }
                    return Err(Error::unknown("flag", argument, flags.iter().copied()));
                }
                sorted.flags.push(argument);
                continue;
            }
            match pair(argument) {
                Some((key, _)) if sorted.pairs.iter().any(|(known, _)| *known == key) => {
                    return refuse(format!("`{key}` is given twice"), "give it once");
                }
                Some((key, value)) if keys.contains(&key) => sorted.pairs.push((key, value)),
                Some((key, _)) if !keys.is_empty() => {
                    return Err(Error::unknown("key", key, keys.iter().copied()));
                }
                _ => sorted.words.push(argument),
            }
        }
        Ok(sorted)
    }

    /// Whether `--force` was given.
    pub fn force(&self) -> bool {
        self.flags.contains(&"--force")
    }

    /// The only word.
    ///
    /// # Errors
    /// None, or more than one.
    pub fn word(&self, usage: &str) -> Result<&'a str> {
        match self.words.as_slice() {
            [word] if !word.is_empty() => Ok(word),
            [] | [_] => refuse("an argument is missing", format!("usage: {usage}")),
            _ => refuse("too many arguments", format!("usage: {usage}")),
        }
    }

    /// The only word, or none.
    ///
    /// # Errors
    /// More than one.
    pub fn optional(&self, usage: &str) -> Result<Option<&'a str>> {
        if self.words.is_empty() { Ok(None) } else { self.word(usage).map(Some) }
    }
}

/// What a model is asked.
#[derive(Debug, PartialEq)]
pub struct Prompt<'a> {
    pub text: String,
    /// Tokens of an answer at most.
    pub limit: usize,
    pub flags: Vec<&'a str>,
}

impl<'a> Prompt<'a> {
    /// Which of the words of a line are the prompt, quoted or not: flags may stand before and
    /// behind it, `tokens=N` behind it. One word alone is always the prompt, whatever it looks
    /// like.
    pub fn text(words: &[impl AsRef<str>]) -> Range<usize> {
        let is_flag = |word: &str| word.len() > 2 && word.starts_with("--");
        let is_option = |word: &str| is_flag(word) || word.starts_with("tokens=");
        let most = words.len().saturating_sub(1);
        let begin = words[..most].iter().take_while(|word| is_flag(word.as_ref())).count();
        let behind =
            words.iter().skip(begin + 1).rev().take_while(|word| is_option(word.as_ref())).count();
        begin..words.len() - behind
    }

    /// Reads `arguments`: a [prompt](Self::text), with `flags` and `tokens=N`.
    ///
    /// # Errors
    /// No prompt, an unknown flag, or a `tokens` that is no count.
    pub fn read(arguments: &'a [String], usage: &str, flags: &[&str]) -> Result<Self> {
        let text = Self::text(arguments);
        let (before, behind) = (&arguments[..text.start], &arguments[text.end..]);
        let mut found = Self { text: arguments[text].join(" "), limit: 64, flags: Vec::new() };
        for word in before.iter().chain(behind) {
            match word.strip_prefix("tokens=") {
                Some(limit) => found.limit = count("tokens", limit)?,
                None => found.flags.push(word),
            }
        }
        if let Some(flag) = found.flags.iter().find(|flag| !flags.contains(flag)) {
            return refuse(
                format!("unknown flag `{flag}`"),
                format!("quote the prompt; usage: {usage}"),
            );
        }
        match found.text.is_empty() {
            true => refuse("the prompt is missing", format!("usage: {usage}")),
            false => Ok(found),
        }
    }
}

/// `KEY=VALUE` in two. A path may hold a `=`: only a plain key before it makes a pair.
pub fn pair(argument: &str) -> Option<(&str, &str)> {
    argument
        .split_once('=')
        .filter(|(key, _)| key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-'))
}

/// `path` with a leading `~/` as the home directory, which no shell has put in its place here.
pub fn at_home(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => path.to_owned(),
    }
}

/// Whether a word names a mergekit recipe.
pub fn is_recipe(word: &str) -> bool {
    [".yml", ".yaml"].iter().any(|end| word.to_lowercase().ends_with(end))
}

/// A file that is to be written when the work is done, known before it begins to be free.
///
/// # Errors
/// Where something is there.
pub fn free(file: &str) -> Result<String> {
    let file = at_home(file);
    match std::fs::symlink_metadata(&file).is_ok() {
        true => Err(Error::Exists { path: file.into() }),
        false => Ok(file),
    }
}

/// [`at_home`] of `[NAME=]PATH`.
pub fn source_at_home(spec: &str) -> String {
    let (name, places) = match spec.split_once('=') {
        Some((name, path)) if path.starts_with("~/") => (format!("{name}="), path),
        _ => (String::new(), spec),
    };
    let places: Vec<String> = places.split('+').map(at_home).collect();
    name + &places.join("+")
}

/// A count of at least 1.
///
/// # Errors
/// Anything else.
pub fn count(what: &str, text: &str) -> Result<usize> {
    let n = text.parse().ok().filter(|n| (1..=1_000_000_000).contains(n));
    n.ok_or_else(|| Error::bad_value(what, text, "an integer of at least 1"))
}

/// A size such as `5GB` or `100MB`.
///
/// # Errors
/// Anything else.
pub fn bytes(key: &str, text: &str) -> Result<u64> {
    let units = [("KB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1)];
    let size = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor).filter(|n| *n > 0)
    });
    size.ok_or_else(|| Error::bad_value(key, text, "a size such as 5GB or 500MB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_any_words_and_what_is_behind_them_is_not() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            Prompt::read(&words, "generate", &["--all"])
                .map(|p| (p.text, p.limit, p.flags.len()))
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
        assert!(read(&["git", "push", "--force"]).unwrap_err().contains("`--force`"));
        assert!(read(&["a", "tokens=0"]).unwrap_err().contains("`0`"));
        assert!(
            read(&[]).unwrap_err().contains("prompt is missing")
                && read(&[""]).unwrap_err().contains("prompt is missing")
        );
    }
}
