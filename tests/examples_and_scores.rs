//! What a line of data becomes, and what counts as an exact match.

mod common;

use std::fs;
use std::path::Path;

use common::copy_checkpoint;
use dam_prelude::candle_core::{DType, Device};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Dataset;
use dam_prelude::eval::{generate, score};
use dam_prelude::model::SourceWeights;
use serde_json::{Value, json};

/// A golden checkpoint with words for tokens: `a` is 3, `b` 4, `c` 5; `<s>` 1 and `</s>` 2 are special.
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
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template});
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

#[test]
fn questions_go_through_the_chat_template() {
    let dir = tempfile::tempdir().unwrap();
    // The template's prompt ends with `b`, so an answer must begin with it.
    let line = "{\"question\": \"a\", \"answer\": \"b c\"}\n";
    let expected = [(vec![1, 3, 2, 4, 5, 2], 4)];
    for template in [json!(TEMPLATE), json!([{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}])] {
        let source = talking(dir.path(), &template);
        assert_eq!(read(&source, dir.path(), line), expected);
    }
    // A file of its own wins.
    let source = talking(dir.path(), &json!("x"));
    fs::write(source.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    let source = Source::open(&source.path().display().to_string()).unwrap();
    assert_eq!(read(&source, dir.path(), line), expected);
}

#[test]
fn columns_have_the_names_that_are_common() {
    let dir = tempfile::tempdir().unwrap();
    let source = talking(dir.path(), &Value::Null);
    // Without a template a question is a line.
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
    let more = read(&source, dir.path(), "{\"instruction\": \"a\", \"input\": \"b\", \"output\": \"c\"}");
    assert_eq!(more, [(vec![3, 4, 5], 2)]);
    let text = read(&source, dir.path(), "{\"text\": \"a b\"}\n\n{\"input_ids\": [5, 95]}\r\n");
    assert_eq!(text, [(vec![3, 4], 0), (vec![5, 95], 0)]);
    let plain = dir.path().join("data.txt");
    fs::write(&plain, "a\r\n\nb c").unwrap();
    let plain = Dataset::read(&plain.display().to_string(), &source).unwrap();
    assert_eq!(plain.examples.into_iter().map(|e| e.ids).collect::<Vec<_>>(), [vec![3], vec![4, 5]]);
}

/// An exact match is what greedy generation with a cache writes, and what follows the end does not count.
#[test]
fn an_exact_match_is_what_generation_writes() {
    let source = Source::open("builtin:math").unwrap();
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }.collect().unwrap();
    for name in ["builtin:math-heldout", "builtin:japanese-math-heldout"] {
        let mut examples = Dataset::read(name, &source).unwrap().examples;
        examples.truncate(30);
        let end = source.architecture().unwrap().eos[0];
        let right = examples.iter().filter(|e| {
            let answer = generate(source.architecture().unwrap(), &weights, &e.ids[..e.prompt], 64, &Device::Cpu).unwrap();
            [answer, vec![end]].concat() == e.ids[e.prompt..]
        });
        let right = right.count() as f64 / 30.0;
        let scored = |examples: &[_]| score(source.architecture().unwrap(), &weights, examples, 256, &Device::Cpu).unwrap();
        assert_eq!(scored(&examples).exact_match, Some(right), "{name}");
        examples.iter_mut().for_each(|e| e.ids.extend([7, 8]));
        assert_eq!(scored(&examples).exact_match, Some(right), "{name}");
        // Cut answers are not exact.
        let cut = score(source.architecture().unwrap(), &weights, &examples, 4, &Device::Cpu).unwrap();
        assert_eq!(cut.exact_match.unwrap_or(0.0), 0.0);
    }
}
