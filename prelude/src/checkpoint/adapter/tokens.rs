//! Trainable tokens: rows of a few tokens that take the place of the base's.

use std::sync::Arc;

use super::Adapter;
use super::apply::{SAVED_WITH, floats};
use super::base::Base;
use super::change::{Change, Rows};
use super::config::{MERGE_IT, Tokens};
use super::pattern::is_end;
use crate::error::Result;

impl Adapter {
    /// Puts the rows of single tokens in their places.
    pub(super) fn put_tokens(&self, base: &mut Base<'_>, was_tied: bool) -> Result<()> {
        let key = if self.parts.low_rank.is_empty() { "token_indices" } else { "trainable_token_indices" };
        let bad = |reason: String| self.config.refused(key, reason, SAVED_WITH);
        let mut done = Vec::new();
        for (module, view) in &self.parts.tokens {
            let ids = match &self.config.tokens {
                Tokens::None => return Err(bad(format!("`{module}` has rows of tokens, and their ids are missing"))),
                Tokens::Of(ids) => ids,
                Tokens::ByModule(modules) => {
                    let found = modules.iter().find(|(name, _)| is_end(module, name));
                    &found.ok_or_else(|| bad(format!("the ids of the tokens of `{module}` are missing")))?.1
                }
            };
            let weight = self.find(base, &format!("{module}.weight"))?;
            let &[rows, columns] = base.tensors[&weight].shape.as_slice() else {
                return Err(bad(format!("`{weight}` has no rows")));
            };
            if view.shape != [ids.len(), columns] {
                let count = ids.len();
                return Err(bad(format!(
                    "it names {count} tokens of {columns} features, and the file has {:?} for `{module}`",
                    view.shape
                )));
            }
            if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
                let hint = format!(
                    "its training resized the vocabulary: resize and save the base first (resize_token_embeddings({}))",
                    id + 1
                );
                return Err(self.config.refused(key, format!("the token `{id}` is beyond the {rows} rows of `{weight}`"), hint));
            }
            if self.acts_on(base, &weight) {
                return Err(self.config.refused(key, format!("`{module}` has a low-rank part too"), MERGE_IT));
            }
            view.check_finite(&format!("{module}.trainable_tokens_delta"))?;
            let values: Vec<f32> = floats(view)?.flatten_all()?.to_vec1()?;
            let mut order: Vec<usize> = (0..ids.len()).collect();
            order.sort_by_key(|at| ids[*at]);
            if order.windows(2).any(|w| ids[w[0]] == ids[w[1]]) {
                return Err(bad("a token is there twice".into()));
            }
            let numbers = order.iter().map(|at| ids[*at]).collect();
            let values = order.iter().flat_map(|at| &values[at * columns..][..columns]).copied().collect();
            done.push((weight, Arc::new(Change::Rows(Rows { numbers, columns, values }))));
        }
        // A tied output layer follows the embedding, unless it has tokens of its own.
        let embedding = base.embedding.clone().unwrap_or_default();
        let has_own = done.iter().any(|(weight, _)| *weight == base.output);
        let follows = done.iter().find(|(weight, _)| was_tied && !has_own && *weight == embedding);
        let follows = follows.map(|(_, change)| (base.output.clone(), change.clone()));
        for (weight, change) in follows.into_iter().chain(done) {
            base.tensors.entry(weight).and_modify(|view| view.deltas.push(change));
        }
        Ok(())
    }
}
