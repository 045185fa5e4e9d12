//! A stop ends all long work and leaves everything unchanged.

mod common;
#[path = "common/large.rs"]
mod large;

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{data, golden, names};
use dam_prelude::train::Recompute;
use dam_prelude::verbs::{Context, statements};
use dam_prelude::{
    Columns, Dam, Error, Evolve, Models, Parameter, Scheme, Settings, Site, SolveSettings, Tensor,
    Trace, interrupt, load,
};
use large::{Program, VOCABULARY};

/// The stop flag is global to the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    LEFT.store(usize::MAX, Ordering::SeqCst);
    interrupt::clear();
    guard
}

fn interrupted<T>(result: dam_prelude::Result<T>) {
    match result {
        Err(Error::Interrupted) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not stopped"),
    }
}

/// Runs `work` with the stop flag already set.
fn stopped<T>(work: impl FnOnce() -> dam_prelude::Result<T>) {
    interrupt::request();
    let result = work();
    interrupt::clear();
    interrupted(result);
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn long_operations_can_be_stopped() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let names = ["model0", "model1"].map(|name| golden(name).display().to_string());
    // Loading: checking every weight, plain or in blocks.
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
    // Static merges, made and inspected, and training.
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
    stopped(|| dam.loss());
    stopped(|| dam.trace(Trace { row: Some(("model0".into(), 1)), ..Trace::default() }));
    stopped(|| dam.step());
    stopped(|| dam.train(2));
    let before = dam.coefficients("model.norm.weight").unwrap().to_vec2::<f32>().unwrap();
    stopped(|| dam.solve(&SolveSettings::default()));
    stopped(|| models.wrap_solved(Columns::default(), &SolveSettings::default()));
    stopped(|| models.merge_solved(&SolveSettings::regmean()));
    assert_eq!(dam.coefficients("model.norm.weight").unwrap().to_vec2::<f32>().unwrap(), before);
    stopped(|| models.wrap_from(Columns::default(), &models.merge_named("linear", &[]).unwrap()));
    assert_eq!(entries(directory.path()), 1);
    assert_eq!(dam.steps(), 0);
    // Afterwards all of it works.
    dam.step().unwrap();
    dam.bake(at("merged")).unwrap();
    dam.save(at("session")).unwrap();
}

/// A stop while the second layer is solved keeps the first; one while other text is scored keeps
/// all.
#[test]
fn a_stopped_solution_keeps_its_layers() {
    let _alone = alone();
    let models = taught(Recompute::Off);
    let options = Stopping(Columns::default());
    let dam = models.wrap(options.with(dam_prelude::Options::default())).unwrap();
    let tensors = [0, 1].map(|layer| format!("model.layers.{layer}.mlp.down_proj.weight"));
    let values = |dam: &Dam| {
        tensors.clone().map(|name| dam.coefficients(&name).unwrap().to_vec2::<f32>().unwrap())
    };
    let (start, before) = (dam.snapshot().unwrap(), values(&dam));
    let settings = SolveSettings { examples: 2, ..SolveSettings::default() };
    let mut counts = Vec::new();
    let many = 1 << 40;
    let report = stopped_after(many, || {
        dam.solve_with(&settings, |_| {
            counts.push(many - LEFT.load(Ordering::SeqCst));
            ControlFlow::Continue(())
        })
    });
    let report = report.unwrap();
    assert!(!report.stopped);
    let solved = values(&dam);
    // Embedding, two layers, output.
    let after_first = counts[counts.len() - 3];
    dam.restore(&start).unwrap();
    let report = stopped_after(after_first + 1, || dam.solve(&settings)).unwrap();
    assert!(report.stopped && report.layers() == 1, "{report}");
    assert!(
        report.to_string().contains("stopped after layer 0: solved layers are kept"),
        "{report}"
    );
    let [first, second] = values(&dam);
    assert_eq!((&first, &second), (&solved[0], &before[1]));
}

/// How often coefficients are computed before the stop.
static LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Columns that set the stop flag while a model runs: the coefficients of a layer are computed just
/// before the layer.
struct Stopping(Columns);

impl Scheme for Stopping {
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        self.0.parameters(site)
    }

    fn coefficients(
        &self,
        site: &Site<'_>,
        parameters: &[Tensor],
    ) -> dam_prelude::candle_core::Result<Tensor> {
        if LEFT.fetch_sub(1, Ordering::SeqCst) == 0 {
            interrupt::request();
        }
        self.0.coefficients(site, parameters)
    }
}

/// Runs `work` with a stop after coefficients were computed `count` times.
fn stopped_after<T>(count: usize, work: impl FnOnce() -> T) -> T {
    LEFT.store(count, Ordering::SeqCst);
    let result = work();
    LEFT.store(usize::MAX, Ordering::SeqCst);
    interrupt::clear();
    result
}

fn taught(recompute: Recompute) -> Models {
    let mut models =
        load(["model0", "model1"].map(|name| golden(name).display().to_string())).unwrap();
    models.settings = Settings { lr: 1e-2, batch_size: 2, recompute, ..Settings::default() };
    for (name, file) in [("model0", "data0.jsonl"), ("model1", "data1.jsonl")] {
        models.data(name, &golden(file).display().to_string()).unwrap();
    }
    models
}

/// Everything that a saved session contains: coefficients, moments, drawn examples and history.
fn kept(dam: &Dam) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    dam.save(directory.path().join("session")).unwrap();
    fs::read(directory.path().join("session")).unwrap()
}

/// Wherever a step is interrupted, in the forward or backward pass, the merge equals that after the
/// last complete step, and continues as if nothing had happened.
#[test]
fn an_interrupted_step_changes_nothing() {
    let _alone = alone();
    for recompute in [Recompute::Off, Recompute::On] {
        let models = taught(recompute);
        let (dam, other) =
            [(); 2].map(|()| models.wrap(Stopping(Columns::default())).unwrap()).into();
        let (first, second) = (other.step().unwrap(), other.step().unwrap());
        assert_eq!(dam.step().unwrap(), first);
        let (before, mut broken) = (kept(&dam), 0);
        let step = loop {
            match stopped_after(broken, || dam.step()) {
                Ok(step) => break step,
                other => interrupted(other),
            }
            assert!(
                kept(&dam) == before,
                "a step that was broken off at {broken} has changed something"
            );
            broken += 1;
        };
        let tensors = dam.inspect("").unwrap().tensors.len();
        assert!(
            broken > tensors + tensors / 2,
            "{broken} of {tensors} forward, and as many backward"
        );
        assert_eq!(step, second);
        assert_eq!(dam.history(), other.history());
        // Tokens run count, even if the step was discarded.
        assert!(dam.tokens() > other.tokens());
        assert!(kept(&dam) == kept(&other));
    }
}

#[test]
fn interrupted_training_keeps_complete_steps() {
    let _alone = alone();
    let dam = taught(Recompute::Off).wrap(Stopping(Columns::default())).unwrap();
    interrupted(stopped_after(3, || dam.train(5)));
    assert_eq!(dam.steps(), 0);
    // The stop comes during the third step.
    let report = stopped_after(usize::MAX, || {
        dam.train_with(5, |step| {
            if step.step == 2 {
                LEFT.store(3, Ordering::SeqCst);
            }
            ControlFlow::Continue(())
        })
    });
    let report = report.unwrap();
    assert_eq!((report.steps, report.reached, report.stopped, dam.steps()), (2, 2, true, 2));
    assert!(
        report.to_string().contains("stopped after step 2: completed steps are kept"),
        "{report}"
    );
}

/// If no step was made, the merge that was tried before is still current, and the state of the
/// session is unchanged.
#[test]
fn training_without_a_step_changes_nothing() {
    let _alone = alone();
    let mut context = Context::default();
    let mut run = |text: &str| {
        context
            .run(&statements(text).unwrap()[0])
            .map(|_| (context.timeline().here(), context.merged.is_some()))
    };
    for text in ["load builtin:japanese builtin:math", "wrap"] {
        run(text).unwrap();
    }
    let before = run("merge linear").unwrap();
    for text in ["train 3", "step"] {
        stopped(|| run(text));
        assert_eq!(run("inspect norm").unwrap(), before, "{text}");
    }
    assert!(!run("step").unwrap().1);
}

/// All examples are in one batch: the flag is checked between batches and before each layer.
#[test]
fn scoring_stops_inside_a_model() {
    let _alone = alone();
    let dam = taught(Recompute::Off).wrap(Stopping(Columns::default())).unwrap();
    dam.eval(&[]).unwrap();
    interrupted(stopped_after(3, || dam.eval(&[])));
    interrupted(stopped_after(3, || dam.loss()));
    assert!(dam.eval(&[]).is_ok() && dam.loss().is_ok());
}

/// A stopped search returns the best of the complete candidates.
#[test]
fn an_interrupted_candidate_is_not_counted() {
    let _alone = alone();
    let models = taught(Recompute::Off);
    let search =
        Evolve { method: "linear".into(), budget: 6, groups: 1, examples: 2, ..Evolve::default() };
    stopped(|| models.evolve(&search, |_| ControlFlow::Continue(())));
    let mut losses = Vec::new();
    let evolved = models.evolve(&search, |tried| {
        losses.push(tried.loss);
        if tried.number == 3 {
            interrupt::request();
        }
        ControlFlow::Continue(())
    });
    interrupt::clear();
    let report = evolved.unwrap().report;
    assert!(report.stopped && report.tried == 3 && losses.len() == 3, "{report}");
    assert!(losses.contains(&report.best), "{losses:?}");
}

/// A directory with one model that is slow to load, and one that is slow to run and to write.
fn large_models() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    large::checkpoint(&directory.path().join("huge"), 32, 8192, 65536);
    large::checkpoint(&directory.path().join("deep"), 128, 512, 2048);
    directory
}

/// The program, with models for which each verb takes longer than the limit for a stop.
#[test]
fn ctrl_c_stops_the_verb_and_leaves_no_output() {
    let directory = large_models();
    let directory = directory.path();
    let ids = |i: usize| (0..256).map(|at| (7 * i + at) % VOCABULARY).collect::<Vec<_>>();
    let line = |i: usize| format!("{{\"input_ids\": {:?}}}\n", ids(i));
    fs::write(directory.join("ids.jsonl"), (0..64).map(line).collect::<String>()).unwrap();
    let words = |i: usize| {
        (0..12).map(|at| format!("word{} ", (i * 7919 + at * 104_729) % 10_007)).collect::<String>()
    };
    let line = |i: usize| format!("{{\"text\": \"{}\"}}\n", words(i));
    fs::write(directory.join("words.jsonl"), (0..400_000).map(line).collect::<String>()).unwrap();
    let before = names(directory);

    let wrapped = "load a=deep b=deep; data a=ids.jsonl b=ids.jsonl; set batch_size=8; wrap";
    for (begin, verb) in [
        ("set seed=1", "load huge"),
        ("load builtin:math", "data math=words.jsonl"),
        (wrapped, "eval"),
        (wrapped, "loss"),
        (wrapped, "step"),
        (wrapped, "train 5"),
    ] {
        let mut program = Program::at(directory, begin, verb);
        std::thread::sleep(Duration::from_millis(500));
        program.stop();
        assert_eq!(names(directory), before, "{verb}");
    }
    for verb in ["merge linear out", "bake out"] {
        let mut program = Program::at(directory, wrapped, verb);
        program.wait_for_output(directory, "out");
        program.stop();
        assert_eq!(names(directory), before, "{verb}");
    }
}

/// Without a progress bar, lines appear at intervals. The program is paused in between, so that
/// less work is enough.
#[test]
fn long_reads_and_writes_report_progress_lines() {
    let directory = large_models();
    let directory = directory.path();
    for (verbs, task, out) in [
        ("load huge", "load", None),
        ("load a=deep b=deep; merge linear merged", "write", Some("merged")),
        ("load a=deep b=deep; wrap; bake baked", "write", Some("baked")),
    ] {
        let mut program = Program::start(directory, &["-c", verbs]);
        if let Some(out) = out {
            program.wait_for_output(directory, out);
        }
        std::thread::sleep(Duration::from_millis(100));
        // Short tasks are not reported, and lines are seconds apart.
        for held in [Duration::from_millis(500), Duration::from_millis(5500)] {
            program.signal(libc::SIGSTOP);
            std::thread::sleep(held);
            program.signal(libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(150));
        }
        let lines =
            BufReader::new(program.child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let told =
            |line: &String| line.starts_with(task) && line.contains(" of ") && line.contains("GB");
        assert!(
            lines.inspect(|line| println!("{line}")).any(|line| told(&line)),
            "{verbs}: no line of progress"
        );
    }
}
