//! What the file of a verb needs.

pub(super) use super::arguments::Arguments;
pub(super) use super::kind::{Kind, NewFile, Words, plain};
pub(super) use super::reply::Reply;
pub(super) use super::signature::{More, Opt, Signature, any, one, option, optional, some};
pub(super) use super::verb::{AtPrompt, Command, Verb};
pub(super) use crate::Result;
pub(super) use crate::error::refuse;
pub(super) use crate::export::{Code, call, changed, differing, fields, strings};
pub(super) use crate::syntax::Statement;
pub(super) use crate::timeline::{Context, Latest, Rebuild};
