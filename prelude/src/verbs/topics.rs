//! The topics of `help`, which several verbs share. Keys, defaults and lists come from their
//! definitions.

use super::merge::{SOUP, SOUP_USAGE, solved_usage};
use crate::checkpoint::Architecture;
use crate::coefficients::{Nonlinearity, SCHEMES};
use crate::data::{EXTRA_INPUTS, INPUTS, OUTPUTS, SYSTEMS, builtin_datasets};
use crate::methods::METHODS;
use crate::solve::SOLVED_METHODS;
use crate::train::{SETTINGS, Setting, Settings};

/// A topic.
pub struct Topic {
    /// Its name, after `help`.
    pub name: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The text.
    pub text: fn() -> String,
    /// An example.
    pub example: &'static str,
}

/// All topics, in the order of the documentation.
pub const TOPICS: &[Topic] = &[
    Topic {
        name: "sources",
        about: "what can be loaded",
        text: sources,
        example: "load base=builtin:base ja=builtin:japanese math=builtin:math",
    },
    Topic {
        name: "data",
        about: "tuning data and its formats",
        text: data,
        example: "data math=builtin:math",
    },
    Topic {
        name: "tasks",
        about: "benchmark tasks of lm-evaluation-harness",
        text: tasks,
        example: "eval mini_japanese limit=10",
    },
    Topic {
        name: "schemes",
        about: "what each coefficient scales",
        text: schemes,
        example: "wrap low_rank rank=2",
    },
    Topic {
        name: "settings",
        about: "every key of set, with its default",
        text: settings,
        example: "set lr=1e-2 batch_size=4",
    },
    Topic {
        name: "penalties",
        about: "the terms of the loss, with their formulas",
        text: penalties,
        example: "set cosine=0.1 l1=1e-6",
    },
    Topic {
        name: "tensors",
        about: "tensor names and patterns",
        text: tensors,
        example: "inspect layers.*.mlp.up_proj.weight",
    },
    Topic {
        name: "methods",
        about: "static merge methods",
        text: methods,
        example: "merge ties density=0.5",
    },
    Topic {
        name: "least_squares",
        about: "what solve minimises, and its options",
        text: least_squares,
        example: "solve examples=4 target=merged",
    },
    Topic {
        name: "trace",
        about: "what trace measures, and its formulas",
        text: tracing,
        example: "trace \"Subtract 55 from 94.\" like=math",
    },
    Topic { name: "undo", about: "undo, redo and branches", text: undo, example: "undo" },
];

/// A line of a list: a name and its meaning.
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
        "Sources are fine-tunes of one base model. `load [NAME=]SOURCE...` takes".into(),
        line(
            "DIR",
            "a directory as transformers saves it: config.json, safetensors (float8 too) or pytorch_model.bin, tokenizer",
        ),
        line("org/name", "a repository on the Hugging Face hub, or its cached copy; @REVISION may follow"),
        line("FILE.gguf", "a GGUF file, decoded on demand; org/name/FILE.gguf on the hub"),
        line("builtin:NAME", "a small built-in model: base, japanese, math or sql"),
        line("SOURCE+ADAPTER", "any of these with a PEFT adapter (LoRA, DoRA, PiSSA, OLoRA): a directory or org/name"),
        "Families that train and run:".into(),
        listed(Architecture::families()),
        "and the text decoders of multimodal models:".into(),
        listed(Architecture::multimodal()),
        "wrap rest= sets how their other tensors are merged. Other families can be merged statically: merge linear DIR."
            .into(),
        "A source is named after its directory, or NAME. `base=` marks the base model, which is merged only with wrap base=on,"
            .into(),
        "and which the scheme `task` and methods on task vectors need.".into(),
    ]
    .join("\n")
}

fn data() -> String {
    [
        "`data NAME=FILE...` sets the data that source NAME was tuned on; the merge learns to agree with the source there. Labels are".to_owned(),
        "not used, so any similar text works. Built-in models come with data. FILE is a path or hub:org/name with".into(),
        "JSON lines, a JSON list, parquet, CSV or TSV (with a header; fields other than text hold JSON), one row per example, or".into(),
        "NAME.txt, one line per example. A row is read as the first of these that its columns allow; null counts as missing:".into(),
        line("input_ids", "tokens, without those that attention_mask masks"),
        line("messages", "or conversations, conversation: {role, content, ...} or {from, value}, up to the last assistant message"),
        line("choices", "with an input and answer, answerKey or label: multiple choice, decided by likelihood in eval"),
        line("prompt, completion", "plain texts, or messages"),
        line("input, output", "text, a number or messages: the first input and the first output present, of"),
        line("", &INPUTS.join(", ")),
        line("", &OUTPUTS.join(", ")),
        line("text", "the whole text"),
        format!("{} follows the input on a separate line. `history`, [[question, answer], ...], precedes it.", either(&EXTRA_INPUTS)),
        format!("{} is the system message. `tools` (and tool_calls in messages) go to the chat template,", either(&SYSTEMS)),
        "which renders everything except input_ids, text, and plain prompt and completion, as transformers does; without one,".into(),
        "each message is a line. The loss is on the answer: the last message or the output. Unused columns are reported.".into(),
        format!("Built-in data sets, as builtin:NAME: {}.", builtin_datasets().join(", ")),
    ]
    .join("\n")
}

/// Alternative names.
fn either(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}

fn tasks() -> String {
    "eval NAME runs a task of lm-evaluation-harness 0.4 (gsm8k, mmlu, hellaswag; Tab lists all), or a small built-in one (mini_japanese,\n\
     mini_math, mini_sql); eval spider:DIRECTORY runs the queries of questions in Spider's layout.\n\
     eval task:FILE.yaml reads a task as the harness does, and gives its scores with standard errors:\n  \
       dataset_path: json, parquet or csv, with dataset_kwargs: {data_files: ...}\n  \
       output_type: multiple_choice, generate_until, loglikelihood, loglikelihood_rolling\n  \
       doc_to_text, doc_to_target, doc_to_choice: columns, Jinja templates or lists; num_fewshot, fewshot_split, fewshot_config\n  \
       filter_list: regex, regex_pos, remove_whitespace, lowercase, uppercase, map, take_first\n  \
       metric_list: acc, acc_norm, acc_bytes, acc_mutual_info, exact_match, perplexity, word_perplexity, byte_perplexity, bits_per_byte,\n  \
       and execution_accuracy for queries, with database: {script: COLUMN} or {directory: PATH}\n\
     Unsupported keys, such as !function, are errors that name the key.\n\
     limit=N scores the first N questions, max_length=N truncates contexts, --chat uses the chat template, and --show lists questions\n\
     with their answers. results=FILE.json writes the harness's results.json. eval --all and compare test whether models differ."
        .into()
}

fn schemes() -> String {
    let mut lines = vec![
        "`wrap SCHEME` sets what each coefficient scales: W = sum_i f(c_i) W_i, where c_i is"
            .to_owned(),
    ];
    lines.extend(
        SCHEMES
            .iter()
            .map(|s| line(s.name, &format!("{} {}", s.about, s.usage)).trim_end().to_owned()),
    );
    let f = Nonlinearity::ALL.map(Nonlinearity::name).join("|");
    lines.push("Options of all schemes:".into());
    let options = [
        (format!("f={f}"), "function applied to c"),
        ("train=linear,embedding,norm".into(), "the kinds of tensors that train"),
        (
            "init=uniform|random|METHOD|RECIPE.yml".into(),
            "1/N, random, or nearest to a static merge",
        ),
        ("bias=one|same".into(), "biases start at 1 each, or like weights"),
        ("base=off|on".into(), "whether the base is merged too"),
        (
            "rest=average|base|first".into(),
            "tensors of a multimodal model other than its text decoder, which do not train",
        ),
    ];
    lines.extend(options.iter().map(|(option, meaning)| format!("  {option:38} {meaning}")));
    lines.join("\n")
}

fn settings() -> String {
    let defaults = Settings::default();
    let one = |setting: &Setting| {
        let Setting { key, about, .. } = setting;
        let given = format!("{key}={}", defaults.get(key).unwrap_or_default());
        let words = setting.words().join(", ");
        let of = if words.is_empty() { words } else { format!(" ({words})") };
        format!("  {given:22} {about}{of}")
    };
    let first =
        "`set KEY=VALUE...` changes settings at any time; `set` alone shows them. Defaults:"
            .to_owned();
    let last = "lr=1e-2 suits the built-in models with batch_size=8 and is too high for real ones. Loss terms: help penalties";
    std::iter::once(first)
        .chain(SETTINGS.iter().map(one))
        .chain([last.to_owned()])
        .collect::<Vec<_>>()
        .join("\n")
}

/// The terms of the loss on data, with their formulas.
const DATA_TERMS: &[(&str, &str)] = &[
    (
        "kl",
        "T^2/(B n) sum over tokens of KL(softmax(z_i/T) || softmax(z/T)), on the data of source i",
    ),
    ("mse", "1/n sum over tokens of the mean over the vocabulary of (z - z_i)^2"),
    ("entropy", "T^2/n sum over tokens of H(softmax(z/T)): rewards confident predictions"),
];

/// The penalties on coefficients, with their formulas.
const PENALTIES: &[(&str, &str)] = &[
    ("cosine", "mean over pairs of cos(c_a, c_b): encourages distinct columns"),
    ("l1", "sum_i |c_i|_1: sparse coefficients"),
    ("l2", "sum_i |c_i|_2: small coefficients"),
    ("overlap", "mean over pairs of sum_j min(|c_aj|, |c_bj|): discourages shared columns"),
    ("weighted_overlap", "the same, weighted by sin^2(2 angle_j) of the task vectors; needs base="),
];

fn penalties() -> String {
    let defaults = Settings::default();
    let one = |(key, formula): &(&str, &str)| {
        let given = format!("{key}={}", defaults.get(key).unwrap_or_default());
        format!("  {given:22} {formula}")
    };
    let mut lines =
        vec!["The loss is a weighted sum of terms. The weights are keys of set, shown with their defaults; 0 is off.".to_owned()];
    lines.push(
        "Data terms: z are the merge's logits, z_i the source's, T the temperature, B the batch size, n its number of tokens"
            .into(),
    );
    lines.extend(DATA_TERMS.iter().map(one));
    lines.push("Penalties on the coefficients c_i of source i, summed over all trainable tensors except biases".into());
    lines.extend(PENALTIES.iter().map(one));
    lines.push("At a uniform start all c_i are parallel, so cosine has no gradient until the data terms move them.".into());
    lines.join("\n")
}

fn least_squares() -> String {
    [
        "For each layer, `solve` minimises sum_i |W X_i - T_i|^2 / n_i + ridge over the coefficients of W: source i has n_i tokens,".to_owned(),
        "X_i are the inputs of the layer on its data, and T_i are the targets. The options:".into(),
        line("examples", "examples of each source's data, from the first"),
        line("ridge", "pulls towards the average; relative to the mean diagonal of the system"),
        line("target=own", "T_i is the output of source i on its own inputs (default)"),
        line("target=merged", "T_i is the output of the layer of source i on X_i: RegMean++, arXiv 2508.03121"),
        line("inputs=merged", "X_i comes from the merge so far (default)"),
        line("inputs=own", "X_i comes from source i: RegMean, arXiv 2212.09849"),
        line("data=none", "rows of the task vector of source i are used in place of X_i: WUDI, arXiv 2503.08099"),
        line("residual", "whether o_proj and down_proj also correct the error of the residual stream so far"),
        line("unrestricted", "also report the best unrestricted weight matrix, for comparison"),
        line("layers", "solve only the first layers"),
        line("other", "out-of-domain text: its loss is reported before and after"),
        "The report shows the fraction of the average's squared error that remains in each layer, given the inputs at that layer.".into(),
        "`wrap init=solve` solves at once. `merge regmean`, `merge regmean_plus_plus` and `merge wudi` solve for whole matrices.".into(),
    ]
    .join("\n")
}

fn tensors() -> String {
    [
        "Tensors have their checkpoint names in every family: model.layers.0.mlp.up_proj.weight.".to_owned(),
        "`inspect PATTERN` takes".into(),
        line("a full name", "model.norm.weight"),
        line("a part of a name", "layers.0.mlp, or q_proj: every tensor that contains it"),
        line("a glob", "layers.*.mlp.up_proj.weight: * is any text, ? one character, [abc] one of these; it may start anywhere in the name"),
        "`plot coefficients` and `plot histogram` take one name; model. and .weight may be omitted.".into(),
        "Each tensor has a kind: linear, embedding, norm or bias; wrap train= chooses which kinds train.".into(),
    ]
    .join("\n")
}

fn methods() -> String {
    let mut lines = vec![
        "`merge METHOD KEY=VALUE...`, with all keys and their defaults; a list with commas has one value per source:".to_owned(),
    ];
    for method in METHODS {
        lines.push(line(method.name, method.about));
        lines.extend(
            Some(method.usage()).filter(|usage| !usage.is_empty()).map(|usage| line("", &usage)),
        );
    }
    lines.push(line(SOUP.0, SOUP.1));
    lines.push(line("", SOUP_USAGE));
    for method in &SOLVED_METHODS {
        lines.extend([line(method.name, method.about), line("", &solved_usage(method))]);
    }
    lines.push(
        "`evolve METHOD` searches weights and densities, `compare METHOD...` compares methods,"
            .into(),
    );
    lines.push("`wrap init=METHOD` starts training from one, and `merge RECIPE.yml` follows a mergekit recipe.".into());
    lines.join("\n")
}

fn tracing() -> String {
    [
        "`trace` runs the merge and its sources over a prompt, and follows one token of an answer: the first that the merge does not".to_owned(),
        "expect most. The answer is answer=, that of row=N of=SOURCE, or what the source like= answers; without like=, the source whose".into(),
        "own answer is the most certain, or which gives answer= the highest probability, per token. x is the residual stream at the".into(),
        "last token before it, after the embedding or after a layer; y is the source's.".into(),
        line("p", "probability of the token by the logit lens: final norm and output layer applied to x (nostalgebraist 2020)"),
        line("from SOURCE", "|x - y| / |y|; cosine: of x and y"),
        line("p patched", "p after y is put in place of x, for all tokens, and the merge runs on: activation patching,"),
        line("", "arXiv 2202.05262, 2309.16042. The first drift that matters is where half of the probability comes back"),
        line("contributions", "of embedding, attention and MLP: <w * (U_a - mean_v U_v), d> / rms(x), with w the final norm, U the output"),
        line("", "layer, d what the part adds to x, and x the last stream. -ln p = ln sum_v exp(z_v - mean z) - their sum"),
        line("parts, patched", "what the source's part adds to y is put in place of what the merge's adds to x"),
        line("tensors, patched", "scale 1 for the source and 0 for the others, in one tensor: what mix TENSOR like=SOURCE does"),
        line("columns", "share of sum_j |(W - W_i)[:, j]|^2 mean x_j^2 in the first tensor, x its input in the merge"),
        line("recovered", "loss of the merge less the loss after the patch, in nats; the gap is the same with the source's loss"),
        "Models of more than 100 million parameters: only the tensors of the layers of the three parts that recover most are patched.".into(),
    ]
    .join("\n")
}

fn undo() -> String {
    [
        "Every change to the merge can be undone:".to_owned(),
        line("undo, redo", "undo the last change, and redo it"),
        line("history", "all changes, with the loss at each"),
        line("branch NAME", "start a branch; the current one stays as it is"),
        line("switch NAME", "go to the end of a branch, or to a state by its number"),
        line("diff NAME", "which tensors differ there, by how much, and both scores"),
        "history shows everything that was tried. A session in a terminal is saved automatically and offered".into(),
        "again after a crash. `save FILE` stores the current state, `export NAME.dam` the steps that led to it.".into(),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::{Context, statements};

    #[test]
    fn the_terms_are_the_weights_among_the_settings() {
        // The terms of this topic are the weights among the settings, in order.
        let weights = serde_json::to_value(Settings::default().weights).unwrap();
        let terms = DATA_TERMS.iter().chain(PENALTIES);
        let mut terms: Vec<&str> = terms.map(|(key, _)| *key).collect();
        let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        let from = keys.iter().position(|key| *key == "kl").unwrap();
        assert_eq!(keys[from..from + terms.len()], terms);
        terms.sort_unstable();
        let mut known: Vec<&str> =
            weights.as_object().unwrap().keys().map(String::as_str).collect();
        known.sort_unstable();
        assert_eq!(terms, known);
    }

    #[test]
    fn every_example_runs() {
        for Topic { name, example, text, .. } in TOPICS {
            assert!(
                text().lines().all(|line| line.chars().count() <= 140 && line == line.trim_end()),
                "{name}: {}",
                text()
            );
            let before = if example.starts_with("load") {
                ""
            } else {
                "load base=builtin:base builtin:japanese builtin:math; wrap; "
            };
            let mut context = Context::default();
            for statement in statements(&format!("{before}{example}")).unwrap() {
                if let Err(error) = context.run(&statement) {
                    panic!("{name}: {error:?}");
                }
            }
        }
    }
}
