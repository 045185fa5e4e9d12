//! How rows of data become examples, and what counts as an exact match.

use std::fs;
use std::path::Path;

use crate::common::copy_checkpoint;
use dam_prelude::candle_core::{DType, Device};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Dataset;
use dam_prelude::eval::{generate, score};
use dam_prelude::model::SourceWeights;
use serde_json::{Value, json};

/// A golden checkpoint with words as tokens: `a` is 3, `b` 4, `c` 5; `<s>` 1 and `</s>` 2 are
/// special.
fn talking(dir: &Path, template: &Value) -> Source {
    let model = dir.join("model");
    let _ = fs::remove_dir_all(&model);
    copy_checkpoint("model0", &model);
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(1, "<s>"), special(2, "</s>")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"?": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "c": 5}, "unk_token": "?"},
    });
    fs::write(model.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let config =
        json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template});
    fs::write(model.join("tokenizer_config.json"), config.to_string()).unwrap();
    Source::open(&model.display().to_string()).unwrap()
}

fn read(source: &Source, dir: &Path, text: &str) -> Vec<(Vec<u32>, usize)> {
    let file = dir.join("data.jsonl");
    fs::write(&file, text).unwrap();
    let data = Dataset::read(&file.display().to_string(), source).unwrap();
    data.examples.into_iter().map(|e| (e.ids, e.prompt)).collect()
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %} {{ m['content'] | trim }} {{ eos_token }}{% endfor %}\
                        {% if add_generation_prompt %} b{% endif %}";

/// Expected texts from transformers' `apply_chat_template`, with its additions to Jinja.
#[test]
fn templates_render_like_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{%- if tools is not none or documents is not none -%}b b b{%- endif -%}\
                    {%- for m in messages -%}{%- generation -%} {{ m.content }} {%- endgeneration -%}{%- endfor -%}\
                    {%- if strftime_now('%d %B %Y') != '26 July 2024' -%} b {%- endif -%}\
                    {%- if {'a': ['<é>', 1]} | tojson != '{\"a\": [\"<é>\", 1]}' -%} b {%- endif -%}\
                    {%- if [1] | tojson(indent=1) != '[\n 1\n]' -%} b {%- endif -%}";
    let source = talking(dir.path(), &json!(template));
    assert_eq!(
        read(&source, dir.path(), r#"{"input": "a c", "output": " c"}"#),
        [(vec![3, 5, 5], 2)]
    );
}

/// Like models that start an answer with reasoning, which templates drop from earlier answers.
#[test]
fn a_prompt_is_the_common_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %} {{ m.content }}{% endfor %}{% if add_generation_prompt %} c{% endif %}";
    let source = talking(dir.path(), &json!(template));
    assert_eq!(read(&source, dir.path(), r#"{"input": "a", "output": "b"}"#), [(vec![3, 4], 1)]);
}

#[test]
fn reads_conversations_pairs_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let source = talking(dir.path(), &json!(TEMPLATE));
    // The prompt is everything before the last answer; a user message after it is not trained on.
    let messages = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"},
        {"role": "user", "content": "a a"}, {"role": "assistant", "content": "b c"}, {"role": "user", "content": "c"}]}"#;
    let expected = [(vec![1, 3, 2, 5, 2, 3, 3, 2, 4, 5, 2], 9)];
    assert_eq!(read(&source, dir.path(), &messages.replace('\n', "")), expected);
    let shared = messages
        .replace('\n', "")
        .replace("messages", "conversations")
        .replace("role", "from")
        .replace("content", "value");
    assert_eq!(
        read(&source, dir.path(), &shared.replace("user", "human").replace("assistant", "gpt")),
        expected
    );
    // A prompt and its completion are used without a template.
    assert_eq!(
        read(&source, dir.path(), r#"{"prompt": "a b", "completion": "c </s>"}"#),
        [(vec![3, 4, 5, 2], 2)]
    );
    // A JSON list contains rows too.
    assert_eq!(
        read(&source, dir.path(), "[{\"text\": \"a\"},\n {\"text\": \"b c\"}]"),
        [(vec![3], 0), (vec![4, 5], 0)]
    );
    for (line, word) in [
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "no assistant message"),
        (r#"{"messages": [{"role": "user"}]}"#, "without content"),
        (r#"{"messages": "a"}"#, "not a list"),
    ] {
        let file = dir.path().join("bad.jsonl");
        fs::write(&file, line).unwrap();
        let error =
            format!("{:?}", Dataset::read(&file.display().to_string(), &source).unwrap_err());
        assert!(
            error.contains(word) && error.contains("bad.jsonl") && error.contains("line `1`"),
            "{error}"
        );
    }
}

/// `tests/data/rows.py` wrote the file: nested messages, a dictionary, three compressions.
#[test]
fn reads_parquet_and_rejects_damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    let source = talking(dir.path(), &Value::Null);
    let whole = crate::common::data("rows.parquet");
    let data = Dataset::read(&whole.display().to_string(), &source).unwrap();
    // `2 + 2?` and `4` are unknown words.
    assert_eq!(
        data.examples.iter().map(|e| (e.ids.len(), e.prompt)).collect::<Vec<_>>(),
        [(4, 3), (4, 3)]
    );
    let bytes = fs::read(whole).unwrap();
    let damaged = dir.path().join("damaged.parquet");
    for length in [4, 40, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&damaged, &bytes[..length]).unwrap();
        let error =
            format!("{:?}", Dataset::read(&damaged.display().to_string(), &source).unwrap_err());
        assert!(error.contains("damaged.parquet"), "{error}");
    }
    for at in (4..bytes.len()).step_by(11) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&damaged, flipped).unwrap();
        let _ = Dataset::read(&damaged.display().to_string(), &source);
    }
}

#[test]
fn questions_go_through_the_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    // The template's prompt ends with `b`, so an answer starts after it.
    let line = "{\"question\": \"a\", \"answer\": \"b c\"}\n";
    let expected = [(vec![1, 3, 2, 4, 5, 2], 4)];
    for template in [
        json!(TEMPLATE),
        json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]),
    ] {
        let source = talking(dir.path(), &template);
        assert_eq!(read(&source, dir.path(), line), expected);
    }
    // A separate template file takes precedence.
    let source = talking(dir.path(), &json!("x"));
    fs::write(source.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let source = Source::open(&source.path().display().to_string()).unwrap();
    assert_eq!(read(&source, dir.path(), line), expected);
}

#[test]
fn common_column_names_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let source = talking(dir.path(), &Value::Null);
    // Without a template, a question is a line.
    let pair = (vec![3, 4], 1);
    for line in [
        "{\"instruction\": \"a\", \"output\": \"b\"}",
        "{\"question\": \"a\", \"answer\": \"b\"}",
        "{\"query\": \"a\", \"response\": \"b\"}",
        "{\"text\": \"a\", \"sql_query\": \"b\"}",
        "\u{feff}{\"question\": \"a\", \"answer\": \"b\"}",
    ] {
        assert_eq!(read(&source, dir.path(), line), std::slice::from_ref(&pair), "{line}");
    }
    let more =
        read(&source, dir.path(), "{\"instruction\": \"a\", \"input\": \"b\", \"output\": \"c\"}");
    assert_eq!(more, [(vec![3, 4, 5], 2)]);
    let text = read(&source, dir.path(), "{\"text\": \"a b\"}\n\n{\"input_ids\": [5, 95]}\r\n");
    assert_eq!(text, [(vec![3, 4], 0), (vec![5, 95], 0)]);
    let plain = dir.path().join("data.txt");
    fs::write(&plain, "a\r\n\nb c").unwrap();
    let plain = Dataset::read(&plain.display().to_string(), &source).unwrap();
    assert_eq!(
        plain.examples.into_iter().map(|e| e.ids).collect::<Vec<_>>(),
        [vec![3], vec![4, 5]]
    );
}

/// An exact match equals greedy generation with a cache; text after the end token does not count.
#[test]
fn exact_match_agrees_with_generation() {
    let source = Source::open("builtin:math").unwrap();
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }
        .collect()
        .unwrap();
    for name in ["builtin:math-heldout", "builtin:japanese-math-heldout"] {
        let mut examples = Dataset::read(name, &source).unwrap().examples;
        examples.truncate(30);
        let end = source.architecture().unwrap().eos[0];
        let right = examples.iter().filter(|e| {
            let answer = generate(
                source.architecture().unwrap(),
                &weights,
                &e.ids[..e.prompt],
                64,
                &Device::Cpu,
            )
            .unwrap();
            [answer, vec![end]].concat() == e.ids[e.prompt..]
        });
        let right = right.count() as f64 / 30.0;
        let scored = |examples: &[_]| {
            score(source.architecture().unwrap(), &weights, examples, 256, &Device::Cpu).unwrap()
        };
        assert_eq!(scored(&examples).exact_match, Some(right), "{name}");
        examples.iter_mut().for_each(|e| e.ids.extend([7, 8]));
        assert_eq!(scored(&examples).exact_match, Some(right), "{name}");
        // Truncated answers are not exact matches.
        let cut =
            score(source.architecture().unwrap(), &weights, &examples, 4, &Device::Cpu).unwrap();
        assert_eq!(cut.exact_match.unwrap_or(0.0), 0.0);
    }
}
