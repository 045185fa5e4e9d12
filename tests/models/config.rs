//! config.json as written by transformers 4 and 5: both are read alike, unsupported settings are
//! errors that name the key, and comparisons cover everything that affects logits.

use std::fs;
use std::path::Path;

use crate::common::data;
use dam_prelude::Error;
use dam_prelude::checkpoint::{Architecture, Scaling};
use serde_json::{Value, json};

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn parse(config: &Value) -> Result<Architecture, Error> {
    Architecture::parse(Path::new("config.json"), config.to_string().as_bytes())
}

/// The configuration of `model` with `value` at `path`; gpt2 represents unsupported families.
fn edited(model: &str, path: &str, value: Value) -> Value {
    let mut config = match model {
        "gpt2" => json!({"model_type": "gpt2"}),
        _ => read(&data("families").join(model).join("config.json")),
    };
    *path.split('/').fold(&mut config, |at, key| &mut at[key]) = value;
    config
}

/// transformers 4 wrote the same configurations, with `tests/data/families/make_old.py`.
#[test]
fn transformers_4_and_5_are_equivalent() {
    let old = fs::read_dir(data("families/old")).unwrap().map(|entry| entry.unwrap().path());
    let mut count = 0;
    for old in old {
        let new = data("families").join(old.file_stem().unwrap()).join("config.json");
        assert_eq!(parse(&read(&old)).unwrap(), parse(&read(&new)).unwrap(), "{}", old.display());
        count += 1;
    }
    assert!(count > 9, "{count}");
}

#[test]
fn unsupported_settings_are_errors_that_name_the_key() {
    let refused = [
        ("llama-biases", "is_causal", json!(false), "is_causal"),
        ("llama-biases", "attn_logit_softcapping", json!(50.0), "attn_logit_softcapping"),
        ("llama-biases", "final_logit_softcapping", json!(30.0), "final_logit_softcapping"),
        (
            "llama-biases",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types",
        ),
        ("llama-biases", "partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        (
            "llama-biases",
            "rope_parameters/partial_rotary_factor",
            json!(0.5),
            "partial_rotary_factor",
        ),
        ("llama-biases", "rope_parameters/rope_type", json!("dynamic"), "rope_type"),
        ("llama-biases", "rope_parameters/rope_type", json!("linear"), "factor"),
        (
            "llama-biases",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "default"}}),
            "rope_parameters",
        ),
        ("llama-biases", "rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling"),
        (
            "llama-biases",
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 8.0}),
            "low_freq_factor",
        ),
        (
            "llama-biases",
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "high_freq_factor",
        ),
        (
            "llama-biases",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}),
            "rope_theta",
        ),
        (
            "llama-biases",
            "rope_parameters",
            json!({"rope_type": "longrope", "long_factor": [1.0]}),
            "short_factor",
        ),
        ("mistral-window", "attention_bias", json!(true), "attention_bias"),
        ("mistral-window", "mlp_bias", json!(true), "mlp_bias"),
        (
            "mistral-window",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types",
        ),
        ("qwen3", "layer_types", json!(["full_attention", "chunked_attention"]), "layer_types"),
        ("qwen3", "use_sliding_window", json!("yes"), "use_sliding_window"),
        ("gemma", "hidden_act", json!("silu"), "hidden_act"),
        ("gemma", "hidden_activation", json!("gelu"), "hidden_activation"),
        ("gemma", "final_logit_softcapping", json!(30.0), "final_logit_softcapping"),
        ("gemma2", "use_bidirectional_attention", json!(true), "use_bidirectional_attention"),
        ("gemma2", "sliding_window_pattern", json!(3), "sliding_window_pattern"),
        ("gemma2", "attn_logit_softcapping", json!(-1.0), "attn_logit_softcapping"),
        ("gemma3", "attn_logit_softcapping", json!(50.0), "attn_logit_softcapping"),
        (
            "gemma3",
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 8.0}),
            "rope_parameters",
        ),
        ("gemma3", "rope_parameters/full_attention", json!("linear"), "full_attention"),
        ("gemma3", "rope_scaling", json!({"rope_type": "linear", "factor": 8.0}), "rope_scaling"),
        ("phi3", "rope_parameters/rope_type", json!("linear"), "rope_type"),
        ("phi3", "rope_parameters/partial_rotary_factor", json!(0.4), "head_dim"),
        ("phi3", "rope_parameters/partial_rotary_factor", json!(1.5), "partial_rotary_factor"),
        (
            "phi3-long",
            "original_max_position_embeddings",
            json!(16),
            "original_max_position_embeddings",
        ),
        ("phi3-long", "rope_parameters/long_factor", json!([1.0]), "long_factor"),
        ("phi3-long", "rope_parameters/short_factor", json!([1.0, 0.0]), "short_factor"),
        ("smollm3", "no_rope_layers", json!([1, 0]), "no_rope_layers"),
        ("olmo2", "mlp_bias", json!(true), "mlp_bias"),
        ("olmo2", "partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("olmo2", "layer_types", json!(["full_attention", "sliding_attention"]), "layer_types"),
        ("olmo2", "hidden_act", json!("relu"), "hidden_act"),
        ("granite", "embedding_multiplier", json!(0), "embedding_multiplier"),
        ("granite", "residual_multiplier", json!("1"), "residual_multiplier"),
        ("granite", "attention_multiplier", json!(-1.0), "attention_multiplier"),
        ("granite", "logits_scaling", json!(0.0), "logits_scaling"),
        ("granite", "rope_parameters/rope_type", json!("dynamic"), "rope_type"),
        ("glm4", "mlp_bias", json!(true), "mlp_bias"),
        ("glm4", "attention_bias", json!("yes"), "attention_bias"),
        ("glm4", "rope_parameters/partial_rotary_factor", json!(1.5), "partial_rotary_factor"),
        ("glm4", "rope_parameters/partial_rotary_factor", json!(0.4), "head_dim"),
        ("glm4", "final_logit_softcapping", json!(3.0), "final_logit_softcapping"),
        (
            "olmo3",
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": 1e4}),
            "rope_parameters",
        ),
        ("exaone4", "attention_bias", json!(true), "attention_bias"),
        ("exaone4", "layer_types", json!(["chunked_attention", "full_attention"]), "layer_types"),
        ("ernie4_5", "use_bias", json!(1), "use_bias"),
        ("ernie4_5", "mlp_bias", json!(true), "mlp_bias"),
    ];
    for (model, path, value, expected) in refused {
        match parse(&edited(model, path, value.clone())) {
            Err(Error::Config { key, .. }) => assert_eq!(key, expected, "{model}, {path}: {value}"),
            other => panic!("{model}, {path}: {value}: {other:?}"),
        }
    }
    // A context of one position cannot be scaled.
    let mut config = edited("phi3-long", "original_max_position_embeddings", json!(1));
    config["rope_parameters"]["original_max_position_embeddings"] = json!(1);
    assert!(
        matches!(parse(&config), Err(Error::Config { key, .. }) if key == "original_max_position_embeddings")
    );
}

#[test]
fn everything_that_affects_logits_is_a_difference() {
    let changes = [
        ("llama-biases", "rms_norm_eps", json!(1e-3), "norm epsilon"),
        ("llama-biases", "hidden_act", json!("gelu_pytorch_tanh"), "activation"),
        ("llama-biases", "mlp_bias", json!(false), "biases"),
        ("llama-biases", "head_dim", json!(16), "head dimension"),
        ("llama-biases", "rope_parameters/rope_theta", json!(5e5), "rotary embedding"),
        ("llama-sharded", "rope_scaling/factor", json!(4.0), "rotary embedding"),
        ("qwen3-yarn", "rope_parameters/beta_fast", json!(1.0), "rotary embedding"),
        ("qwen3-yarn", "rope_parameters/attention_factor", json!(2.0), "rotary embedding"),
        (
            "qwen3-yarn",
            "layer_types",
            json!(["sliding_attention", "sliding_attention"]),
            "attention",
        ),
        ("mistral-window", "sliding_window", json!(6), "attention"),
        ("gemma2", "query_pre_attn_scalar", json!(16), "scales"),
        ("gemma2", "attn_logit_softcapping", json!(null), "caps"),
        ("gemma2", "final_logit_softcapping", json!(null), "caps"),
        ("gemma3", "final_logit_softcapping", json!(5.0), "caps"),
        ("gemma3", "rope_parameters/sliding_attention/rope_theta", json!(1e3), "rotary embedding"),
        ("gemma3", "layer_types", json!(["full_attention", "full_attention"]), "attention"),
        ("phi3", "rope_parameters/partial_rotary_factor", json!(0.5), "rotary embedding"),
        // The sum of both is unchanged.
        ("phi3-long", "rope_parameters/long_factor", json!([3.0, 1.25]), "rotary embedding"),
        ("phi3-long", "max_position_embeddings", json!(256), "rotary embedding"),
        ("smollm3", "no_rope_layers", json!([0, 1, 1, 0]), "attention"),
        ("granite", "embedding_multiplier", json!(1.0), "scales"),
        ("granite", "residual_multiplier", json!(1.0), "scales"),
        ("granite", "attention_multiplier", json!(1.0), "scales"),
        ("granite", "logits_scaling", json!(1.0), "scales"),
        ("granite", "attention_bias", json!(true), "biases"),
        ("granite", "mlp_bias", json!(true), "biases"),
        ("glm4", "rope_parameters/partial_rotary_factor", json!(1.0), "rotary embedding"),
        ("glm4", "attention_bias", json!(false), "biases"),
        ("olmo3", "rope_parameters/full_attention/factor", json!(8.0), "rotary embedding"),
        ("olmo3", "layer_types", json!(["full_attention", "full_attention"]), "attention"),
        ("exaone4", "sliding_window", json!(null), "attention"),
        ("ernie4_5", "use_bias", json!(false), "biases"),
    ];
    for (model, path, value, word) in changes {
        let before = parse(&read(&data("families").join(model).join("config.json"))).unwrap();
        let after = parse(&edited(model, path, value.clone())).unwrap();
        let difference =
            before.difference(&after).unwrap_or_else(|| panic!("{model}, {path}: {value}"));
        assert!(difference.starts_with(word), "{model}, {path}: {difference}");
        // The description is readable.
        let odd =
            ["Some(", "None", "true", "false", "{"].iter().find(|odd| difference.contains(**odd));
        assert_eq!(odd, None, "{model}, {path}: {difference}");
        assert_eq!(before.difference(&before.clone()), None);
    }
}

/// Former names of phi3's longrope, and lists longer than the model.
#[test]
fn older_names_are_read() {
    let expected =
        parse(&edited("phi3-long", "rope_parameters/rope_type", json!("longrope"))).unwrap();
    assert!(matches!(expected.ropes[0].scaling, Scaling::Long { original: 8, .. }));
    for name in ["su", "yarn"] {
        assert_eq!(
            parse(&edited("phi3-long", "rope_parameters/rope_type", json!(name))).unwrap(),
            expected
        );
    }
    let smollm = |list: Value| parse(&edited("smollm3", "no_rope_layers", list)).unwrap();
    assert_eq!(smollm(json!([1, 0, 1, 0, 1])), smollm(json!([1, 0, 1, 0])));
    assert_eq!(
        parse(&edited("gemma", "hidden_act", json!("gelu"))).unwrap(),
        parse(&edited("gemma", "hidden_act", json!(null))).unwrap()
    );
}

/// Missing keys have the defaults of transformers, as recorded by `tests/data/wrappers/make.py`.
#[test]
fn defaults_match_transformers() {
    let all = read(&data("wrappers/defaults.json"));
    let wrapped = |name: &str| match name {
        "qwen2_vl_text" | "qwen2_5_vl_text" | "qwen3_vl_text" => {
            name.trim_end_matches("_text").to_owned()
        }
        _ => "llava".to_owned(),
    };
    for (name, expected) in all.as_object().unwrap() {
        let config = json!({"model_type": wrapped(name), "text_config": {"model_type": name}});
        let a = parse(&config).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let eos = match &expected["eos_token_id"] {
            Value::Null => json!([]),
            Value::Array(ids) => json!(ids),
            id => json!([id]),
        };
        let found = json!({
            "vocab_size": a.vocabulary, "hidden_size": a.hidden, "intermediate_size": a.intermediate,
            "num_hidden_layers": a.layers, "num_attention_heads": a.heads, "num_key_value_heads": a.key_value_heads,
            "rms_norm_eps": a.norm_eps, "max_position_embeddings": a.max_positions, "eos_token_id": a.eos,
            "head_dim": a.head_dim, "tie_word_embeddings": a.tied, "rope_theta": a.ropes[0].theta,
        });
        for (key, found) in found.as_object().unwrap() {
            let expected = if key == "eos_token_id" { &eos } else { &expected[key] };
            match (found.as_f64(), expected.as_f64()) {
                (Some(x), Some(y)) => assert_eq!(x, y, "{name}: {key}"),
                _ => assert_eq!(found, expected, "{name}: {key}"),
            }
        }
    }
}

/// The text configuration of a multimodal model is read from where it is, and errors name it there.
#[test]
fn the_text_configuration_of_a_multimodal_model_is_read() {
    let config = |name: &str| read(&data("wrappers").join(name).join("config.json"));
    let key = |config: &Value| match parse(config) {
        Err(Error::Config { key, .. }) => key,
        other => panic!("{other:?}"),
    };
    let mut one = config("gemma3");
    one["text_config"]["use_bidirectional_attention"] = json!(true);
    assert_eq!(key(&one), "text_config.use_bidirectional_attention");
    let mut one = config("llava");
    one["text_config"]["rope_scaling"] = json!({"type": "mrope", "mrope_section": [1, 1, 2]});
    assert_eq!(key(&one), "text_config.rope_type");
    one.as_object_mut().unwrap().remove("text_config");
    assert_eq!(key(&one), "text_config");
    let mut one = config("mistral3");
    one["text_config"]["model_type"] = json!("ministral9");
    let error = parse(&one).unwrap_err();
    assert!(
        matches!(&error, Error::UnknownFamily { found, .. } if found == "mistral3 with ministral9"),
        "{error:?}"
    );
    // The hint names all supported families.
    let hint = error.hint().unwrap();
    assert!(
        Architecture::families()
            .chain(Architecture::multimodal())
            .all(|family| hint.contains(family)),
        "{hint}"
    );
    // transformers 5 stores `tie_word_embeddings` at the top level, transformers 4 in the text
    // configuration.
    for (beside, within, tied) in [
        (json!(true), json!(false), true),
        (json!(null), json!(true), true),
        (json!(null), json!(null), false),
    ] {
        let mut one = config("mistral3");
        (one["tie_word_embeddings"], one["text_config"]["tie_word_embeddings"]) = (beside, within);
        assert_eq!(parse(&one).unwrap().tied, tied);
    }
}
