//! Remedies that depend on which file, key or tensor is wrong.

use std::path::Path;

/// Whether `file` belongs to an adapter.
fn is_adapter(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter_"))
}

fn is_named(file: &Path, name: &str) -> bool {
    file.file_name().is_some_and(|own| own == name)
}

/// What to do about a directory that lacks `file`.
pub(super) fn missing_file(file: &str) -> &'static str {
    if is_adapter(Path::new(file)) {
        "an adapter is a directory with adapter_config.json and adapter_model.safetensors, as PEFT saves it"
    } else if file.ends_with(".safetensors") && file.starts_with("model-") {
        "download the weights again: one of their files is missing"
    } else {
        "a model is a directory with config.json and *.safetensors"
    }
}

/// What to do about a file that is no JSON, or not what it should be.
pub(super) fn json(file: &Path) -> &'static str {
    let read = ["config.json", "tokenizer_config.json", "special_tokens_map.json"];
    if is_adapter(file) {
        "save the adapter again with PEFT (save_pretrained), or download the file again"
    } else if file.to_string_lossy().ends_with(".index.json") {
        "download the index again; where model.safetensors holds all weights, remove it"
    } else if read.iter().any(|name| is_named(file, name)) {
        "download the file again, or mend it in an editor at the place named"
    } else {
        "write the file again, or mend it in an editor at the place named"
    }
}

/// What to do about the key `key` of a configuration; `reason` says what is wrong with it.
pub(super) fn config(file: &Path, key: &str, reason: &str) -> &'static str {
    let damaged = ["it is missing", "is not a whole number", "is not a positive number", "is not true or false"];
    let damaged = damaged.iter().chain(&["is not an object", "does not divide", "is not a multiple", "is not a token id"]);
    if is_adapter(file) {
        return match key {
            "target_modules" | "base_model_name_or_path" => {
                "put the adapter on the model that it was trained on, which base_model_name_or_path names: BASE+ADAPTER"
            }
            _ => "merge the adapter into its base with PEFT (merge_and_unload, save_pretrained) and load that",
        };
    }
    match key {
        "quantization_config" => "load the checkpoint that it was quantised from, in bf16 or f16, or a GGUF file of it",
        _ if damaged.into_iter().any(|word| reason.contains(word)) => {
            "config.json is damaged or of another model: download it again from where the weights are from"
        }
        _ => "such models cannot be run here, and can be merged without running: merge linear DIR",
    }
}

/// What to do about a tensor that is not there.
pub(super) fn missing_tensor(file: &Path, tensor: &str) -> &'static str {
    match tensor {
        _ if is_adapter(file) => "save the adapter again with PEFT (save_pretrained): its two halves belong together",
        "lm_head.weight" => {
            "get the file that has it; where the output layer is the embedding, config.json says tie_word_embeddings: true"
        }
        _ => "download the weights again, all files of them, with the config.json that belongs to them",
    }
}

/// What to do about a tensor of another shape than expected.
pub(super) fn shape(file: &Path, tensor: &str) -> &'static str {
    let has_rows = ["embed_tokens", "lm_head", "wte"].iter().any(|part| tensor.contains(part));
    match (is_adapter(file), has_rows) {
        (true, true) => {
            "the adapter was trained on a base with another number of tokens: resize the base's embedding to it (transformers: resize_token_embeddings, save_pretrained) and put the adapter on that"
        }
        (true, false) => "put the adapter on the model that it was trained on, which its base_model_name_or_path names",
        (false, true) => {
            "vocab_size of config.json is the number of rows: download config.json and weights again, from one place"
        }
        (false, false) => "config.json and weights are of different models: download both again, from one place",
    }
}

/// What to do about an error of candle.
pub(super) fn candle(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    if lower.contains("out of memory") || lower.contains("out_of_memory") {
        return "the device has no room: set batch_size and max_length lower, or device=cpu";
    }
    if lower.contains("cuda") || lower.contains("metal") {
        return "the device failed: set device=cpu, or restart with a driver that fits";
    }
    "tensors that a scheme or a program of your own makes must fit each other (check_scheme tells); otherwise this is a fault of this program: please report it with what you did"
}

/// What to do about an error of the file system.
pub(super) fn io(action: &str, kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::StorageFull | Kind::FileTooLarge | Kind::QuotaExceeded => {
            "there is no room: free some space or choose another place; nothing was left behind"
        }
        Kind::NotFound | Kind::NotADirectory => "its directory is not there: make it first, or choose another place",
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem if action == "read" => {
            "you may not read it: change its permissions (chmod), or ask its owner"
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "choose a place you may write to",
        Kind::IsADirectory => "name a file, not a directory",
        Kind::AlreadyExists | Kind::DirectoryNotEmpty => "choose another name, or move what is there",
        Kind::InvalidData | Kind::UnexpectedEof | Kind::InvalidInput => {
            "the file is damaged or not text: write or download it again"
        }
        Kind::TimedOut
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::ConnectionAborted
        | Kind::StaleNetworkFileHandle => "the network or a network disk failed: try again",
        _ => "look whether the disk is there and sound, and try again",
    }
}
