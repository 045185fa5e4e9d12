//! Adapters that are relative to a changed base: PiSSA and OLoRA.
//!
//! PiSSA (arXiv 2404.02948) moves the principal part of a weight into the adapter and leaves `W -
//! top_r(W)`. OLoRA (arXiv 2406.01775) takes `W = Q R`, moves the first `r` columns of `Q` and rows
//! of `R`, and leaves `W - s Q_r R_r`, where `s` is the adapter's scale. Both are low-rank terms,
//! so only their factors are kept in memory. The base is taken as stored, in f32. PEFT computes
//! `pissa_niter_N` with a new random decomposition at each load; here it is exact. On random
//! matrices of 16 x 16 and 24 x 16 (rank 4, 4 iterations) two loads in PEFT, and PEFT and this
//! library, differ by up to 0.5, where the weights' spread is 0.3.

use std::sync::Arc;

use rayon::prelude::*;

use super::Adapter;
use super::base::Base;
use super::config::{Init, MERGE_HINT};
use crate::checkpoint::storage::View;
use crate::checkpoint::storage::{Change, LowRank};
use crate::error::{Error, Result};
use crate::factor::{Rows, leading_columns, principal};
use crate::interrupt;
use crate::vectorised::vectorised;

/// A low-rank part whose weight was changed before training: module, weight and rank.
pub(super) type Job<'a> = (&'a str, String, usize);

/// The parts that training removed from the weights of `jobs`, by weight name.
///
/// # Errors
/// Weights that are not finite, unsupported layers, or a stop.
pub(super) fn changes(
    adapter: &Adapter,
    base: &Base<'_>,
    jobs: &[Job<'_>],
    is_transposed: impl Fn(&str) -> bool + Sync,
) -> Result<Vec<(String, Arc<Change>)>> {
    if adapter.config.init == Init::Plain {
        return Ok(Vec::new());
    }
    let change = |(module, weight, rank): &Job<'_>| {
        interrupt::check()?;
        let view = &base.tensors[weight];
        view.check_finite(weight)?;
        let scale = match adapter.config.init {
            Init::LeadingColumns if is_transposed(weight) => {
                let reason =
                    format!("`olora` does not support `{module}`, which is stored transposed");
                return Err(adapter.config.key_error("init_lora_weights", reason, MERGE_HINT));
            }
            Init::LeadingColumns => adapter.config.scale(module, *rank)?,
            _ => 1.0,
        };
        let term =
            removed_part(view, adapter.config.init, *rank, scale as f32).ok_or_else(|| {
                Error::BadTensor {
                    tensor: weight.clone(),
                    reason: "its singular values could not be computed".into(),
                }
            })?;
        view.release();
        Ok((weight.clone(), Arc::new(Change::Add(term))))
    };
    jobs.par_iter().map(change).collect()
}

/// `-scale` times the part that was removed from `view`.
fn removed_part(view: &View, init: Init, rank: usize, scale: f32) -> Option<LowRank> {
    let &[rows, columns] = view.shape.as_slice() else { return None };
    let read = |row: usize, into: &mut [f32]| {
        vectorised(
            #[inline(always)]
            || view.read(row * columns, into),
        )
    };
    let matrix = Rows { rows, columns, read: &read };
    let mut factors = match init {
        Init::LeadingColumns => leading_columns(&matrix, rank),
        _ => principal(&matrix, rank)?,
    };
    factors.left.iter_mut().for_each(|x| *x *= -scale);
    Some(LowRank { rank: factors.rank, columns, b: factors.left, a: factors.right })
}
