//! The syntax of a line of verbs: words, statements, and the word at the cursor. It knows no verb.

mod cursor;
mod statement;
mod words;

pub(crate) use cursor::Cursor;
pub use statement::{Argument, Statement, is_complete, line, pair, statements};
pub use words::{Piece, Unclosed, Word, pieces, quoted};
