//! How a source is seen in a token numbering other than its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::storage::View;
use crate::checkpoint::tokenizer::BoundedTokenizer;

/// The row of a token that a recipe's tokenizer leaves out.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// How the rows of one source map to the shared numbering.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbering {
    /// The shared row of each of its own rows, or [`NO_ROW`].
    pub row_map: Vec<u32>,
    /// Shared rows that it lacks, in order.
    pub missing_rows: Vec<u32>,
    /// A summary of the missing rows.
    pub missing_tokens: MissingTokens,
    /// Whether the numbering, and with it the tokenizer of a merge, is its own.
    pub is_reference: bool,
}

/// The parts of a merge's vocabulary that a source lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MissingTokens {
    /// The number of missing tokens.
    pub tokens: usize,
    /// The number of rows without a known token: padding.
    pub padding: usize,
    /// Some of the missing tokens.
    pub examples: Vec<String>,
    /// The sources that provide the rows.
    pub from: Vec<String>,
}

/// A source in the shared numbering.
pub(crate) struct Renumbered {
    pub numbering: Numbering,
    /// The number of rows of the numbering.
    pub rows: usize,
    /// Its vocabulary tensors in the shared numbering.
    pub views: BTreeMap<String, View>,
    /// The extended tokenizer and its file, for a reference that lacked tokens.
    pub extended: Option<(Arc<BoundedTokenizer>, Vec<u8>)>,
}
