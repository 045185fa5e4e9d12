//! The contract of a session: training resumes exactly after `open`, the order of work does not
//! matter, options take effect.

use std::ops::ControlFlow;

use crate::common::golden;
use dam_prelude::candle_core::Tensor;
use dam_prelude::{
    Columns, Dam, Init, Kind, Models, Nonlinearity, Optimizer, Reduction, Schedule, Settings, load,
};

/// Three golden sources and the base. Their data sets have two examples each, so epochs are short.
fn models(settings: Settings) -> Models {
    let place = |name: &str| golden(name).display().to_string();
    let names =
        ["base=base", "m0=model0", "m1=model1", "m2=model2"].map(|n| n.split_once('=').unwrap());
    let mut models = load(names.map(|(name, dir)| format!("{name}={}", place(dir)))).unwrap();
    for i in 0..3 {
        models.data(&format!("m{i}"), &place(&format!("data{i}.jsonl"))).unwrap();
    }
    models.settings = settings;
    models
}

fn wrap(settings: Settings) -> Dam {
    models(settings).wrap(Columns::default()).unwrap()
}

fn all(dam: &Dam) -> Vec<(String, Vec<Vec<f32>>)> {
    let tensors = dam.inspect("").unwrap().tensors;
    tensors
        .into_iter()
        .map(|t| (t.name.clone(), rows(&dam.coefficients(&t.name).unwrap())))
        .collect()
}

fn rows(x: &Tensor) -> Vec<Vec<f32>> {
    x.to_vec2().unwrap()
}

#[test]
fn training_resumes_exactly_after_open() {
    let dir = tempfile::tempdir().unwrap();
    let optimizers =
        [(Optimizer::AdamW, Nonlinearity::None), (Optimizer::Mofo, Nonlinearity::Tanh)];
    for (optimizer, f) in optimizers {
        let mut settings = Settings {
            optimizer,
            lr: 1e-2,
            weight_decay: 0.01,
            schedule: Schedule::Linear,
            warmup: 2,
            total_steps: 11,
            batch_size: 1,
            ..Settings::default()
        };
        settings.weights.weighted_overlap = 1e-5;
        settings.weights.mse = 0.1;
        let columns = Columns { f, init: Init::Random, seed: 3, ..Columns::default() };
        let dam = models(settings).wrap(columns).unwrap();
        dam.train(5).unwrap();
        let file = dir.path().join("session");
        dam.save(&file).unwrap();
        let whole: Vec<f64> = (0..5).map(|_| dam.step().unwrap().total).collect();

        let opened = Dam::open(&file).unwrap();
        assert_eq!(opened.steps(), 5);
        assert_eq!(opened.settings(), dam.settings());
        let parts: Vec<f64> = (0..5).map(|_| opened.step().unwrap().total).collect();
        assert_eq!(parts, whole);
        assert_eq!(all(&opened), all(&dam));
    }
}

/// Across epochs, with batches that are composed differently after `open`, and names in any script.
#[test]
fn batches_resume_exactly_across_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.jsonl");
    let line = |i: usize| {
        let ids: Vec<usize> = (0..3 + 5 * i % 11).map(|j| (7 * i + 13 * j) % 96).collect();
        format!("{{\"input_ids\": {ids:?}}}\n")
    };
    std::fs::write(&file, (0..7).map(line).collect::<String>()).unwrap();
    let names = ["Qwen2.5-0.5B", "my model", "k=v"];
    let place = |name: &str| dir.path().join(name).display().to_string();
    for (i, name) in names.iter().enumerate() {
        crate::common::copy_checkpoint(&format!("model{i}"), &dir.path().join(name));
    }
    let mut models = load(names.map(place)).unwrap();
    for name in names {
        models.data(name, &file.display().to_string()).unwrap();
    }
    (models.settings.batch_size, models.settings.lr) = (3, 1e-2);
    let dam = models.wrap(Columns::default()).unwrap();
    dam.train(3).unwrap();
    dam.save(dir.path().join("session")).unwrap();
    let opened = Dam::open(dir.path().join("session")).unwrap();
    assert_eq!(opened.train(7).unwrap().losses, dam.train(7).unwrap().losses);
    assert_eq!(all(&opened), all(&dam));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let results = [1, 2, 3].map(|threads| {
        let dam = wrap(Settings { threads, lr: 1e-2, ..Settings::default() });
        (dam.train(3).unwrap().losses, all(&dam))
    });
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn teachers_run_once_per_example_with_a_small_cache() {
    let dam = wrap(Settings::default());
    dam.train(2).unwrap();
    // One epoch is two steps, after which the cache is complete. Sources are f32 with hidden size
    // 32.
    let kept = dam.teacher_bytes();
    let tokens = kept / (32 * 4);
    assert!(tokens > 0 && tokens <= 3 * 2 * 12, "{tokens}");
    dam.train(4).unwrap();
    assert_eq!(dam.teacher_bytes(), kept);

    dam.set(Settings { top_k: 4, ..dam.settings() }).unwrap();
    dam.train(2).unwrap();
    // A value and an index, four bytes each, for each of four logits.
    assert_eq!(dam.teacher_bytes(), tokens * 4 * 8);
    dam.data("m0", &golden("data1.jsonl").display().to_string()).unwrap();
    assert!(dam.teacher_bytes() < tokens * 4 * 8);
}

#[test]
fn top_k_of_the_whole_vocabulary_equals_the_full_teacher() {
    let whole = wrap(Settings::default()).loss().unwrap().total;
    let top = |k| wrap(Settings { top_k: k, ..Settings::default() }).loss().unwrap().total;
    assert!((top(96) - whole).abs() < 1e-6 * whole);
    assert!((top(1_000_000) - whole).abs() < 1e-6 * whole);
    assert!((top(8) - whole).abs() > 1e-3 * whole);
}

#[test]
fn the_reference_reduction_divides_by_the_batch_size_too() {
    let loss = |reduction| {
        let report =
            wrap(Settings { reduction, batch_size: 2, ..Settings::default() }).loss().unwrap();
        report.terms.into_iter().find(|(name, _)| name == "kl.m0").unwrap().1
    };
    let (reference, token_mean) = (loss(Reduction::Reference), loss(Reduction::TokenMean));
    assert!((2.0 * reference - token_mean).abs() < 1e-6 * token_mean);
}

#[test]
fn only_trainable_kinds_change() {
    let columns = Columns { train: vec![Kind::Norm], ..Columns::default() };
    let dam = models(Settings { lr: 1e-2, ..Settings::default() }).wrap(columns).unwrap();
    let before = all(&dam);
    dam.train(2).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(&all(&dam)) {
        assert_eq!(before != after, name.contains("norm"), "{name}");
    }
    let report = dam.report();
    assert!(report.trainable < report.coefficients);
}

#[test]
fn starts_are_uniform_or_seeded() {
    let start = |columns| {
        let dam = models(Settings::default()).wrap(columns).unwrap();
        rows(&dam.coefficients("model.layers.1.mlp.up_proj.weight").unwrap())
    };
    let third = vec![vec![1.0 / 3.0; 32]; 3];
    assert_eq!(start(Columns::default()), third);
    assert_eq!(start(Columns { with_base: true, ..Columns::default() }), vec![vec![0.25; 32]; 4]);
    let random = |seed| start(Columns { init: Init::Random, seed, ..Columns::default() });
    assert_eq!(random(1), random(1));
    assert_ne!(random(1), random(2));
    let each: Vec<f32> = random(1).iter().map(|row| row[0]).collect();
    assert!((each.iter().sum::<f32>() - 1.0).abs() < 1e-6 && each.iter().all(|c| *c > 0.0));
    assert!(
        random(1).iter().zip(each).all(|(row, c)| row.iter().all(|x| *x == c)),
        "one value a source"
    );
}

#[test]
fn penalties_train_without_data() {
    let place = |name: &str| golden(name).display().to_string();
    let mut models = load([place("model0"), place("model1")]).unwrap();
    models.settings.lr = 1e-2;
    models.settings.weights.kl = 0.0;
    models.settings.weights.cosine = 0.0;
    models.settings.weights.l2 = 1.0;
    let dam = models.wrap(Columns::default()).unwrap();
    let report = dam.train(5).unwrap();
    assert!(report.last < report.first);
    assert_eq!(dam.teacher_bytes(), 0);
}

#[test]
fn the_schedule_ends_after_one_epoch_and_reports_it() {
    let mut models =
        models(Settings { schedule: Schedule::Linear, lr: 1e-2, ..Settings::default() });
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long.jsonl");
    std::fs::write(&long, "{\"input_ids\": [1, 2]}\n".repeat(50)).unwrap();
    models.data("base", &long.display().to_string()).unwrap();
    let dam = models.wrap(Columns::default()).unwrap();
    let report = dam.train(3).unwrap();
    assert_eq!(report.lr, 0.0);
    assert!(report.to_string().contains("the linear schedule has ended"), "{report}");
}

#[test]
fn the_callback_can_stop_training_and_keeps_all_steps() {
    let dam = wrap(Settings { lr: 1e-2, ..Settings::default() });
    let report = dam
        .train_with(10, |step| {
            if step.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!((report.steps, report.stopped, dam.steps()), (3, true, 3));
    assert!(report.to_string().contains("stopped after step 3"));
    let other = wrap(Settings { lr: 1e-2, ..Settings::default() });
    other.train(3).unwrap();
    assert_eq!(all(&dam), all(&other));
    dam.train(2).unwrap();
    other.train(2).unwrap();
    assert_eq!(all(&dam), all(&other));
}

#[test]
fn loss_equals_the_loss_of_the_next_step() {
    let dam = wrap(Settings::default());
    for _ in 0..3 {
        let report = dam.loss().unwrap();
        let before = all(&dam);
        assert_eq!(dam.loss().unwrap(), report);
        assert_eq!(all(&dam), before);
        assert_eq!(dam.step().unwrap().total, report.total);
    }
}

#[test]
fn the_cosine_trap_is_reported() {
    let dam = wrap(Settings::default());
    assert!(dam.loss().unwrap().notes.iter().any(|n| n.contains("no gradient yet")));
    dam.train(2).unwrap();
    assert!(dam.loss().unwrap().notes.is_empty());
}

#[test]
fn clones_share_one_session() {
    let dam = wrap(Settings::default());
    let clone = dam.clone();
    let trained = std::thread::spawn(move || clone.train(2).unwrap().steps).join().unwrap();
    assert_eq!((trained, dam.steps()), (2, 2));
}

#[test]
fn all_reports_display_themselves() {
    let dam = wrap(Settings::default());
    let shown = [
        dam.models().to_string(),
        dam.to_string(),
        dam.loss().unwrap().to_string(),
        dam.step().unwrap().to_string(),
        dam.train(1).unwrap().to_string(),
        dam.inspect("model.norm.weight").unwrap().to_string(),
        dam.inspect("*.mlp.*").unwrap().to_string(),
        dam.eval(&[]).unwrap().to_string(),
        dam.scoreboard(&[]).unwrap().to_string(),
    ];
    for text in shown {
        assert!(text.lines().count() >= 3 && !text.ends_with('\n'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    }
    assert_eq!(format!("{dam:?}"), "Dam(3 sources, step 2)");
}
