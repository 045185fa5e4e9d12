//! Decodes tokens to text as they are generated. If a token ends within a character, the text waits
//! for the rest of it.

use tokenizers::Tokenizer;

use crate::checkpoint::{Source, guard_tokenizer};
use crate::error::{Error, Result};

/// Decodes the tokens of an answer one by one, without special tokens.
pub(crate) struct StreamDecoder<'a> {
    source: &'a Source,
    tokenizer: &'a Tokenizer,
    /// The tokens so far.
    ids: Vec<u32>,
    /// Tokens `from..read` are already decoded and give context to those that follow, because a
    /// tokenizer may decode the first token of a text differently.
    from: usize,
    read: usize,
    text: String,
    /// The text that each token completed.
    parts: Vec<String>,
}

impl<'a> StreamDecoder<'a> {
    /// An empty decoder for the tokenizer of `source`.
    ///
    /// # Errors
    /// A source without a tokenizer.
    pub fn new(source: &'a Source) -> Result<Self> {
        let tokenizer = source.tokenizer().ok_or_else(|| Error::Sources {
            what: format!("cannot generate text: `{}` has no tokenizer", source.name()),
            hint: "put tokenizer.json next to the weights",
        })?;
        Ok(Self {
            source,
            tokenizer,
            ids: Vec::new(),
            from: 0,
            read: 0,
            text: String::new(),
            parts: Vec::new(),
        })
    }

    /// Adds the next token.
    ///
    /// # Errors
    /// A tokenizer with inconsistent contents.
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

    /// The tokens so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The complete characters so far.
    pub fn text_so_far(&self) -> &str {
        &self.text
    }

    /// Returns the whole text and the text that each token completed; an incomplete character
    /// belongs to the last token.
    ///
    /// # Errors
    /// A tokenizer with inconsistent contents.
    pub fn finish(mut self) -> Result<(String, Vec<String>)> {
        let whole = self.decode(0..self.ids.len())?;
        if let (Some(rest), Some(last)) =
            (whole.strip_prefix(self.text.as_str()), self.parts.last_mut())
        {
            last.push_str(rest);
        }
        Ok((whole, self.parts))
    }

    fn decode(&self, range: std::ops::Range<usize>) -> Result<String> {
        let file = self.source.path().join("tokenizer.json");
        guard_tokenizer(&file, || self.tokenizer.decode(&self.ids[range], true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The built-in models have few Japanese characters as tokens; most take several byte tokens.
    #[test]
    fn only_complete_characters_are_returned() {
        let source = Source::open("builtin:japanese").unwrap();
        for text in ["十二足す七は十九です。", "a 猫🐈\u{200d}⬛ é\n b", "", "\u{fffd}x", "龍"]
        {
            let ids = source.tokenizer().unwrap().encode(text, false).unwrap().get_ids().to_vec();
            let mut decoder = StreamDecoder::new(&source).unwrap();
            for id in &ids {
                decoder.push(*id).unwrap();
                assert!(text.starts_with(decoder.text_so_far()), "{}", decoder.text_so_far());
            }
            let (whole, parts) = decoder.finish().unwrap();
            assert_eq!(
                (whole.as_str(), parts.concat().as_str(), parts.len()),
                (text, text, ids.len())
            );
        }
    }

    #[test]
    fn an_incomplete_character_appears_only_at_the_end() {
        let source = Source::open("builtin:japanese").unwrap();
        let ids = source.tokenizer().unwrap().encode("a龍", false).unwrap().get_ids().to_vec();
        let mut decoder = StreamDecoder::new(&source).unwrap();
        ids[..ids.len() - 1].iter().for_each(|id| decoder.push(*id).unwrap());
        assert_eq!(decoder.text_so_far(), "a");
        let (whole, parts) = decoder.finish().unwrap();
        assert!(
            whole.starts_with('a') && whole.ends_with('\u{fffd}') && parts.concat() == whole,
            "{whole} {parts:?}"
        );
    }
}
