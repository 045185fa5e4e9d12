//! Side files are copied when a merge is written: everything that belongs to the model, in groups
//! from one source, but no weights, state or data, and nothing from outside. A written checkpoint
//! may be replaced, anything else may not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::{copy_checkpoint, json};
use dam_prelude::checkpoint::Written;
use dam_prelude::{Bake, Columns, Error, load};
use serde_json::Value;

/// Side files of a source, as in `models/Aaux` of the shared cases, and more of each kind.
const SIDE_FILES: [&str; 23] = [
    "1_Pooling/config.json",
    "2_Dense/model.safetensors",
    "LICENSE",
    "NOTICE.txt",
    "USE_POLICY.md",
    "added_tokens.json",
    "additional_chat_templates/tool_use.jinja",
    "chat_template.jinja",
    "chat_template.json",
    "config_sentence_transformers.json",
    "configuration_custom.py",
    "generation_config.json",
    "merges.txt",
    "modeling_custom.py",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "version.json",
    "video_preprocessor_config.json",
    "vocab.json",
];

/// Files that are not part of a model, or that the merge writes itself.
const NOT_COPIED: [&str; 14] = [
    "README.md",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "consolidated.00.pth",
    "params.json",
    "optimizer.pt",
    "training_args.bin",
    "trainer_state.json",
    "checkpoint-5/config.json",
    "original/tokenizer.model",
    "onnx/config.json",
    "adapter_config.json",
    ".git/config",
    "another/config.json",
];

fn put(model: &Path, name: &str, text: &str) {
    let path = model.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A model with all of these files.
fn model_with_side_files(model: &Path) {
    copy_checkpoint("model0", model);
    for name in SIDE_FILES {
        put(model, name, if name.ends_with("json") { "{}" } else { name });
    }
    NOT_COPIED.iter().for_each(|name| put(model, name, "{}"));
    put(model, "chat_template.jinja", "{{ messages[0]['content'] }}");
}

/// All files below a directory.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut stack = vec![directory.to_owned()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                stack.push(path)
            } else {
                found.insert(path.strip_prefix(directory).unwrap().display().to_string());
            }
        }
    }
    found
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn side_files_of_a_source_are_copied() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, out) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("out"));
    model_with_side_files(&a);
    copy_checkpoint("model1", &b);
    let (replies, ok) =
        json(dir.path(), "load a b; merge linear out; load c=a d=b; wrap; bake out2");
    assert!(ok, "{replies:?}");
    let own = names(&["README.md", "config.json", "model.safetensors"]);
    let mut expected = names(&SIDE_FILES);
    assert_eq!(files(&out), expected.union(&own).cloned().collect());
    for name in &expected {
        assert_eq!(fs::read(out.join(name)).unwrap(), fs::read(a.join(name)).unwrap(), "{name}");
    }
    for written in [&replies[1], &replies[4]] {
        let copied = written["copied"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(expected, copied);
        assert_eq!(written["files"], SIDE_FILES.len() + own.len());
    }
    // The model card lists them.
    expected.retain(|name| {
        !fs::read_to_string(out.join("README.md")).unwrap().contains(&format!("`{name}`"))
    });
    assert!(expected.is_empty(), "{expected:?}");
}

#[test]
fn a_group_comes_from_one_source() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, out) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("out"));
    copy_checkpoint("model1", &a);
    model_with_side_files(&b);
    ["vocab.json", "tokenizer_config.json"].iter().for_each(|name| put(&a, name, "{}"));
    put(&a, "special.json", "of a");
    put(&a, "LICENSE", "another licence");
    put(&a, "USE_POLICY.md", "USE_POLICY.md");
    load([&a, &b].map(|p| p.display().to_string()))
        .unwrap()
        .merge_named("linear", &[])
        .unwrap()
        .bake(&out)
        .unwrap();
    // Processors, modules and generation settings from b, the only source that has them; tokens and
    // code from a; both licences.
    let from_b = [
        "preprocessor_config.json",
        "processor_config.json",
        "video_preprocessor_config.json",
        "modules.json",
    ];
    let modules =
        ["1_Pooling/config.json", "2_Dense/model.safetensors", "config_sentence_transformers.json"];
    let from_a =
        ["special.json", "vocab.json", "tokenizer_config.json", "LICENSE", "USE_POLICY.md"];
    let rest = [
        "LICENSE-b",
        "NOTICE.txt",
        "generation_config.json",
        "README.md",
        "config.json",
        "model.safetensors",
    ];
    assert_eq!(files(&out), names(&[&from_b[..], &modules, &from_a, &rest].concat()));
    assert_eq!(fs::read_to_string(out.join("LICENSE")).unwrap(), "another licence");
    assert_eq!(fs::read_to_string(out.join("LICENSE-b")).unwrap(), "LICENSE");
}

#[test]
fn files_that_are_not_copied_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    copy_checkpoint("model0", &a);
    copy_checkpoint("model1", &b);
    put(dir.path(), "secret", "a key");
    symlink("../secret", a.join("NOTICE")).unwrap();
    put(&a, "train.jsonl", "{}");
    fs::File::create(a.join("huge.json")).unwrap().set_len(65 << 20).unwrap();
    for i in 0..5 {
        fs::File::create(a.join(format!("large{i}.txt"))).unwrap().set_len(60 << 20).unwrap();
    }
    let (replies, ok) = json(dir.path(), "load a b; merge linear out");
    assert!(ok, "{replies:?}");
    let left: Vec<&str> =
        replies[1]["left_out"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let expected = [
        "NOTICE of a (a link that leaves its directory)",
        "huge.json of a (too large)",
        "train.jsonl of a (data)",
        "large4.txt of a (too many files or bytes)",
    ];
    assert_eq!(left, expected);
    assert!(!dir.path().join("out/NOTICE").exists());
}

#[test]
fn replacing_a_checkpoint_deletes_only_its_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, out) = (dir.path().join("a"), dir.path().join("out"));
    model_with_side_files(&a);
    let merged = load(["x", "y"].map(|n| format!("{n}={}", a.display())))
        .unwrap()
        .merge_named("linear", &[])
        .unwrap();
    let force = Bake { force: true, ..Bake::default() };
    let bake = |options: &Bake| -> Result<Written, Error> { merged.bake_with(&out, options) };
    bake(&Bake::default()).unwrap();
    let whole = files(&out);
    assert!(matches!(bake(&Bake::default()).unwrap_err(), Error::Exists { .. }));
    bake(&force).unwrap();
    assert_eq!(files(&out), whole);
    // Other files are kept, whatever their name and location.
    for name in [
        "notes.txt",
        "1_Pooling/notes.txt",
        "vocab_of_mine.txt",
        "new/modeling_custom.py",
        "optimizer.pt",
    ] {
        put(&out, name, "mine");
        let error = bake(&force).unwrap_err();
        assert!(
            matches!(&error, Error::ExtraFile { file, .. } if file == name),
            "{name}: {error:?}"
        );
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), "mine");
        fs::remove_file(out.join(name)).unwrap();
        let _ = fs::remove_dir(out.join("new"));
    }
    symlink(dir.path().join("a"), out.join("link")).unwrap();
    assert!(matches!(bake(&force).unwrap_err(), Error::ExtraFile { file, .. } if file == "link"));
    fs::remove_file(out.join("link")).unwrap();
    bake(&force).unwrap();
    // Without the card, the origin of the files is unknown.
    fs::remove_file(out.join("README.md")).unwrap();
    assert!(matches!(bake(&force).unwrap_err(), Error::ExtraFile { .. }));
    assert!(a.join("LICENSE").exists() && out.join("LICENSE").exists());
}

#[test]
fn a_trained_merge_copies_side_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    model_with_side_files(&a);
    copy_checkpoint("model1", &b);
    let dam =
        load([&a, &b].map(|p| p.display().to_string())).unwrap().wrap(Columns::default()).unwrap();
    let written = dam.bake(dir.path().join("out")).unwrap();
    assert_eq!(written.copied.iter().cloned().collect::<BTreeSet<_>>(), names(&SIDE_FILES));
    assert!(written.to_string().contains("modules.json"), "{written}");
}
