//! The one error of the library: what went wrong, where, and what to do about it.
//!
//! `Display` is the message, [`Error::hint`] the remedy. `Debug` prints both, since that is what a
//! notebook shows for a `?` that failed.

mod plain;
mod remedy;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

/// Everything that can go wrong. Messages name the file and the tensor, key or line.
#[derive(thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("no such file or directory `{}`", path.display())]
    NotFound { path: PathBuf },
    #[error("`{}` has no `{file}`", directory.display())]
    MissingFile { directory: PathBuf, file: String },
    #[error("`{}` is {what}, not a file", path.display())]
    NotAFile { path: PathBuf, what: &'static str },
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{}` has changed since it was loaded", file.display())]
    Changed { file: PathBuf },
    #[error("`{}` is not a valid safetensors file: {reason}", file.display())]
    Safetensors { file: PathBuf, reason: String },
    #[error("`{}` is not a usable GGUF file: {reason}", file.display())]
    Gguf { file: PathBuf, reason: String },
    #[error("`{}` is not a PyTorch file that can be read: {reason}", file.display())]
    Torch { file: PathBuf, reason: String },
    #[error("the weights of `{}` are packed ({method}): `{tensor}` holds codes that cannot be merged", file.display())]
    Packed { file: PathBuf, tensor: String, method: String },
    #[error("`{}` has no output layer: there is no `lm_head.weight`, and config.json does not tie it to the embedding", file.display())]
    NoOutputLayer { file: PathBuf },
    #[error("the merge cannot be written as GGUF: {reason}")]
    GgufOut { reason: String },
    #[error("`{}` names `{entry}`, which is not a file of its own directory", index.display())]
    OutsideDirectory { index: PathBuf, entry: String },
    #[error("`{}` is not valid: {}", file.display(), plain::json(reason))]
    Json { file: PathBuf, reason: String },
    #[error("`{}` has no usable `{key}`: {reason}", file.display())]
    Config { file: PathBuf, key: String, reason: String },
    /// An adapter that cannot be put on a model.
    #[error("the adapter `{}` cannot be used: {reason}", path.display())]
    Adapter { path: PathBuf, reason: String, hint: String },
    /// A key of an adapter_config.json that cannot be followed.
    #[error("`{}` cannot be followed at `{key}`: {reason}", file.display())]
    AdapterKey { file: PathBuf, key: String, reason: String, hint: String },
    #[error("`{}` is of the family `{found}`, which cannot be run here", file.display())]
    UnknownFamily { file: PathBuf, found: String, known: String },
    #[error("the names of the tensors of `{}` cannot be followed: {reason}", file.display())]
    TensorNames { file: PathBuf, reason: String, hint: &'static str },
    #[error("`{}` has no tensor `{tensor}`", file.display())]
    MissingTensor { file: PathBuf, tensor: String },
    #[error("tensor `{tensor}` of `{}` has shape `{found:?}`, expected `{expected:?}`", file.display())]
    Shape { file: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("tensor `{tensor}` of `{}` has dtype `{found}`", file.display())]
    DType { file: PathBuf, tensor: String, found: String },
    #[error("tensor `{tensor}` of `{}` has the value `{value}` at position `{position}`", file.display())]
    NonFinite { file: PathBuf, tensor: String, position: usize, value: f32 },
    #[error("`{}` is not a usable tokenizer: {}", file.display(), plain::tokenizer(reason))]
    Tokenizer { file: PathBuf, reason: String },
    #[error("the chat template of `{source_name}` (`{}`) does not render: {}", file.display(), plain::template(reason))]
    ChatTemplate { source_name: String, file: PathBuf, reason: String },
    #[error("`{first}` and `{second}` cannot be merged: {difference}")]
    Differs { first: String, second: String, difference: String },
    #[error("the hub has no {what} in `{repo}`")]
    HubMissing { repo: String, what: String },
    #[error("`{repo}` is gated: its authors want their licence accepted first")]
    HubGated { repo: String },
    #[error("cannot reach `{endpoint}`: {reason}")]
    HubUnreachable { endpoint: String, reason: String },
    #[error("cannot get `{repo}` from the hub: {reason}")]
    Hub { repo: String, reason: String, hint: &'static str },
    #[error("{what}")]
    Sources { what: String, hint: &'static str },
    #[error("`{}` has no examples", file.display())]
    EmptyData { file: PathBuf },
    /// A row of data, by its line in a file of lines, by its number elsewhere (`unit`).
    #[error("{unit} `{line}` of `{}` is not usable: {}", file.display(), plain::row(reason))]
    BadLine { file: PathBuf, unit: &'static str, line: usize, reason: String, hint: &'static str },
    #[error(
        "{unit} `{line}` of `{}` has the token id `{id}`{}, outside the vocabulary of `{vocabulary}`",
        file.display(),
        token.as_ref().map(|token| format!(" (`{token}`)")).unwrap_or_default()
    )]
    TokenOutOfRange { file: PathBuf, unit: &'static str, line: usize, id: u32, token: Option<String>, vocabulary: usize },
    #[error("source `{source_name}` has no data")]
    NoData { source_name: String },
    #[error("unknown {kind} `{name}`")]
    Unknown { kind: &'static str, name: String, nearest: Option<String>, known: String },
    #[error("`{value}` is not a value for `{key}`")]
    BadValue { key: String, value: String, expected: String },
    #[error("no tensor is named or matched by `{pattern}`")]
    NoMatch { pattern: String },
    #[error("no gradient reached {count} of the trainable parameters, the first of them `{parameter}` at `{tensor}`")]
    NoGradient { parameter: String, tensor: String, count: usize },
    #[error("the scheme `{scheme}` fails at `{tensor}`: {reason}")]
    SchemeFailed { scheme: String, tensor: String, reason: String },
    #[error("the scheme `{scheme}` gives coefficients of shape `{found:?}` and dtype `{dtype}` at `{tensor}`")]
    SchemeShape {
        scheme: String,
        tensor: String,
        found: Vec<usize>,
        dtype: &'static str,
        sources: usize,
        rows: usize,
        columns: usize,
    },
    #[error("the parameter `{parameter}` of the scheme `{scheme}` is not usable at `{tensor}`: {problem}")]
    SchemeParameter { scheme: String, tensor: String, parameter: String, problem: String },
    #[error(
        "the gradient by value `{position}` of the parameter `{parameter}` of the scheme `{scheme}` at `{tensor}` is `{found:.6}`, \
         and finite differences give `{expected:.6}`"
    )]
    SchemeGradient { scheme: String, tensor: String, parameter: String, position: usize, found: f64, expected: f64 },
    #[error("the coefficients of `{tensor}` are made of parameters by the scheme `{scheme}`, so they cannot be set")]
    CoefficientsMade { scheme: String, tensor: String, parameters: String },
    #[error("the {what} is not finite at step `{step}`: `{value}`")]
    Diverged { what: &'static str, step: usize, value: f64 },
    #[error("every term of the objective has weight 0")]
    NothingToTrain,
    #[error("{what} needs {} of memory for `{tokens}` tokens a step, and {} are free", gigabytes(*needed), gigabytes(*available))]
    TooLarge { what: String, needed: u64, available: u64, tokens: usize, fits: Option<usize> },
    #[error("`{}` exists already", path.display())]
    Exists { path: PathBuf },
    #[error("`{}` is not {what}, so it is not replaced", path.display())]
    NotReplaced { path: PathBuf, what: &'static str },
    #[error("`{}` holds `{file}`, which was not written with a checkpoint, so it is not replaced", path.display())]
    Foreign { path: PathBuf, file: String },
    #[error("the merged tensor `{tensor}` has the value `{value}` at position `{position}` in {dtype}")]
    NotBaked { tensor: String, position: usize, value: f32, dtype: &'static str },
    #[error("`{}` is not a session that can be opened: {}", file.display(), plain::json(reason))]
    SessionFile { file: PathBuf, reason: String },
    #[error("`{}` is not valid YAML: {}", file.display(), plain::yaml(reason))]
    Yaml { file: PathBuf, reason: String },
    #[error("the recipe `{}` cannot be followed at `{key}`: {reason}", file.display())]
    Recipe { file: PathBuf, key: String, reason: String, hint: String },
    #[error("tensor `{tensor}` cannot be merged: {reason}")]
    BadTensor { tensor: String, reason: String },
    #[error("`{}` was wrapped with the scheme `{scheme}`, which is not built in", file.display())]
    SchemeUnknown { file: PathBuf, scheme: String },
    #[error("the picture cannot be drawn: {reason}")]
    Picture { reason: String },
    #[error("device `{device}` is not available: {reason}")]
    Device { device: String, reason: String },
    /// What a verb does not do.
    #[error("{message}")]
    Refused { message: String, hint: String },
    #[error("stopped: nothing has changed")]
    Interrupted,
    #[error("{}", first_line(.0))]
    Candle(#[from] candle_core::Error),
}

/// What every fallible function of the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The remedy; every error has one.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::NotFound { .. } => {
                "check the name and the directory you are in; built-in models are named builtin:NAME, as builtin:math"
            }
            Error::NotAFile { .. } => "write what comes from it to a file first, and name that file",
            Error::MissingFile { file, .. } => remedy::missing_file(file),
            Error::Changed { .. } => {
                "put the file back as it was, size and time, to go on; or load it as it is now: load and wrap anew"
            }
            Error::Safetensors { .. } => "download the file again: it is truncated or damaged",
            Error::Gguf { .. } => "download the file again, or convert the model with a newer llama.cpp",
            Error::Torch { file, .. } => {
                let (from, to) = (file.display(), file.with_extension("safetensors"));
                return Some(format!(
                    "download it again, or convert it: python -c \"import torch, safetensors.torch as s; s.save_file({{k: v.clone().contiguous() \
                     for k, v in torch.load('{from}', map_location='cpu', weights_only=True).items()}}, '{}', {{'format': 'pt'}})\"",
                    to.display()
                ));
            }
            Error::Packed { .. } => {
                "load the checkpoint it was made from, or a GGUF file of it; or unpack it in Python: \
                 AutoModelForCausalLM.from_pretrained(DIR).dequantize().save_pretrained(NEW)"
            }
            Error::NoOutputLayer { .. } => {
                "if the model is tied, set \"tie_word_embeddings\": true in its config.json; otherwise the checkpoint is incomplete: get it again"
            }
            Error::GgufOut { .. } => "bake it into a directory, and convert that with llama.cpp's convert_hf_to_gguf.py",
            Error::Json { file, .. } => remedy::json(file),
            Error::Config { file, key, reason } => remedy::config(file, key, reason),
            Error::MissingTensor { file, tensor } => remedy::missing_tensor(file, tensor),
            Error::Shape { file, tensor, .. } => remedy::shape(file, tensor),
            Error::OutsideDirectory { .. } => {
                "an index may name only files beside it; get the checkpoint from a source you trust"
            }
            Error::UnknownFamily { file, known, .. } if file.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) => {
                return Some(format!(
                    "of GGUF files these families are read: {known}; of others load the checkpoint that it was made from"
                ));
            }
            Error::UnknownFamily { known, .. } => {
                return Some(format!(
                    "the families that run are {known}; others can be merged without running: merge linear DIR"
                ));
            }
            Error::TensorNames { hint, .. } => hint,
            Error::DType { .. } => "weights are floats (f32, f16, bf16, f64, or float8 with its scales): convert the checkpoint",
            Error::NonFinite { .. } => "the checkpoint is damaged or its training diverged; use another",
            Error::Tokenizer { .. } => {
                "use the tokenizer.json that came with these weights: one that asks for too much is not read, and one of a newer kind by a \
                 newer version of this program"
            }
            Error::Differs { .. } => {
                "sources must be fine-tunes of one base model: same layers and shapes, and a tokenizer of which added tokens are all that differs"
            }
            Error::HubMissing { .. } => {
                "check the name: a local path begins with ./ or /, a private repository needs HF_TOKEN, a revision is org/name@revision"
            }
            Error::HubGated { .. } => "accept the licence on the model's page, then set HF_TOKEN to a token of that account",
            Error::HubUnreachable { .. } => {
                "check the network, HF_ENDPOINT and proxies; what is in the cache loads without; a local path begins with ./ or /"
            }
            Error::Hub { hint, .. } => hint,
            Error::Sources { hint, .. } => hint,
            Error::EmptyData { .. } => {
                "give at least one line: {\"text\": ...}, {\"input\": ..., \"output\": ...} or {\"input_ids\": [...]}"
            }
            Error::BadLine { hint, .. } => hint,
            Error::ChatTemplate { .. } => {
                "mend or replace chat_template.jinja (or chat_template in tokenizer_config.json); without one, a conversation is a line per message"
            }
            Error::TokenOutOfRange { token: Some(_), .. } => {
                "the model's tokenizer has this token, its embedding has no row for it: leave it out of the text or its template"
            }
            Error::TokenOutOfRange { .. } => "the data was tokenized for another model",
            Error::NoData { source_name } => {
                return Some(format!("give it the data it was tuned on: data {source_name}=FILE.jsonl"));
            }
            Error::Adapter { hint, .. } | Error::AdapterKey { hint, .. } | Error::Refused { hint, .. } => {
                return Some(hint.clone());
            }
            Error::Unknown { nearest: Some(nearest), .. } => return Some(format!("did you mean `{nearest}`?")),
            Error::Unknown { known, .. } => return Some(format!("known: {known}")),
            Error::BadValue { expected, .. } => return Some(format!("expected {expected}")),
            Error::NoMatch { .. } => "inspect without a name lists all; * and ? match any part of a name",
            Error::NoGradient { .. } => {
                "an operation on the way to the loss has no backward, or cuts it off (detach): use the operations of this crate and candle's differentiable ones"
            }
            Error::SchemeFailed { .. } => {
                "coefficients are made of parameters by candle's operations: check_scheme runs a scheme on every tensor"
            }
            Error::SchemeShape { sources, rows, columns, .. } => {
                return Some(format!("give f32 of {sources} x {} x {}", one_or(*rows), one_or(*columns)));
            }
            Error::SchemeParameter { .. } => {
                "a parameter has at least one value, as many as its shape, all finite; tensors that give one key give it one shape and start"
            }
            Error::SchemeGradient { .. } => {
                "make coefficients by candle's differentiable operations alone: nothing detached, no values read out, no backward of your own"
            }
            Error::CoefficientsMade { parameters, .. } => {
                return Some(format!("set its parameters instead: set_parameter, of `{parameters}`"));
            }
            Error::Diverged { .. } => "lower the learning rate (set lr=1e-3) or clip gradients (set clip=1)",
            Error::TooLarge { fits: Some(fits), .. } => {
                return Some(format!(
                    "it would fit with {fits} tokens a step: set max_length and batch_size lower, and recompute=on or auto"
                ));
            }
            Error::TooLarge { fits: None, .. } => "merge fewer or smaller sources, or use a machine with more memory",
            Error::NothingToTrain => "switch one on: set kl=1",
            Error::Exists { .. } => "choose another name, or replace it with --force",
            Error::NotReplaced { .. } => "choose another name, or move what is there",
            Error::Foreign { file, .. } => return Some(format!("move `{file}` away, or choose another name")),
            Error::NotBaked { .. } => {
                "f16 ends at 65504: bake with dtype=bf16 or f32; if that fails too, training has diverged: lower lr"
            }
            Error::SessionFile { .. } => {
                "open reads what save wrote, while sources and data are as they were; otherwise load and wrap anew"
            }
            Error::Yaml { .. } => {
                "a recipe is a mergekit configuration: merge_method, models or slices, base_model, parameters, dtype"
            }
            Error::Recipe { hint, .. } => return Some(hint.clone()),
            Error::BadTensor { .. } => "use other weights, or another method",
            Error::SchemeUnknown { scheme, .. } => {
                return Some(format!("give it the scheme, from a program or a notebook: Dam::open_with(FILE, {scheme})"));
            }
            Error::Picture { .. } => "write it as .svg instead",
            Error::Device { .. } => "use device=cpu, or build with --features cuda or metal",
            Error::Io { action, source, .. } => remedy::io(action, source.kind()),
            Error::Interrupted => "what was done before stands; give the same again to do it from the start",
            Error::Candle(error) => remedy::candle(&error.to_string()),
        };
        Some(text.to_owned())
    }

    /// An I/O error of `action` on `path`; a path that does not exist becomes [`Error::NotFound`].
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::NotFound if action != "write" => Error::NotFound { path },
            _ => Error::Io { action, path, source },
        }
    }

    /// `name` is not among `known`; the nearest one becomes the hint.
    pub fn unknown<'a>(kind: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        let nearest = nearest(name, known.iter().copied()).map(str::to_owned);
        Error::Unknown { kind, name: name.to_owned(), nearest, known: known.join(", ") }
    }

    /// `value` does not fit `key`.
    pub fn bad_value(key: &str, value: &str, expected: impl Into<String>) -> Self {
        Error::BadValue { key: key.to_owned(), value: value.to_owned(), expected: expected.into() }
    }
}

/// What `name` is a slip for, where it is near enough to one of `known`.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // What is much longer is near to none, and takes long to compare.
    (known.into_iter().filter(|k| name.len() < 4 * k.len() + 16))
        .map(|k| (strsim::damerau_levenshtein(&name.to_lowercase(), &k.to_lowercase()), k))
        .min()
        .filter(|(distance, k)| *distance <= 2.max(k.len() / 3))
        .map(|(_, k)| k)
}

/// What a dimension of coefficients may be, for messages.
fn one_or(n: usize) -> String {
    if n == 1 { "1".into() } else { format!("(1 or {n})") }
}

/// `bytes` as gigabytes, for messages.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// What candle says, without the backtrace it adds where RUST_BACKTRACE is set.
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
