//! What `load` gives: the table of sources.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Table;
use super::numbers::{bytes, count};
use crate::checkpoint::MissingTokens;

shown_as_table!(Sources);

/// A path as it is shown: names of files need not be Unicode.
fn in_words<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// One loaded source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// What the user calls it.
    pub name: String,
    /// Its directory, or `builtin:NAME`.
    #[serde(serialize_with = "in_words")]
    pub path: PathBuf,
    /// Its family, as config.json names it.
    pub architecture: String,
    /// Decoder layers; none where the family cannot be run here, so that only static methods merge it.
    pub layers: Option<usize>,
    /// Features of a hidden state.
    pub width: Option<usize>,
    /// The number of weights.
    pub parameters: usize,
    /// Of most of its weights.
    pub dtype: String,
    /// The size of its weights.
    pub bytes: usize,
    /// Tensors of the file that no layer uses.
    pub unused: Vec<String>,
    /// Tensors of whole numbers or truth values, which no method merges: those of the first source are taken.
    pub copied: Vec<String>,
    /// Whether it is the base model.
    pub is_base: bool,
    /// Why it cannot be run here, where it cannot.
    pub obstacle: Option<String>,
    /// What a reader should know of it: `no tokenizer: ...`.
    pub notes: Vec<String>,
    /// Rows of the vocabulary that all sources are seen with.
    pub vocabulary: usize,
    /// What of it this source lacks and is given by others.
    pub lack: MissingTokens,
}

/// What `load` gives: every source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sources(pub Vec<SourceReport>);

impl Sources {
    fn table(&self) -> Table {
        let header = ["source", "family", "layers", "width", "parameters", "dtype", "size", "from"];
        let mut table = Table::new("", header);
        for s in &self.0 {
            table.rows.push(vec![
                s.name.clone(),
                s.architecture.clone(),
                s.layers.map_or("-".into(), |n| n.to_string()),
                s.width.map_or("-".into(), |n| n.to_string()),
                count(s.parameters),
                s.dtype.clone(),
                bytes(s.bytes as u64),
                s.path.display().to_string(),
            ]);
            if s.is_base {
                table.notes.push(format!("{} is the base model: it is not merged itself unless wrap base=on", s.name));
            }
            if let Some(obstacle) = &s.obstacle {
                table.notes.push(format!("{}: static methods only (merge linear), as {obstacle}", s.name));
            }
            if !s.copied.is_empty() {
                let copied = s.copied.join(", ");
                table.notes.push(format!("{}: not merged but copied from the first source: {copied}", s.name));
            }
            table.notes.extend(s.notes.iter().map(|note| format!("{}: {note}", s.name)));
            if s.lack != MissingTokens::default() {
                table.notes.push(lacks(s));
            }
            if !s.unused.is_empty() {
                table.notes.push(format!("not used of {}: {}", s.name, s.unused.join(", ")));
            }
        }
        table
    }
}

/// What a source lacks of the vocabulary, in words.
fn lacks(source: &SourceReport) -> String {
    let MissingTokens { tokens, padding, examples, from } = &source.lack;
    let more = if *tokens > examples.len() { ", ..." } else { "" };
    let plural = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{} {what}s", count(n)) };
    let tokens = (*tokens > 0).then(|| format!("{} ({}{more})", plural(*tokens, "token"), examples.join(" ")));
    let padding = (*padding > 0).then(|| format!("{} of padding", plural(*padding, "row")));
    let what = [tokens, padding].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    format!("{} lacks {what}, given by {}; tokens are matched by their text", source.name, from.join(" and "))
}
