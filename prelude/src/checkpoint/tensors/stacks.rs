//! Finds the layer stacks of a checkpoint by tensor names: `model.layers.3.mlp.up_proj.weight` is
//! in layer 3 of the stack `model.layers`. Numbered parts inside a layer (experts, blocks) belong
//! to the layer.
//!
//! The decoder's stack is the one whose number of layers config.json gives. A model for text and
//! images has one stack for each; an encoder-decoder has two similar ones, and a recipe must select
//! one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// A stack of layers, numbered from 0 without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stack {
    /// The part of a name before the layer index, with the dot: `model.layers.`
    prefix: String,
    /// The number of layers.
    pub depth: usize,
}

/// All stacks of a checkpoint that are not nested in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stacks {
    pub all: Vec<Stack>,
    main: Option<usize>,
}

/// A path in config.json: keys from the outermost inwards.
pub(crate) type KeyPath = Vec<String>;

/// Keys of config.json for the number of layers, by family.
const LAYER_COUNT_KEYS: [&str; 14] = [
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "num_decoder_layers",
    "num_encoder_layers",
    "decoder_layers",
    "encoder_layers",
    "num_transformer_layers",
    "num_blocks",
    "n_blocks",
    "num_block",
    "block_count",
    "depth",
];

/// Parts of names and keys that indicate something other than text.
const NOT_TEXT: [&str; 9] =
    ["vision", "visual", "image", "audio", "speech", "video", "siglip", "clip", "perceiver"];

impl Stack {
    /// Its name in messages: `model.layers`.
    pub fn name(&self) -> &str {
        self.prefix.trim_end_matches('.')
    }

    /// The layer index of the tensor `name`, and the rest of the name.
    pub fn split<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        self.split_any(name).filter(|(layer, _)| *layer < self.depth)
    }

    /// [`Stack::split`], also for layers beyond the last.
    pub fn split_any<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        let (number, rest) = name.strip_prefix(&self.prefix)?.split_once('.')?;
        Some((layer(number)?, rest))
    }

    /// The name of the tensor `rest` in layer `layer`.
    pub fn join(&self, layer: usize, rest: &str) -> String {
        format!("{}{layer}.{rest}", self.prefix)
    }

    fn is_text(&self) -> bool {
        is_text(&self.prefix)
    }
}

impl Stacks {
    /// The stacks among tensors with these `names`, for a model with this config.json.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>, config: &Map<String, Value>) -> Self {
        let counts = counts(config);
        let counted = |depth: usize| counts.iter().any(|(_, count)| *count == depth);
        let mut numbers: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for name in names {
            let mut start = 0;
            for part in name.split('.') {
                if let Some(number) = layer(part) {
                    numbers.entry(&name[..start]).or_default().insert(number);
                }
                start += part.len() + 1;
            }
        }
        // From the outermost inwards, because `a.` sorts before `a.0.b.`. A single number is not a
        // list, unless config.json says that there is one layer.
        let mut all: Vec<Stack> = Vec::new();
        for (prefix, numbers) in numbers {
            let depth = numbers.len();
            let is_list = numbers.iter().copied().eq(0..depth) && (depth > 1 || counted(1));
            let in_layer = |rest: &str| rest.split('.').next().and_then(layer).is_some();
            let inside =
                all.iter().any(|outer| prefix.strip_prefix(&outer.prefix).is_some_and(in_layer));
            if is_list && !inside {
                all.push(Stack { prefix: prefix.to_owned(), depth });
            }
        }
        let main = main(&mut all, &counts);
        Self { all, main }
    }

    /// The decoder's stack; `None` if there is none or it is ambiguous.
    pub fn main(&self) -> Option<&Stack> {
        self.main.map(|main| &self.all[main])
    }

    /// The layer index of the tensor `name`, and the depth of its stack.
    pub fn layer_of(&self, name: &str) -> Option<(usize, usize)> {
        self.all.iter().find_map(|stack| Some((stack.split(name)?.0, stack.depth)))
    }

    /// All stacks, for messages: `encoder.block (6 layers)`.
    pub fn describe(&self) -> String {
        let one = |stack: &Stack| format!("`{}` ({} layers)", stack.name(), stack.depth);
        self.all.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Which of `all` is the decoder's. If config.json gives fewer layers than are stored, for example
/// because further layers predict additional tokens, the stack is cut at that number.
fn main(all: &mut [Stack], counts: &[(KeyPath, usize)]) -> Option<usize> {
    let text = || counts.iter().filter(|(key_path, _)| key_path.iter().all(|key| is_text(key)));
    let candidates: Vec<usize> = (0..all.len()).filter(|i| all[*i].is_text()).collect();
    let counted: Vec<usize> = candidates
        .iter()
        .copied()
        .filter(|i| text().any(|(_, count)| *count == all[*i].depth))
        .collect();
    match (counted.as_slice(), candidates.as_slice(), all.len()) {
        ([one], ..) => Some(*one),
        ([], [one], _) => {
            let first = text().next().map(|(_, count)| *count);
            all[*one].depth =
                first.filter(|count| *count < all[*one].depth).unwrap_or(all[*one].depth);
            Some(*one)
        }
        ([], [], 1) => Some(0),
        _ => None,
    }
}

/// The paths in config.json that give the number of layers of `stack`.
pub(crate) fn count_paths(config: &Map<String, Value>, stack: &Stack) -> Vec<KeyPath> {
    let fits = |(key_path, count): &(KeyPath, usize)| {
        *count == stack.depth && (!stack.is_text() || key_path.iter().all(|key| is_text(key)))
    };
    counts(config).into_iter().filter(fits).map(|(key_path, _)| key_path).collect()
}

/// All numbers of layers in config.json, the outermost first.
fn counts(config: &Map<String, Value>) -> Vec<(KeyPath, usize)> {
    const MAX_DEPTH: usize = 3;
    let mut found = Vec::new();
    let mut level: Vec<(KeyPath, &Map<String, Value>)> = vec![(Vec::new(), config)];
    for _ in 0..MAX_DEPTH {
        let mut inner = Vec::new();
        for (key_path, map) in level {
            let at = |key: &str| [key_path.as_slice(), &[key.to_owned()]].concat();
            for key in LAYER_COUNT_KEYS {
                if let Some(count) = map.get(key).and_then(Value::as_u64) {
                    found.push((at(key), count as usize));
                }
            }
            inner.extend(map.iter().filter_map(|(key, value)| Some((at(key), value.as_object()?))));
        }
        level = inner;
    }
    found
}

fn is_text(name: &str) -> bool {
    !NOT_TEXT.iter().any(|other| name.contains(other))
}

/// A layer index as written in a name.
fn layer(part: &str) -> Option<usize> {
    let number: usize = part.parse().ok()?;
    (part.len() < 7 && number.to_string() == part).then_some(number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stacks(names: &[&str], config: &Value) -> Stacks {
        Stacks::of(names.iter().copied(), config.as_object().unwrap())
    }

    fn main(names: &[&str], config: &Value) -> Option<(String, usize)> {
        stacks(names, config).main().map(|stack| (stack.name().to_owned(), stack.depth))
    }

    #[test]
    fn the_layers_are_the_outermost_list_that_config_json_counts() {
        let mixtral = [
            "model.layers.0.moe.experts.0.w",
            "model.layers.0.moe.experts.1.w",
            "model.layers.1.moe.experts.0.w",
        ];
        let found = stacks(&mixtral, &json!({"num_hidden_layers": 2, "num_local_experts": 2}));
        assert_eq!(found.describe(), "`model.layers` (2 layers)");
        assert_eq!(
            found.main().unwrap().split("model.layers.1.moe.experts.0.w"),
            Some((1, "moe.experts.0.w"))
        );
        // A numbered wrapper, and a layer with numbered parts.
        let wrapped = [
            "0.auto_model.encoder.layer.0.a",
            "0.auto_model.encoder.layer.1.a",
            "0.auto_model.embeddings.a",
        ];
        let expected = Some(("0.auto_model.encoder.layer".to_owned(), 2));
        assert_eq!(main(&wrapped, &json!({"num_hidden_layers": 2})), expected);
        assert_eq!(main(&["h.0.attn.w"], &json!({"n_layer": 1})), Some(("h".into(), 1)));
        assert_eq!(main(&["norm.weight", "h.1.w"], &json!({"n_layer": 1})), None);
    }

    #[test]
    fn text_is_preferred_to_images_and_encoder_decoders_are_ambiguous() {
        let llava = [
            "vision_tower.encoder.layers.0.a",
            "vision_tower.encoder.layers.1.a",
            "language_model.layers.0.a",
        ];
        let llava =
            [&llava[..], &["language_model.layers.1.a", "projector.0.w", "projector.2.w"]].concat();
        let config = json!({"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}});
        assert_eq!(main(&llava, &config), Some(("language_model.layers".into(), 2)));
        let stack = stacks(&llava, &config).main().unwrap().clone();
        assert_eq!(
            count_paths(config.as_object().unwrap(), &stack),
            [["text_config", "num_hidden_layers"]]
        );
        let t5 = [
            "encoder.block.0.layer.0.w",
            "encoder.block.1.layer.0.w",
            "decoder.block.0.a",
            "decoder.block.1.a",
        ];
        let found = stacks(&t5, &json!({"num_layers": 2, "num_decoder_layers": 2}));
        assert_eq!(found.main(), None);
        assert_eq!(found.describe(), "`decoder.block` (2 layers), `encoder.block` (2 layers)");
        assert_eq!(found.layer_of("encoder.block.1.layer.0.w"), Some((1, 2)));
    }

    #[test]
    fn layers_beyond_the_count_are_outside_the_stack() {
        let names = ["model.layers.0.a", "model.layers.1.a", "model.layers.2.eh_proj"];
        assert_eq!(
            main(&names, &json!({"num_hidden_layers": 2})),
            Some(("model.layers".into(), 2))
        );
        // Without a count in config.json, all layers belong to the stack.
        assert_eq!(main(&names, &json!({})), Some(("model.layers".into(), 3)));
    }

    #[test]
    fn names_are_split_and_joined() {
        let stack = Stack { prefix: "h.".into(), depth: 3 };
        assert_eq!(stack.split("h.2.attn.0.w"), Some((2, "attn.0.w")));
        assert!(
            stack.split("h.3.w").is_none()
                && stack.split("h.02.w").is_none()
                && stack.split("g.2.w").is_none()
        );
        assert_eq!(stack.join(7, "attn.0.w"), "h.7.attn.0.w");
    }
}
