//! The library's error type: what went wrong, where, and what to do about it.
//!
//! `Display` prints the message and [`Error::hint`] returns the hint. `Debug` prints both, because
//! a notebook shows `Debug` when `?` fails.

mod hints;
mod plain;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

/// Every error of the library. Messages name the file and the tensor, key or line.
#[derive(thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("no such file or directory `{}`", path.display())]
    NotFound { path: PathBuf },
    #[error("`{}` has no `{file}`", directory.display())]
    MissingFile { directory: PathBuf, file: String },
    #[error("`{}` is {what}, not a regular file", path.display())]
    NotAFile { path: PathBuf, what: &'static str },
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{}` has changed since it was loaded", file.display())]
    Changed { file: PathBuf },
    #[error("`{}` is not a valid safetensors file: {reason}", file.display())]
    Safetensors { file: PathBuf, reason: String },
    #[error("`{}` is not a valid GGUF file: {reason}", file.display())]
    Gguf { file: PathBuf, reason: String },
    #[error("cannot read the PyTorch file `{}`: {reason}", file.display())]
    Torch { file: PathBuf, reason: String },
    #[error("the weights of `{}` are quantized ({method}): the packed tensor `{tensor}` cannot be merged", file.display())]
    Quantized { file: PathBuf, tensor: String, method: String },
    #[error("`{}` has no output layer: `lm_head.weight` is missing and config.json does not tie it to the embedding", file.display())]
    NoOutputLayer { file: PathBuf },
    #[error("the merge cannot be written as GGUF: {reason}")]
    GgufExport { reason: String },
    #[error("`{}` refers to `{entry}`, which is outside its own directory", index.display())]
    OutsideDirectory { index: PathBuf, entry: String },
    #[error("`{}` is not valid: {}", file.display(), plain::json(reason))]
    Json { file: PathBuf, reason: String },
    #[error("invalid `{key}` in `{}`: {reason}", file.display())]
    Config { file: PathBuf, key: String, reason: String },
    /// An adapter that cannot be applied to a model.
    #[error("the adapter `{}` cannot be used: {reason}", path.display())]
    Adapter { path: PathBuf, reason: String, hint: String },
    /// A key of an adapter_config.json that is invalid or not supported.
    #[error("cannot apply `{key}` of `{}`: {reason}", file.display())]
    AdapterKey { file: PathBuf, key: String, reason: String, hint: String },
    #[error("unsupported model family `{found}` in `{}`", file.display())]
    UnknownFamily { file: PathBuf, found: String, known: String },
    #[error("cannot map the tensor names of `{}`: {reason}", file.display())]
    TensorNames { file: PathBuf, reason: String, hint: &'static str },
    #[error("`{}` has no tensor `{tensor}`", file.display())]
    MissingTensor { file: PathBuf, tensor: String },
    #[error("tensor `{tensor}` of `{}` has shape `{found:?}`; expected `{expected:?}`", file.display())]
    Shape { file: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("tensor `{tensor}` of `{}` has unsupported dtype `{found}`", file.display())]
    DType { file: PathBuf, tensor: String, found: String },
    #[error("tensor `{tensor}` of `{}` has the value `{value}` at position `{position}`", file.display())]
    NonFinite { file: PathBuf, tensor: String, position: usize, value: f32 },
    #[error("`{}` is not a valid tokenizer: {}", file.display(), plain::tokenizer(reason))]
    Tokenizer { file: PathBuf, reason: String },
    #[error("cannot render the chat template of `{source_name}` (`{}`): {}", file.display(), plain::template(reason))]
    ChatTemplate { source_name: String, file: PathBuf, reason: String },
    #[error("`{first}` and `{second}` cannot be merged: {difference}")]
    Incompatible { first: String, second: String, difference: String },
    #[error("`{repo}` is not available on the hub: no {what}")]
    HubMissing { repo: String, what: String },
    #[error("`{repo}` is gated: you must accept its licence first")]
    HubGated { repo: String },
    #[error("cannot reach `{endpoint}`: {reason}")]
    HubUnreachable { endpoint: String, reason: String },
    #[error("cannot download `{repo}` from the hub: {reason}")]
    Hub { repo: String, reason: String, hint: &'static str },
    #[error("{what}")]
    Sources { what: String, hint: &'static str },
    #[error("`{}` has no examples", file.display())]
    EmptyData { file: PathBuf },
    /// An invalid row of data. `unit` says whether `line` counts lines or rows.
    #[error("{unit} `{line}` of `{}` is invalid: {}", file.display(), plain::row(reason))]
    InvalidRow {
        file: PathBuf,
        unit: &'static str,
        line: usize,
        reason: String,
        hint: &'static str,
    },
    #[error(
        "{unit} `{line}` of `{}` has the token id `{id}`{}, outside the vocabulary of `{vocabulary}`",
        file.display(),
        token.as_ref().map(|token| format!(" (`{token}`)")).unwrap_or_default()
    )]
    TokenOutOfRange {
        file: PathBuf,
        unit: &'static str,
        line: usize,
        id: u32,
        token: Option<String>,
        vocabulary: usize,
    },
    #[error("source `{source_name}` has no data")]
    NoData { source_name: String },
    #[error("unknown {kind} `{name}`")]
    Unknown { kind: &'static str, name: String, nearest: Option<String>, known: String },
    #[error("invalid value `{value}` for `{key}`")]
    BadValue { key: String, value: String, expected: String },
    #[error("no tensor matches `{pattern}`")]
    NoMatch { pattern: String },
    #[error(
        "{count} trainable parameters received no gradient; the first is `{parameter}` at `{tensor}`"
    )]
    NoGradient { parameter: String, tensor: String, count: usize },
    #[error("the scheme `{scheme}` failed at `{tensor}`: {reason}")]
    SchemeFailed { scheme: String, tensor: String, reason: String },
    #[error(
        "the scheme `{scheme}` returned coefficients of shape `{found:?}` and dtype `{dtype}` at `{tensor}`"
    )]
    SchemeShape {
        scheme: String,
        tensor: String,
        found: Vec<usize>,
        dtype: &'static str,
        sources: usize,
        rows: usize,
        columns: usize,
    },
    #[error(
        "the parameter `{parameter}` of the scheme `{scheme}` is invalid at `{tensor}`: {problem}"
    )]
    SchemeParameter { scheme: String, tensor: String, parameter: String, problem: String },
    #[error(
        "the gradient of value `{position}` of the parameter `{parameter}` of the scheme `{scheme}` at `{tensor}` is `{found:.6}`, \
         but finite differences give `{expected:.6}`"
    )]
    SchemeGradient {
        scheme: String,
        tensor: String,
        parameter: String,
        position: usize,
        found: f64,
        expected: f64,
    },
    #[error(
        "cannot set the coefficients of `{tensor}`: the scheme `{scheme}` computes them from parameters"
    )]
    ComputedCoefficients { scheme: String, tensor: String, parameters: String },
    #[error("the {what} is not finite at step `{step}`: `{value}`")]
    Diverged { what: &'static str, step: usize, value: f64 },
    #[error("every term of the objective has weight 0")]
    NothingToTrain,
    #[error("{what} needs {} of memory for `{tokens}` tokens per step; {} is free", gigabytes(*needed), gigabytes(*available))]
    TooLarge { what: String, needed: u64, available: u64, tokens: usize, fits: Option<usize> },
    #[error("`{}` already exists", path.display())]
    Exists { path: PathBuf },
    #[error("`{}` was not replaced: it is not {what}", path.display())]
    NotReplaced { path: PathBuf, what: &'static str },
    #[error("`{}` was not replaced: it contains `{file}`, which is not part of a checkpoint", path.display())]
    ExtraFile { path: PathBuf, file: String },
    #[error(
        "the merged tensor `{tensor}` has the value `{value}` at position `{position}`, which {dtype} cannot represent"
    )]
    Unrepresentable { tensor: String, position: usize, value: f32, dtype: &'static str },
    #[error("cannot open `{}` as a session: {}", file.display(), plain::json(reason))]
    SessionFile { file: PathBuf, reason: String },
    #[error("`{}` is not valid YAML: {}", file.display(), plain::yaml(reason))]
    Yaml { file: PathBuf, reason: String },
    #[error("cannot apply `{key}` of the recipe `{}`: {reason}", file.display())]
    Recipe { file: PathBuf, key: String, reason: String, hint: String },
    /// A part of a benchmark task that cannot be followed.
    #[error("cannot follow {place} of the task `{}`: {reason}", file.display())]
    Task { file: PathBuf, place: String, reason: String, hint: String },
    #[error("tensor `{tensor}` cannot be merged: {reason}")]
    BadTensor { tensor: String, reason: String },
    #[error("`{}` uses the scheme `{scheme}`, which is not built in", file.display())]
    UnknownScheme { file: PathBuf, scheme: String },
    #[error("cannot draw the figure: {reason}")]
    Picture { reason: String },
    #[error("device `{device}` is not available: {reason}")]
    Device { device: String, reason: String },
    /// An operation that is refused.
    #[error("{message}")]
    Refused { message: String, hint: String },
    #[error("stopped: nothing was changed")]
    Interrupted,
    #[error("{}", first_line(.0))]
    Candle(#[from] candle_core::Error),
}

/// The result type of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the hint: what to do about the error. Every error has one.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::NotFound { .. } => {
                "check the name and the current directory; built-in models are named builtin:NAME, for example builtin:math"
            }
            Error::NotAFile { .. } => "write its contents to a file first, and name that file",
            Error::MissingFile { file, .. } => hints::missing_file(file),
            Error::Changed { .. } => {
                "restore the file with its original size and modification time; or run `load` and `wrap` again to use the new version"
            }
            Error::Safetensors { .. } => "download the file again: it is truncated or corrupt",
            Error::Gguf { .. } => {
                "download the file again, or convert the model with a newer version of llama.cpp"
            }
            Error::Torch { file, .. } => {
                let (from, to) = (file.display(), file.with_extension("safetensors"));
                return Some(format!(
                    "download it again, or convert it: python -c \"import torch, safetensors.torch as s; s.save_file({{k: v.clone().contiguous() \
                     for k, v in torch.load('{from}', map_location='cpu', weights_only=True).items()}}, '{}', {{'format': 'pt'}})\"",
                    to.display()
                ));
            }
            Error::Quantized { .. } => {
                "load the original checkpoint, or a GGUF version of it; or dequantize it in Python: \
                 AutoModelForCausalLM.from_pretrained(DIR).dequantize().save_pretrained(NEW)"
            }
            Error::NoOutputLayer { .. } => {
                "if the model ties its embeddings, set \"tie_word_embeddings\": true in its config.json; otherwise the checkpoint is incomplete: download it again"
            }
            Error::GgufExport { .. } => {
                "bake into a directory and convert that with llama.cpp's convert_hf_to_gguf.py"
            }
            Error::Json { file, .. } => hints::json(file),
            Error::Config { file, key, reason } => hints::config(file, key, reason),
            Error::MissingTensor { file, tensor } => hints::missing_tensor(file, tensor),
            Error::Shape { file, tensor, expected, found } => {
                hints::shape(file, tensor, expected.get(1..) == found.get(1..))
            }
            Error::OutsideDirectory { .. } => {
                "an index may only name files in its own directory; use a checkpoint from a source you trust"
            }
            Error::UnknownFamily { file, known, .. }
                if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) =>
            {
                return Some(format!(
                    "supported families for GGUF files: {known}; for other families, load the original checkpoint"
                ));
            }
            Error::UnknownFamily { known, .. } => {
                return Some(format!(
                    "supported families: {known}; static methods can merge other families: merge linear DIR"
                ));
            }
            Error::TensorNames { hint, .. } => hint,
            Error::DType { .. } => {
                "weights must be floats (f32, f16, bf16, f64, or float8 with scales): convert the checkpoint"
            }
            Error::NonFinite { .. } => {
                "the checkpoint is corrupt or its training diverged; use another one"
            }
            Error::Tokenizer { .. } => {
                "use the tokenizer.json that came with these weights; one that needs too much memory is rejected, and a newer format \
                 needs a newer version of this program"
            }
            Error::Incompatible { .. } => {
                "sources must be fine-tunes of one base model: the same layers and shapes, and tokenizers that differ only in added tokens"
            }
            Error::HubMissing { .. } => {
                "check the name: local paths begin with ./ or /, private repositories need HF_TOKEN, and a revision is written org/name@revision"
            }
            Error::HubGated { .. } => {
                "accept the licence on the model page, then set HF_TOKEN to a token of that account"
            }
            Error::HubUnreachable { .. } => {
                "check the network, HF_ENDPOINT and proxies; cached models load without a network; local paths begin with ./ or /"
            }
            Error::Hub { hint, .. } => hint,
            Error::Sources { hint, .. } => hint,
            Error::EmptyData { .. } => {
                "add at least one line: {\"text\": ...}, {\"input\": ..., \"output\": ...} or {\"input_ids\": [...]}"
            }
            Error::InvalidRow { hint, .. } => hint,
            Error::ChatTemplate { .. } => {
                "correct or replace chat_template.jinja (or chat_template in tokenizer_config.json); without a template, a conversation becomes one line per message"
            }
            Error::TokenOutOfRange { token: Some(_), .. } => {
                "the tokenizer has this token but the embedding has no row for it: remove it from the text or the chat template"
            }
            Error::TokenOutOfRange { .. } => {
                "the data was tokenized for a different model: tokenize it again with this model's tokenizer"
            }
            Error::NoData { source_name } => {
                return Some(format!(
                    "add the data it was fine-tuned on: data {source_name}=FILE.jsonl"
                ));
            }
            Error::Adapter { hint, .. }
            | Error::AdapterKey { hint, .. }
            | Error::Refused { hint, .. } => {
                return Some(hint.clone());
            }
            Error::Unknown { nearest: Some(nearest), .. } => {
                return Some(format!("did you mean `{nearest}`?"));
            }
            Error::Unknown { kind, known, .. } if known.is_empty() => {
                return Some(format!("there is no {kind} yet; `load NAME=SOURCE` comes first"));
            }
            Error::Unknown { known, .. } => return Some(format!("known: {known}")),
            Error::BadValue { expected, .. } => return Some(format!("expected {expected}")),
            Error::NoMatch { .. } => {
                "`inspect` without a name lists all tensors; * and ? match any part of a name"
            }
            Error::NoGradient { .. } => {
                "an operation in the forward pass has no backward pass or detaches its input: use the operations of this crate and candle's differentiable ones"
            }
            Error::SchemeFailed { .. } => {
                "a scheme computes coefficients from parameters with candle operations; check_scheme runs it on every tensor"
            }
            Error::SchemeShape { sources, rows, columns, .. } => {
                return Some(format!(
                    "return f32 of shape {sources} x {} x {}",
                    one_or(*rows),
                    one_or(*columns)
                ));
            }
            Error::SchemeParameter { .. } => {
                "a parameter needs at least one value, as many values as its shape has, all finite; tensors that share a key must agree on shape and initial values"
            }
            Error::SchemeGradient { .. } => {
                "compute coefficients with candle's differentiable operations only: no detach, no values read back, no custom backward pass"
            }
            Error::ComputedCoefficients { parameters, .. } => {
                return Some(format!(
                    "set its parameters with set_parameter instead: `{parameters}`"
                ));
            }
            Error::Diverged { .. } => {
                "lower the learning rate (set lr=1e-3) or clip gradients (set clip=1)"
            }
            Error::TooLarge { fits: Some(fits), .. } => {
                return Some(format!(
                    "{fits} tokens per step would fit: lower max_length and batch_size, and set recompute=on or auto"
                ));
            }
            Error::TooLarge { fits: None, .. } => {
                "merge fewer or smaller sources, or use a machine with more memory"
            }
            Error::NothingToTrain => "enable a term, for example: set kl=1",
            Error::Exists { .. } => "choose another name, or use --force to replace it",
            Error::NotReplaced { .. } => {
                "choose another name, or move the existing file or directory"
            }
            Error::ExtraFile { file, .. } => {
                return Some(format!("move `{file}` away, or choose another name"));
            }
            Error::Unrepresentable { .. } => {
                "the largest f16 value is 65504: bake with dtype=bf16 or f32; if that also fails, training diverged: lower lr"
            }
            Error::SessionFile { .. } => {
                "`open` reads files written by `save` and needs unchanged sources and data; otherwise run `load` and `wrap` again"
            }
            Error::Yaml { .. } => {
                "a recipe is a mergekit configuration: merge_method, models or slices, base_model, parameters, dtype"
            }
            Error::Recipe { hint, .. } | Error::Task { hint, .. } => return Some(hint.clone()),
            Error::BadTensor { .. } => "use different weights, or another method",
            Error::UnknownScheme { scheme, .. } => {
                return Some(format!(
                    "pass the scheme from a Rust program or notebook: Dam::open_with(FILE, {scheme})"
                ));
            }
            Error::Picture { .. } => "write it as .svg instead",
            Error::Device { reason, .. } => hints::device(reason),
            Error::Io { action, source, .. } => hints::io(action, source.kind()),
            Error::Interrupted => {
                "earlier results are kept; run the same command again to start over"
            }
            Error::Candle(error) => hints::candle(&error.to_string()),
        };
        Some(text.to_owned())
    }

    /// An I/O error of `action` on `path`. A path that does not exist becomes [`Error::NotFound`].
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::NotFound if action != "write" => Error::NotFound { path },
            _ => Error::Io { action, path, source },
        }
    }

    /// The error for an unknown `name`; the closest of `known` becomes the hint.
    pub fn unknown<'a>(
        kind: &'static str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = nearest(name, known.iter().copied()).map(str::to_owned);
        Error::Unknown { kind, name: name.to_owned(), nearest, known: known.join(", ") }
    }

    /// The error for a `value` of `key` that is none of `words`.
    pub(crate) fn none_of(key: &str, value: &str, words: &[&str]) -> Self {
        let expected = match words {
            [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
            _ => words.concat(),
        };
        Self::bad_value(key, value, expected)
    }

    /// The error for an invalid value of `key`.
    pub fn bad_value(key: &str, value: &str, expected: impl Into<String>) -> Self {
        Error::BadValue { key: key.to_owned(), value: value.to_owned(), expected: expected.into() }
    }
}

/// Refuses with a message and a hint.
pub(crate) fn refuse<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Error::Refused { message: message.into(), hint: hint.into() })
}

/// The closest of `known` to a misspelt `name`, if any is close enough.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names that are much longer cannot be close and are slow to compare.
    (known.into_iter().filter(|k| name.len() < 4 * k.len() + 16))
        .map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), k))
        .min()
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
        .map(|(_, k)| k)
}

/// The allowed sizes of a dimension of coefficients, for messages.
fn one_or(n: usize) -> String {
    if n == 1 { "1".into() } else { format!("(1 or {n})") }
}

/// `bytes` in gigabytes, for messages.
pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// The first line of a candle error, without the backtrace that candle adds when RUST_BACKTRACE is
/// set.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match self.hint() {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
