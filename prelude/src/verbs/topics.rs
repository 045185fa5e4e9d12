//! What `help` tells beside the verbs: subjects that several verbs share. Keys, defaults and lists come from where they
//! are defined.

use crate::checkpoint::Architecture;
use crate::coefficients::{Nonlinearity, SCHEMES};
use crate::data::{EXTRA_INPUTS, INPUTS, OUTPUTS, SYSTEMS, builtin_datasets};
use crate::methods::{GREEDY_SOUP, METHODS};
use crate::train::{KEYS, Settings, about, choices};

/// A subject.
pub struct Topic {
    /// What one types after `help`.
    pub name: &'static str,
    /// What it tells of, in a line.
    pub about: &'static str,
    /// What it tells.
    pub text: fn() -> String,
    /// A line that does something of it.
    pub example: &'static str,
}

/// All subjects, in the order one meets them.
pub const TOPICS: &[Topic] = &[
    Topic {
        name: "sources",
        about: "what can be loaded",
        text: sources,
        example: "load base=builtin:base ja=builtin:japanese math=builtin:math",
    },
    Topic {
        name: "data",
        about: "what sources are taught on, and the forms it has",
        text: data,
        example: "data math=builtin:math",
    },
    Topic { name: "schemes", about: "what a coefficient is of", text: schemes, example: "wrap low_rank rank=2" },
    Topic { name: "settings", about: "every key of set, with its default", text: settings, example: "set lr=1e-2 batch_size=4" },
    Topic {
        name: "penalties",
        about: "the terms of the loss, with their formulas",
        text: penalties,
        example: "set cosine=0.1 l1=1e-6",
    },
    Topic {
        name: "tensors",
        about: "their names, and patterns of names",
        text: tensors,
        example: "inspect layers.*.mlp.up_proj.weight",
    },
    Topic { name: "methods", about: "ways to merge that train nothing", text: methods, example: "merge ties density=0.5" },
    Topic { name: "undo", about: "going back, and branches", text: undo, example: "undo" },
];

/// A name and what it means, under others of the kind.
fn line(name: &str, meaning: &str) -> String {
    format!("  {name:18} {meaning}")
}

/// Names in lines of at most 120 characters.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut lines = vec![String::from(" ")];
    for name in names {
        match lines.last_mut() {
            Some(line) if line.len() + name.len() < 119 => *line += &format!(" {name}"),
            _ => lines.push(format!("  {name}")),
        }
    }
    lines.join("\n")
}

fn sources() -> String {
    [
        "A source is a fine-tune of one base model, the same for all. `load [NAME=]SOURCE...` takes".into(),
        line("DIR", "a directory as transformers saves it: config.json, safetensors (float8 too) or pytorch_model.bin, tokenizer"),
        line("org/name", "a model of the Hugging Face hub, from its cache where it is there; @REVISION behind it"),
        line("FILE.gguf", "a GGUF file, decoded as it is needed; org/name/FILE.gguf on the hub"),
        line("builtin:NAME", "a small model that lives in the program: base, japanese, math or sql"),
        line("SOURCE+ADAPTER", "any of them with an adapter of PEFT (LoRA, DoRA, PiSSA, OLoRA): a directory or org/name"),
        "These families train and run:".into(),
        listed(Architecture::families()),
        "and the text of multimodal models:".into(),
        listed(Architecture::multimodal()),
        "What these have beside their text becomes what wrap rest= says. Others can be merged without running: merge linear DIR.".into(),
        "A source is called as its directory is, or NAME. `base=` marks the base model: not merged unless wrap base=on asks for it,"
            .into(),
        "and needed by the scheme task and by the methods that measure from it.".into(),
    ]
    .join("\n")
}

fn data() -> String {
    [
        "`data NAME=FILE...` gives source NAME what it was tuned on: it is taught there to answer as the source does. No labels are".to_owned(),
        "compared, so that any text of the kind will do. Built-in models bring theirs. FILE is a path or hub:org/name, and holds".into(),
        "JSON lines, a JSON list, parquet, CSV or TSV (with a header; a field that is not text holds JSON), a row per example; or".into(),
        "NAME.txt, a line per example. A row is read as the first of these that its columns allow; a column that is null is missing:".into(),
        line("input_ids", "tokens, without those that attention_mask leaves out"),
        line("messages", "or conversations, conversation: {role, content, ...} or {from, value}, up to the assistant's last one"),
        line("choices", "with an input and answer, answerKey or label: multiple choice, which eval decides by likelihood"),
        line("prompt, completion", "texts as they are; or messages"),
        line("input, output", "text, a number or messages: the first input and the first output that are there, of"),
        line("", &INPUTS.join(", ")),
        line("", &OUTPUTS.join(", ")),
        line("text", "all of it"),
        format!("{} follows the input on a line of its own. `history`, [[question, answer], ...], comes before it.", either(&EXTRA_INPUTS)),
        format!("{} is the system message. `tools` (and tool_calls of messages) are given to the chat template,", either(&SYSTEMS)),
        "through which all but input_ids, text and texts prompt and completion go, as transformers does it; without a template a".into(),
        "message is a line. What is learnt is the answer: the last message, or all of the output. Columns that are not read are named.".into(),
        format!("Built in, as builtin:NAME: {}.", builtin_datasets().join(", ")),
    ]
    .join("\n")
}

/// Names of which a row has one.
fn either(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

fn schemes() -> String {
    let mut lines = vec!["`wrap SCHEME` says what shares a coefficient. W = sum_i f(c_i) W_i, and c_i is".to_owned()];
    lines.extend(SCHEMES.iter().map(|s| line(s.name, &format!("{} {}", s.about, s.usage)).trim_end().to_owned()));
    let f = Nonlinearity::ALL.map(Nonlinearity::name).join("|");
    lines.push("All of them take".into());
    let options = [
        (format!("f={f}"), "what c goes through"),
        ("train=linear,embedding,norm".into(), "the kinds of tensors that train"),
        ("init=uniform|random|METHOD|RECIPE.yml".into(), "1/N, drawn, or nearest to a merge that trains nothing"),
        ("bias=one|same".into(), "biases start at 1 each, or as weights do"),
        ("base=off|on".into(), "whether the base is merged too"),
        ("rest=average|base|first".into(), "what a multimodal model has beside its text decoder, which does not train"),
    ];
    lines.extend(options.iter().map(|(option, meaning)| format!("  {option:38} {meaning}")));
    lines.join("\n")
}

fn settings() -> String {
    let defaults = Settings::default();
    let one = |key: &&str| {
        let given = format!("{key}={}", defaults.get(key).unwrap_or_default());
        let choices = choices(key);
        let of = if choices.is_empty() { String::new() } else { format!(": {}", choices.join(", ")) };
        format!("  {given:22} {}{of}", about(key))
    };
    let first = "`set KEY=VALUE...` changes them at any time; `set` alone shows them. With their defaults:".to_owned();
    let last = "lr=1e-2 is right for the built-in models with batch_size=8, and too high for real ones; terms of the loss: help penalties";
    std::iter::once(first).chain(KEYS.iter().map(one)).chain([last.to_owned()]).collect::<Vec<_>>().join("\n")
}

/// The terms of the loss with their formulas.
const TERMS: [(&str, &str); 8] = [
    ("kl", "T^2/(B n) sum over tokens of KL(softmax(z_i/T) || softmax(z/T)), on the data of source i"),
    ("mse", "1/n sum over tokens of the mean over the vocabulary of (z - z_i)^2"),
    ("entropy", "T^2/n sum over tokens of H(softmax(z/T)): the merge is to be sure"),
    ("cosine", "mean over pairs of cos(c_a, c_b): sources are to take different columns"),
    ("l1", "sum_i |c_i|_1: few coefficients"),
    ("l2", "sum_i |c_i|_2: small coefficients"),
    ("overlap", "mean over pairs of sum_j min(|c_aj|, |c_bj|): no column is shared"),
    ("weighted_overlap", "the same with sin^2(2 angle_j) of the task vectors before it; needs base="),
];

fn penalties() -> String {
    let defaults = Settings::default();
    let one = |(key, formula): &(&str, &str)| {
        let given = format!("{key}={}", defaults.get(key).unwrap_or_default());
        format!("  {given:22} {formula}")
    };
    let (data, penalties) = TERMS.split_at(3);
    let mut lines =
        vec!["The loss is the sum of its terms by their weights, keys of set, here with their defaults; 0 is off.".to_owned()];
    lines.push(
        "Of the data: z are the merge's logits, z_i the source's, T the temperature, B the batch size, n its tokens".into(),
    );
    lines.extend(data.iter().map(one));
    lines.push("Penalties: of the coefficients c_i of source i, summed over all tensors that train but biases".into());
    lines.extend(penalties.iter().map(one));
    lines.push("At a uniform start all c_i are parallel: cosine then has no gradient until the data has moved them.".into());
    lines.join("\n")
}

fn tensors() -> String {
    [
        "Tensors are called as in the checkpoint, whatever the family: model.layers.0.mlp.up_proj.weight.".to_owned(),
        "`inspect PATTERN` takes".into(),
        line("a whole name", "model.norm.weight"),
        line("a piece of one", "layers.0.mlp, or q_proj: whatever has it"),
        line("a glob", "layers.*.mlp.up_proj.weight: * is any text, ? a letter, [abc] one of them; from any part on"),
        "`plot coefficients` and `plot histogram` take one name, which model. and .weight may be left out of.".into(),
        "A tensor is of one kind: linear, embedding, norm or bias; wrap train= says which train.".into(),
    ]
    .join("\n")
}

fn methods() -> String {
    let mut lines = vec![
        "`merge METHOD KEY=VALUE...`, here with all keys and their defaults; several values with commas are one a source:"
            .to_owned(),
    ];
    for method in METHODS {
        lines.push(line(method.name, method.about));
        lines.extend(Some(method.usage()).filter(|usage| !usage.is_empty()).map(|usage| line("", &usage)));
    }
    lines.push(line(GREEDY_SOUP, "the average of sources that are added while the loss on their data does not rise"));
    lines.push(line("", "[data=FILE,...]"));
    lines.push("`evolve METHOD` searches for weights and densities, `compare METHOD...` sets methods beside each other,".into());
    lines.push("`wrap init=METHOD` trains on from one, and `merge RECIPE.yml` follows a recipe of mergekit.".into());
    lines.join("\n")
}

fn undo() -> String {
    [
        "Everything that changes the merge can be taken back:".to_owned(),
        line("undo, redo", "a change back, and forth again"),
        line("history", "what was changed, with the loss at each"),
        line("branch NAME", "go on under another name, to try something; what there was keeps its own"),
        line("switch NAME", "to the end of a branch, or to the state with a number of history"),
        line("diff NAME", "which tensors differ there, by how much, and both scores"),
        "Nothing that was tried is lost: history shows it all. A session in a terminal is kept as it goes, and offered".into(),
        "again after a crash. `save FILE` keeps what there is now, `export NAME.dam` the way that led to it.".into(),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::{Context, find, statements};

    #[test]
    fn every_setting_and_every_term_is_told_of() {
        assert!(KEYS.iter().all(|key| !about(key).is_empty()));
        // What kl is told to be the first of is what can be weighed.
        let weights = serde_json::to_value(Settings::default().weights).unwrap();
        let mut terms = TERMS.map(|(key, _)| key).to_vec();
        let from = KEYS.iter().position(|key| *key == "kl").unwrap();
        assert!(KEYS[from..from + 8].iter().zip(&terms).all(|(key, term)| key == term));
        terms.sort_unstable();
        let mut known: Vec<&str> = weights.as_object().unwrap().keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(terms, known);
    }

    #[test]
    fn every_example_runs() {
        for Topic { name, example, text, .. } in TOPICS {
            assert!(text().lines().all(|line| line.chars().count() <= 140 && line == line.trim_end()), "{name}: {}", text());
            let before =
                if example.starts_with("load") { "" } else { "load base=builtin:base builtin:japanese builtin:math; wrap; " };
            let mut context = Context::default();
            for statement in statements(&format!("{before}{example}")).unwrap() {
                // The verbs that go back come with the timeline.
                if find(&statement.verb).is_err() && *name == "undo" {
                    continue;
                }
                if let Err(error) = context.run(&statement) {
                    panic!("{name}: {error:?}");
                }
            }
        }
    }
}
