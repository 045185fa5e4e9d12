//! Maps an adapter's tensor names to the base's.

use std::collections::BTreeMap;

use crate::checkpoint::storage::View;

/// Prefixes that differ between versions of transformers and checkpoints saved without their head.
const EQUIVALENT_PREFIXES: [(&str, &str); 8] = [
    ("", "model."),
    ("model.", ""),
    ("", "transformer."),
    ("transformer.", ""),
    ("language_model.model.", "model.language_model."),
    ("model.language_model.", "language_model.model."),
    ("language_model.lm_head", "lm_head"),
    ("lm_head", "language_model.lm_head"),
];

/// The part of a name that marks the text model of a multimodal model.
const TEXT_MODEL: &str = "language_model.";

/// The name in `tensors` that `name` refers to: itself, or with an equivalent prefix.
pub(super) fn resolve(tensors: &BTreeMap<String, View>, name: &str) -> Option<String> {
    if tensors.contains_key(name) {
        return Some(name.to_owned());
    }
    let others = EQUIVALENT_PREFIXES
        .iter()
        .filter_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    others.into_iter().find(|other| tensors.contains_key(other))
}

/// How the adapter's names differ from the base's if only one of them is multimodal.
pub(super) fn mismatch(tensors: &BTreeMap<String, View>, name: &str) -> Option<&'static str> {
    let base = tensors.keys().any(|name| name.contains(TEXT_MODEL));
    match (name.contains(TEXT_MODEL), base) {
        (true, false) => Some("it was trained on a multimodal model, but the base is a text model"),
        (false, true) => Some("it was trained on a text model, but the base is a multimodal model"),
        _ => None,
    }
}
