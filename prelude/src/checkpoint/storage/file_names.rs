//! The names of the files of a checkpoint and of an adapter.

/// The weight files of a checkpoint, a single file or an index; the first one present is used.
pub(crate) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Whether a name of [`WEIGHTS`] is an index.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(".index.json")
}

/// The file that makes a directory an adapter.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";

/// The names of an adapter's weight file, the preferred one first.
pub(crate) const ADAPTER_WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// The file that makes a tokenizer, its settings, and its chat template.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_SETTINGS: &str = "tokenizer_config.json";
pub(crate) const TEMPLATE: &str = "chat_template.jinja";

/// The files of a tokenizer and its chat template.
pub(crate) const TOKENIZER_FILES: [&str; 8] = [
    TOKENIZER,
    TOKENIZER_SETTINGS,
    TEMPLATE,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];
