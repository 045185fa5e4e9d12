//! Completions, by position.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::assist::{check, next};

fn texts(context: &Context, line: &str) -> Vec<String> {
    complete(context, line, line.len()).candidates.into_iter().map(|c| c.text).collect()
}

/// The line with its only candidate filled in.
fn completed(context: &Context, line: &str) -> String {
    let found = complete(context, line, line.len());
    assert_eq!(found.candidates.len(), 1, "{line}: {found:?}");
    format!("{}{}", &line[..found.start], found.candidates[0].text)
}

fn loaded() -> Context {
    let models = crate::load(["base=builtin:base", "builtin:japanese", "builtin:math"]).unwrap();
    Context { models, ..Context::default() }
}

#[test]
fn verbs_come_first_in_every_statement() {
    let context = Context::default();
    assert_eq!(texts(&context, "").len(), VERBS.len());
    assert_eq!(texts(&context, "  s"), ["solve", "set", "step", "save", "switch"]);
    assert_eq!(completed(&context, "load builtin:base; wr"), "load builtin:base; wrap");
    assert_eq!(completed(&context, "step\ntrai"), "step\ntrain");
    assert!(texts(&context, "# lo").is_empty() && texts(&context, "nonsense lo").is_empty());
    assert!(complete(&context, "", 0).candidates.iter().all(|c| !c.about.is_empty()));
}

#[test]
fn keys_and_flags_are_offered_once_with_their_values() {
    let context = Context::default();
    let wrap = texts(&context, "wrap ");
    for word in ["columns", "low_rank", "f=", "train=", "init=", "base="] {
        assert!(wrap.iter().any(|w| w == word), "{word}: {wrap:?}");
    }
    assert!(!wrap.iter().any(|w| w == "rank="), "only low_rank has a rank");
    assert_eq!(completed(&context, "wrap low_rank ra"), "wrap low_rank rank=");
    let rest = texts(&context, "wrap columns f=tanh ");
    assert!(!rest.iter().any(|w| w == "f=" || w == "columns"), "{rest:?}");
    assert_eq!(texts(&context, "wrap f="), ["none", "tanh", "sigmoid", "relu"]);
    assert_eq!(completed(&context, "wrap f=s"), "wrap f=sigmoid");
    assert_eq!(texts(&context, "wrap train="), ["linear", "embedding", "norm"]);
    assert_eq!(texts(&context, "wrap train=linear,"), ["embedding", "norm"]);
    assert_eq!(completed(&context, "wrap train=linear,n"), "wrap train=linear,norm");
    assert_eq!(completed(&context, "wrap init=sl"), "wrap init=slerp");
    // What follows the cursor counts too.
    assert!(!complete(&context, "wrap  f=tanh", 5).candidates.iter().any(|c| c.text == "f="));
}

#[test]
fn settings_are_offered_with_what_they_are_now() {
    let mut context = loaded();
    context.models.settings.set("schedule", "linear").unwrap();
    assert_eq!(texts(&context, "set ").len(), crate::train::SETTINGS.len());
    assert_eq!(completed(&context, "set lr=1e-2 schedu"), "set lr=1e-2 schedule=");
    let found = complete(&context, "set schedule=", 13);
    let values: Vec<(&str, &str)> =
        found.candidates.iter().map(|c| (c.text.as_str(), c.about.as_str())).collect();
    assert_eq!(values, [("constant", ""), ("linear", "current value")]);
    assert!(!texts(&context, "set lr=1e-2 l").contains(&"lr=".to_owned()));
    assert!(texts(&context, "set lr=").is_empty());
}

#[test]
fn methods_bring_their_keys() {
    let context = loaded();
    assert_eq!(completed(&context, "merge tie"), "merge ties");
    let keys = texts(&context, "merge ties ");
    for (name, there) in [
        ("density=", true),
        ("weight=", true),
        ("t=", false),
        ("dtype=", false),
        ("--force", false),
    ] {
        assert_eq!(keys.contains(&name.to_owned()), there, "{name}: {keys:?}");
    }
    assert_eq!(texts(&context, "merge ties normalize="), ["on", "off"]);
    assert_eq!(completed(&context, "merge ties out --f"), "merge ties out --force");
    assert_eq!(texts(&context, "merge ties out dtype=b"), ["bf16"]);
    assert!(!texts(&context, "compare dam ").contains(&"dam".to_owned()));
    assert_eq!(completed(&context, "evolve dare_t"), "evolve dare_ties");
    assert_eq!(completed(&context, "help st"), "help step");
}

#[test]
fn sources_and_data_are_named() {
    let empty = Context::default();
    let all = texts(&empty, "load ");
    for name in ["builtin:base", "builtin:sql", "base="] {
        assert!(all.iter().any(|text| text == name), "{all:?}");
    }
    assert_eq!(completed(&empty, "load ja=builtin:j"), "load ja=builtin:japanese");
    assert!(
        !texts(&empty, "load base=builtin:base ")
            .iter()
            .any(|text| text == "builtin:base" || text == "base=")
    );
    let context = loaded();
    assert!(!texts(&context, "load ").iter().any(|text| text == "builtin:math" || text == "base="));
    assert_eq!(texts(&context, "data "), ["base=", "japanese=", "math="]);
    assert_eq!(texts(&context, "trace hi like="), ["base", "japanese", "math"]);
    assert_eq!(completed(&context, "data math=x jap"), "data math=x japanese=");
    assert_eq!(
        completed(&context, "data japanese=builtin:sql-"),
        "data japanese=builtin:sql-heldout"
    );
}

#[test]
fn files_that_are_written_get_their_endings() {
    let context = loaded();
    assert_eq!(texts(&context, "export merge."), ["merge.ipynb", "merge.dam", "merge.rs"]);
    assert_eq!(completed(&context, "export nowhere/merge.i"), "export nowhere/merge.ipynb");
    assert!(texts(&context, "plot loss curve").iter().any(|text| text == "curve.svg"));
    assert_eq!(
        texts(&context, "export nowhere/"),
        ["nowhere/merge.ipynb", "nowhere/merge.dam", "nowhere/merge.rs"]
    );
    assert!(texts(&context, "export nowhere/.").is_empty());
}

#[test]
fn tensors_go_on_part_by_part() {
    let context = loaded();
    assert_eq!(completed(&context, "inspect lay"), "inspect layers.");
    assert!(texts(&context, "inspect layers.").contains(&"layers.*.".to_owned()));
    assert_eq!(completed(&context, "inspect layers.*.mlp.up"), "inspect layers.*.mlp.up_proj");
    assert_eq!(completed(&context, "inspect model.lay"), "inspect model.layers.");
    assert!(texts(&context, "inspect up_").contains(&"up_proj".to_owned()));
    // `inspect` accepts every completion of a glob.
    let dam = context.models.wrap(crate::Columns::default()).unwrap();
    for typed in ["*q_", "layers.*.self_attn.q", "layers.{0,1}.mlp.do", "q_pr", "*.up", "*up"] {
        let found = texts(&context, &format!("inspect {typed}"));
        assert!(!found.is_empty(), "{typed}");
        for pattern in found {
            assert!(dam.inspect(&pattern).unwrap().tensors.len() > 1, "{pattern}");
        }
    }
    assert_eq!(completed(&context, "plot coefficients embed"), "plot coefficients embed_tokens");
    assert!(!texts(&context, "plot loss ").iter().any(|text| text == "layers."));
    assert_eq!(texts(&context, "plot lo"), ["loss"]);
}

#[test]
fn files_have_fitting_endings_and_are_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    for file in
        ["a.jsonl", "b c.txt", "d.png", "e.yml", "s.dam.safetensors", ".hidden.txt", "m.gguf"]
    {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    for folder in ["model", "other"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    std::fs::write(dir.path().join("model/config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("k=v w.csv"), "").unwrap();
    let context = loaded();
    let names = |line: &str| -> Vec<String> {
        let found = texts(&context, line).into_iter();
        found
            .map(|text| {
                text.trim_start_matches('"').trim_start_matches(&format!("{at}/")).to_owned()
            })
            .collect()
    };
    assert_eq!(
        names(&format!("eval {at}/")),
        ["a.jsonl", "b c.txt\"", "k=v w.csv\"", "model/", "other/"]
    );
    assert_eq!(names(&format!("eval {at}/.h")), [".hidden.txt"]);
    assert_eq!(names(&format!("load x={at}/")), ["m.gguf", "model", "other/"]);
    assert_eq!(names(&format!("merge {at}/")), ["e.yml", "model/", "other/"]);
    assert_eq!(names(&format!("merge ties {at}/")), ["model/", "other/", "m.gguf"]);
    assert_eq!(names(&format!("open {at}/")), ["model/", "other/", "s.dam.safetensors"]);
    assert_eq!(names(&format!("plot loss {at}/")), ["d.png", "model/", "other/"]);
    assert_eq!(names(&format!("bake {at}/")), ["model/", "other/", "m.gguf"]);
    assert_eq!(names(&format!("bake {at}/ne")), ["ne.gguf"]);
    assert_eq!(
        completed(&context, &format!("data math={at}/b")),
        format!("data math=\"{at}/b c.txt\"")
    );
    assert_eq!(completed(&context, &format!("eval '{at}/b")), format!("eval \"{at}/b c.txt\""));
    assert_eq!(
        completed(&context, &format!("compare on={at}/a.jsonl,{at}/b")),
        format!("compare on={at}/a.jsonl,\"{at}/b c.txt\"")
    );
}

/// A `=` in a name splits no word: the candidate is a path, wherever it was begun.
#[test]
fn names_with_an_equals_sign_are_offered_as_paths() {
    let context = loaded();
    // Paths without a directory are in the working directory.
    let here = tempfile::Builder::new().prefix("test=").tempdir_in(".").unwrap();
    let name = here.path().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(texts(&context, "load te").contains(&format!("./{name}/")));
    std::fs::write(here.path().join("config.json"), "{}").unwrap();
    assert!(texts(&context, "load m=te").contains(&format!("./{name}")));
    for (typed, whole) in [
        (format!("load m={name}"), format!("load m=./{name}")),
        (format!("load \"{name}"), format!("load \"./{name}\"")),
        (format!("load m='{name}"), format!("load m=\"./{name}\"")),
        (format!("bake {name}"), format!("bake ./{name}/")),
        (format!("bake '{name}"), format!("bake \"./{name}/")),
        (format!("merge linear \"{name}"), format!("merge linear \"./{name}/")),
        (format!("data math={name}"), format!("data math=./{name}/")),
    ] {
        let found = complete(&context, &typed, typed.len());
        let lines: Vec<String> = found
            .candidates
            .iter()
            .map(|c| format!("{}{}", &typed[..found.start], c.text))
            .collect();
        assert!(lines.contains(&whole), "{typed}: {lines:?}");
    }
    assert_eq!(texts(&context, "bake a=b."), ["./a=b.gguf"]);
}

#[test]
fn a_session_that_works_is_not_waited_for() {
    let context = loaded();
    let dam = context.models.wrap(crate::Columns::default()).unwrap();
    let context = Context { dam: Some(dam.clone()), ..Context::default() };
    assert_eq!((next(&context), texts(&context, "data ").len()), ("train 100".to_owned(), 3));
    std::thread::scope(|scope| {
        let trains = scope.spawn(|| dam.train(30).unwrap());
        let (mut looks, mut slowest) = (0, std::time::Duration::ZERO);
        while !trains.is_finished() {
            let start = std::time::Instant::now();
            let found =
                (next(&context), texts(&context, "data ").len(), texts(&context, "inspect ").len());
            slowest = slowest.max(start.elapsed());
            looks += 1;
            assert!(found.1 == 0 || found.1 == 3, "{found:?}");
        }
        // Otherwise it would have waited for a step, which is most of the time.
        assert!(looks > 30, "{looks} looks, the slowest of {slowest:?}");
    });
}

/// No text makes it fail at any position, and candidates lie within the line.
#[test]
fn nothing_that_is_typed_makes_it_fail() {
    let context = loaded();
    let parts = [
        "load ",
        "data ",
        "wrap ",
        "set ",
        "merge ",
        "plot ",
        "inspect ",
        "compare ",
        "bake ",
        "open ",
        "help ",
        "generate ",
        "f=",
        "train=",
        "on=",
        "init=",
        "ties ",
        "linear,",
        "=",
        "+",
        ",",
        ";",
        "\n",
        "#",
        "'",
        "\"",
        "\\",
        "--",
        "-",
        "é",
        "日本",
        "👩‍🚀",
        "\u{0}",
        "\u{1b}[2J",
        "/",
        "~/",
        ".",
        "*",
        "[",
        "{",
        "math",
        "japanese=",
        "builtin:",
        "layers.",
        "0.",
        " ",
        "\t",
        "1e-",
        "0",
        "9999999999999999999999",
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..500 {
        let line: String =
            (0..rng.random_range(0..9)).map(|_| parts[rng.random_range(0..parts.len())]).collect();
        for position in 0..=line.len() + 1 {
            let found = complete(&context, &line, position);
            assert!(
                found.start <= line.len() && line.is_char_boundary(found.start),
                "{line:?} {position} {found:?}"
            );
            assert!(found.candidates.is_empty() || found.start <= position, "{line:?} {position}");
        }
        for problem in check(&context, &line) {
            assert!(
                line.get(problem.range.clone()).is_some_and(|text| !text.is_empty()),
                "{line:?} {problem:?}"
            );
        }
    }
}
