//! The group of a side file, by its name, and limits on side files.

/// The maximum size of one file in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 64 << 20;

/// The maximum size of all files in bytes.
pub(crate) const MAX_SIDE_BYTES: u64 = 256 << 20;

/// The maximum number of files.
pub(crate) const MAX_SIDE_FILES: usize = 256;

/// The maximum directory depth.
pub(super) const MAX_DEPTH: usize = 3;

/// A group of files that belong together, in the order in which groups are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// config.json, which a merge writes itself.
    Config,
    /// Generation settings.
    Generation,
    /// Tokenizers and chat templates.
    Tokenizer,
    /// Preprocessors for images, audio and video.
    Processor,
    /// The modules that sentence-transformers adds after the model, with their own small weights.
    Modules,
    /// Licences and usage policies.
    Licence,
    /// All other files.
    Other,
}

/// Groups that are copied whole from the first source that has them. Others follow config.json.
pub(crate) const WHOLE_GROUPS: [Group; 4] =
    [Group::Generation, Group::Tokenizer, Group::Processor, Group::Modules];

/// Extensions of weights, including those of other frameworks, and of files that unpickling would
/// execute.
const WEIGHTS: &str = "safetensors bin pt pth ckpt gguf ggml h5 keras msgpack onnx onnx_data ot tflite pb mlmodel mlpackage \
     npy npz pkl pickle joblib nemo xml engine plan distcp index.json";

/// Extensions of data, logs and keys.
const DATA: &str = "jsonl csv tsv parquet arrow log out lock tmp part incomplete dam pem key p12 zip tar gz bz2 xz zst 7z";

/// Prefixes of files that a training run leaves.
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

/// Directories that are not copied: other weight formats, and what a training run leaves.
const SKIPPED_DIRECTORIES: [&str; 14] = [
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

/// The group of the file `name`, a path within its checkpoint; `None` if it is not copied.
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
    if !parts.iter().all(plain) || directories.len() > MAX_DEPTH {
        return None;
    }
    let (lower, first) = (file.to_lowercase(), directories.first().map(|d| d.to_lowercase()));
    if let Some(first) = &first {
        if is_module(first) {
            // Module weights are not part of the model and are copied.
            return (!is_state(&lower)).then_some(Group::Modules);
        }
        let run = ["checkpoint-", "global_step", "epoch_", "step_"]
            .iter()
            .any(|start| first.starts_with(start));
        if run || SKIPPED_DIRECTORIES.contains(&first.as_str()) {
            return None;
        }
    }
    if is_weights(&lower)
        || is_state(&lower)
        || is_data(&lower)
        || (first.is_none() && lower.starts_with("readme"))
    {
        return None;
    }
    Some(match first {
        Some(first) if first == "additional_chat_templates" || first == "tokenizer" => {
            Group::Tokenizer
        }
        Some(first)
            if first == "processor"
                || first == "image_processor"
                || first == "feature_extractor" =>
        {
            Group::Processor
        }
        Some(_) => Group::Other,
        None => of_top(&lower),
    })
}

/// The group of a file in the top directory.
fn of_top(name: &str) -> Group {
    let stem = name.split('.').next().unwrap_or(name);
    let starts = |all: &[&str]| all.iter().any(|start| name.starts_with(start));
    let ends = |all: &[&str]| all.iter().any(|end| name.ends_with(end));
    match name {
        "config.json" => Group::Config,
        "generation_config.json" => Group::Generation,
        "added_tokens.json"
        | "special_tokens_map.json"
        | "tekken.json"
        | "bpe.codes"
        | "dict.txt"
        | "normalizer.json" => Group::Tokenizer,
        "modules.json" | "sentence_bert_config.json" | "config_sentence_transformers.json" => {
            Group::Modules
        }
        _ if starts(&[
            "tokenizer",
            "tokenization_",
            "chat_template",
            "vocab.",
            "vocab_",
            "merges.",
        ]) =>
        {
            Group::Tokenizer
        }
        _ if ends(&[".model", ".spm", ".tiktoken", ".vocab"]) => Group::Tokenizer,
        _ if ends(&["processor_config.json", "processor.json", "extractor_config.json"]) => {
            Group::Processor
        }
        _ if starts(&[
            "processing_",
            "image_processing_",
            "video_processing_",
            "feature_extraction_",
        ]) =>
        {
            Group::Processor
        }
        _ if ["license", "licence", "copying", "notice", "use_policy", "acceptable_use"]
            .iter()
            .any(|s| stem.starts_with(s)) =>
        {
            Group::Licence
        }
        _ if ends(&["-license", "_license", "license.txt", "license.md", "license.pdf"]) => {
            Group::Licence
        }
        _ => Group::Other,
    }
}

/// Selects the side files to download from the files of a repository on the hub, config.json first.
/// Images of the model card are skipped, and so are directories that are not a known part.
pub(crate) fn needed(names: &[String]) -> Vec<String> {
    let belongs = |(group, name): &(Group, &String)| match group {
        Group::Other | Group::Licence => {
            !name.contains('/') && !ends_with_one_of(&name.to_lowercase(), PICTURES)
        }
        _ => true,
    };
    let grouped = names.iter().filter_map(|name| Some((group(name)?, name)));
    let mut needed: Vec<(Group, &String)> = grouped.filter(belongs).collect();
    needed.sort();
    needed.into_iter().map(|(_, name)| name.clone()).take(MAX_SIDE_FILES).collect()
}

/// Extensions of files that a model card shows.
const PICTURES: &str = "png jpg jpeg gif svg webp mp4 mov wav mp3 pdf ipynb";

/// Whether a file holds the vocabulary, without which the rest of its group is of little use.
pub(crate) fn is_vocabulary(name: &str) -> bool {
    let ends = [".model", ".spm", ".tiktoken", ".vocab"];
    ["tokenizer.json", "vocab.json", "vocab.txt", "tekken.json"].contains(&name)
        || ends.iter().any(|end| name.ends_with(end))
}

/// Whether a directory is a module, such as `1_Pooling` or `2_Dense`.
pub(super) fn is_module(directory: &str) -> bool {
    directory.split_once('_').is_some_and(|(n, name)| n.parse::<u8>().is_ok() && !name.is_empty())
}

fn ends_with_one_of(name: &str, ends: &str) -> bool {
    ends.split_whitespace()
        .any(|end| name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.')))
}

pub(super) fn is_weights(name: &str) -> bool {
    // `params.json` belongs to `consolidated.*`.
    ends_with_one_of(name, WEIGHTS) || name.starts_with("consolidated.") || name == "params.json"
}

fn is_state(name: &str) -> bool {
    STATE.iter().any(|start| name.starts_with(start))
}

pub(super) fn is_data(name: &str) -> bool {
    ends_with_one_of(name, DATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_grouped_by_name() {
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
