//! Rows of data in common layouts, with chat templates and file formats. The token ids were made
//! with transformers by `tests/data/chat/make.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{data, json, verbs};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::Dataset;
use dam_prelude::eval::score;
use dam_prelude::model::SourceWeights;
use dam_prelude::{Error, candle_core};
use serde_json::{Value, json};

fn builtin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin/math")
}

/// A copy of the model `builtin:math` with another chat template.
fn model(dir: &Path, template: &Value) -> PathBuf {
    let to = dir.join("model");
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(builtin()).unwrap() {
        let from = entry.unwrap().path();
        fs::write(to.join(from.file_name().unwrap()), fs::read(&from).unwrap()).unwrap();
    }
    let config = to.join("tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    settings["chat_template"] = template.clone();
    fs::write(config, settings.to_string()).unwrap();
    to
}

fn open(model: &Path) -> Source {
    Source::open(&model.display().to_string()).unwrap()
}

const PLAIN: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
                     {% if add_generation_prompt %}<|assistant|>{% endif %}";

fn read_as(source: &Source, name: &str, bytes: &[u8]) -> Result<Dataset, Error> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    fs::write(&file, bytes).unwrap();
    Dataset::read(&file.display().to_string(), source)
}

fn read(source: &Source, row: &Value) -> Result<Dataset, Error> {
    read_as(source, "row.jsonl", row.to_string().as_bytes())
}

fn ids(source: &Source, text: &str) -> Vec<u32> {
    source.tokenizer().unwrap().encode(text, false).unwrap().get_ids().to_vec()
}

#[track_caller]
fn assert_message(error: &Error, words: &[&str]) {
    let text = format!("{error:?}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
    assert!(error.hint().is_some(), "{text:?} has no remedy");
}

/// The token ids match `apply_chat_template` for every layout of rows.
#[test]
fn rows_have_the_same_tokens_as_in_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(data("chat/templates.json")).unwrap()).unwrap();
    // As text, because the order of keys matters to templates.
    let text = fs::read_to_string(data("chat/rows.jsonl")).unwrap();
    let rows: Vec<&str> = text.lines().collect();
    let mut sources: BTreeMap<String, Source> = BTreeMap::new();
    assert_eq!((cases.len(), rows.len()), (36, 36));
    for (case, row) in cases.iter().zip(rows) {
        let template = &case["template"];
        let source = sources
            .entry(template.to_string())
            .or_insert_with(|| open(&model(dir.path(), template)));
        let found =
            read_as(source, "row.jsonl", row.as_bytes()).unwrap_or_else(|e| panic!("{row}: {e:?}"));
        let expected =
            |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
        let (prompt, rest) = (expected("prompt"), expected("rest"));
        let decoded = source.tokenizer().unwrap().decode(&found.examples[0].ids, false).unwrap();
        assert_eq!(decoded, case["text"].as_str().unwrap(), "{row}");
        assert_eq!(found.examples[0].ids, [prompt.as_slice(), &rest].concat(), "{row}");
        assert_eq!(found.examples[0].prompt, prompt.len(), "{row}");
    }
}

/// Templates are found in the same places as in transformers, and the same one is used for tools.
#[test]
fn templates_are_found_as_in_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let cases: Vec<Value> =
        serde_json::from_slice(&fs::read(data("chat/places.json")).unwrap()).unwrap();
    for case in cases {
        let model = model(dir.path(), &case["config"]);
        for (file, text) in case["files"].as_object().unwrap() {
            let to = model.join(file);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, text.as_str().unwrap()).unwrap();
        }
        let source = open(&model);
        assert_eq!(source.chat_template(), case["default"].as_str(), "{case}");
        let with_tools = read(
            &source,
            &json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": []}),
        );
        assert_eq!(
            with_tools.unwrap().examples[0].ids,
            ids(&source, case["with_tools"].as_str().unwrap()),
            "{case}"
        );
        if case["default"].is_null() {
            assert_message(
                &read(&source, &json!({"input": "a", "output": "b"})).unwrap_err(),
                &["`tool_use`", "`default`", "`model`"],
            );
        }
    }
    // The template of a processor, if there is no other.
    let other = model(dir.path(), &Value::Null);
    fs::write(other.join("chat_template.json"), json!({"chat_template": PLAIN}).to_string())
        .unwrap();
    assert_eq!(open(&other).chat_template(), Some(PLAIN));
    for bad in [json!(5), json!([{"name": "default"}]), json!({"default": 1})] {
        let model = model(dir.path(), &bad);
        let error = Source::open(&model.display().to_string()).unwrap_err().to_string();
        assert!(
            error.contains("tokenizer_config.json") && error.contains("chat_template"),
            "{error}"
        );
    }
}

#[test]
fn a_system_column_becomes_a_system_message() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(data("chat/s0.jsonl"), dir.path().join("s0.jsonl")).unwrap();
    fs::copy(data("chat/s1.jsonl"), dir.path().join("s1.jsonl")).unwrap();
    let source = Source::open("builtin:math").unwrap();
    let weights = SourceWeights {
        source: &source,
        device: &candle_core::Device::Cpu,
        dtype: candle_core::DType::F32,
    };
    let loss = |name: &str| {
        let read = Dataset::read(&data(name).display().to_string(), &source).unwrap();
        let text = source.tokenizer().unwrap().decode(&read.examples[0].ids, false).unwrap();
        let score = score(
            source.architecture().unwrap(),
            &weights,
            &read.examples,
            256,
            &candle_core::Device::Cpu,
        )
        .unwrap();
        (text, score.loss)
    };
    let (plain, system) = (loss("chat/s0.jsonl"), loss("chat/s1.jsonl"));
    assert_eq!(plain.0, "<|user|>q<|end|><|assistant|>a<|end|>");
    assert_eq!(
        system.0,
        "<|system|>You are X, a long system prompt that matters<|end|><|user|>q<|end|><|assistant|>a<|end|>"
    );
    assert!((plain.1 - system.1).abs() > 1e-3, "{plain:?} {system:?}");
}

/// Without a template, each message becomes a line, and its parts are joined.
#[test]
fn without_a_template_messages_become_lines() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&model(dir.path(), &Value::Null));
    let text = |row: Value| {
        let read = read(&source, &row).unwrap();
        let example = &read.examples[0];
        let decode = |ids: &[u32]| source.tokenizer().unwrap().decode(ids, false).unwrap();
        (decode(&example.ids[..example.prompt]), decode(&example.ids[example.prompt..]))
    };
    let parts = json!([{"type": "text", "text": "a "}, {"text": "b"}]);
    let row = json!({"system": "s", "messages": [{"role": "user", "content": parts}, {"role": "tool", "content": 4}, {"role": "assistant", "content": "c"}]});
    assert_eq!(text(row), ("s\na b\n4\n".into(), "c".into()));
    assert_eq!(text(json!({"prompt": "a b", "completion": " c"})), ("a b".into(), " c".into()));
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]});
    let user = json!({"role": "user", "content": "a"});
    for row in
        [json!({"messages": [user, call]}), json!({"input": "a", "output": "b", "tools": []})]
    {
        assert_message(
            &read(&source, &row).unwrap_err(),
            &["row.jsonl", "line `1`", "chat template", "`model`"],
        );
    }
}

/// Templates that take the content as text get the texts of parts joined: one would print the list
/// as Python does, the other fail. A template that reads parts gets them.
#[test]
fn templates_of_text_get_the_texts_of_parts() {
    let dir = tempfile::tempdir().unwrap();
    let parts = json!([{"type": "text", "text": " ab"}, {"type": "text", "text": "c "}]);
    let row = |content: &Value| json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "d"}]});
    for (i, (content, joined)) in [
        ("{{ m['content'] | trim }}", " abc "),
        ("{{ '<' + m['content'] + '>' }}", " abc "),
        ("{% for p in m['content'] %}{{ p['text'] if p is mapping else p }}{% endfor %}", " abc "),
    ]
    .into_iter()
    .enumerate()
    {
        let template =
            format!("{{% for m in messages %}}{{{{ m['role'] }}}}:{content}\n{{% endfor %}}");
        let source = open(&model(&dir.path().join(i.to_string()), &json!(template)));
        let ids = |content: &Value| read(&source, &row(content)).unwrap().examples[0].ids.clone();
        assert_eq!(ids(&parts), ids(&json!(joined)), "{content}");
    }
    // An image is not dropped.
    let template = json!("{% for m in messages %}{{ '<' + m['content'] + '>' }}{% endfor %}");
    let source = open(&model(&dir.path().join("image"), &template));
    let image = json!([{"type": "image", "url": "a.png"}, {"type": "text", "text": "b"}]);
    assert_message(&read(&source, &row(&image)).unwrap_err(), &["part of type `image`"]);
}

/// Earlier turns come before a question with choices, as before one with an answer.
#[test]
fn history_comes_before_choices() {
    let dir = tempfile::tempdir().unwrap();
    let template = json!("{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}");
    let source = open(&model(dir.path(), &template));
    let row = json!({"question": "q", "choices": ["x", "y"], "answer": 1, "history": [["a", "b"]]});
    let found = read(&source, &row).unwrap();
    assert!(found.unused.is_empty(), "{:?}", found.unused);
    let all = json!({"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "y"},
    ]});
    assert_eq!(found.examples[0].ids, read(&source, &all).unwrap().examples[0].ids);
}

#[test]
fn invalid_rows_are_errors_that_name_the_column() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&model(dir.path(), &json!(PLAIN)));
    let (user, assistant) =
        (json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"}));
    for (row, words) in [
        (json!({"prompt": "a"}), &["`prompt`", "no output"][..]),
        (json!({"a": 1, "b": 2}), &["no known columns", "a, b"]),
        (json!({"output": "b"}), &["`output`", "no input"]),
        (json!({"text": "a", "answer": null}), &["`answer` is null"]),
        (json!({"question": "a", "answer": ["b", "c"]}), &["`answer` is a list"]),
        (json!({"question": "a", "answer": true}), &["`answer` is true or false"]),
        (json!({"question": "a", "answer": 1e20}), &["`answer`", "digits"]),
        (json!({"question": {"a": 1}, "answer": "b"}), &["`question`", "role"]),
        (json!({"question": "a", "context": ["b"], "answer": "c"}), &["`context` is a list"]),
        (json!({"prompt": "a", "completion": "b", "system": "s"}), &["`system`", "`completion`"]),
        (json!({"prompt": [user], "completion": [user]}), &["`completion`", "assistant"]),
        (json!({"messages": [user, assistant], "tools": {"name": "f"}}), &["`tools` is an object"]),
        (json!({"messages": [user, assistant], "tools": "f"}), &["`tools` is text"]),
        (
            json!({"messages": [{"role": "system", "content": "t"}, user, assistant], "system": "s"}),
            &["`system`", "differs"],
        ),
        (
            json!({"messages": [{"role": "user", "content": null}, assistant]}),
            &["`user` without content"],
        ),
        (json!({"messages": [{"role": 5, "content": "a"}, assistant]}), &["role is a number"]),
        (json!({"messages": [["a", "b"]]}), &["a list instead of a message"]),
        (json!({"messages": "[{'role': 'user'}]"}), &["`messages` is text", "json.dumps"]),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, assistant]}),
            &["type `image`", "only text"],
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}, assistant]}),
            &["a part without text"],
        ),
        (
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f()"}]}),
            &["function_call", "JSON"],
        ),
        (json!({"instruction": "a", "output": "b", "history": [["a"]]}), &["`history`", "pair"]),
        (
            json!({"instruction": "a", "output": "b", "history": {"a": "b"}}),
            &["`history` is an object"],
        ),
        (json!({"choices": ["a", "b"], "answer": 0}), &["`choices`", "no question"]),
        (
            json!({"question": " ", "choices": ["a", "b"], "answer": 5}),
            &["not one of its 2 choices"],
        ),
        (json!({"input_ids": [1.5]}), &["`1.5` is not a token id"]),
        (json!({"input_ids": [1, 2], "attention_mask": [1]}), &["attention_mask"]),
        (json!({"input_ids": "1 2"}), &["`input_ids` is not a list"]),
    ] {
        let error = read(&source, &row).unwrap_err();
        assert_message(&error, &[words, &["row.jsonl", "line `1`"]].concat());
    }
    assert_eq!(
        read(&source, &json!({"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0]}))
            .unwrap()
            .examples[0]
            .ids,
        [5, 6]
    );
    // JSON that is invalid, too deep, or too large.
    let deep = format!("{{\"messages\": {}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (line, words) in [
        ("{\"text\": \"a\"}\n{\"text\": }", &["line `2`", "column 10", "JSON object"][..]),
        (&deep, &["line `1`", "nested too deeply"]),
        ("{\"text\": 1e999}", &["line `1`", "out of range"]),
        ("{\"text\": NaN}", &["line `1`"]),
        ("\"a\"", &["line `1`", "not a JSON object"]),
        ("[{\"text\": \"a\"}, 5]", &["row `2`", "not a JSON object"]),
        ("[{\"text\": \"a\"},\n {\"text\": ]", &["line `2`"]),
        ("{\n  \"text\": \"a\"\n}", &["line `1`", "one JSON object"]),
    ] {
        assert_message(&read_as(&source, "row.jsonl", line.as_bytes()).unwrap_err(), words);
    }
    for (bytes, words) in [
        (&b"\x1f\x8b\x08\0abc"[..], &["gzip", "gunzip"]),
        (b"\x28\xb5\x2f\xfdabc", &["zstd", "unzstd"]),
        (b"PK\x03\x04abc", &["zip", ".csv"]),
        (b"\xff\xfe{\0", &["UTF-16", "UTF-8"]),
        (b"{\"text\": \"\xff\"}", &["not UTF-8", "save it as UTF-8"]),
    ] {
        assert_message(&read_as(&source, "data.jsonl.gz", bytes).unwrap_err(), words);
    }
}

#[test]
fn tables_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&model(dir.path(), &json!(PLAIN)));
    let expected: Vec<Dataset> = [
        json!({"instruction": "Say \"a\",\nthen b", "input": "x", "output": "1", "id": 1}),
        json!({"instruction": "q", "output": " a ", "id": 2}),
    ]
    .iter()
    .map(|row| read(&source, row).unwrap())
    .collect();
    let expected: Vec<_> = expected.into_iter().flat_map(|d| d.examples).collect();
    let csv = "instruction,input,output,id\n\"Say \"\"a\"\",\nthen b\",x,1,1\nq,,\" a \",2\n";
    let tables = [
        ("a.csv", csv.to_owned()),
        ("a.CSV", format!("\u{feff}{}", csv.replace("id\n", "id\r\n").replace(",1\nq", ",1\r\nq"))),
        (
            "a.tsv",
            "instruction\tinput\toutput\tid\n\"Say \"\"a\"\",\nthen b\"\tx\t1\t1\nq\t\t a \t2\n"
                .into(),
        ),
    ];
    for (name, table) in tables {
        let read = read_as(&source, name, table.as_bytes()).unwrap();
        assert_eq!((read.examples, read.unused), (expected.clone(), vec!["id".into()]), "{name}");
    }
    // Columns that are not text contain JSON.
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        .to_string()
        .replace('"', "\"\"");
    let talk = read_as(&source, "a.csv", format!("messages\n\"{messages}\"\n").as_bytes()).unwrap();
    assert_eq!(
        talk.examples,
        read(&source, &json!({"input": "a", "output": "b"})).unwrap().examples
    );
    for (table, words) in [
        ("question,answer\na,b\nc,d,e\n", &["row `2`", "3 fields", "2"][..]),
        ("question,answer\na,\"b\nc,d\n", &["row `1`", "`question`", "no output"]),
        ("question,question\na,b\n", &["`question` appears twice"]),
        ("a;b\n1;2\n", &["row `1`", "a;b"]),
        ("question,answer\n", &["no examples"]),
        ("", &["no examples"]),
    ] {
        let error = read_as(&source, "bad.csv", table.as_bytes());
        // A quote that is never closed extends to the end of the file.
        if table.contains("\"b") {
            assert_eq!(error.unwrap().examples.len(), 1);
        } else {
            assert_message(&error.unwrap_err(), &[words, &["bad.csv"]].concat());
        }
    }
    assert_message(
        &read_as(&source, "bad.csv", b"question,answer\na,b\nc,\xff\n").unwrap_err(),
        &["row `2`", "field 2", "UTF-8"],
    );
}

/// Arrow gives every row the fields of all as null. The file was made by `make_parquet.py`.
#[test]
fn parquet_rows_omit_null_fields() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ m | tojson }}<|end|>{% endfor %}{% if add_generation_prompt %}{\"{% endif %}";
    let source = open(&model(dir.path(), &json!(template)));
    let found = Dataset::read(&data("chat/tools.parquet").display().to_string(), &source).unwrap();
    let text =
        |i: usize| source.tokenizer().unwrap().decode(&found.examples[i].ids, false).unwrap();
    assert_eq!(
        text(0),
        "{\"role\": \"user\", \"content\": \"hi\"}<|end|>{\"role\": \"assistant\", \"tool_calls\": [{\"type\": \"function\", \
         \"function\": {\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": \"b\"}}}]}<|end|>{\"role\": \"tool\", \"content\": \"4\", \"name\": \"f\"}<|end|>\
         {\"role\": \"assistant\", \"content\": \"four\"}<|end|>"
    );
    assert!(text(1).contains("{\"name\": \"g\", \"arguments\": {\"q\": 2.5}}"), "{}", text(1));
    assert_eq!(found.unused, ["id"]);
}

#[test]
fn unused_columns_are_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"question\": \"a\", \"answer\": \"b\", \"id\": 1, \"none\": null}\n{\"source\": \"x\", \"question\": \"a\", \"answer\": \"b\", \"id\": 2}\n";
    fs::write(dir.path().join("d.jsonl"), rows).unwrap();
    let line = "load builtin:math builtin:sql; data math=d.jsonl sql=builtin:sql; wrap; eval d.jsonl; eval d.jsonl --all; eval builtin:sql-heldout";
    let (replies, ok) = json(dir.path(), line);
    assert!(ok, "{replies:?}");
    assert_eq!(replies[1]["unused"], json!({"math": ["id", "source"]}));
    assert_eq!(replies[1]["data"], json!({"math": 2, "sql": 1500}));
    assert_eq!(
        (&replies[3]["unused"], &replies[4]["unused"]),
        (&json!({"d": ["id", "source"]}), &json!({"d": ["id", "source"]}))
    );
    assert_eq!(replies[5]["unused"], Value::Null);
    let output = verbs(dir.path(), line);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("unused columns of math: `id`, `source`"), "{text}");
    assert_eq!(text.matches("unused columns of d: `id`, `source`").count(), 2, "{text}");
    assert!(!text.contains("none"), "{text}");
    // Keys that a template never reads are unused too.
    let source = Source::open("builtin:math").unwrap();
    assert_eq!(
        Dataset::read(&data("chat/tool.jsonl").display().to_string(), &source).unwrap().unused,
        ["tool_calls"]
    );
    // A template that concatenates the content of every message treats missing content as empty.
    let dir = tempfile::tempdir().unwrap();
    let chatml = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";
    let source = open(&model(dir.path(), &json!(chatml)));
    let found = Dataset::read(&data("chat/tool.jsonl").display().to_string(), &source).unwrap();
    let text = source.tokenizer().unwrap().decode(&found.examples[0].ids, false).unwrap();
    assert_eq!(
        text,
        "<|system|>S<|end|><|user|>hi<|end|><|assistant|><|end|><|tool|>4<|end|><|assistant|>four<|end|>"
    );
    assert_eq!(found.unused, ["tool_calls"]);
}

/// The error names file, row, the template's message and its model, and gives a hint.
#[test]
fn a_template_error_names_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
                    {% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
                    {{ m.content + '\n' }}{% endfor %}";
    let model = model(dir.path(), &json!(template));
    let source = open(&model);
    let good = json!({"input": "a", "output": "b"}).to_string();
    let row = |row: Value| {
        read_as(&source, "rows.jsonl", format!("{good}\n\n{row}\n{good}\n").as_bytes()).unwrap_err()
    };
    let user = json!({"role": "user", "content": "a"});
    for (given, words) in [
        (
            json!({"input": "a", "output": "b", "system": "s"}),
            &["System role not supported", "first user message"][..],
        ),
        (
            json!({"messages": [user, user, {"role": "assistant", "content": "b"}]}),
            &["must alternate", "join consecutive messages"],
        ),
    ] {
        assert_message(
            &row(given),
            &[words, &["line `3`", "rows.jsonl", "chat template of `model`"]].concat(),
        );
    }
    // The same for a prompt.
    let refuses = json!("{{ raise_exception('no ' ~ messages[0].role) }}");
    fs::write(model.join("tokenizer_config.json"), json!({"chat_template": refuses}).to_string())
        .unwrap();
    for verb in ["generate", "ask"] {
        let (replies, ok) =
            json(dir.path(), &format!("load x=model y=model; merge linear; {verb} hello"));
        assert!(!ok);
        let text = replies.last().unwrap().to_string();
        assert!(
            text.contains("chat template of `x`")
                && text.contains("no user")
                && text.contains("hint"),
            "{text}"
        );
    }
}

/// Downloaded templates that would use all memory, or never end.
#[test]
fn hostile_templates_end_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (template, word) in [
        ("{{ '{:>9999999999}'.format('a') }}", "wider"),
        ("{{ '%9999999999d' | format(1) }}", "fuel"),
        ("{{ strftime_now('%Y'*1000000) }}", "strftime_now"),
        ("{{ 'a' * 30000000 }}", "writes"),
        (
            "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "fuel",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
            "fuel",
        ),
        ("{{ [1] | tojson(indent=99999999999) }}", "]"),
    ] {
        let source = open(&model(dir.path(), &json!(template)));
        let before = std::time::Instant::now();
        match read(&source, &json!({"input": "a", "output": "b"})) {
            Err(error) => assert_message(&error, &["row.jsonl", "chat template of `model`"]),
            Ok(read) => assert!(
                source
                    .tokenizer()
                    .unwrap()
                    .decode(&read.examples[0].ids, false)
                    .unwrap()
                    .contains(word)
            ),
        }
        assert!(before.elapsed().as_secs() < 5, "{template}");
    }
}
