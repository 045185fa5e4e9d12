//! A stop ends all long work, and leaves everything as it was.

mod common;

use std::fs;
use std::path::Path;

use common::{data, golden};
use dam_prelude::{Columns, Error, interrupt, load};

fn interrupted<T>(result: dam_prelude::Result<T>) {
    match result {
        Err(Error::Interrupted) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not stopped"),
    }
}

/// What `work` does where a stop was asked for before.
fn stopped<T>(work: impl FnOnce() -> dam_prelude::Result<T>) {
    interrupt::request();
    let result = work();
    interrupt::clear();
    interrupted(result);
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// One test, as the stop is one of the process.
#[test]
fn everything_that_takes_long_stops() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let names = ["model0", "model1"].map(|name| golden(name).display().to_string());
    // Loading: the looks at every weight, plain or in blocks.
    stopped(|| load(&names));
    stopped(|| load([data("gguf/llama.gguf").display().to_string()]));
    let mut models = load(&names).unwrap();
    let data = golden("data0.jsonl").display().to_string();
    for name in ["model0", "model1"] {
        models.data(name, &data).unwrap();
    }
    // Data: reading, tokenising, and its template.
    stopped(|| models.clone().data("model0", &golden("data1.jsonl").display().to_string()));
    fs::write(at("talk.jsonl"), "{\"question\": \"12\", \"answer\": \"7\"}\n").unwrap();
    let mut math = load(["builtin:math"]).unwrap();
    let before = math.clone();
    stopped(|| math.data("math", &at("talk.jsonl").display().to_string()));
    assert_eq!(math.to_string(), before.to_string());
    // Static merges, made and looked at, and what trains.
    for method in ["linear", "ties", "slerp"] {
        let models = if method == "ties" {
            load([format!("base={}", golden("base").display())]).unwrap().and_load(&names).unwrap()
        } else {
            models.clone()
        };
        let merged = models.merge_named(method, &[]).unwrap();
        stopped(|| merged.bake(at("merged")));
        stopped(|| merged.inspect(""));
        assert_eq!(entries(directory.path()), 1, "{method}");
        merged.bake(at("merged")).unwrap();
        fs::remove_dir_all(at("merged")).unwrap();
    }
    let dam = models.wrap(Columns::default()).unwrap();
    stopped(|| dam.bake(at("merged")));
    stopped(|| dam.save(at("session")));
    stopped(|| dam.eval(&[]));
    stopped(|| models.wrap_from(Columns::default(), &models.merge_named("linear", &[]).unwrap()));
    assert_eq!(entries(directory.path()), 1);
    assert_eq!(dam.steps(), 0);
    // Afterwards all of it works.
    dam.step().unwrap();
    dam.bake(at("merged")).unwrap();
    dam.save(at("session")).unwrap();
}
