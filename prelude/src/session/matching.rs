//! Tensors selected by name: for `inspect`, `plot`, `mix` and the check of what is typed.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use globset::Glob;

use crate::checkpoint::TensorSpec;
use crate::error::{Error, Result};
use crate::show::short_name;

/// A range of layers in a pattern: `layers.0-11` or `layers.2-3.mlp`.
struct Layers<'a> {
    before: &'a str,
    layers: RangeInclusive<usize>,
    after: &'a str,
}

impl<'a> Layers<'a> {
    const WORD: &'static str = "layers.";

    /// Reads the first range in `pattern`.
    fn of(pattern: &'a str) -> Option<Self> {
        let start = pattern.find(Self::WORD)? + Self::WORD.len();
        let end = pattern[start..].find('.').map_or(pattern.len(), |end| start + end);
        let (first, last) = pattern[start..end].split_once('-')?;
        let layers = first.parse().ok()?..=last.parse().ok()?;
        Some(Self { before: &pattern[..start], layers, after: &pattern[end..] })
    }

    /// The pattern for one layer.
    fn pattern(&self, layer: usize) -> String {
        // A dot at the end keeps layer 1 from matching layer 10.
        let after = if self.after.is_empty() { "." } else { self.after };
        format!("{}{layer}{after}", self.before)
    }
}

/// Returns the `tensors` selected by `pattern`: a name, a glob or a part of a name, in its full or
/// its short form, where `layers.0-11` stands for each of these layers.
///
/// # Errors
/// The pattern matches no tensor.
pub(crate) fn matching<'a, T>(
    pattern: &str,
    tensors: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<&'a T>> {
    let found = match Layers::of(pattern) {
        None => matches_of(pattern, tensors, name),
        Some(range) => {
            let layers = tensors.clone().filter_map(|t| TensorSpec::layer_of(name(t)));
            let layers: BTreeSet<usize> = layers.filter(|l| range.layers.contains(l)).collect();
            let of = |layer| matches_of(&range.pattern(layer), tensors.clone(), &name);
            layers.into_iter().flat_map(of).collect()
        }
    };
    if found.is_empty() { Err(Error::NoMatch { pattern: pattern.into() }) } else { Ok(found) }
}

/// Returns the `tensors` selected by a pattern without a range.
fn matches_of<'a, T>(
    pattern: &str,
    tensors: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Vec<&'a T> {
    // A pattern that ends with a dot matches all longer names; `*.mlp` all that is in one.
    let whole = if pattern.ends_with('.') { format!("{pattern}*") } else { pattern.to_owned() };
    let glob = |pattern: &str| Some(Glob::new(pattern).ok()?.compile_matcher());
    let (Some(own), Some(longer)) = (glob(&whole), glob(&format!("{pattern}.*"))) else {
        return Vec::new();
    };
    let exact = tensors.clone().any(|t| name(t) == pattern);
    // Tries the full name, then its suffixes that start at a part, then any substring.
    let starts = |name: &str| {
        std::iter::once(0).chain(name.match_indices('.').map(|(i, _)| i + 1)).collect::<Vec<_>>()
    };
    let globbed = |name: &str| {
        let fits = |name: &str| own.is_match(name) || longer.is_match(name);
        starts(name).into_iter().any(|i| fits(&name[i..]))
    };
    let fits = |name: &str| name.contains(pattern) || globbed(name) || globbed(short_name(name));
    let matches = |name: &str| if exact { name == pattern } else { fits(name) };
    tensors.filter(|t| matches(name(t))).collect()
}

/// Returns the tensor whose full or short name is `pattern`, or the only one that matches it.
///
/// # Errors
/// No match (the error names the nearest), or several matches.
pub(crate) fn single<'a, T>(
    pattern: &str,
    tensors: impl Iterator<Item = &'a T> + Clone,
    name: impl Fn(&T) -> &str,
) -> Result<&'a T> {
    if let Some(found) = tensors.clone().find(|t| short_name(name(t)) == short_name(pattern)) {
        return Ok(found);
    }
    match matching(pattern, tensors.clone(), &name).unwrap_or_default()[..] {
        [one] => Ok(one),
        [] => Err(Error::unknown("tensor", pattern, tensors.map(|t| short_name(name(t))))),
        [one, ..] => Err(Error::Sources {
            what: format!(
                "`{pattern}` matches several tensors, and a plot shows one, such as {}",
                short_name(name(one))
            ),
            hint: "list the matches: inspect GLOB",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &str) -> Vec<String> {
        let parts = ["self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"];
        let names: Vec<String> = (0..12)
            .flat_map(|l| parts.map(|part| format!("model.layers.{l}.{part}.weight")))
            .chain(["model.norm.weight".into()])
            .collect();
        let found = matching(pattern, names.iter(), |name| name).unwrap_or_default();
        found.into_iter().map(|name| short_name(name).to_owned()).collect()
    }

    #[test]
    fn ranges_are_of_whole_layers() {
        assert_eq!(found("layers.0-1").len(), 6);
        assert_eq!(found("layers.1-1").len(), 3);
        assert_eq!(found("layers.10-99").len(), 6);
        assert_eq!(
            found("layers.2-3.mlp.up_proj"),
            ["layers.2.mlp.up_proj", "layers.3.mlp.up_proj"]
        );
        assert!(found("layers.5-3").is_empty() && found("layers.20-30").is_empty());
    }

    #[test]
    fn a_glob_selects_what_is_in_a_part() {
        assert_eq!(found("*.mlp").len(), 24);
        assert_eq!(found("layers.*.mlp").len(), 24);
        assert_eq!(found("layers.1-2.*_proj").len(), 6);
        assert_eq!(found("layers.1.").len(), 3);
        assert_eq!(found("norm"), ["norm"]);
    }
}
