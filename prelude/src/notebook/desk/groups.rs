//! The groups of tensors that have sliders: the embeddings, a few ranges of layers, and the rest.

use std::collections::BTreeSet;

use crate::checkpoint::TensorSpec;

/// The most ranges of layers.
const RANGES: usize = 4;

/// A slider: its group and its source.
pub(super) type SliderId = (usize, usize);

/// A group of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Its name on the desk.
    pub label: String,
    /// The pattern that selects its tensors, as `mix` takes it.
    pub pattern: String,
}

impl Group {
    fn new(label: impl Into<String>, pattern: impl Into<String>) -> Self {
        Self { label: label.into(), pattern: pattern.into() }
    }
}

/// The groups of the tensors `names`, from the input of the model to its output.
pub(super) fn groups(names: &[String]) -> Vec<Group> {
    let layers: BTreeSet<usize> =
        names.iter().filter_map(|name| TensorSpec::layer_of(name)).collect();
    let layers: Vec<usize> = layers.into_iter().collect();
    let outside: BTreeSet<&str> = names
        .iter()
        .filter(|name| TensorSpec::layer_of(name).is_none())
        .map(String::as_str)
        .collect();
    let (embeddings, others): (Vec<&str>, Vec<&str>) =
        outside.into_iter().partition(|name| name.contains("embed"));
    let mut groups = Vec::new();
    groups.extend(of_names("embeddings", &embeddings));
    let ranges = RANGES.min(layers.len());
    for i in 0..ranges {
        let range = &layers[i * layers.len() / ranges..(i + 1) * layers.len() / ranges];
        match range {
            [one] => groups.push(Group::new(format!("layer {one}"), format!("layers.{one}."))),
            [first, .., last] => groups.push(Group::new(
                format!("layers {first}-{last}"),
                format!("layers.{first}-{last}"),
            )),
            [] => {}
        }
    }
    groups.extend(of_names("output", &others));
    groups
}

/// The group of the tensors with these names, if there are any. Only a whole name selects nothing
/// else: `norm` is a part of others.
fn of_names(label: &str, names: &[&str]) -> Option<Group> {
    match names {
        [] => None,
        [one] => Some(Group::new(label, *one)),
        all => Some(Group::new(label, format!("{{{}}}", all.join(",")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::matching;

    fn names(layers: usize) -> Vec<String> {
        let in_layers = (0..layers).flat_map(|i| {
            ["input_layernorm", "mlp.up_proj"].map(|part| format!("model.layers.{i}.{part}.weight"))
        });
        let outside = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"];
        in_layers.chain(outside.map(str::to_owned)).collect()
    }

    #[test]
    fn layers_are_split_into_at_most_four_ranges() {
        let patterns =
            |layers| groups(&names(layers)).into_iter().map(|g| g.pattern).collect::<Vec<_>>();
        assert_eq!(
            patterns(2),
            [
                "model.embed_tokens.weight",
                "layers.0.",
                "layers.1.",
                "{lm_head.weight,model.norm.weight}"
            ]
        );
        assert_eq!(
            patterns(22)[1..5],
            ["layers.0-4", "layers.5-10", "layers.11-15", "layers.16-21"]
        );
        assert_eq!(groups(&[]), []);
    }

    /// Every tensor of a merge belongs to one group, as `mix` selects them.
    #[test]
    fn the_groups_select_every_tensor_once() {
        let models = crate::load(["builtin:japanese", "builtin:math"]).unwrap();
        let dam = models.wrap(crate::Columns::default()).unwrap();
        for mut all in [dam.tensor_names(), names(12)] {
            let select = |group: Group| {
                let found = matching(&group.pattern, all.iter(), |name| name).unwrap();
                found.into_iter().cloned().collect::<Vec<String>>()
            };
            let mut selected: Vec<String> = groups(&all).into_iter().flat_map(select).collect();
            all.sort();
            selected.sort();
            assert_eq!(selected, all);
        }
    }
}
