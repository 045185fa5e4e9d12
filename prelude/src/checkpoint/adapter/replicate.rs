//! `layer_replication`: stacks the base's layers in a new order, some more than once, each copy
//! with its own adapter part.

use std::collections::BTreeMap;

use serde_json::json;

use super::Adapter;
use super::base::Base;
use crate::checkpoint::config::move_layers;
use crate::checkpoint::storage::View;
use crate::error::Result;

const KEY: &str = "layer_replication";
const LAYERS: &str = "model.layers.";

/// The maximum number of layers of the result.
const MAX_LAYERS: usize = 4096;

/// Restacks the layers of `base` according to `adapter`.
///
/// # Errors
/// Layers that the base lacks, too many layers, or a family with other layer names.
pub(super) fn replicate(adapter: &Adapter, base: &mut Base<'_>) -> Result<()> {
    if adapter.config.layers.is_empty() {
        return Ok(());
    }
    let key_error = |reason: String| adapter.config.key_error(KEY, reason, adapter.base_hint());
    let number = |name: &str| -> Option<(usize, String)> {
        let (number, rest) = name.strip_prefix(LAYERS)?.split_once('.')?;
        Some((number.parse().ok()?, rest.to_owned()))
    };
    let count = base
        .tensors
        .keys()
        .filter_map(|name| number(name))
        .map(|(layer, _)| layer + 1)
        .max()
        .unwrap_or(0);
    let bad = |(from, to): &&(usize, usize)| from >= to || *to > count;
    if let Some((from, to)) = adapter.config.layers.iter().find(bad) {
        return Err(key_error(format!(
            "layers {from} to {to} are not among the base's {count} layers `{LAYERS}*`"
        )));
    }
    let total: usize = adapter.config.layers.iter().map(|(from, to)| to - from).sum();
    if total > MAX_LAYERS {
        return Err(key_error(format!("it would create {total} layers, more than {MAX_LAYERS}")));
    }
    let layers: Vec<usize> =
        adapter.config.layers.iter().flat_map(|(from, to)| *from..*to).collect();
    let old = std::mem::take(base.tensors);
    let mut inside: BTreeMap<usize, Vec<(String, View)>> = BTreeMap::new();
    for (name, view) in old {
        match number(&name) {
            Some((layer, rest)) => inside.entry(layer).or_default().push((rest, view)),
            None => drop(base.tensors.insert(name, view)),
        }
    }
    for (new, layer) in layers.iter().enumerate() {
        let tensors = inside.get(layer).into_iter().flatten();
        base.tensors
            .extend(tensors.map(|(rest, view)| (format!("{LAYERS}{new}.{rest}"), view.clone())));
    }
    base.edit(|config| {
        move_layers(config, &layers, count);
        config.insert("num_hidden_layers".into(), json!(layers.len()));
    })
}
