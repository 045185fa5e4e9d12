//! Trainable tokens: individual rows that replace the base's.

use std::sync::Arc;

use super::Adapter;
use super::apply::{MATCHING_CONFIG_HINT, floats};
use super::base::Base;
use super::config::{MERGE_HINT, Tokens};
use super::pattern::is_suffix;
use crate::checkpoint::storage::{Change, Rows};
use crate::error::Result;

impl Adapter {
    /// Replaces the rows of trained tokens.
    pub(super) fn put_tokens(&self, base: &mut Base<'_>, was_tied: bool) -> Result<()> {
        let key = if self.parts.low_rank.is_empty() {
            "token_indices"
        } else {
            "trainable_token_indices"
        };
        let bad = |reason: String| self.config.key_error(key, reason, MATCHING_CONFIG_HINT);
        let mut done = Vec::new();
        for (module, view) in &self.parts.tokens {
            let ids = match &self.config.tokens {
                Tokens::None => {
                    return Err(bad(format!("`{module}` has token rows but no token ids")));
                }
                Tokens::OfEmbedding(ids) => ids,
                Tokens::ByModule(modules) => {
                    let found = modules.iter().find(|(name, _)| is_suffix(module, name));
                    &found.ok_or_else(|| bad(format!("the token ids of `{module}` are missing")))?.1
                }
            };
            let weight = self.find(base, &format!("{module}.weight"))?;
            let &[rows, columns] = base.tensors[&weight].shape.as_slice() else {
                return Err(bad(format!("`{weight}` has no rows")));
            };
            if view.shape != [ids.len(), columns] {
                let count = ids.len();
                return Err(bad(format!(
                    "it lists {count} tokens of {columns} features, but the weight file has {:?} for `{module}`",
                    view.shape
                )));
            }
            if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
                let hint = format!(
                    "training resized the vocabulary: resize and save the base first (resize_token_embeddings({}))",
                    id + 1
                );
                return Err(self.config.key_error(
                    key,
                    format!("the token `{id}` is outside the {rows} rows of `{weight}`"),
                    hint,
                ));
            }
            if self.has_part_for(base, &weight) {
                return Err(self.config.key_error(
                    key,
                    format!("`{module}` also has a low-rank part"),
                    MERGE_HINT,
                ));
            }
            view.check_finite(&format!("{module}.trainable_tokens_delta"))?;
            let values: Vec<f32> = floats(view)?.flatten_all()?.to_vec1()?;
            let mut order: Vec<usize> = (0..ids.len()).collect();
            order.sort_by_key(|at| ids[*at]);
            if order.windows(2).any(|w| ids[w[0]] == ids[w[1]]) {
                return Err(bad("a token appears twice".into()));
            }
            let numbers = order.iter().map(|at| ids[*at]).collect();
            let values =
                order.iter().flat_map(|at| &values[at * columns..][..columns]).copied().collect();
            done.push((weight, Arc::new(Change::Rows(Rows { numbers, columns, values }))));
        }
        // A tied output layer uses the embedding's tokens unless it has its own.
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
