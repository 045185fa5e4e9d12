//! Files beside the weights: which of a checkpoint's files go along when a merge is written.
//!
//! A merge takes every file of a source that is not weights, an index of weights, the state of a training run, data,
//! or written by the merge itself (config.json, README.md). Files that only make sense together form a group, and
//! a group comes from one source. Code (`*.py`) is copied and never run.
//!
//! Sources are not trusted: a name must be plain, a link may not leave the checkpoint (or the blobs of the hub's
//! cache), and size, depth and number are limited.

mod record;
mod walk;

pub(crate) use record::record;
pub(super) use record::recorded;
pub(crate) use walk::Beside;

/// Bytes of one file at most.
pub(crate) const LARGEST: u64 = 64 << 20;

/// Bytes of all files at most.
pub(crate) const ALL: u64 = 256 << 20;

/// Files at most.
pub(crate) const MOST: usize = 256;

/// Directories within each other at most.
const DEPTH: usize = 3;

/// Files that only make sense together, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// config.json, which a merge writes anew.
    Config,
    /// How answers are drawn.
    Generation,
    /// Tokens, their text, and chat templates.
    Tokenizer,
    /// What makes tensors of pictures, sound and video.
    Processor,
    /// The modules that sentence-transformers puts behind the model, with their own small weights.
    Modules,
    /// What may be done with the source.
    Licence,
    /// All other files.
    Other,
}

/// The groups that come as a whole from the first source that has them. Others follow config.json.
pub(crate) const WHOLE: [Group; 4] = [Group::Generation, Group::Tokenizer, Group::Processor, Group::Modules];

/// Ends of the names of weights, of other frameworks too, and of what unpickling would run.
const WEIGHTS: &str = "safetensors bin pt pth ckpt gguf ggml h5 keras msgpack onnx onnx_data ot tflite pb mlmodel mlpackage \
     npy npz pkl pickle joblib nemo xml engine plan distcp index.json";

/// Ends of the names of data, logs and keys.
const DATA: &str = "jsonl csv tsv parquet arrow log out lock tmp part incomplete dam pem key p12 zip tar gz bz2 xz zst 7z";

/// Beginnings of the names of what a training run leaves.
const STATE: [&str; 14] = [
    "optimizer",
    "scheduler",
    "rng_state",
    "random_states",
    "scaler.",
    "trainer_state",
    "training_args",
    "zero_to_fp32",
    "latest",
    "events.out.",
    "all_results",
    "train_results",
    "eval_results",
    "adapter_",
];

/// Directories of which nothing is copied: other formats of the weights, and what a training run leaves.
const FOREIGN: [&str; 14] = [
    "original",
    "onnx",
    "openvino",
    "coreml",
    "gguf",
    "tf",
    "flax",
    "metal",
    "runs",
    "logs",
    "wandb",
    "__pycache__",
    "data",
    "cache",
];

/// The group of the file `name`, a path within its checkpoint; none where it does not go along.
pub(crate) fn group(name: &str) -> Option<Group> {
    let parts: Vec<&str> = name.split('/').collect();
    let (file, directories) = parts.split_last()?;
    let plain = |part: &&str| {
        let hidden = part.starts_with('.') || part.ends_with('~');
        !part.is_empty()
            && !hidden
            && part.len() <= 128
            && !part.contains(['\\', ':', '`'])
            && !part.chars().any(char::is_control)
    };
    if !parts.iter().all(plain) || directories.len() > DEPTH {
        return None;
    }
    let (lower, first) = (file.to_lowercase(), directories.first().map(|d| d.to_lowercase()));
    if let Some(first) = &first {
        if is_module(first) {
            // Their weights are no part of the model, and their own.
            return (!is_state(&lower)).then_some(Group::Modules);
        }
        let run = ["checkpoint-", "global_step", "epoch_", "step_"].iter().any(|start| first.starts_with(start));
        if run || FOREIGN.contains(&first.as_str()) {
            return None;
        }
    }
    if is_weights(&lower) || is_state(&lower) || is_data(&lower) || (first.is_none() && lower.starts_with("readme")) {
        return None;
    }
    Some(match first {
        Some(first) if first == "additional_chat_templates" || first == "tokenizer" => Group::Tokenizer,
        Some(first) if first == "processor" || first == "image_processor" || first == "feature_extractor" => Group::Processor,
        Some(_) => Group::Other,
        None => of_top(&lower),
    })
}

/// The group of a file that stands beside config.json.
fn of_top(name: &str) -> Group {
    let stem = name.split('.').next().unwrap_or(name);
    let starts = |all: &[&str]| all.iter().any(|start| name.starts_with(start));
    let ends = |all: &[&str]| all.iter().any(|end| name.ends_with(end));
    match name {
        "config.json" => Group::Config,
        "generation_config.json" => Group::Generation,
        "added_tokens.json" | "special_tokens_map.json" | "tekken.json" | "bpe.codes" | "dict.txt" | "normalizer.json" => {
            Group::Tokenizer
        }
        "modules.json" | "sentence_bert_config.json" | "config_sentence_transformers.json" => Group::Modules,
        _ if starts(&["tokenizer", "tokenization_", "chat_template", "vocab.", "vocab_", "merges."]) => Group::Tokenizer,
        _ if ends(&[".model", ".spm", ".tiktoken", ".vocab"]) => Group::Tokenizer,
        _ if ends(&["processor_config.json", "processor.json", "extractor_config.json"]) => Group::Processor,
        _ if starts(&["processing_", "image_processing_", "video_processing_", "feature_extraction_"]) => Group::Processor,
        _ if ["license", "licence", "copying", "notice", "use_policy", "acceptable_use"].iter().any(|s| stem.starts_with(s)) => {
            Group::Licence
        }
        _ if ends(&["-license", "_license", "license.txt", "license.md", "license.pdf"]) => Group::Licence,
        _ => Group::Other,
    }
}

/// The files beside the weights that a model of the hub comes with, of those that its repository has, config.json
/// first. Pictures of the model card stay there, and so does what lies in directories that are no known part.
pub(super) fn needed(names: &[String]) -> Vec<String> {
    let belongs = |(group, name): &(Group, &String)| match group {
        Group::Other | Group::Licence => !name.contains('/') && !ends_with_one_of(&name.to_lowercase(), PICTURES),
        _ => true,
    };
    let grouped = names.iter().filter_map(|name| Some((group(name)?, name)));
    let mut needed: Vec<(Group, &String)> = grouped.filter(belongs).collect();
    needed.sort();
    needed.into_iter().map(|(_, name)| name.clone()).take(MOST).collect()
}

/// Ends of the names of what a model card shows.
const PICTURES: &str = "png jpg jpeg gif svg webp mp4 mov wav mp3 pdf ipynb";

/// Whether a group's file holds the vocabulary, without which the others of its group say little.
pub(crate) fn is_vocabulary(name: &str) -> bool {
    let ends = [".model", ".spm", ".tiktoken", ".vocab"];
    ["tokenizer.json", "vocab.json", "vocab.txt", "tekken.json"].contains(&name) || ends.iter().any(|end| name.ends_with(end))
}

/// `1_Pooling`, `2_Dense` and the like.
fn is_module(directory: &str) -> bool {
    directory.split_once('_').is_some_and(|(n, name)| n.parse::<u8>().is_ok() && !name.is_empty())
}

fn ends_with_one_of(name: &str, ends: &str) -> bool {
    ends.split_whitespace().any(|end| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')))
}

fn is_weights(name: &str) -> bool {
    // `params.json` describes `consolidated.*`.
    ends_with_one_of(name, WEIGHTS) || name.starts_with("consolidated.") || name == "params.json"
}

fn is_state(name: &str) -> bool {
    STATE.iter().any(|start| name.starts_with(start))
}

fn is_data(name: &str) -> bool {
    ends_with_one_of(name, DATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_names() {
        let expected = [
            ("config.json", Some(Group::Config)),
            ("generation_config.json", Some(Group::Generation)),
            ("tokenizer.json", Some(Group::Tokenizer)),
            ("tokenizer.model.v3", Some(Group::Tokenizer)),
            ("tokenization_qwen.py", Some(Group::Tokenizer)),
            ("sentencepiece.bpe.model", Some(Group::Tokenizer)),
            ("qwen.tiktoken", Some(Group::Tokenizer)),
            ("chat_template.json", Some(Group::Tokenizer)),
            ("additional_chat_templates/tool_use.jinja", Some(Group::Tokenizer)),
            ("preprocessor_config.json", Some(Group::Processor)),
            ("video_preprocessor_config.json", Some(Group::Processor)),
            ("processing_phi3_v.py", Some(Group::Processor)),
            ("modules.json", Some(Group::Modules)),
            ("1_Pooling/config.json", Some(Group::Modules)),
            ("2_Dense/model.safetensors", Some(Group::Modules)),
            ("LICENSE", Some(Group::Licence)),
            ("LICENSE.txt", Some(Group::Licence)),
            ("Notice", Some(Group::Licence)),
            ("USE_POLICY.md", Some(Group::Licence)),
            ("modeling_custom.py", Some(Group::Other)),
            ("figures/loss.png", Some(Group::Other)),
            ("special.json", Some(Group::Other)),
        ];
        for (name, group) in expected {
            assert_eq!(super::group(name), group, "{name}");
        }
        let not = "model.safetensors model-00001-of-00002.safetensors model.safetensors.index.json pytorch_model.bin README.md \
             pytorch_model.bin.index.json consolidated.00.pth params.json original/tokenizer.model optimizer.pt scheduler.pt \
             rng_state_0.pth training_args.bin trainer_state.json checkpoint-500/tokenizer.json adapter_config.json \
             adapter_model.safetensors .gitattributes .git/config onnx/config.json tf_model.h5 flax_model.msgpack a/.hidden/b \
             rust_model.ot model.onnx q4.gguf train.jsonl a/b/c/d/e.json ../x a//b /etc/passwd runs/events.out.tfevents.1 \
             1_Pooling/optimizer.pt .env id.pem";
        for name in not.split_whitespace() {
            assert_eq!(super::group(name), None, "{name}");
        }
        assert_eq!((super::group("a\nb.json"), super::group("")), (None, None));
    }
}
