//! The tokenizer that a recipe requests, and the resulting rows of the vocabulary, as in mergekit:
//!
//! * `source`: the tokenizer of the base (or first) model, of a named model, or the `union` of all:
//!   the base's tokens, then those of the other models, in the order of the models.
//! * A model that lacks a token gets a row: the one that `tokens` names; else that of the only
//!   model that has it; else the base's; else the mean over the models that have it. `force` gives
//!   it to all models.
//! * There are as many rows as tokens, rounded up to a multiple of `pad_to_multiple_of`; extra rows
//!   are the mean of all rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::DType;
use rayon::prelude::*;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::Recipe;
use super::location::Location;
use super::model::one;
use super::plan::Opened;
use super::setting::typed;
use crate::checkpoint::{
    BoundedTokenizer, MissingTokens, NO_ROW, Numbering, Renumbered, Source, View, extend,
};
use crate::error::{Error, Result};

/// `tokenizer_source`, or `tokenizer`.
pub(super) struct TokenizerKeys {
    key: &'static str,
    source: TokenizerChoice,
    /// In the order of the recipe.
    tokens: Vec<(String, Rule)>,
    pad: Option<usize>,
}

/// The owner of the tokenizer.
enum TokenizerChoice {
    Union,
    Base,
    Model(String),
}

/// The rule for the row of a token.
struct Rule {
    donor: Donor,
    force: bool,
}

enum Donor {
    Unsaid,
    Zero,
    /// The row of the same token in a model.
    Model(String),
    /// The row of another token in a model.
    Id(String, u32),
    Token(String, String),
}

/// The origin of a row that a model lacks.
#[derive(Clone)]
enum RowSource {
    Zero,
    Row(usize, u32),
    Mean(Vec<(usize, u32)>),
}

impl TokenizerKeys {
    /// Reads the keys of a recipe. `order` is the order of `tokenizer.tokens`.
    pub fn read(
        at: &Location<'_>,
        map: &Map<String, Value>,
        order: &[String],
    ) -> Result<Option<Self>> {
        let given = |key: &str| map.get(key).filter(|value| !value.is_null());
        let (key, source) = match (given("tokenizer_source"), given("tokenizer")) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(at.bad(
                    "tokenizer",
                    "`tokenizer_source` is set too",
                    "keep one of them: tokenizer: {source: ...}",
                ));
            }
            (Some(source), None) => {
                let source = TokenizerChoice::read(&at.inner("tokenizer_source"), source)?;
                return Ok(Some(Self {
                    key: "tokenizer_source",
                    source,
                    tokens: Vec::new(),
                    pad: None,
                }));
            }
            (None, Some(value)) => ("tokenizer", value),
        };
        let at = at.inner(key);
        let map = at.map(source)?;
        at.check_keys(map, &["source", "tokens", "pad_to_multiple_of"])?;
        let source = match map.get("source").filter(|value| !value.is_null()) {
            Some(value) => TokenizerChoice::read(&at.inner("source"), value)?,
            None => TokenizerChoice::Union,
        };
        let pad = match map.get("pad_to_multiple_of").filter(|value| !value.is_null()) {
            None => None,
            Some(value) => match value.as_u64() {
                Some(multiple @ 1..=1_048_576) => Some(multiple as usize),
                _ => {
                    return Err(at.bad(
                        "pad_to_multiple_of",
                        format!("`{value}` is not a valid number of rows"),
                        "write a positive integer such as 64",
                    ));
                }
            },
        };
        let tokens = match map.get("tokens").filter(|value| !value.is_null()) {
            None => Vec::new(),
            Some(value) => {
                let at = at.inner("tokens");
                let map = at.map(value)?;
                // All tokens, those of known order first.
                let unordered = map.keys().filter(|token| !order.contains(token));
                let all = order.iter().filter(|token| map.contains_key(*token)).chain(unordered);
                all.map(|token| Ok((token.clone(), Rule::read(&at.inner(token), &map[token])?)))
                    .collect::<Result<_>>()?
            }
        };
        Ok(Some(Self { key, source, tokens, pad }))
    }
}

impl TokenizerChoice {
    fn read(at: &Location<'_>, value: &Value) -> Result<Self> {
        Ok(match value.as_str() {
            Some("union") => Self::Union,
            Some("base") => Self::Base,
            _ => Self::Model(one(at, value)?),
        })
    }
}

impl Rule {
    fn read(at: &Location<'_>, value: &Value) -> Result<Self> {
        let map = at.map(value)?;
        at.check_keys(map, &["source", "force"])?;
        let force = match map.get("force").map(typed) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(force)) => force,
            Some(other) => {
                return Err(at.bad(
                    "force",
                    format!("`{other}` is not a boolean"),
                    "write true or false",
                ));
            }
        };
        let donor = match map.get("source").filter(|value| !value.is_null()) {
            None => Donor::Unsaid,
            Some(value) => Donor::read(&at.inner("source"), value)?,
        };
        Ok(Self { donor, force })
    }
}

impl Donor {
    fn read(at: &Location<'_>, value: &Value) -> Result<Self> {
        let Some(map) = value.as_object().filter(|map| map.contains_key("kind")) else {
            return Ok(Self::Model(one(at, value)?));
        };
        let hint =
            "write a model, {kind: zero}, or {kind: model_token, model: MODEL, token: TOKEN}";
        match map.get("kind").and_then(Value::as_str) {
            Some("zero") => {
                at.check_keys(map, &["kind"])?;
                Ok(Self::Zero)
            }
            Some("model_token") => {
                at.check_keys(map, &["kind", "model", "token", "token_id"])?;
                let model =
                    map.get("model").ok_or_else(|| at.bad("model", "it is missing", hint))?;
                let model = one(&at.inner("model"), model)?;
                let id = map.get("token_id").filter(|value| !value.is_null());
                match (at.text(map, "token")?, id) {
                    (Some(token), None) => Ok(Self::Token(model, token)),
                    (None, Some(id)) => match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                        Some(id) => Ok(Self::Id(model, id)),
                        None => Err(at.bad(
                            "token_id",
                            format!("`{id}` is not a token id"),
                            "write an integer of at least 0",
                        )),
                    },
                    _ => Err(at.wrong("expected either `token` or `token_id`", hint)),
                }
            }
            _ => Err(at.bad("kind", "expected zero or model_token", hint)),
        }
    }
}

/// The vocabulary of a merge, and the ids of each model in it.
struct Vocabulary<'a> {
    recipe: &'a Recipe,
    keys: &'a TokenizerKeys,
    opened: &'a Opened,
    /// The models as they are on disk.
    sources: Vec<Source>,
    /// The text of each id.
    tokens: BTreeMap<u32, String>,
    ids: HashMap<String, u32>,
    /// The row of each token, by model.
    rows: Vec<HashMap<u32, u32>>,
    /// The number of rows without and with padding.
    used: usize,
    padded: usize,
}

impl Recipe {
    /// Returns the models `opened` with the vocabulary of the requested tokenizer; unchanged if
    /// none is requested. Also returns the index of the model with the tokenizer.
    ///
    /// # Errors
    /// A tokenizer or token that does not exist.
    pub(super) fn with_tokenizer(
        &self,
        opened: Opened,
        notes: &mut Vec<String>,
    ) -> Result<(Opened, Option<usize>)> {
        let Some(keys) = &self.tokenizer else { return Ok((opened, None)) };
        let sources: Vec<Source> =
            opened.iter().map(|(_, source)| source.original().clone()).collect();
        let base = self
            .base
            .as_ref()
            .and_then(|base| opened.iter().position(|(name, _)| name == base))
            .unwrap_or(0);
        let bad = |reason: String, hint: &str| self.bad(keys.key, reason, hint);
        let reference = match &keys.source {
            TokenizerChoice::Union => base,
            TokenizerChoice::Base if self.base.is_none() => {
                return Err(bad(
                    "`base_model` is missing".into(),
                    "add it, or write union or the name of a model",
                ));
            }
            TokenizerChoice::Base => base,
            TokenizerChoice::Model(name) => {
                match opened.iter().position(|(known, _)| {
                    known == name || name.strip_prefix("model:") == Some(known)
                }) {
                    Some(at) => at,
                    None => {
                        let known: Vec<&str> =
                            opened.iter().map(|(name, _)| name.as_str()).collect();
                        let hint = format!("write base, union, or one of {}", known.join(", "));
                        return Err(bad(format!("`{name}` is not a merged model"), &hint));
                    }
                }
            }
        };
        let name = |at: usize| opened[at].0.as_str();
        let none = |at: usize| {
            let hint = "remove the key, or add the model's tokenizer.json next to its weights";
            bad(format!("`{}` has no tokenizer.json", name(at)), hint)
        };
        let vocabulary =
            |source: &Source| source.tokenizer().map(|tokenizer| tokenizer.get_vocab(true));
        let of_base = vocabulary(&sources[base]);
        let own: Vec<HashMap<String, u32>> = sources
            .iter()
            .map(|source| {
                let own =
                    vocabulary(source).or_else(|| of_base.clone()).ok_or_else(|| none(base))?;
                let rows = source.vocabulary_rows() as u32;
                Ok(own.into_iter().filter(|(_, id)| *id < rows).collect())
            })
            .collect::<Result<_>>()?;
        let tokenizer = sources[reference].tokenizer().ok_or_else(|| none(reference))?;
        let appended = self.appended(keys, &sources, &own, tokenizer, base);
        let extended = extend(&sources[reference], &appended)?;
        let ids = extended
            .as_ref()
            .map_or_else(|| tokenizer.get_vocab(true), |(text, _)| text.tokenizer.get_vocab(true));
        let tokens: BTreeMap<u32, String> =
            ids.iter().map(|(token, id)| (*id, token.clone())).collect();
        let used = tokens.keys().last().map_or(0, |id| *id as usize + 1);
        let padded = keys.pad.map_or(used, |multiple| used.next_multiple_of(multiple));
        let rows = own
            .iter()
            .map(|own| {
                own.iter().filter_map(|(token, row)| Some((*ids.get(token)?, *row))).collect()
            })
            .collect();
        let vocabulary = Vocabulary {
            recipe: self,
            keys,
            opened: &opened,
            sources,
            tokens,
            ids,
            rows,
            used,
            padded,
        };
        let seen = vocabulary.seen(reference, &own, extended, notes)?;
        let opened =
            opened.iter().zip(seen).map(|((name, _), source)| (name.clone(), source)).collect();
        Ok((opened, Some(reference)))
    }

    /// Returns the tokens appended to `tokenizer`: for a union, those of the other models, then
    /// those that `tokens` names.
    fn appended(
        &self,
        keys: &TokenizerKeys,
        sources: &[Source],
        own: &[HashMap<String, u32>],
        tokenizer: &Tokenizer,
        base: usize,
    ) -> Vec<AddedToken> {
        let mut known: BTreeSet<String> = tokenizer.get_vocab(true).into_keys().collect();
        let mut appended: Vec<AddedToken> = Vec::new();
        let mut append = |token: AddedToken| {
            if known.insert(token.content.clone()) {
                appended.push(token);
            }
        };
        if matches!(keys.source, TokenizerChoice::Union) {
            let others = || [base].into_iter().chain((0..sources.len()).filter(|i| *i != base));
            let added = |i: usize| {
                sources[i].tokenizer().map(|t| t.get_added_tokens_decoder()).unwrap_or_default()
            };
            for i in others() {
                let added: BTreeSet<u32> = added(i).into_keys().collect();
                let plain: BTreeMap<u32, &String> = own[i]
                    .iter()
                    .filter(|(_, id)| !added.contains(id))
                    .map(|(token, id)| (*id, token))
                    .collect();
                plain
                    .into_values()
                    .for_each(|token| append(AddedToken::from(token.clone(), false)));
            }
            for i in others() {
                let rows = sources[i].vocabulary_rows() as u32;
                let added: BTreeMap<u32, AddedToken> =
                    added(i).into_iter().filter(|(id, _)| *id < rows).collect();
                added.into_values().for_each(&mut append);
            }
        }
        keys.tokens.iter().for_each(|(token, _)| append(AddedToken::from(token.clone(), false)));
        appended
    }
}

impl Vocabulary<'_> {
    /// Returns every model in this vocabulary.
    fn seen(
        &self,
        reference: usize,
        own: &[HashMap<String, u32>],
        extended: Option<(Arc<BoundedTokenizer>, Vec<u8>)>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Source>> {
        self.note(own, notes);
        let names = self.sources[0].vocabulary_tensors();
        self.check(&names)?;
        let mut views: Vec<BTreeMap<String, View>> =
            self.sources.iter().map(|_| BTreeMap::new()).collect();
        for name in &names {
            for (i, view) in self.views(name)?.into_iter().enumerate() {
                views[i].insert(name.clone(), view);
            }
        }
        let one = |(i, views): (usize, BTreeMap<String, View>)| {
            let mut row_map = vec![NO_ROW; self.sources[i].vocabulary_rows()];
            own[i].iter().for_each(|(token, row)| {
                row_map[*row as usize] = self.ids.get(token).copied().unwrap_or(NO_ROW)
            });
            let missing_rows: Vec<u32> =
                (0..self.padded as u32).filter(|id| !self.rows[i].contains_key(id)).collect();
            let missing = || missing_rows.iter().filter_map(|id| self.tokens.get(id));
            let missing_tokens = MissingTokens {
                tokens: missing().count(),
                padding: self.padded - self.used,
                examples: missing().take(4).cloned().collect(),
                from: vec!["the tokenizer of the recipe".into()],
            };
            let numbering =
                Numbering { row_map, missing_rows, missing_tokens, is_reference: i == reference };
            let extended = extended.clone().filter(|_| i == reference);
            self.sources[i].with_numbering(Renumbered {
                numbering,
                rows: self.padded,
                views,
                extended,
            })
        };
        views.into_iter().enumerate().map(one).collect()
    }

    /// Adds notes on the number of rows and on dropped tokens.
    fn note(&self, own: &[HashMap<String, u32>], notes: &mut Vec<String>) {
        let before: BTreeSet<usize> = self.sources.iter().map(Source::vocabulary_rows).collect();
        if before.iter().any(|rows| *rows != self.padded) {
            let rows = before.iter().map(usize::to_string).collect::<Vec<_>>().join(" and ");
            let Self { used, padded, keys, .. } = self;
            notes.push(format!(
                "`{}` changes the vocabulary from {rows} to {padded} rows, for {used} tokens",
                keys.key
            ));
        }
        let lost: BTreeSet<&String> = own
            .iter()
            .flat_map(HashMap::keys)
            .filter(|token| !self.ids.contains_key(*token))
            .collect();
        if let Some(first) = lost.first() {
            notes.push(format!(
                "{} tokens are dropped because of `{}`: `{first}`, ...",
                lost.len(),
                self.keys.key
            ));
        }
    }

    /// Checks that models have the same vocabulary tensors, and that these can be renumbered.
    fn check(&self, names: &[String]) -> Result<()> {
        for (source, (model, _)) in self.sources.iter().zip(self.opened) {
            let theirs = source.vocabulary_tensors();
            let rows = source.vocabulary_rows();
            let output = |name: &str| {
                ["lm_head", "embed_out", "cls.", "decoder.bias"]
                    .iter()
                    .any(|part| name.contains(part))
            };
            let stuck = source.tensors().iter().find(|t| {
                t.shape.first() == Some(&rows) && output(&t.name) && !theirs.contains(&t.name)
            });
            if let Some(tensor) = stuck.filter(|_| rows != self.padded) {
                let reason = format!(
                    "tensor `{}` of `{model}` has {rows} rows and cannot be resized to {}",
                    tensor.name, self.padded
                );
                return Err(self.bad("", reason, "remove the key to keep the vocabulary"));
            }
            if let Some(name) = names
                .iter()
                .find(|name| !theirs.contains(name))
                .or(theirs.iter().find(|name| !names.contains(name)))
            {
                let difference = format!("only one of them has the vocabulary tensor `{name}`");
                return Err(Error::Incompatible {
                    first: self.sources[0].name().into(),
                    second: source.name().into(),
                    difference,
                });
            }
        }
        Ok(())
    }

    fn bad(&self, key: &str, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        let key = if key.is_empty() {
            self.keys.key.to_owned()
        } else {
            format!("{}.{key}", self.keys.key)
        };
        self.recipe.bad(&key, reason, hint)
    }

    fn model(&self, token: &str, name: &str, takes: &[usize]) -> Result<usize> {
        let found =
            self.opened.iter().position(|(known, _)| known == name).filter(|at| takes.contains(at));
        found.ok_or_else(|| {
            let known: Vec<&str> = takes.iter().map(|at| self.opened[*at].0.as_str()).collect();
            let hint = format!("write one of {}, or {{kind: zero}}", known.join(", "));
            self.bad(
                &format!("tokens.{token}.source"),
                format!("`{name}` is not merged into the embedding"),
                hint,
            )
        })
    }

    /// Returns the row for the models that lack the token `id`; `None` if no model lacks it.
    /// `takes` are the models merged at the tensor.
    fn given(&self, id: u32, token: &str, takes: &[usize]) -> Result<Option<RowSource>> {
        let row = |model: usize| self.rows[model].get(&id).copied();
        let having: Vec<(usize, u32)> =
            takes.iter().filter_map(|model| Some((*model, row(*model)?))).collect();
        let rule = self.keys.tokens.iter().find(|(known, _)| known == token).map(|(_, rule)| rule);
        if having.len() == takes.len() && !rule.is_some_and(|rule| rule.force) {
            return Ok(None);
        }
        let key = format!("tokens.{token}.source");
        if let Some(rule) = rule {
            return Ok(Some(match &rule.donor {
                Donor::Zero => RowSource::Zero,
                Donor::Unsaid => {
                    let hint = "name a model that has it, {kind: zero}, or {kind: model_token, model: MODEL, token: TOKEN}";
                    return Err(self.bad(
                        &key,
                        "a model needs a row for it, but no source is given",
                        hint,
                    ));
                }
                Donor::Model(name) => {
                    let model = self.model(token, name, takes)?;
                    let missing = || {
                        self.bad(
                            &key,
                            format!("`{name}` has no token `{token}`"),
                            "name a model that has the token",
                        )
                    };
                    RowSource::Row(model, row(model).ok_or_else(missing)?)
                }
                Donor::Id(name, other) => {
                    let model = self.model(token, name, takes)?;
                    let rows = self.sources[model].vocabulary_rows();
                    if *other as usize >= rows {
                        return Err(self.bad(
                            &key,
                            format!("`{name}` has {rows} rows; row {other} is out of range"),
                            "use a smaller token_id",
                        ));
                    }
                    RowSource::Row(model, *other)
                }
                Donor::Token(name, other) => {
                    let model = self.model(token, name, takes)?;
                    let id = self.sources[model]
                        .tokenizer()
                        .and_then(|tokenizer| tokenizer.token_to_id(other));
                    let id = id.filter(|id| (*id as usize) < self.sources[model].vocabulary_rows());
                    let missing = || {
                        self.bad(
                            &key,
                            format!("`{name}` has no token `{other}`"),
                            "name a token of that model",
                        )
                    };
                    RowSource::Row(model, id.ok_or_else(missing)?)
                }
            }));
        }
        let base = self
            .recipe
            .base
            .as_ref()
            .and_then(|base| having.iter().find(|(model, _)| self.opened[*model].0 == *base));
        Ok(Some(match (having.as_slice(), base) {
            ([], _) => RowSource::Zero,
            ([(model, row)], _) | (_, Some((model, row))) => RowSource::Row(*model, *row),
            (several, None) => RowSource::Mean(several.to_vec()),
        }))
    }

    /// Returns the tensor `name` of every model in this vocabulary.
    fn views(&self, name: &str) -> Result<Vec<View>> {
        let spec = self.sources[0].tensors().iter().find(|spec| spec.name == name);
        let slice = spec.map_or(&self.recipe.slices[0], |spec| self.recipe.slice_outside(spec));
        let takes = slice
            .inputs
            .iter()
            .filter_map(|input| self.opened.iter().position(|(known, _)| *known == input.model));
        let takes: Vec<usize> = takes.collect();
        let stored = self
            .sources
            .iter()
            .map(|source| source.view(name).cloned())
            .collect::<Result<Vec<_>>>()?;
        let columns = stored[0].columns();
        // Extra rows: zeros, then the means.
        let mut made = vec![0f32; columns];
        let mut row = vec![0f32; columns];
        let extra = stored.len();
        let mut given: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
        for (id, token) in &self.tokens {
            let at = match self.given(*id, token, &takes)? {
                None => continue,
                Some(RowSource::Zero) => (extra, 0),
                Some(RowSource::Row(model, row)) => (model, row),
                Some(RowSource::Mean(rows)) => {
                    let start = made.len();
                    made.resize(start + columns, 0.0);
                    for (model, at) in &rows {
                        stored[*model].read(*at as usize * columns, &mut row);
                        made[start..].iter_mut().zip(&row).for_each(|(sum, x)| *sum += x);
                    }
                    made[start..].iter_mut().for_each(|x| *x /= rows.len() as f32);
                    (extra, (start / columns) as u32)
                }
            };
            given.insert(*id, at);
        }
        let forced = |id: u32| {
            let rule = self
                .tokens
                .get(&id)
                .and_then(|token| self.keys.tokens.iter().find(|(known, _)| known == token));
            rule.is_some_and(|(_, rule)| rule.force)
        };
        let forced: BTreeSet<u32> = given.keys().copied().filter(|id| forced(*id)).collect();
        let mut all = stored;
        all.push(owned(made, columns));
        let one = |model: usize| {
            let from = (0..self.used as u32).map(|id| {
                let own = self.rows[model]
                    .get(&id)
                    .filter(|_| !forced.contains(&id))
                    .map(|row| (model, *row));
                // A model that is not merged here is skipped.
                own.or_else(|| given.get(&id).copied()).unwrap_or((extra, 0))
            });
            let mut from: Vec<(usize, u32)> = from.collect();
            let mut views = all.clone();
            if self.padded > self.used {
                views.push(owned(
                    mean(&View::gathered(views.clone(), model, Arc::new(from.clone())), self.used),
                    columns,
                ));
                from.resize(self.padded, (extra + 1, 0));
            }
            View::gathered(views, model, Arc::new(from))
        };
        Ok((0..self.sources.len()).map(one).collect())
    }
}

/// Returns a view of computed rows.
fn owned(values: Vec<f32>, columns: usize) -> View {
    let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    View::owned(PathBuf::new(), bytes, DType::F32, &[values.len() / columns, columns])
}

/// Returns the mean of the `rows` of `view`.
fn mean(view: &View, rows: usize) -> Vec<f32> {
    const ROWS: usize = 1024;
    let columns = view.columns();
    let part = |start: usize| {
        let mut sums = vec![0f64; columns];
        let mut row = vec![0f32; columns];
        for at in start..rows.min(start + ROWS) {
            view.read(at * columns, &mut row);
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        sums
    };
    let parts: Vec<Vec<f64>> = (0..rows).into_par_iter().step_by(ROWS).map(part).collect();
    (0..columns)
        .map(|column| (parts.iter().map(|sums| sums[column]).sum::<f64>() / rows as f64) as f32)
        .collect()
}
