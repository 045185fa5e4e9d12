//! Hints that depend on which file, key or tensor is wrong.

use std::path::Path;

/// Whether `file` belongs to an adapter.
fn is_adapter(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter_"))
}

fn is_named(file: &Path, name: &str) -> bool {
    file.file_name().is_some_and(|own| own == name)
}

/// The hint for a directory without `file`.
pub(super) fn missing_file(file: &str) -> &'static str {
    if is_adapter(Path::new(file)) {
        "an adapter is a directory with adapter_config.json and adapter_model.safetensors, as PEFT saves it"
    } else if file.ends_with(".safetensors") && file.starts_with("model-") {
        "download the weights again: one of the shards is missing"
    } else {
        "a model is a directory with config.json and *.safetensors"
    }
}

/// The hint for a file that is not valid JSON or has the wrong content.
pub(super) fn json(file: &Path) -> &'static str {
    let read = ["config.json", "tokenizer_config.json", "special_tokens_map.json"];
    if is_adapter(file) {
        "save the adapter again with PEFT (save_pretrained), or download the file again"
    } else if file.to_string_lossy().ends_with(".index.json") {
        "download the index again; if model.safetensors holds all weights, remove the index"
    } else if read.iter().any(|name| is_named(file, name)) {
        "download the file again, or correct it in an editor"
    } else {
        "write the file again, or correct it in an editor"
    }
}

/// The hint for the key `key` of a configuration; `reason` says what is wrong with it.
pub(super) fn config(file: &Path, key: &str, reason: &str) -> &'static str {
    let damaged = [
        "it is missing",
        "is not a whole number",
        "is not a positive number",
        "is not true or false",
    ];
    let damaged = damaged.iter().chain(&[
        "is not an object",
        "does not divide",
        "is not a multiple",
        "is not a token id",
    ]);
    if is_adapter(file) {
        return match key {
            "target_modules" | "base_model_name_or_path" => {
                "apply the adapter to the model it was trained on, given by base_model_name_or_path: BASE+ADAPTER"
            }
            _ => {
                "merge the adapter into its base with PEFT (merge_and_unload, save_pretrained) and load the result"
            }
        };
    }
    match key {
        "quantization_config" => {
            "load the original checkpoint in bf16 or f16, or a GGUF version of it"
        }
        _ if damaged.into_iter().any(|word| reason.contains(word)) => {
            "config.json is corrupt or belongs to another model: download it again together with the weights"
        }
        _ => {
            "this model cannot be run or trained here, but static methods can merge it: merge linear DIR"
        }
    }
}

/// The hint for a missing tensor.
pub(super) fn missing_tensor(file: &Path, tensor: &str) -> &'static str {
    match tensor {
        _ if is_adapter(file) => {
            "save the adapter again with PEFT (save_pretrained): A and B of each pair are both needed"
        }
        "lm_head.weight" => {
            "download the missing file; if the output layer is the embedding, config.json must have tie_word_embeddings: true"
        }
        _ => "download all weight files again, with the matching config.json",
    }
}

/// The hint for a tensor of an unexpected shape.
pub(super) fn shape(file: &Path, tensor: &str, only_rows_differ: bool) -> &'static str {
    let has_rows = only_rows_differ
        && ["embed_tokens", "lm_head", "wte"].iter().any(|part| tensor.contains(part));
    match (is_adapter(file), has_rows) {
        (true, true) => {
            "the adapter was trained on a base with a different vocabulary size: resize the base's embedding (transformers: resize_token_embeddings, save_pretrained) and apply the adapter to the result"
        }
        (true, false) => {
            "apply the adapter to the model it was trained on, given by base_model_name_or_path"
        }
        (false, true) => {
            "vocab_size in config.json must equal the number of rows: download config.json and the weights again from the same repository"
        }
        (false, false) => {
            "config.json and the weights belong to different models: download both again from the same repository"
        }
    }
}

/// The hint for an error of candle.
pub(super) fn candle(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    if lower.contains("out of memory") || lower.contains("out_of_memory") {
        return "the device is out of memory: lower batch_size and max_length, or set device=cpu";
    }
    if lower.contains("cuda") || lower.contains("metal") {
        return "the device failed: set device=cpu, or install a matching driver";
    }
    "if you use your own scheme, check its shapes with check_scheme; otherwise this is a bug: please report it with the commands you ran"
}

/// The hint for a device that is not available for `reason`.
pub(super) fn device(reason: &str) -> &'static str {
    if reason.contains("NVIDIA driver") {
        "install the NVIDIA driver, or use device=cpu"
    } else if reason.contains("CUDA_ERROR") {
        "check that nvidia-smi lists a GPU and no older CUDA version than this build's, or use device=cpu"
    } else if reason.contains("this build") {
        "use device=cpu, or build with --features cuda or metal"
    } else {
        "use device=cpu"
    }
}

/// The hint for a file system error.
pub(super) fn io(action: &str, kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::StorageFull | Kind::FileTooLarge | Kind::QuotaExceeded => {
            "the disk is full: free some space or choose another location; no partial files remain"
        }
        Kind::NotFound | Kind::NotADirectory => {
            "the directory does not exist: create it first, or choose another location"
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem if action == "read" => {
            "you have no read permission: change it with chmod, or ask the owner"
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            "choose a location where you have write permission"
        }
        Kind::IsADirectory => "name a file, not a directory",
        Kind::AlreadyExists | Kind::DirectoryNotEmpty => {
            "choose another name, or move the existing file or directory"
        }
        Kind::InvalidData | Kind::UnexpectedEof | Kind::InvalidInput => {
            "the file is corrupt or not text: write or download it again"
        }
        Kind::TimedOut
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::ConnectionAborted
        | Kind::StaleNetworkFileHandle => "the network or a network drive failed: try again",
        _ => "check that the disk is connected and working, and try again",
    }
}
