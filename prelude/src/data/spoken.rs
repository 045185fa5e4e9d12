//! Text from tokens as they come. A token may end within a character, whose bytes are then waited for.

use tokenizers::Tokenizer;

use crate::checkpoint::{Source, tokenizing};
use crate::error::{Error, Result};

/// An answer on its way, without special tokens.
pub(crate) struct Spoken<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    /// Its tokens so far.
    ids: Vec<u32>,
    /// The tokens from here to `read` have their text already; what follows is read beside them, as a tokenizer
    /// may write a token otherwise at the begin.
    from: usize,
    read: usize,
    text: String,
    /// What of the text each token completed.
    parts: Vec<String>,
}

impl<'a> Spoken<'a> {
    /// Nothing yet, to be read with the tokenizer of `source`.
    ///
    /// # Errors
    /// A source without one.
    pub fn new(source: &'a Source) -> Result<Self> {
        let tokenizer = source.tokenizer().ok_or_else(|| Error::Sources {
            what: format!("`{}` has no tokenizer, so no text can be generated", source.name()),
            hint: "put tokenizer.json beside the weights",
        })?;
        Ok(Self { source, tokenizer, ids: Vec::new(), from: 0, read: 0, text: String::new(), parts: Vec::new() })
    }

    /// The next token.
    ///
    /// # Errors
    /// A tokenizer that contradicts itself.
    pub fn push(&mut self, id: u32) -> Result<()> {
        self.ids.push(id);
        let known = self.decode(self.from..self.read)?;
        let all = self.decode(self.from..self.ids.len())?;
        let part = match all.strip_prefix(known.as_str()) {
            Some(part) if !part.ends_with(char::REPLACEMENT_CHARACTER) => {
                (self.from, self.read) = (self.read, self.ids.len());
                part.to_owned()
            }
            _ => String::new(),
        };
        self.text.push_str(&part);
        self.parts.push(part);
        Ok(())
    }

    /// Its tokens so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The whole characters so far.
    pub fn so_far(&self) -> &str {
        &self.text
    }

    /// All of it, and what each token completed of it; a character that was never completed is in the last.
    ///
    /// # Errors
    /// A tokenizer that contradicts itself.
    pub fn finish(mut self) -> Result<(String, Vec<String>)> {
        let whole = self.decode(0..self.ids.len())?;
        if let (Some(rest), Some(last)) = (whole.strip_prefix(self.text.as_str()), self.parts.last_mut()) {
            last.push_str(rest);
        }
        Ok((whole, self.parts))
    }

    fn decode(&self, range: std::ops::Range<usize>) -> Result<String> {
        let file = self.source.path().join("tokenizer.json");
        tokenizing(&file, || self.tokenizer.decode(&self.ids[range], true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The built-in models have few Japanese characters as tokens, so that most are several tokens of their bytes.
    #[test]
    fn characters_come_whole_whatever_their_tokens() {
        let source = Source::open("builtin:japanese").unwrap();
        for text in ["十二足す七は十九です。", "a 猫🐈\u{200d}⬛ é\n b", "", "\u{fffd}x", "龍"] {
            let ids = source.tokenizer().unwrap().encode(text, false).unwrap().get_ids().to_vec();
            let mut spoken = Spoken::new(&source).unwrap();
            for id in &ids {
                spoken.push(*id).unwrap();
                assert!(text.starts_with(spoken.so_far()), "{}", spoken.so_far());
            }
            let (whole, parts) = spoken.finish().unwrap();
            assert_eq!((whole.as_str(), parts.concat().as_str(), parts.len()), (text, text, ids.len()));
        }
    }

    #[test]
    fn a_character_cut_off_is_seen_only_at_the_end() {
        let source = Source::open("builtin:japanese").unwrap();
        let ids = source.tokenizer().unwrap().encode("a龍", false).unwrap().get_ids().to_vec();
        let mut spoken = Spoken::new(&source).unwrap();
        ids[..ids.len() - 1].iter().for_each(|id| spoken.push(*id).unwrap());
        assert_eq!(spoken.so_far(), "a");
        let (whole, parts) = spoken.finish().unwrap();
        assert!(whole.starts_with('a') && whole.ends_with('\u{fffd}') && parts.concat() == whole, "{whole} {parts:?}");
    }
}
