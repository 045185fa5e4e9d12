//! Files that demand gigabytes or hours are rejected with a clear error, within a second and a
//! gigabyte. The tokenizers and templates are those of a built-in model with one hostile part each.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::dam;
use serde_json::{Value, json};

/// The maximum memory of the program in bytes, including the model.
const MAX_BYTES: u64 = 1 << 30;

/// A copy of the built-in arithmetic model with tokenizer.json and tokenizer_config.json changed by
/// `change`.
fn model(to: &Path, change: impl FnOnce(&mut Value, &mut Value)) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin/math");
    fs::create_dir_all(to).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let read = |name: &str| serde_json::from_slice(&fs::read(from.join(name)).unwrap()).unwrap();
    let (mut tokenizer, mut config) = (read("tokenizer.json"), read("tokenizer_config.json"));
    change(&mut tokenizer, &mut config);
    fs::write(to.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(to.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// The output of `dam -c VERBS`, whether it succeeded, its peak memory in bytes and its duration.
#[expect(clippy::zombie_processes, reason = "wait4 waits, which also gives the memory")]
fn measure(directory: &Path, verbs: &str) -> (String, bool, u64, Duration) {
    let begin = Instant::now();
    let mut command = dam(directory);
    // Limits memory, so that a failing test does not exhaust the machine.
    // SAFETY: the closure only makes a system call, which is safe between fork and exec.
    let limited = unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 4 * MAX_BYTES, rlim_max: 4 * MAX_BYTES };
            if libc::setrlimit(libc::RLIMIT_AS, &raw const limit) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        })
    };
    let mut child =
        limited.args(["-c", verbs]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut text, mut errors) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| stderr.read_to_string(&mut errors).unwrap());
        stdout.read_to_string(&mut text).unwrap();
    });
    text += &errors;
    // SAFETY: both are plain numbers that the call fills in; the process is a child that was not
    // waited for.
    let (status, usage) = unsafe {
        let (mut status, mut usage) = (0, std::mem::zeroed::<libc::rusage>());
        assert_eq!(
            libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage),
            child.id() as i32
        );
        (status, usage)
    };
    (text, status == 0, usage.ru_maxrss as u64 * 1024, begin.elapsed())
}

/// Loading the model, or reading data with it, fails in time with `words`, in one line with a hint.
#[track_caller]
fn assert_rejected(change: impl FnOnce(&mut Value, &mut Value), words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    model(&directory.path().join("t"), change);
    fs::write(
        directory.path().join("q.jsonl"),
        format!("{}\n", json!({"question": "a".repeat(32), "answer": "b"})),
    )
    .unwrap();
    let (text, ok, bytes, time) = measure(directory.path(), "load t=t; data t=q.jsonl");
    assert!(!ok && words.iter().all(|word| text.contains(word)), "{text}");
    assert!(
        text.contains("hint:") && !text.contains("panicked") && !text.contains("backtrace"),
        "{text}"
    );
    assert!(bytes < MAX_BYTES && text.len() < 2000, "{bytes} bytes: {text}");
    // The test machine may be busy.
    assert!(time < Duration::from_secs(5), "{time:?}: {text}");
}

fn sequence(list: &str, step: Value, times: usize) -> Value {
    json!({"type": "Sequence", list: vec![step; times]})
}

#[test]
fn tokenizers_with_excessive_demands_are_rejected() {
    let normalizer =
        |value: Value| move |tokenizer: &mut Value, _: &mut Value| tokenizer["normalizer"] = value;
    let pre_tokenizer = |value: Value| {
        move |tokenizer: &mut Value, _: &mut Value| tokenizer["pre_tokenizer"] = value
    };
    // Cases t1, t4, t5 and t6 of the issue.
    assert_rejected(
        pre_tokenizer(json!({"type": "FixedLength", "length": 0})),
        &["tokenizer.json", "length 0"],
    );
    assert_rejected(
        normalizer(json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
        &["tokenizer.json", "charsmap"],
    );
    let doubled = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
    assert_rejected(
        normalizer(sequence("normalizers", doubled.clone(), 40)),
        &["tokenizer.json", "normalizers"],
    );
    assert_rejected(
        normalizer(sequence("normalizers", doubled, 30)),
        &["tokenizer.json", "after its normalizers"],
    );
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    assert_rejected(
        pre_tokenizer(sequence("pretokenizers", bytes.clone(), 1000)),
        &["tokenizer.json", "pretokenizers"],
    );
    assert_rejected(
        pre_tokenizer(sequence("pretokenizers", bytes, 30)),
        &["tokenizer.json", "times the text"],
    );
    let long = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a".repeat(1 << 20)});
    assert_rejected(normalizer(long), &["tokenizer.json", "after its normalizers"]);
    let regex = json!({"type": "Split", "pattern": {"Regex": "((a{1000}){1000}){1000}"}, "behavior": "Isolated", "invert": false});
    assert_rejected(pre_tokenizer(regex), &["tokenizer.json", "repetitions"]);
}

/// The regex engine stops on patterns with catastrophic backtracking.
#[test]
fn slow_patterns_and_deep_values_end() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("q.jsonl"),
        format!("{}\n", json!({"question": "a".repeat(64), "answer": "b"})),
    )
    .unwrap();
    let slow = json!({"type": "Split", "pattern": {"Regex": "(?=(a+)+b)\\1"}, "behavior": "Isolated", "invert": false});
    model(&directory.path().join("slow"), |tokenizer, _| tokenizer["pre_tokenizer"] = slow);
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    for (name, shown) in [
        ("shown", "{{ ns.x }}"),
        ("json", "{{ ns.x|tojson }}"),
        ("same", "{{ ns.x == ns.x }}"),
        ("kept", "a"),
    ] {
        model(&directory.path().join(name), |_, config| {
            config["chat_template"] = format!("{nested}{shown}").into()
        });
    }
    for name in ["slow", "shown", "json", "same", "kept"] {
        let (text, _, bytes, time) =
            measure(directory.path(), &format!("load t={name}; data t=q.jsonl"));
        // It may succeed or fail, but it must end.
        assert!(text.contains("1 examples") || text.contains("hint:"), "{name}: {text}");
        assert!(bytes < MAX_BYTES && time < Duration::from_secs(5), "{name}: {bytes} {time:?}");
    }
}

#[test]
fn templates_with_excessive_demands_are_rejected() {
    let template = |text: &str| {
        let text = text.to_owned();
        move |_: &mut Value, config: &mut Value| config["chat_template"] = text.into()
    };
    for (text, words) in [
        // Cases t7 and t9 of the issue.
        ("{{ '{:>9999999999}'.format('a') }}", &["width"][..]),
        ("{{ strftime_now('%Y'*1000000) }}", &["strftime_now"]),
        ("{{ '{:>999999999}'.format('a') }}", &["width"]),
        ("{{ '{:.999999999f}'.format(1.5) }}", &["width"]),
        ("{{ '%999999999d'|format(3) }}", &["width"]),
        ("{{ 'a' * 90000000 }}", &["fuel"]),
        ("{{ 'a'|center(999999999) }}", &["cannot render"]),
        ("{{ 'a\\nb'|indent(999999999) }}", &["cannot render"]),
        ("{{ range(999999999999)|list }}", &["cannot render"]),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            &["fuel"],
        ),
        (
            "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            &["fuel"],
        ),
        (
            "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aaaa') %}{% endfor %}",
            &["fuel"],
        ),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|join }}", &["fuel"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ''.join([x] * 100000) }}", &["fuel"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ [[x] * 100000]|join(',') }}", &["fuel"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|string|length }}", &["fuel"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|urlencode }}", &["cannot render"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ x|replace('', x)|length }}", &["fuel"]),
        (
            "{% set x = 'abcdefgh' * 100000 %}{{ ('a\n' * 100000)|indent(4096)|length }}",
            &["cannot render"],
        ),
        (
            "{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|map('upper')|list|length }}",
            &["fuel"],
        ),
        (
            "{% set x = 'abcdefgh' * 100000 %}{{ '%s'|format([x] * 100000)|length }}",
            &["cannot render"],
        ),
        ("{% set x = 'abcdefgh' * 100000 %}{{ {'a': [x] * 100000} }}", &["fuel"]),
        (
            "{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|batch(2)|string|length }}",
            &["cannot render"],
        ),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|sum }}", &["cannot render"]),
        (
            "{% set x = 'abcdefgh' * 100000 %}{% set y %}{% for i in range(9999) %}{{ x }}{% endfor %}{% endset %}{{ y|length }}",
            &["fuel"],
        ),
        (
            "{% set x = 'abcdefgh' * 100000 %}{{ namespace(x=[x] * 100000)|string|length }}",
            &["cannot render"],
        ),
        ("{{ raise_exception('abcdefgh' * 1000000) }}", &["cannot render"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ([x] * 100000)|tojson }}", &["cannot render"]),
        ("{% set x = 'abcdefgh' * 100000 %}{{ ('{0}' * 100000).format(x) }}", &["fuel"]),
        (
            "{% set x = 'abcdefgh' * 100000 %}{% for i in range(99999) %}{% set y = x.count('b') %}{% endfor %}",
            &["fuel"],
        ),
        ("{{ 'abcdefgh' * 300000 }}", &["a conversation of"]),
        ("{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", &["namespace"]),
        ("{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('abcdefgh') }}", &["cannot render"]),
    ] {
        println!("{text}");
        assert_rejected(template(text), words);
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(30_000), ")".repeat(30_000));
    assert_rejected(template(&deep), &["cannot render"]);
}

/// Real templates that use the same functions are accepted.
#[test]
fn templates_that_pad_join_and_format_render() {
    let directory = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}{{ '{:>12}|{:.2f}'.format(m.role, 1.5) }}{{ ', '.join(['a', m.content]) }}\
                    {{ m|tojson }}{{ strftime_now('%d %b %Y') }}{{ '%5d'|format(3) }}{{ '=' * 40 }}<|end|>{% endfor %}";
    model(&directory.path().join("t"), |_, config| config["chat_template"] = template.into());
    fs::write(directory.path().join("q.jsonl"), "{\"question\": \"12\", \"answer\": \"7\"}\n")
        .unwrap();
    let (text, ok, ..) = measure(directory.path(), "load t=t; data t=q.jsonl");
    assert!(ok && text.contains("1 examples"), "{text}");
}

/// A text for which the tokenizer would need gigabytes.
#[test]
fn a_text_that_exceeds_memory_is_rejected_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    model(&directory.path().join("t"), |_, _| {});
    let text = |bytes: usize| json!({"text": "12 + 7 ".repeat(bytes / 7)}).to_string();
    fs::write(directory.path().join("long.jsonl"), format!("{}\n{}\n", text(70), text(8 << 20)))
        .unwrap();
    fs::write(directory.path().join("book.jsonl"), text(2 << 20)).unwrap();
    let (output, ok, bytes, _) = measure(directory.path(), "load t=t; data t=long.jsonl");
    assert!(
        !ok && output.contains("line `2`") && output.contains("at most") && bytes < MAX_BYTES,
        "{bytes} {output}"
    );
    // A text of the size of a book is read.
    let (output, ok, bytes, _) = measure(directory.path(), "load t=t; data t=book.jsonl");
    assert!(ok && bytes < MAX_BYTES, "{bytes} {output}");
}

/// Nothing blocks on a pipe in place of a file.
#[test]
fn pipes_and_devices_are_errors_wherever_a_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let fifo = |path: &Path| {
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path is a C string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    fifo(&at("pipe"));
    for (model_name, file) in [
        ("a", "config.json"),
        ("b", "model.safetensors"),
        ("c", "tokenizer.json"),
        ("d", "tokenizer_config.json"),
        ("e", "special_tokens_map.json"),
    ] {
        model(&at(model_name), |_, _| {});
        let _ = fs::remove_file(at(model_name).join(file));
        fifo(&at(model_name).join(file));
    }
    fs::create_dir(at("adapter")).unwrap();
    fifo(&at("adapter/adapter_config.json"));
    fifo(&at("x.gguf"));
    fifo(&at("recipe.yml"));
    let verbs = [
        "load a",
        "load b",
        "load c",
        "load d",
        "load e",
        "load x.gguf",
        "load builtin:math+adapter",
        "load m=builtin:math; data m=pipe",
        "load m=builtin:math; data m=/dev/zero",
        "open pipe",
        "load builtin:math builtin:sql; merge recipe.yml out",
        "load builtin:math builtin:sql; wrap; eval pipe",
        "load builtin:math builtin:sql; wrap; save pipe",
    ];
    for verbs in verbs {
        let (text, ok, bytes, time) = measure(directory.path(), verbs);
        let words = ["not a regular file", "already exists"];
        assert!(
            !ok && words.iter().any(|word| text.contains(word)) && text.contains("hint:"),
            "{verbs}: {text}"
        );
        assert!(bytes < MAX_BYTES && time < Duration::from_secs(5), "{verbs}: {bytes} {time:?}");
    }
    for path in ["pipe", "/dev/zero"] {
        let output = dam(directory.path()).args(["run", path]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success()
                && text.contains("not a regular file")
                && text.contains("hint:"),
            "{text}"
        );
    }
}
