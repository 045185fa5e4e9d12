//! The base's tensor that an adapter's name means.

use std::collections::BTreeMap;

use super::super::view::View;

/// Prefixes that versions of transformers, and checkpoints saved without their head, have in place of each other.
const SAME: [(&str, &str); 8] = [
    ("", "model."),
    ("model.", ""),
    ("", "transformer."),
    ("transformer.", ""),
    ("language_model.model.", "model.language_model."),
    ("model.language_model.", "language_model.model."),
    ("language_model.lm_head", "lm_head"),
    ("lm_head", "language_model.lm_head"),
];

/// Part of the names of a text model that belongs to a multimodal one.
const INSIDE: &str = "language_model.";

/// The name among `tensors` that `name` means: itself, or with a prefix that says the same.
pub(super) fn resolve(tensors: &BTreeMap<String, View>, name: &str) -> Option<String> {
    if tensors.contains_key(name) {
        return Some(name.to_owned());
    }
    let others = SAME.iter().filter_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
    others.into_iter().find(|other| tensors.contains_key(other))
}

/// What sets the names of an adapter apart from those of the base, where one of them is multimodal.
pub(super) fn mismatch(tensors: &BTreeMap<String, View>, name: &str) -> Option<&'static str> {
    let base = tensors.keys().any(|name| name.contains(INSIDE));
    match (name.contains(INSIDE), base) {
        (true, false) => Some("it was trained on a multimodal model, and the base is a text model"),
        (false, true) => Some("it was trained on a text model, and the base is a multimodal one"),
        _ => None,
    }
}
