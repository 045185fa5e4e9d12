//! Completion of tensor names part by part, as of paths: `layers.`, then `layers.0.`. Globs
//! complete to what they match.

use std::collections::{BTreeMap, BTreeSet};

use globset::Glob;

use super::Candidate;
use crate::Models;
use crate::show::short_name;

/// Completions of the name `typed`; if it may name `several` tensors, also of a glob or a part of a
/// name.
pub fn tensors(models: &Models, typed: &str, several: bool) -> Vec<Candidate> {
    let specs = || models.sources.first().into_iter().flat_map(|source| source.tensors());
    let names: Vec<&str> = specs().map(|spec| short_name(&spec.name)).collect();
    let whole: Vec<&str> = specs().map(|spec| spec.name.as_str()).collect();
    let plain = [&names, &whole].into_iter().map(|names| parts(names, typed));
    // A name matches from any of its parts.
    let inner =
        [&names, &whole].into_iter().filter(|_| several).map(|names| parts(&inner(names), typed));
    let found =
        plain.chain(inner).find(|found| !found.is_empty() || typed.is_empty()).unwrap_or_default();
    found.into_iter().filter(|candidate| several || !is_glob(&candidate.text)).collect()
}

/// Names without their leading parts.
fn inner<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().flat_map(|name| name.match_indices('.').map(|(at, _)| &name[at + 1..])).collect()
}

/// The next parts of the `names` that start with `typed`, whose last part is unfinished.
fn parts(names: &[&str], typed: &str) -> Vec<Candidate> {
    let (stem, fragment) = typed.split_at(typed.rfind('.').map_or(0, |at| at + 1));
    let depth = stem.matches('.').count();
    let glob =
        if is_glob(stem) { Glob::new(stem).ok().map(|glob| glob.compile_matcher()) } else { None };
    // The next part, whether a name ends with it, and the number of tensors that have it.
    let mut found: Vec<(&str, bool, usize)> = Vec::new();
    for name in names {
        let end = if depth == 0 {
            Some(0)
        } else {
            name.match_indices('.').nth(depth - 1).map(|(at, _)| at + 1)
        };
        let Some((before, rest)) = end.and_then(|end| name.split_at_checked(end)) else { continue };
        if before != stem && !glob.as_ref().is_some_and(|glob| glob.is_match(before)) {
            continue;
        }
        let (part, ends) = rest.split_once('.').map_or((rest, true), |(part, _)| (part, false));
        if part.is_empty() || !part.starts_with(fragment) {
            continue;
        }
        match found.iter_mut().find(|(known, known_ends, _)| (*known, *known_ends) == (part, ends))
        {
            Some((_, _, count)) => *count += 1,
            None => found.push((part, ends, 1)),
        }
    }
    if found.is_empty() && is_glob(typed) {
        return globbed(names, typed);
    }
    found
        .sort_by_key(|(part, ends, _)| (part.parse::<usize>().unwrap_or(usize::MAX), *part, *ends));
    let total: usize = found.iter().map(|(_, _, count)| count).sum();
    let numbered = fragment.is_empty()
        && found.len() > 1
        && found.iter().all(|(part, ..)| part.parse::<usize>().is_ok());
    let all =
        numbered.then(|| Candidate::open(format!("{stem}*."), format!("all {}", found.len())));
    let one = |(part, ends, count): &(&str, bool, usize)| match (ends, count) {
        (true, 1) => Candidate::whole(format!("{stem}{part}"), "tensor"),
        (true, _) => Candidate::whole(format!("{stem}{part}"), format!("{count} tensors")),
        _ => Candidate::open(format!("{stem}{part}."), format!("{count} of {total} tensors")),
    };
    found.iter().map(one).chain(all).collect()
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '[', '{'])
}

/// Completions of the glob `typed`, whose `*` may match several parts, to the end of a part.
fn globbed(names: &[&str], typed: &str) -> Vec<Candidate> {
    let (head, tail) = typed.split_at(typed.rfind(['*', '?', ']', '}']).map_or(0, |at| at + 1));
    let Ok(glob) = Glob::new(head).map(|glob| glob.compile_matcher()) else { return Vec::new() };
    // After a complete glob, only the next part.
    let begin = if tail.is_empty() { "." } else { tail };
    // What follows the glob, and the names in which it does.
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in names {
        for (at, _) in name.match_indices(begin).filter(|(at, _)| glob.is_match(&name[..*at])) {
            let rest = &name[at..];
            let end = rest[tail.len()..].find('.').map_or(rest.len(), |dot| tail.len() + dot + 1);
            found.entry(&rest[..end]).or_default().insert(name);
        }
    }
    let one = |(more, names): (&str, BTreeSet<&str>)| {
        let (text, about) = (format!("{head}{more}"), format!("{} tensors", names.len()));
        if more.ends_with('.') {
            Candidate::open(text, about)
        } else {
            Candidate::whole(text, about)
        }
    };
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(typed: &str) -> Vec<String> {
        let names = [
            "embed_tokens",
            "layers.0.mlp.up_proj",
            "layers.0.mlp.down_proj",
            "layers.1.mlp.up_proj",
            "layers.10.norm",
            "norm",
        ];
        parts(&names, typed).into_iter().map(|c| c.text).collect()
    }

    #[test]
    fn names_are_completed_part_by_part() {
        assert_eq!(texts(""), ["embed_tokens", "layers.", "norm"]);
        assert_eq!(texts("la"), ["layers."]);
        assert_eq!(texts("layers."), ["layers.0.", "layers.1.", "layers.10.", "layers.*."]);
        assert_eq!(texts("layers.1"), ["layers.1.", "layers.10."]);
        assert_eq!(texts("layers.0.mlp."), ["layers.0.mlp.down_proj", "layers.0.mlp.up_proj"]);
        assert_eq!(texts("layers.*."), ["layers.*.mlp.", "layers.*.norm"]);
        assert_eq!(texts("layers.*.mlp.u"), ["layers.*.mlp.up_proj"]);
        assert_eq!(texts("layers.*"), ["layers.*."]);
        assert_eq!(texts("*up"), ["*up_proj"]);
        assert_eq!(texts("layers.{0,1}.*_p"), ["layers.{0,1}.*_proj"]);
        assert_eq!(texts("l*.m"), ["l*.mlp."]);
        assert_eq!(texts("*no"), ["*norm"]);
        assert!(
            texts("*nothing").is_empty() && texts("*é").is_empty() && texts("layers.{0").is_empty()
        );
        assert!(texts("layers.[.").is_empty() && texts("...").is_empty() && texts("é.").is_empty());
    }
}
