//! Every kind of bad input gives a clear error, changes nothing and leaves no files.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::common::{copy_checkpoint, golden, json, names, verbs};
use dam_prelude::candle_core::{Device, Tensor};
use dam_prelude::{Columns, Dam, Error, Models, Settings, Trace, load};
use serde_json::{Value, json};

/// The error from loading a golden checkpoint changed by `damage`.
#[track_caller]
fn load_error(damage: impl FnOnce(&Path)) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy_checkpoint("model0", &model);
    damage(&model);
    load([model.display().to_string()]).expect_err("damaged checkpoints are refused")
}

fn weights(model: &Path) -> std::path::PathBuf {
    model.join("model.safetensors")
}

/// Changes config.json.
fn edit_config(model: &Path, key: &str, value: Value) {
    let file = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config[key] = value;
    fs::write(file, config.to_string()).unwrap();
}

/// Changes the safetensors header, keeping the data.
fn edit_header(model: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(weights(model)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let new =
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
    fs::write(weights(model), new).unwrap();
}

#[track_caller]
fn assert_message(error: &Error, words: &[&str]) {
    let text = format!("{error:?}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

fn dam() -> Dam {
    let mut models: Models =
        load(["m0", "m1"].map(|n| format!("{n}={}", golden(&n.replace('m', "model")).display())))
            .unwrap();
    for i in 0..2 {
        models
            .data(&format!("m{i}"), &golden(&format!("data{i}.jsonl")).display().to_string())
            .unwrap();
    }
    models.wrap(Columns::default()).unwrap()
}

#[test]
fn a_missing_directory_or_file() {
    let error = load(["/no/such/model"]).unwrap_err();
    assert_message(&error, &["`/no/such/model`", "hint"]);
    assert_message(
        &load(["builtin:japanes"]).unwrap_err(),
        &["`japanes`", "did you mean `japanese`?"],
    );
    assert_message(
        &load_error(|m| fs::remove_file(m.join("config.json")).unwrap()),
        &["config.json"],
    );
    assert_message(&load_error(|m| fs::remove_file(weights(m)).unwrap()), &["model.safetensors"]);
    assert_message(&dam().data("m0", "/no/such.jsonl").unwrap_err(), &["/no/such.jsonl"]);
    assert!(matches!(Dam::open("/no/such.dam").unwrap_err(), Error::NotFound { .. }));
}

#[test]
fn truncated_safetensors() {
    for keep in [0, 5, 8, 100, 80_000] {
        let error = load_error(|m| {
            let bytes = fs::read(weights(m)).unwrap();
            fs::write(weights(m), &bytes[..keep]).unwrap();
        });
        assert!(matches!(error, Error::Safetensors { .. }), "{keep} bytes: {error:?}");
        assert_message(&error, &["model.safetensors", "download the file again"]);
    }
}

#[test]
fn a_header_longer_than_the_file_or_of_gigabytes() {
    for claimed in [1u64 << 20, 4 << 30, u64::MAX] {
        let error = load_error(|m| {
            let mut bytes = fs::read(weights(m)).unwrap();
            bytes[..8].copy_from_slice(&claimed.to_le_bytes());
            fs::write(weights(m), bytes).unwrap();
        });
        assert_message(&error, &["model.safetensors", &format!("claims {claimed} bytes")]);
    }
}

#[test]
fn overlapping_and_out_of_range_offsets() {
    let overlapping = load_error(|m| {
        edit_header(m, |h| h["model.norm.weight"]["data_offsets"] = json!([0, 128]))
    });
    assert_message(&overlapping, &["model.safetensors", "overlap"]);
    let outside = load_error(|m| {
        edit_header(m, |h| h["model.norm.weight"]["data_offsets"] = json!([10_000_000, 10_000_128]))
    });
    assert_message(&outside, &["model.safetensors"]);
    let huge =
        load_error(|m| edit_header(m, |h| h["model.norm.weight"]["shape"] = json!([u64::MAX, 4])));
    assert_message(&huge, &["model.safetensors", "overflow"]);
    let wrong = load_error(|m| edit_header(m, |h| h["model.norm.weight"]["shape"] = json!([33])));
    assert_message(&wrong, &["model.safetensors"]);
}

#[test]
fn an_index_that_names_a_file_outside_the_directory() {
    for entry in ["../other/model.safetensors", "/etc/passwd", "a/../../b.safetensors", ".."] {
        let error = load_error(|m| {
            fs::remove_file(weights(m)).unwrap();
            let index = json!({"weight_map": {"model.norm.weight": entry}});
            fs::write(m.join("model.safetensors.index.json"), index.to_string()).unwrap();
        });
        assert!(matches!(error, Error::OutsideDirectory { .. }), "{error:?}");
        assert_message(&error, &[entry, "index.json"]);
    }
    let error = load_error(|m| {
        fs::rename(weights(m), m.join("part.safetensors")).unwrap();
        let index = json!({"weight_map": {"no.such.weight": "part.safetensors"}});
        fs::write(m.join("model.safetensors.index.json"), index.to_string()).unwrap();
    });
    assert_message(&error, &["no.such.weight", "part.safetensors"]);
}

#[test]
fn nan_and_infinity_in_a_source() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = load_error(|m| {
            let mut bytes = fs::read(weights(m)).unwrap();
            let at = bytes.len() - 4 * 7;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            fs::write(weights(m), bytes).unwrap();
        });
        assert!(matches!(error, Error::NonFinite { .. }), "{error:?}");
        assert_message(&error, &["model.norm.weight", "position `25`"]);
    }
}

#[test]
fn a_wrong_dtype_or_shape() {
    let error = load_error(|m| edit_header(m, |h| h["model.norm.weight"]["dtype"] = json!("I32")));
    assert_message(&error, &["model.norm.weight", "I32", "f32, f16, bf16"]);
    let error = load_error(|m| edit_header(m, |h| h["model.norm.weight"]["shape"] = json!([4, 8])));
    assert_message(&error, &["model.norm.weight", "[4, 8]", "[32]"]);
    let error = load_error(|m| {
        edit_header(m, |h| {
            let tensor = h.as_object_mut().unwrap().remove("model.norm.weight").unwrap();
            h["model.other.weight"] = tensor;
        })
    });
    assert_message(&error, &["no tensor `model.norm.weight`"]);
}

/// Loads two golden checkpoints whose config.json has `value` for `key`: they can be merged, the
/// report says why they cannot run, and `wrap` returns that error.
#[track_caller]
fn run_error(key: &str, value: &Value) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let models = ["model0", "model1"].map(|name| {
        let model = dir.path().join(name);
        copy_checkpoint(name, &model);
        edit_config(&model, key, value.clone());
        model.display().to_string()
    });
    let models = load(models).unwrap();
    let error = models.wrap(Columns::default()).unwrap_err();
    assert_eq!(models.report().0[0].obstacle.as_deref(), Some(error.to_string().as_str()));
    models.merge_named("linear", &[]).unwrap().bake(dir.path().join("merged")).unwrap();
    error
}

/// Unsupported models can still be merged without running; only invalid JSON is an error on
/// loading.
#[test]
fn a_config_that_cannot_be_used() {
    assert_message(&run_error("model_type", &json!("gpt2")), &["gpt2", "llama, mistral"]);
    assert_message(&run_error("hidden_size", &json!(-3)), &["config.json", "hidden_size", "-3"]);
    assert_message(&run_error("num_hidden_layers", &json!(1u64 << 40)), &["num_hidden_layers"]);
    assert_message(&run_error("num_key_value_heads", &json!(3)), &["num_key_value_heads"]);
    assert_message(&run_error("hidden_act", &json!("gelu")), &["gelu"]);
    assert_message(&run_error("rope_parameters", &json!({"rope_type": "dynamic"})), &["dynamic"]);
    for (key, value) in [
        ("num_hidden_layers", json!(16_777_216)),
        ("rope_parameters", json!("linear")),
        ("rope_parameters", json!({"rope_type": 7})),
        ("hidden_act", json!(5)),
        ("partial_rotary_factor", json!(0.5)),
        ("layer_types", json!(["sliding_attention", "full_attention"])),
        ("attention_bias", json!("no")),
        ("rms_norm_eps", json!("small")),
        ("eos_token_id", json!("end")),
    ] {
        let error = run_error(key, &value);
        assert!(matches!(error, Error::Config { .. }), "{key}: {error:?}");
    }
    for text in ["{", "[]", "3"] {
        assert_message(
            &load_error(|m| fs::write(m.join("config.json"), text).unwrap()),
            &["config.json"],
        );
    }
}

#[test]
fn an_invalid_tokenizer() {
    // The second makes the tokenizers crate panic.
    let panics =
        json!({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}})
            .to_string();
    for text in ["{}", &panics] {
        let error = load_error(|m| fs::write(m.join("tokenizer.json"), text).unwrap());
        assert!(matches!(error, Error::Tokenizer { .. }), "{error:?}");
        assert_message(&error, &["tokenizer.json"]);
    }
}

#[test]
fn sources_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    copy_checkpoint("model0", &a);
    copy_checkpoint("model1", &b);
    let tokenizer = |t: &str| {
        json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, t: 1}, "unk_token": "a"}}).to_string()
    };
    fs::write(a.join("tokenizer.json"), tokenizer("dog")).unwrap();
    fs::write(b.join("tokenizer.json"), tokenizer("cat")).unwrap();
    let error = load([a.display().to_string(), b.display().to_string()]).unwrap_err();
    assert_message(&error, &["`a` and `b`", "the tokenizer of `a` cannot produce the token `cat`"]);
    let none = golden("model2").display().to_string();
    let error = load([none, a.display().to_string(), b.display().to_string()]).unwrap_err();
    assert_message(&error, &["`a` and `b`", "the tokenizer of `a` cannot produce the token `cat`"]);
    assert_message(&load([format!("DAM={}", a.display())]).unwrap_err(), &["`DAM`", "NAME=SOURCE"]);
    let error = load([a.display().to_string(), "builtin:base".into()]).unwrap_err();
    assert_message(&error, &["model.embed_tokens.weight", "[96, 32]"]);
    let error = load([a.display().to_string(), a.display().to_string()]).unwrap_err();
    assert_message(&error, &["`a` is already loaded", "NAME=SOURCE"]);
    let error = load([a.display().to_string()]).unwrap().wrap(Columns::default()).unwrap_err();
    assert_message(&error, &["two sources"]);
}

#[test]
fn data_that_cannot_be_used() {
    let dam = dam();
    let before = dam.loss().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    for (text, words) in [
        ("", &["no examples"][..]),
        ("\n\n", &["no examples"]),
        (
            "{\"input_ids\": [1, 2]}\n{\"input_ids\": [3, 96]}\n",
            &["line `2`", "`96`", "vocabulary of `96`"],
        ),
        ("{\"input_ids\": [1]}\n\n{\"input_ids\": [1}\n", &["line `3`"]),
        ("[1, 2]\n", &["row `1`"]),
        ("{\"input_ids\": [-1]}", &["line `1`", "`-1`"]),
        ("{\"input_ids\": []}", &["line `1`", "no tokens"]),
        ("{\"prompt\": \"a\"}", &["line `1`", "`prompt`"]),
        (
            "{\"text\": \"a\", \"answer\": true}",
            &["line `1`", "`answer` is true or false, not text"],
        ),
        ("{\"text\": \"a\"}", &["line `1`", "tokenizer.json"]),
    ] {
        fs::write(&file, text).unwrap();
        let error = dam.data("m0", &file.display().to_string()).unwrap_err();
        assert_message(&error, words);
    }
    fs::write(&file, b"{\"text\": \"\xff\"}").unwrap();
    assert_message(
        &dam.data("m0", &file.display().to_string()).unwrap_err(),
        &["line `1`", "UTF-8"],
    );
    assert_message(
        &dam.data("m", &golden("data0.jsonl").display().to_string()).unwrap_err(),
        &["unknown source `m`", "did you mean `m0`?"],
    );
    assert_eq!(dam.loss().unwrap(), before);
}

#[test]
fn a_chat_template_that_does_not_render() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
    let data = dir.path().join("data.jsonl");
    fs::write(&data, "{\"question\": \"a\", \"answer\": \"a\"}\n").unwrap();
    for (number, (template, words)) in [
        ("{{ messages[", &["cannot render"][..]),
        ("{{ raise_exception('only one system message') }}", &["only one system message"]),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            &["cannot render"],
        ),
        ("{{ messages | length }}", &["does not begin with the rendered prompt"]),
        // Deep enough to overflow an ordinary stack.
        (&format!("{{{{ {}nothing.at.all }}}}", "-".repeat(12_000)), &["cannot render"]),
        (&"a".repeat(100_000), &["more than any real template"]),
    ]
    .into_iter()
    .enumerate()
    {
        let model = dir.path().join(format!("model{number}"));
        copy_checkpoint("model0", &model);
        fs::write(model.join("tokenizer.json"), vocabulary.to_string()).unwrap();
        fs::write(
            model.join("tokenizer_config.json"),
            json!({"chat_template": template}).to_string(),
        )
        .unwrap();
        let mut models = load([model.display().to_string()]).unwrap();
        let error =
            models.data(&format!("model{number}"), &data.display().to_string()).unwrap_err();
        // An error in a row names the row.
        assert!(
            matches!(error, Error::ChatTemplate { .. } | Error::InvalidRow { .. }),
            "{error:?}"
        );
        assert_message(&error, words);
    }
}

#[test]
fn coefficients_of_a_wrong_shape_and_missing_devices() {
    let dam = dam();
    let wide = Tensor::ones((2, 7), dam_prelude::candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = dam.set_coefficients("model.norm.weight", &wide).unwrap_err();
    assert!(matches!(error, Error::BadValue { .. }), "{error:?}");
    assert_message(&error, &["`model.norm.weight`", "[2, 1, 7]", "[2, 1, 32]"]);
    let error = dam.set_parameter("model.norm.weight", &wide).unwrap_err();
    assert!(matches!(error, Error::Candle(_)) && !error.to_string().contains('\n'), "{error:?}");
    if !cfg!(any(feature = "cuda", feature = "metal")) {
        let before = dam.settings();
        let error = dam.set(Settings { device: "cuda".into(), ..before.clone() }).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
        assert_message(&error, &["`cuda`", "device=cpu"]);
        assert_eq!(dam.settings(), before);
    }
}

#[test]
fn a_source_without_data_or_an_objective_without_terms() {
    let models = load(["model0", "model1"].map(|n| golden(n).display().to_string())).unwrap();
    let dam = models.wrap(Columns::default()).unwrap();
    assert_message(&dam.step().unwrap_err(), &["`model0` has no data", "data model0="]);
    let mut settings = Settings::default();
    (settings.weights.kl, settings.weights.cosine) = (0.0, 0.0);
    dam.set(settings.clone()).unwrap();
    assert_message(&dam.step().unwrap_err(), &["every term", "set kl=1"]);
    settings.weights.weighted_overlap = 1.0;
    dam.set(settings).unwrap();
    assert_message(&dam.step().unwrap_err(), &["weighted_overlap", "load base="]);
    assert_eq!(dam.steps(), 0);
}

#[test]
fn a_non_finite_loss_changes_nothing() {
    let dam = dam();
    let name = "model.layers.0.mlp.down_proj.weight";
    let huge = Tensor::full(1e30f32, (2, 48), &Device::Cpu).unwrap();
    dam.set_coefficients(name, &huge).unwrap();
    let norm = dam.coefficients("model.norm.weight").unwrap().to_vec2::<f32>().unwrap();
    let error = dam.step().unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 1, .. }), "{error:?}");
    assert_eq!(dam.coefficients("model.norm.weight").unwrap().to_vec2::<f32>().unwrap(), norm);
    assert_eq!(dam.steps(), 0);
    let dir = tempfile::tempdir().unwrap();
    let infinite = Tensor::full(f32::INFINITY, (2, 48), &Device::Cpu).unwrap();
    dam.set_coefficients(name, &infinite).unwrap();
    assert_message(&dam.bake(dir.path().join("out")).unwrap_err(), &[name]);
    // A value that f32 can represent but f16 cannot.
    dam.set_coefficients(name, &Tensor::full(1e7f32, (2, 48), &Device::Cpu).unwrap()).unwrap();
    let half = dam_prelude::Bake { dtype: Some("f16".into()), ..Default::default() };
    let error = dam.bake_with(dir.path().join("new/deep/out"), &half).unwrap_err();
    assert!(matches!(error, Error::Unrepresentable { .. }), "{error:?}");
    assert_message(&error, &[name, "f16", "dtype=bf16"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_step_to_non_finite_coefficients_changes_nothing() {
    let dam = dam();
    dam.set(Settings { lr: 1e300, ..Settings::default() }).unwrap();
    let before = state(&dam);
    let error = dam.step().unwrap_err();
    assert!(matches!(error, Error::Diverged { what: "coefficient", .. }), "{error:?}");
    assert_eq!(state(&dam), before);
}

#[test]
fn settings_are_checked_wherever_they_come_from() {
    let dam = dam();
    let before = dam.settings();
    for wrong in [
        Settings { batch_size: 0, ..Settings::default() },
        Settings { batch_size: 1 << 40, ..Settings::default() },
        Settings { threads: 100_000, ..Settings::default() },
        Settings { temperature: 0.0, ..Settings::default() },
        Settings { temperature: f64::NAN, ..Settings::default() },
        Settings { lr: -1.0, ..Settings::default() },
        Settings { max_length: 0, ..Settings::default() },
        Settings { device: "tpu".into(), ..Settings::default() },
        Settings { dtype: "f8".into(), ..Settings::default() },
    ] {
        let error = dam.set(wrong.clone()).unwrap_err();
        assert!(matches!(error, Error::BadValue { .. }), "{error:?}");
        let mut models = dam.models();
        models.settings = wrong;
        models.wrap(Columns::default()).unwrap_err();
    }
    assert_eq!(dam.settings(), before);
    let error = dam.models().wrap(Columns { train: Vec::new(), ..Columns::default() }).unwrap_err();
    assert_message(&error, &["`train`", "linear, embedding and norm"]);
}

/// Everything that a failing call must leave unchanged.
fn state(dam: &Dam) -> (Vec<Vec<Vec<f32>>>, dam_prelude::show::LossReport, Settings, usize) {
    let tensors = dam.inspect("").unwrap().tensors;
    let coefficients =
        tensors.iter().map(|t| dam.coefficients(&t.name).unwrap().to_vec2().unwrap()).collect();
    (coefficients, dam.loss().unwrap(), dam.settings(), dam.steps())
}

#[test]
fn a_failing_call_leaves_the_session_unchanged() {
    let dam = dam();
    dam.train(2).unwrap();
    let (dir, before) = (tempfile::tempdir().unwrap(), state(&dam));
    dam.data("m0", "/no/such.jsonl").unwrap_err();
    dam.data("m9", &golden("data0.jsonl").display().to_string()).unwrap_err();
    dam.set(Settings { lr: 0.0, ..dam.settings() }).unwrap_err();
    dam.inspect("no.such").unwrap_err();
    dam.set_coefficients(
        "model.norm.weight",
        &Tensor::zeros(3, dam_prelude::candle_core::DType::F32, &Device::Cpu).unwrap(),
    )
    .unwrap_err();
    dam.eval(&["/no/such.jsonl".into()]).unwrap_err();
    dam.scoreboard(&["/no/such.jsonl".into()]).unwrap_err();
    dam.generate("no tokenizer", 4).unwrap_err();
    dam.trace("no tokenizer").unwrap_err();
    let row = |source: &str, number| Some((source.to_owned(), number));
    for (like, row) in [(None, row("m0", 0)), (None, row("m9", 1)), (Some("m9"), row("m0", 1))] {
        let like = like.map(String::from);
        dam.trace(Trace { row, like, ..Trace::default() }).unwrap_err();
    }
    dam.bake(golden("model0")).unwrap_err();
    dam.save(golden("model0").join("config.json")).unwrap_err();
    dam.bake_with(
        dir.path().join("out"),
        &dam_prelude::Bake { dtype: Some("f8".into()), ..Default::default() },
    )
    .unwrap_err();
    dam.models().and_load(["/no/such/model"]).unwrap_err();
    assert_eq!(state(&dam), before);
}

#[test]
fn a_session_file_that_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session");
    fs::write(&file, "not a session").unwrap();
    assert!(matches!(Dam::open(&file).unwrap_err(), Error::SessionFile { .. }));
    assert_message(&Dam::open(golden("expected.safetensors")).unwrap_err(), &["no session"]);
    // Nor is it replaced by one.
    let error = dam().save(&file).unwrap_err();
    assert_message(&error, &["was not replaced: it is not a session"]);
    assert_eq!(fs::read(&file).unwrap(), b"not a session");
    fs::remove_file(&file).unwrap();
    let model = dir.path().join("model");
    copy_checkpoint("model0", &model);
    let models =
        load([model.display().to_string(), golden("model1").display().to_string()]).unwrap();
    let dam = models.wrap(Columns::default()).unwrap();
    dam.save(&file).unwrap();
    dam.save(&file).unwrap();
    Dam::open(&file).unwrap();
    for (from, to) in [
        ("\\\"step\\\":0", "\\\"step\\\":18446744073709551615"),
        ("\\\"temperature\\\":2.0", "\\\"temperature\\\":0.0"),
        ("\\\"version\\\":2", "\\\"version\\\":9"),
    ] {
        edit_text(&file, &dir.path().join("edited"), from, to);
        Dam::open(dir.path().join("edited")).unwrap_err();
    }
    // A changed weight or a changed configuration is detected.
    let at = fs::metadata(weights(&model)).unwrap().len() as usize - 4 * 7;
    let original = fs::read(weights(&model)).unwrap();
    let mut changed = original.clone();
    changed[at] ^= 1;
    fs::write(weights(&model), &changed).unwrap();
    assert_message(&Dam::open(&file).unwrap_err(), &["`model`", "changed"]);
    fs::write(weights(&model), &original).unwrap();
    edit_config(&model, "rms_norm_eps", json!(1e-6));
    assert_message(&Dam::open(&file).unwrap_err(), &["`model`"]);
    fs::copy(golden("model0").join("config.json"), model.join("config.json")).unwrap();
    Dam::open(&file).unwrap();
    fs::copy(golden("model2").join("model.safetensors"), weights(&model)).unwrap();
    assert_message(&Dam::open(&file).unwrap_err(), &["`model`", "changed"]);
}

/// A copy of a safetensors file with `from` replaced by `to` in its header.
fn edit_text(file: &Path, copy: &Path, from: &str, to: &str) {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    assert!(header.contains(from), "{header:.2000}");
    let header = header.replacen(from, to, 1);
    fs::write(
        copy,
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat(),
    )
    .unwrap();
}

#[test]
fn baking_to_an_existing_path() {
    let (dam, dir) = (dam(), tempfile::tempdir().unwrap());
    let out = dir.path().join("out");
    dam.bake(&out).unwrap();
    assert_message(&dam.bake(&out).unwrap_err(), &["already exists", "--force"]);
    let force = dam_prelude::Bake { force: true, ..Default::default() };
    dam.bake_with(&out, &force).unwrap();
    // --force replaces a checkpoint, but nothing else.
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis.txt"), "all of it").unwrap();
    assert_message(
        &dam.bake_with(&precious, &force).unwrap_err(),
        &["`thesis.txt`", "not replaced"],
    );
    assert_eq!(names(&precious), ["thesis.txt"]);
    fs::write(dir.path().join("file"), "x").unwrap();
    dam.bake_with(dir.path().join("file"), &force).unwrap_err();
    // Not even a directory that contains a checkpoint and other files.
    fs::write(out.join("thesis.txt"), "all of it").unwrap();
    assert_message(&dam.bake_with(&out, &force).unwrap_err(), &["`thesis.txt`", "not replaced"]);
    fs::rename(out.join("thesis.txt"), precious.join("thesis.txt")).unwrap();
    fs::create_dir(out.join("checkpoint-100")).unwrap();
    assert_message(
        &dam.bake_with(&out, &force).unwrap_err(),
        &["`checkpoint-100/`", "not replaced"],
    );
    assert_eq!(names(dir.path()), ["file", "out", "precious"]);
    for same in [golden("model0"), golden("model1/../model0")] {
        assert_message(&dam.bake_with(same, &force).unwrap_err(), &["is the source `m0`"]);
    }
}

const LOAD: &str = "load m0=model0 m1=model1; data m0=data0.jsonl m1=data1.jsonl; wrap; step;";

#[test]
fn baking_to_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    // A limit on file sizes simulates a full disk: writing fails halfway.
    let script = format!(
        "trap '' XFSZ; ulimit -f 40; exec {} -c '{LOAD} bake {}'",
        env!("CARGO_BIN_EXE_dam"),
        out.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(golden(""))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot write") && text.contains("the disk is full"), "{text}");
    assert!(names(dir.path()).is_empty());
    let save = script.replace("bake", "save").replace("ulimit -f 40", "ulimit -f 8");
    let output = std::process::Command::new("sh")
        .args(["-c", &save])
        .current_dir(golden(""))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn baking_without_permission() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = fs::metadata(dir.path()).unwrap().uid() == 0;
    // Root has all permissions, so root runs a copy of the program as another user.
    let program = dir.path().join("dam");
    fs::copy(env!("CARGO_BIN_EXE_dam"), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    let verbs = "load ja=builtin:japanese math=builtin:math; wrap; bake locked/out";
    command.args(["-c", verbs]).current_dir(dir.path());
    if is_root {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("locked/out") && text.contains("write permission"), "{text}");
    assert!(names(&locked).is_empty());
}

#[test]
fn unknown_verbs_and_keys() {
    for (line, words) in [
        ("stpe", &["unknown verb `stpe`", "did you mean `step`?"][..]),
        ("frobnicate", &["unknown verb `frobnicate`", "known: load"]),
        ("set learning_rate=1", &["unknown key `learning_rate`"]),
        ("set batchsize=2", &["unknown key `batchsize`", "did you mean `batch_size`?"]),
        ("set lr=fast", &["invalid value `fast` for `lr`", "expected a number"]),
        ("set lr=-1", &["`-1`"]),
        ("set optimizer=sgd", &["`sgd`", "adamw or mofo"]),
        ("set dtype=bf16 device=cpu", &["`bf16`", "f32 on the CPU"]),
        ("wrap f=sine", &["`sine`"]),
        ("wrap", &["nothing is loaded yet", "load"]),
        ("set lr 1e-2", &["`1e-2` has no key", "KEY=VALUE"]),
        ("set top_k=1", &["`1`", "at least 2"]),
        ("load builtin:japanese; wrap", &["at least two sources; 1 loaded", "load more"]),
        ("save x --forse", &["unknown flag `--forse`", "--force"]),
        ("step", &["nothing is loaded yet", "load"]),
        ("load builtin:japanese builtin:math; step", &["not wrapped yet", "wrap"]),
        ("load builtin:japanese builtin:math; wrap; step 0", &["`0`", "an integer of at least 1"]),
        ("load builtin:japanese builtin:math; wrap; inspect no.such", &["`no.such`"]),
        ("load", &["usage: load"]),
        ("data x", &["usage: data"]),
        ("bake \"a", &["quotation mark"]),
        ("load builtin:japanese builtin:math; wrap f=tanh f=relu", &["`f` is given twice"]),
        (
            "load builtin:japanese builtin:math; wrap; bake ''",
            &["an argument is missing", "usage: bake"],
        ),
    ] {
        let output = verbs(&golden(""), line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {text}");
        for word in words {
            assert!(text.contains(word), "{line}: {text:?} does not say {word:?}");
        }
    }
}

#[test]
fn an_error_is_one_json_object_and_changes_nothing() {
    let (replies, ok) = json(&golden(""), &format!("{LOAD} loss; set lr=1 momentum=2"));
    assert!(!ok);
    let last = replies.last().unwrap();
    assert_eq!((&last["verb"], &last["error"]), (&json!("set"), &json!("unknown key `momentum`")));
    assert!(last["hint"].is_string());
    assert_eq!(replies.len(), 6);
}
