//! Tests that every error variant has a message and a hint.

use std::collections::BTreeSet;

use super::*;

/// The index of each variant in [`examples`]. A variant that is missing here does not compile.
fn number(error: &Error) -> usize {
    match error {
        Error::NotFound { .. } => 0,
        Error::MissingFile { .. } => 1,
        Error::Io { .. } => 2,
        Error::Safetensors { .. } => 3,
        Error::Gguf { .. } => 4,
        Error::OutsideDirectory { .. } => 5,
        Error::Json { .. } => 6,
        Error::Config { .. } => 7,
        Error::UnknownFamily { .. } => 8,
        Error::MissingTensor { .. } => 9,
        Error::Shape { .. } => 10,
        Error::DType { .. } => 11,
        Error::NonFinite { .. } => 12,
        Error::Tokenizer { .. } => 13,
        Error::Torch { .. } => 14,
        Error::ChatTemplate { .. } => 15,
        Error::Incompatible { .. } => 16,
        Error::HubMissing { .. } => 17,
        Error::HubGated { .. } => 18,
        Error::HubUnreachable { .. } => 19,
        Error::Hub { .. } => 20,
        Error::Sources { .. } => 21,
        Error::EmptyData { .. } => 22,
        Error::InvalidRow { .. } => 23,
        Error::TokenOutOfRange { .. } => 24,
        Error::NoData { .. } => 25,
        Error::Unknown { .. } => 26,
        Error::BadValue { .. } => 27,
        Error::NoMatch { .. } => 28,
        Error::NoGradient { .. } => 29,
        Error::SchemeFailed { .. } => 30,
        Error::SchemeShape { .. } => 31,
        Error::SchemeParameter { .. } => 32,
        Error::SchemeGradient { .. } => 33,
        Error::ComputedCoefficients { .. } => 34,
        Error::Diverged { .. } => 35,
        Error::NothingToTrain => 36,
        Error::TooLarge { .. } => 37,
        Error::Exists { .. } => 38,
        Error::NotReplaced { .. } => 39,
        Error::Unrepresentable { .. } => 40,
        Error::SessionFile { .. } => 41,
        Error::Yaml { .. } => 42,
        Error::Recipe { .. } => 43,
        Error::BadTensor { .. } => 44,
        Error::UnknownScheme { .. } => 45,
        Error::Picture { .. } => 46,
        Error::Device { .. } => 47,
        Error::Refused { .. } => 48,
        Error::Interrupted => 49,
        Error::Candle(_) => 50,
        Error::ExtraFile { .. } => 51,
        Error::Quantized { .. } => 52,
        Error::NoOutputLayer { .. } => 53,
        Error::GgufExport { .. } => 54,
        Error::Adapter { .. } => 55,
        Error::AdapterKey { .. } => 56,
        Error::TensorNames { .. } => 57,
        Error::Changed { .. } => 58,
        Error::NotAFile { .. } => 59,
        Error::Task { .. } => 60,
    }
}

/// At least one example per variant; more where the hint depends on the cause.
fn examples() -> Vec<Error> {
    let file = || PathBuf::from("model/config.json");
    let (text, tensor) = (|| "x".to_owned(), || "model.norm.weight".to_owned());
    let path = PathBuf::from;
    let mut examples = vec![
        Error::NotFound { path: file() },
        Error::Changed { file: file() },
        Error::NotAFile { path: file(), what: "a pipe" },
        Error::MissingFile { directory: path("model"), file: "config.json".into() },
        Error::MissingFile { directory: path("adapter"), file: "adapter_config.json".into() },
        Error::Safetensors { file: file(), reason: text() },
        Error::Gguf { file: file(), reason: text() },
        Error::OutsideDirectory { index: file(), entry: text() },
        Error::UnknownFamily { file: file(), found: text(), known: "llama".into() },
        Error::UnknownFamily { file: path("model.gguf"), found: text(), known: "llama".into() },
        Error::DType { file: file(), tensor: tensor(), found: "I8".into() },
        Error::NonFinite { file: file(), tensor: tensor(), position: 1, value: f32::NAN },
        Error::Tokenizer { file: path("model/tokenizer.json"), reason: text() },
        Error::Torch { file: path("pytorch_model.bin"), reason: text() },
        Error::Quantized { file: file(), tensor: tensor(), method: "GPTQ".into() },
        Error::NoOutputLayer { file: file() },
        Error::GgufExport { reason: text() },
        Error::Adapter { path: path("adapter"), reason: text(), hint: "name its base".into() },
        Error::AdapterKey {
            file: path("adapter_config.json"),
            key: text(),
            reason: text(),
            hint: "merge it with PEFT".into(),
        },
        Error::TensorNames { file: file(), reason: text(), hint: "save it again" },
        Error::ChatTemplate { source_name: text(), file: file(), reason: text() },
        Error::Incompatible { first: text(), second: "y".into(), difference: "layers".into() },
        Error::HubMissing { repo: text(), what: "file".into() },
        Error::HubGated { repo: text() },
        Error::HubUnreachable { endpoint: text(), reason: text() },
        Error::Hub { repo: text(), reason: text(), hint: "try again" },
        Error::Sources { what: text(), hint: "load more" },
        Error::EmptyData { file: file() },
        Error::InvalidRow {
            file: file(),
            unit: "line",
            line: 3,
            reason: text(),
            hint: "correct the row",
        },
        Error::TokenOutOfRange {
            file: file(),
            unit: "row",
            line: 3,
            id: 9,
            token: None,
            vocabulary: 8,
        },
        Error::TokenOutOfRange {
            file: file(),
            unit: "row",
            line: 3,
            id: 9,
            token: Some(text()),
            vocabulary: 8,
        },
        Error::NoData { source_name: text() },
        Error::unknown("key", "drpot", ["drop"]),
        Error::unknown("key", "zzzzzzzzzz", ["drop"]),
        Error::bad_value("lr", "x", "a number"),
        Error::NoMatch { pattern: text() },
        Error::NoGradient { parameter: text(), tensor: tensor(), count: 1 },
        Error::SchemeFailed { scheme: text(), tensor: tensor(), reason: text() },
        Error::SchemeShape {
            scheme: text(),
            tensor: tensor(),
            found: vec![1],
            dtype: "f16",
            sources: 2,
            rows: 1,
            columns: 3,
        },
        Error::SchemeParameter {
            scheme: text(),
            tensor: tensor(),
            parameter: text(),
            problem: text(),
        },
        Error::SchemeGradient {
            scheme: text(),
            tensor: tensor(),
            parameter: text(),
            position: 0,
            found: 0.0,
            expected: 1.0,
        },
        Error::ComputedCoefficients { scheme: text(), tensor: tensor(), parameters: text() },
        Error::Diverged { what: "loss", step: 1, value: f64::NAN },
        Error::NothingToTrain,
        Error::TooLarge { what: text(), needed: 2, available: 1, tokens: 5, fits: Some(2) },
        Error::TooLarge { what: text(), needed: 2, available: 1, tokens: 5, fits: None },
        Error::Exists { path: file() },
        Error::NotReplaced { path: file(), what: "a checkpoint" },
        Error::Unrepresentable {
            tensor: tensor(),
            position: 0,
            value: f32::INFINITY,
            dtype: "f16",
        },
        Error::SessionFile { file: file(), reason: text() },
        Error::Yaml { file: file(), reason: text() },
        Error::Recipe { file: file(), key: text(), reason: text(), hint: "leave it out".into() },
        Error::Task { file: file(), place: text(), reason: text(), hint: "remove it".into() },
        Error::BadTensor { tensor: tensor(), reason: text() },
        Error::UnknownScheme { file: file(), scheme: text() },
        Error::Picture { reason: text() },
        Error::Device { device: text(), reason: text() },
        Error::Refused { message: text(), hint: "do something else".into() },
        Error::Interrupted,
        Error::ExtraFile { path: file(), file: text() },
        Error::Candle(candle_core::Error::Msg(text())),
        Error::Candle(candle_core::Error::Msg("cuda: CUDA_ERROR_OUT_OF_MEMORY".into())),
        Error::Candle(candle_core::Error::Msg("cuda driver".into())),
    ];
    for file in ["config.json", "a.index.json", "adapter_config.json", "data.json"] {
        examples.push(Error::Json { file: file.into(), reason: text() });
    }
    for (file, key, reason) in [
        ("config.json", "hidden_size", "it is missing"),
        ("config.json", "rope_type", "`x` is not default"),
        ("config.json", "quantization_config", "packed"),
        ("adapter_config.json", "target_modules", "none"),
        ("adapter_config.json", "use_x", "unknown"),
    ] {
        examples.push(Error::Config { file: file.into(), key: key.into(), reason: reason.into() });
    }
    for (file, name) in [
        ("model.safetensors", "lm_head.weight"),
        ("model.safetensors", "model.norm.weight"),
        ("adapter_model.safetensors", "q_proj.lora_A.weight"),
        ("adapter_model.safetensors", "embed_tokens.lora_embedding_A"),
    ] {
        examples.push(Error::MissingTensor { file: file.into(), tensor: name.into() });
        examples.push(Error::Shape {
            file: file.into(),
            tensor: name.into(),
            expected: vec![1],
            found: vec![2],
        });
    }
    use std::io::ErrorKind as Kind;
    let kinds = [
        Kind::StorageFull,
        Kind::NotFound,
        Kind::PermissionDenied,
        Kind::IsADirectory,
        Kind::Interrupted,
    ];
    let more =
        [Kind::AlreadyExists, Kind::InvalidData, Kind::TimedOut, Kind::BrokenPipe, Kind::Other];
    for kind in kinds.into_iter().chain(more) {
        for action in ["read", "write"] {
            examples.push(Error::Io { action, path: file(), source: kind.into() });
        }
    }
    examples
}

#[test]
fn every_error_has_a_message_and_a_hint() {
    let examples = examples();
    let numbers: BTreeSet<usize> = examples.iter().map(number).collect();
    assert_eq!(numbers, (0..=60).collect(), "a variant without an example");
    for error in &examples {
        let (message, hint) = (error.to_string(), error.hint().unwrap_or_default());
        assert!(hint.len() > 8 && !message.is_empty(), "{message}: {hint}");
        for text in [&message, &hint] {
            assert!(!text.ends_with('.') || text.ends_with("..."), "ends with a full stop: {text}");
            assert!(
                !text.starts_with(|c: char| c.is_uppercase()) && !text.contains('\n'),
                "{text}"
            );
        }
        assert!(!message.contains(&hint), "the hint only repeats the message: {message}");
        assert_eq!(format!("{error:?}"), format!("{message}\nhint: {hint}"));
    }
}

/// An error with a file names it.
#[test]
fn messages_name_the_file() {
    for error in examples() {
        let debug = match &error {
            Error::Json { file, .. }
            | Error::Config { file, .. }
            | Error::MissingTensor { file, .. } => Some(file),
            Error::Shape { file, .. }
            | Error::Tokenizer { file, .. }
            | Error::ChatTemplate { file, .. } => Some(file),
            Error::Io { path, .. } | Error::NotFound { path } | Error::Exists { path } => {
                Some(path)
            }
            _ => None,
        };
        if let Some(file) = debug {
            assert!(error.to_string().contains(&format!("`{}`", file.display())), "{error}");
        }
    }
}
