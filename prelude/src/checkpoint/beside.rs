//! Files beside the weights: which of a checkpoint's files go along when a merge is written.
//!
//! A merge takes every file of a source that is not weights, an index of weights, the state of a training run, data,
//! or written by the merge itself (config.json, README.md). Files that only make sense together form a group, and
//! a group comes from one source. Code (`*.py`) is copied and never run.
//!
//! Sources are not trusted: a name must be plain, a link may not leave the checkpoint (or the blobs of the hub's
//! cache), and size, depth and number are limited.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use include_dir::Dir;

use super::files::Files;

/// Bytes of one file at most.
pub(crate) const LARGEST: u64 = 64 << 20;

/// Bytes of all files at most.
pub(crate) const ALL: u64 = 256 << 20;

/// Files at most.
pub(crate) const MOST: usize = 256;

/// Directories within each other at most.
const DEPTH: usize = 3;

/// Entries of a source's directory that are looked at.
const LOOKED_AT: usize = 10_000;

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

/// What stands beside the weights of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beside {
    /// Names with their group and size, sorted.
    pub files: Vec<(String, Group, u64)>,
    /// What would go along, and why it does not.
    pub left_out: Vec<(String, &'static str)>,
}

impl Beside {
    fn add(&mut self, name: String, size: u64) {
        match group(&name) {
            Some(_) if size > LARGEST => self.left_out.push((name, "too large")),
            Some(group) => self.files.push((name, group, size)),
            None if is_data(&name.to_lowercase()) => self.left_out.push((name, "data")),
            None => {}
        }
    }
}

impl Beside {
    /// The same where some files are others, of these sizes, or hidden: none. A tokenizer that comes with settings of
    /// its own stands alone.
    pub fn with(mut self, replaced: &BTreeMap<&str, Option<u64>>) -> Self {
        let stands_alone = replaced.get("tokenizer.json").is_some_and(Option::is_some);
        let stands_alone = stands_alone && replaced.contains_key("tokenizer_config.json");
        let is_hidden = |name: &str, group| replaced.contains_key(name) || stands_alone && group == Group::Tokenizer;
        self.files.retain(|(name, group, _)| !is_hidden(name, *group));
        replaced.iter().filter_map(|(name, size)| Some((*name, (*size)?))).for_each(|(name, size)| self.add(name.into(), size));
        self.files.sort();
        self
    }
}

impl Files {
    /// What stands beside the weights.
    pub fn beside(&self) -> Beside {
        let mut beside = Beside::default();
        match self {
            Files::Builtin(dir, _) => walk_builtin(dir, dir.path(), &mut beside),
            Files::Gguf(gguf) => {
                gguf.side_files.iter().for_each(|(name, text)| beside.add((*name).to_owned(), text.len() as u64));
            }
            Files::Disk(directory) | Files::Hub(directory, _) => {
                let mut walk = Walk { roots: roots(directory), looked_at: 0, beside: &mut beside };
                walk.directory(directory, "", 0);
            }
        }
        beside.files.sort();
        beside.left_out.sort();
        beside
    }
}

fn walk_builtin(dir: &Dir<'_>, root: &Path, beside: &mut Beside) {
    for file in dir.files() {
        if let Some(name) = file.path().strip_prefix(root).ok().and_then(Path::to_str) {
            beside.add(name.to_owned(), file.contents().len() as u64);
        }
    }
    dir.dirs().for_each(|dir| walk_builtin(dir, root, beside));
}

/// Where the files of `directory` may really be: in it, or in the blobs of the hub's cache that its snapshot links to.
fn roots(directory: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(directory).ok();
    let snapshot = real.as_deref().filter(|d| d.parent().is_some_and(|p| p.ends_with("snapshots")));
    let blobs = snapshot.and_then(|d| fs::canonicalize(d.parent()?.parent()?.join("blobs")).ok());
    real.clone().into_iter().chain(blobs).collect()
}

/// A walk through a directory on disk.
struct Walk<'a> {
    roots: Vec<PathBuf>,
    looked_at: usize,
    beside: &'a mut Beside,
}

impl Walk<'_> {
    fn directory(&mut self, directory: &Path, prefix: &str, depth: usize) {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        // A name that is no text could not be said.
        let named = entries.filter_map(|e| Some((e.file_name().into_string().ok()?, e.path())));
        let mut entries: Vec<(String, PathBuf)> = named.take(LOOKED_AT.saturating_sub(self.looked_at)).collect();
        self.looked_at += entries.len();
        entries.sort();
        if depth > 0 && !is_module(prefix) && entries.iter().any(|(name, _)| name == "config.json" || is_weights(name)) {
            // Another model, which has files of its own.
            return;
        }
        for (name, path) in entries {
            let name = format!("{prefix}{name}");
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_dir() {
                let entered = group(&format!("{name}/x")).is_some() && depth < DEPTH && self.is_inside(&path);
                if entered {
                    self.directory(&path, &format!("{name}/"), depth + 1);
                }
            } else if meta.is_file() {
                match self.is_inside(&path) {
                    true => self.beside.add(name, meta.len()),
                    false if group(&name).is_some() => self.beside.left_out.push((name, "a link out of its directory")),
                    false => {}
                }
            }
        }
    }

    /// Whether `path`, links followed, is still within the checkpoint.
    fn is_inside(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|real| self.roots.iter().any(|root| real.starts_with(root)))
    }
}

/// The heading of the part of a model card that says which files were copied.
const HEADING: &str = "## Files copied";

/// The part of a model card that says which files came from where, in lines such as "- from `a`: `x.json`".
/// [`recorded`] reads it again.
pub(crate) fn record(copied: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut sources: Vec<&str> = Vec::new();
    for (source, _) in copied {
        if !sources.contains(&source.as_str()) {
            sources.push(source);
        }
    }
    for source in sources {
        let files = copied.iter().filter(|(from, _)| from == source).map(|(_, name)| format!("`{name}`"));
        text += &format!("- from `{}`: {}\n", source.replace('`', "'"), files.collect::<Vec<_>>().join(", "));
    }
    if text.is_empty() { text } else { format!("\n{HEADING}\n\n{text}") }
}

/// The files that a model card says were copied.
pub(super) fn recorded(card: &str) -> BTreeSet<&str> {
    let lines = card.lines().skip_while(|line| *line != HEADING).skip(1).take_while(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once("`: ")).flat_map(|(_, files)| files.split('`').skip(1).step_by(2)).collect()
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

    #[test]
    fn a_tokenizer_with_settings_of_its_own_hides_the_other() {
        let with = |replaced: &[(&'static str, Option<u64>)]| {
            let mut beside = Beside::default();
            ["a.txt", "chat_template.json", "tokenizer.json"].iter().for_each(|name| beside.add((*name).to_owned(), 1));
            let files = beside.with(&replaced.iter().copied().collect()).files;
            files.into_iter().map(|(name, _, size)| format!("{name} {size}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(with(&[("tokenizer.json", Some(2))]), "a.txt 1, chat_template.json 1, tokenizer.json 2");
        assert_eq!(with(&[("tokenizer.json", Some(2)), ("tokenizer_config.json", None)]), "a.txt 1, tokenizer.json 2");
        assert_eq!(with(&[("chat_template.json", None)]), "a.txt 1, tokenizer.json 1");
    }

    #[test]
    fn a_card_says_which_files_were_copied() {
        let pair = |source: &str, name: &str| (source.to_owned(), name.to_owned());
        let copied = [pair("a`b", "x.json"), pair("c", "1_Pooling/config.json"), pair("a`b", "LICENSE")];
        let card = format!("# A merge\n{}\n## More\n\n- `not`: `this.txt`\n", record(&copied));
        assert!(card.contains("- from `a'b`: `x.json`, `LICENSE`\n- from `c`: `1_Pooling/config.json`\n"), "{card}");
        assert_eq!(recorded(&card).into_iter().collect::<Vec<_>>(), ["1_Pooling/config.json", "LICENSE", "x.json"]);
        assert!(recorded("- from `a`: `x.json`").is_empty() && record(&[]).is_empty());
    }

    #[test]
    fn links_that_leave_the_directory_and_large_files_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let write = |name: &str, bytes: &[u8]| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("secret.txt", b"secret");
        write("model/config.json", b"{}");
        write("model/1_Pooling/config.json", b"{}");
        write("model/2_Dense/model.safetensors", b"dense");
        write("model/other/config.json", b"{}");
        write("model/other/notes.txt", b"of another model");
        write("model/pictures/a.png", b"a");
        write("model/train.jsonl", b"{}");
        write("model/.git/config", b"");
        fs::File::create(root.join("model/large.json")).unwrap().set_len(LARGEST + 1).unwrap();
        std::os::unix::fs::symlink("../secret.txt", root.join("model/NOTICE")).unwrap();
        std::os::unix::fs::symlink("..", root.join("model/up")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("model/broken.json")).unwrap();
        std::os::unix::fs::symlink("config.json", root.join("model/alias.json")).unwrap();
        let beside = Files::Disk(root.join("model")).beside();
        let names: Vec<&str> = beside.files.iter().map(|(name, ..)| name.as_str()).collect();
        let expected = ["1_Pooling/config.json", "2_Dense/model.safetensors", "alias.json", "config.json", "pictures/a.png"];
        assert_eq!(names, expected);
        let left: Vec<(&str, &str)> = beside.left_out.iter().map(|(name, why)| (name.as_str(), *why)).collect();
        assert_eq!(left, [("NOTICE", "a link out of its directory"), ("large.json", "too large"), ("train.jsonl", "data")]);

        // A snapshot of the hub's cache is links to blobs.
        write("hub/models--o--n/blobs/1", b"{}");
        write("hub/models--o--n/snapshots/c/x", b"");
        fs::remove_file(root.join("hub/models--o--n/snapshots/c/x")).unwrap();
        let snapshot = root.join("hub/models--o--n/snapshots/c");
        std::os::unix::fs::symlink("../../blobs/1", snapshot.join("tokenizer.json")).unwrap();
        std::os::unix::fs::symlink("../../../../secret.txt", snapshot.join("vocab.json")).unwrap();
        let beside = Files::Disk(snapshot).beside();
        assert_eq!(beside.files, [("tokenizer.json".to_owned(), Group::Tokenizer, 2)]);
        assert_eq!(beside.left_out.len(), 1);
    }
}
