//! A shared token numbering for sources whose vocabularies were extended or padded differently.
//!
//! Tokens are matched by text, not by row. One source, the reference, defines the numbering: it
//! lacks the fewest tokens of the others, and those are appended to its tokenizer. Every source is
//! then seen through a map of rows. For a token that a source lacks, it gets the row of the first
//! source that has it, so that any merge of the rows reproduces the token as in that source.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokenizers::{AddedToken, Tokenizer};

use super::loaded::Source;
use super::numbering::{MissingTokens, Numbering, Renumbered};
use crate::checkpoint::storage::View;
use crate::checkpoint::tokenizer::{BoundedTokenizer, guard_tokenizer, read_tokenizer};
use crate::error::{Error, Result};

/// A row of the shared numbering, with its row in each source.
struct Row {
    token: Option<String>,
    of: Vec<Option<u32>>,
}

/// Token ids by text; `None` without a tokenizer. Tokens without a row are excluded.
type Tokens = Option<HashMap<String, u32>>;

/// The tokens of a source that have rows.
fn tokens_of(source: &Source) -> Tokens {
    let mut tokens = source.tokenizer()?.get_vocab(true);
    tokens.retain(|_, id| (*id as usize) < source.vocabulary_rows());
    Some(tokens)
}

/// Whether a source's tokenizer has tokens without a row, after which none can be appended.
fn has_rowless(source: &Source) -> bool {
    source.tokenizer().is_some_and(|t| {
        t.get_vocab(true).into_values().any(|id| id as usize >= source.vocabulary_rows())
    })
}

/// Aligns the vocabularies of `sources`, as they are on disk. Returns `None` if they are the same.
///
/// # Errors
/// Tokenizers of which none can split text into the tokens of all.
pub(crate) fn align(sources: &[Source]) -> Result<Option<Vec<Renumbered>>> {
    let Some(first) = sources.first() else { return Ok(None) };
    let file = |s: &Source| s.side_file("tokenizer.json").map(|bytes| bytes.map(|b| b.to_vec()));
    let one = file(first)?;
    let mut same = true;
    for other in &sources[1..] {
        same &= other.vocabulary_rows() == first.vocabulary_rows() && file(other)? == one;
    }
    if same {
        return Ok(None);
    }
    let tokens: Vec<Tokens> = sources.iter().map(tokens_of).collect();
    let known: Vec<&HashMap<String, u32>> = tokens.iter().flatten().collect();
    if known.windows(2).all(|w| w[0] == w[1])
        && sources.iter().all(|s| s.vocabulary_rows() == first.vocabulary_rows())
    {
        return Ok(None);
    }
    let (reference, appended) = reference(sources, &tokens)?;
    let extended = extend(&sources[reference], &appended)?;
    let numbering = match &extended {
        Some((text, _)) => Some(text.tokenizer.get_vocab(true)),
        None => tokens[reference].clone(),
    };
    let rows = rows(sources, &tokens, reference, numbering.as_ref());
    sources
        .iter()
        .enumerate()
        .map(|(i, _)| renumber_source(sources, &rows, i, i == reference, extended.as_ref()))
        .collect::<Result<_>>()
        .map(Some)
}

/// The source that lacks the fewest tokens of the others, and those tokens.
fn reference(sources: &[Source], tokens: &[Tokens]) -> Result<(usize, Vec<AddedToken>)> {
    let added: Vec<_> = sources
        .iter()
        .map(|s| s.tokenizer().map(|t| t.get_added_tokens_decoder()).unwrap_or_default())
        .collect();
    let mut best: Option<(usize, Vec<AddedToken>)> = None;
    let mut failure = None;
    for (i, own) in tokens.iter().enumerate() {
        let Some(own) = own else { continue };
        // Sorted by the source that has the token, and its id there.
        let mut missing: BTreeMap<&String, (usize, u32)> = BTreeMap::new();
        for (k, other) in tokens.iter().enumerate() {
            for (token, id) in other.iter().flatten().filter(|(token, _)| !own.contains_key(*token))
            {
                missing.entry(token).or_insert((k, *id));
            }
        }
        if !missing.is_empty() && has_rowless(&sources[i]) {
            let reason = format!(
                "`{}` has tokens without a row, so no token can be appended",
                sources[i].name()
            );
            failure.get_or_insert((i, missing.values().next().map_or(i, |(k, _)| *k), reason));
            continue;
        }
        // Added tokens are found before text is split; any other token would change how it is
        // split.
        if let Some((token, (k, _))) =
            missing.iter().find(|(_, (k, id))| !added[*k].contains_key(id))
        {
            let reason = format!(
                "the tokenizer of `{}` cannot produce the token `{token}`",
                sources[i].name()
            );
            failure.get_or_insert((i, *k, reason));
            continue;
        }
        if best.as_ref().is_none_or(|(_, fewest)| missing.len() < fewest.len()) {
            let in_order: BTreeSet<(usize, u32)> = missing.into_values().collect();
            best = Some((
                i,
                in_order.iter().filter_map(|(k, id)| added[*k].get(id).cloned()).collect(),
            ));
        }
    }
    match (best, failure) {
        (Some(best), _) => Ok(best),
        (None, Some((i, k, reason))) => {
            let difference = format!("{reason}, and no source has the tokens of all others");
            Err(Error::Incompatible {
                first: sources[i].name().into(),
                second: sources[k].name().into(),
                difference,
            })
        }
        // Without tokenizers, only the number of rows is known: the source with the most rows is
        // the reference.
        (None, None) => {
            let most = sources.iter().map(Source::vocabulary_rows).max();
            Ok((
                sources.iter().position(|s| Some(s.vocabulary_rows()) == most).unwrap_or(0),
                Vec::new(),
            ))
        }
    }
}

/// The tokenizer of `source` with `appended` after its last token, and its file.
///
/// # Errors
/// A file that cannot be read, or whose ids have gaps.
pub(crate) fn extend(
    source: &Source,
    appended: &[AddedToken],
) -> Result<Option<(Arc<BoundedTokenizer>, Vec<u8>)>> {
    let Some(bytes) = source.side_file("tokenizer.json")?.filter(|_| !appended.is_empty()) else {
        return Ok(None);
    };
    let path = source.path().join("tokenizer.json");
    let text = guard_tokenizer(&path, || {
        let mut tokenizer = Tokenizer::from_bytes(&bytes)?;
        tokenizer.add_tokens(appended.iter().cloned())?;
        tokenizer.to_string(true)
    })?;
    let read = read_tokenizer(&path, text.as_bytes())?;
    let vocabulary = read.tokenizer.get_vocab(true);
    if vocabulary.values().collect::<BTreeSet<_>>().len() < vocabulary.len() {
        return Err(Error::Tokenizer {
            file: path,
            reason: "its ids have gaps, so no token can be appended".into(),
        });
    }
    Ok(Some((Arc::new(read), text.into_bytes())))
}

/// All rows of the numbering. `numbering` is the extended tokenizer of the reference.
fn rows(
    sources: &[Source],
    tokens: &[Tokens],
    reference: usize,
    numbering: Option<&HashMap<String, u32>>,
) -> Vec<Row> {
    let named: BTreeMap<u32, &String> =
        numbering.into_iter().flatten().map(|(token, id)| (*id, token)).collect();
    let taken: Vec<BTreeSet<u32>> =
        tokens.iter().map(|own| own.iter().flatten().map(|(_, id)| *id).collect()).collect();
    let count = |s: &Source| s.vocabulary_rows() as u32;
    let most = sources
        .iter()
        .map(count)
        .max()
        .unwrap_or(0)
        .max(named.keys().last().map_or(0, |id| id + 1));
    let mut rows = Vec::new();
    for id in 0..most {
        let token = named.get(&id).copied();
        let of = |(i, source): (usize, &Source)| {
            let by_row = Some(id).filter(|id| *id < count(source));
            match (token, &tokens[i]) {
                (Some(token), Some(own)) => own.get(token).copied(),
                // Without a tokenizer, its rows are assumed to be those of the reference.
                (Some(token), None) => by_row.filter(|_| {
                    tokens[reference].as_ref().is_some_and(|own| own.contains_key(token))
                }),
                // Padding, unless the token of the row has another row here.
                (None, _) => by_row.filter(|id| !taken[i].contains(id)),
            }
        };
        let of: Vec<Option<u32>> = sources.iter().enumerate().map(of).collect();
        if of.iter().all(Option::is_none) {
            // Beyond the rows of the reference: padding.
            break;
        }
        rows.push(Row { token: token.cloned(), of });
    }
    rows
}

/// The view of source `i` in the shared numbering.
fn renumber_source(
    sources: &[Source],
    rows: &[Row],
    i: usize,
    is_reference: bool,
    extended: Option<&(Arc<BoundedTokenizer>, Vec<u8>)>,
) -> Result<Renumbered> {
    const EXAMPLES: usize = 4;
    let source = &sources[i];
    let mut row_map: Vec<u32> = (0..source.vocabulary_rows() as u32).collect();
    let (mut missing_rows, mut missing_tokens, mut from) =
        (Vec::new(), MissingTokens::default(), Vec::new());
    let mut donors = BTreeSet::new();
    for (id, row) in rows.iter().enumerate() {
        if let Some(own) = row.of[i] {
            row_map[own as usize] = id as u32;
            from.push((i, own));
            continue;
        }
        let donor = row.of.iter().enumerate().find_map(|(k, own)| Some((k, (*own)?)));
        let nobody = || Error::Tokenizer {
            file: source.path().join("tokenizer.json"),
            reason: format!("the row `{id}` does not exist in any source"),
        };
        let donor = donor.ok_or_else(nobody)?;
        donors.insert(donor.0);
        from.push(donor);
        missing_rows.push(id as u32);
        match &row.token {
            Some(token) => {
                missing_tokens.tokens += 1;
                if missing_tokens.examples.len() < EXAMPLES {
                    missing_tokens.examples.push(token.clone());
                }
            }
            None => missing_tokens.padding += 1,
        }
    }
    missing_tokens.from = donors.into_iter().map(|k| sources[k].name().to_owned()).collect();
    // A source whose rows already match the numbering is unchanged.
    let unchanged = from.iter().enumerate().all(|(id, row)| *row == (i, id as u32))
        && from.len() == source.vocabulary_rows();
    let names = if unchanged { Vec::new() } else { source.vocabulary_tensors() };
    let from = Arc::new(from);
    let view = |name: &String| {
        let all = sources.iter().map(|s| s.view(name).cloned()).collect::<Result<Vec<_>>>()?;
        Ok((name.clone(), View::gathered(all, i, from.clone())))
    };
    let views = names.iter().map(view).collect::<Result<_>>()?;
    let extended = extended.filter(|_| is_reference).cloned();
    Ok(Renumbered {
        numbering: Numbering { row_map, missing_rows, missing_tokens, is_reference },
        rows: rows.len(),
        views,
        extended,
    })
}
