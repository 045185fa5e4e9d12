//! The result of `load`: the table of sources.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::numbers::{bytes, count};
use super::table::Table;
use crate::checkpoint::MissingTokens;

shown_as_table!(Sources);

/// Serialises a path as displayed, because file names need not be Unicode.
fn serialize_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// One loaded source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// The name.
    pub name: String,
    /// The directory, or `builtin:NAME`.
    #[serde(serialize_with = "serialize_path")]
    pub path: PathBuf,
    /// The family, as in config.json.
    pub architecture: String,
    /// The number of decoder layers; `None` if the family cannot be run, so that only static
    /// methods can merge it.
    pub layers: Option<usize>,
    /// The hidden size.
    pub width: Option<usize>,
    /// The number of weights.
    pub parameters: usize,
    /// The dtype of most weights.
    pub dtype: String,
    /// The size of the weights in bytes.
    pub bytes: usize,
    /// Tensors in the file that no layer uses.
    pub unused: Vec<String>,
    /// Integer and boolean tensors, which are not merged: the merge copies those of the first
    /// source.
    pub copied: Vec<String>,
    /// Whether it is the base model.
    pub is_base: bool,
    /// The reason it cannot be run, if it cannot.
    pub obstacle: Option<String>,
    /// Notes for the user, such as `no tokenizer: ...`.
    pub notes: Vec<String>,
    /// The number of rows of the common vocabulary.
    pub vocabulary: usize,
    /// The part of the common vocabulary that this source lacks.
    pub lack: MissingTokens,
}

/// The result of `load`: all sources.
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
                table.notes.push(format!(
                    "{} is the base model: not merged unless you wrap with base=on",
                    s.name
                ));
            }
            if let Some(obstacle) = &s.obstacle {
                table.notes.push(format!(
                    "{}: static methods only (such as merge linear), because {obstacle}",
                    s.name
                ));
            }
            if !s.copied.is_empty() {
                let copied = s.copied.join(", ");
                table.notes.push(format!(
                    "{}: copied from the first source, not merged: {copied}",
                    s.name
                ));
            }
            table.notes.extend(s.notes.iter().map(|note| format!("{}: {note}", s.name)));
            if s.lack != MissingTokens::default() {
                table.notes.push(lacks(s));
            }
            if !s.unused.is_empty() {
                table.notes.push(format!("unused tensors of {}: {}", s.name, s.unused.join(", ")));
            }
        }
        table
    }
}

/// Describes the part of the vocabulary that a source lacks.
fn lacks(source: &SourceReport) -> String {
    let MissingTokens { tokens, padding, examples, from } = &source.lack;
    let more = if *tokens > examples.len() { ", ..." } else { "" };
    let plural = |n: usize, what: &str| {
        if n == 1 { format!("1 {what}") } else { format!("{} {what}s", count(n)) }
    };
    let tokens = (*tokens > 0)
        .then(|| format!("{} ({}{more})", plural(*tokens, "token"), examples.join(" ")));
    let padding = (*padding > 0).then(|| format!("{} of padding", plural(*padding, "row")));
    let what = [tokens, padding].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    format!(
        "{} lacks {what}, present in {}; tokens are matched by their text",
        source.name,
        from.join(" and ")
    )
}
