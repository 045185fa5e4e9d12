//! Checks and measures everything that DAM Lab does on a GPU, beside the CPU.
//!
//! ```text
//! cargo run --release --features cuda --example gpu_check -- [cpu|cuda|metal] [--quick] [--part NAME] [--json FILE] [--dir DIR]
//! ```
//!
//! Operations forward and backward, a step of every family, `solve`, evaluation, generation,
//! `bake`, the tour and a notebook, in f32 and bf16; then merges in the shapes of Llama 3.2 1B and
//! Llama 3.1 8B with random weights: seconds per step, peak memory, share of the card's arithmetic.
//! Prints tables, and with `--json` writes every row. The exit status is 1 if a row failed.
//!
//! The reference is the library's fused CPU path in f32 (or, where that cannot be reached, plain
//! loops in f64), on the same numbers: in checks in bf16, inputs are rounded to bf16 on both sides.
//! Each side of each part is a process of its own, see `worker.rs`. With `cpu`, the device is the
//! CPU on the path of GPUs: the process of that side has `DAM_DEVICE_PATH` set.

mod arguments;
mod attention;
mod builtin;
mod check;
mod compare;
mod families;
mod losses;
mod machine;
mod measure;
mod memory;
mod notebook;
mod operations;
mod report;
mod sums;
mod target;
mod weights;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use arguments::{Arguments, Kind};
use check::{Part, Size};
use machine::Machine;
use report::{Outcome, Report, Row, print_measurements, print_rows};
use target::{Side, Target};
use weights::Shape;
use worker::Worker;

/// The part of a worker that only opens the device.
const PROBE: &str = "probe";

/// The part of the tour, which the notebook belongs to.
const BUILTIN: &str = "built-in models";

/// The part of measurements, and with a shape the part of a worker.
const MEASURE: &str = "measurements";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.worker {
        Some(worker) => work(&arguments, worker).map(|()| true),
        None => run(&arguments),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parts(quick: bool) -> Vec<Part> {
    let size = Size::new(quick);
    let mut operations = operations::checks(size);
    operations.extend(attention::checks(size));
    operations.extend(losses::checks(size));
    operations.extend(sums::checks(size));
    vec![
        Part { name: "operations", checks: operations },
        Part { name: "a step of every family", checks: families::checks() },
        Part { name: BUILTIN, checks: builtin::checks(quick) },
    ]
}

/// The shape that a worker measures.
fn measured(part: &str) -> Option<&str> {
    part.strip_prefix(MEASURE)?.strip_prefix(' ')
}

/// Runs a part in this process.
fn work(arguments: &Arguments, worker: &[String]) -> Result<()> {
    let [part, side, out] = worker else { bail!("--worker takes three values") };
    let kind = arguments.device.context("a worker needs a device")?;
    let sides = [Side::Reference, Side::Device];
    let side = sides.into_iter().find(|s| s.name() == side).context("no such side")?;
    let out = Path::new(out);
    if part == PROBE {
        return Target::open(side, kind, false).map(drop);
    }
    if let Some(name) = measured(part) {
        let shapes = Shape::all(arguments.quick)?;
        let shape = shapes.iter().find(|shape| shape.name == name).context("no such shape")?;
        let directory = arguments.dir.as_deref().context("a measurement needs --dir")?;
        return measure::run(shape, kind, arguments.quick, directory, out);
    }
    let parts = parts(arguments.quick);
    let part = parts.iter().find(|p| p.name == part).context("no such part")?;
    worker::run_checks(part, kind, side, out)
}

/// Runs everything. Returns whether no row failed.
fn run(arguments: &Arguments) -> Result<bool> {
    let start = Instant::now();
    let temporary = tempfile::tempdir()?;
    let kind = choose(arguments, temporary.path())?;
    let quick = arguments.quick;
    let mut report =
        Report { machine: Machine::of(kind), quick, rows: Vec::new(), measurements: Vec::new() };
    println!("gpu_check {} on {}", env!("CARGO_PKG_VERSION"), report.machine.line());
    if kind == Kind::Cpu {
        println!("the CPU on the path of GPUs (DAM_DEVICE_PATH): no GPU is checked");
    }
    // Kept up to date, for a run that is stopped.
    let save = |report: &Report| arguments.json.iter().try_for_each(|file| report.write(file));

    let wanted = |name: &str| name.contains(&arguments.part);
    for part in parts(quick).iter().filter(|part| wanted(part.name)) {
        let mut rows = compare(part, kind, quick, temporary.path())?;
        if part.name == BUILTIN {
            rows.push(notebook::row(part.name, kind, quick));
        }
        print_rows(part.name, &rows);
        report.rows.extend(rows);
        save(&report)?;
    }
    for shape in Shape::all(quick)?.iter().filter(|_| wanted(MEASURE)) {
        let row = measure_shape(shape, arguments, kind, temporary.path(), &mut report)?;
        print_rows(&format!("{}-shaped merge", shape.name), std::slice::from_ref(&row));
        report.rows.push(row);
        save(&report)?;
    }
    ensure!(!report.rows.is_empty(), "no part is called {:?}", arguments.part);
    print_measurements(MEASURE, &report.measurements);
    let [passed, failed, skipped] =
        [Outcome::Pass, Outcome::Fail, Outcome::Skipped].map(|outcome| report.count(outcome));
    println!(
        "\n{passed} rows pass, {failed} fail, {skipped} skipped; {:.0} s",
        start.elapsed().as_secs_f64()
    );
    Ok(failed == 0)
}

/// Returns the device to check: the one that was named, or the first GPU, or the CPU.
fn choose(arguments: &Arguments, temporary: &Path) -> Result<Kind> {
    let opens = |kind| {
        let worker = Worker { kind, quick: true, part: PROBE, side: Side::Device, directory: None };
        worker.run(&temporary.join(PROBE))
    };
    if let Some(kind) = arguments.device {
        return match opens(kind)? {
            None => Ok(kind),
            Some(reason) => bail!("the device {} does not open: {reason}", kind.name()),
        };
    }
    for kind in [Kind::Cuda, Kind::Metal] {
        match opens(kind)? {
            None => return Ok(kind),
            Some(reason) => println!("no {}: {reason}", kind.name()),
        }
    }
    Ok(Kind::Cpu)
}

/// Runs both sides of a part and compares them.
fn compare(part: &Part, kind: Kind, quick: bool, temporary: &Path) -> Result<Vec<Row>> {
    let side = |side: Side| -> Result<(PathBuf, Option<String>)> {
        let out = temporary.join(part.name).join(side.name());
        let worker = Worker { kind, quick, part: part.name, side, directory: None };
        let ended = worker.run(&out)?;
        Ok((out, ended))
    };
    let (reference, device) = (side(Side::Reference)?, side(Side::Device)?);
    let mut rows = Vec::new();
    for (index, check) in part.checks.iter().enumerate() {
        let read = |(out, ended): &(PathBuf, Option<String>)| {
            worker::read(index, check, out, ended.as_deref())
        };
        rows.extend(compare::rows(part.name, check, &read(&reference), &read(&device)));
    }
    Ok(rows)
}

/// Measures a merge in a process of its own; its row says whether it ran.
fn measure_shape(
    shape: &Shape,
    arguments: &Arguments,
    kind: Kind,
    temporary: &Path,
    report: &mut Report,
) -> Result<Row> {
    let start = Instant::now();
    let row = Row {
        part: MEASURE.into(),
        name: format!("three {}-shaped sources", shape.name),
        dtype: "bf16",
        reference: "finite losses".into(),
        difference: None,
        tolerance: None,
        outcome: Outcome::Skipped,
        note: "full size needs a GPU; --quick measures small shapes".into(),
        seconds: None,
    };
    if kind == Kind::Cpu && !arguments.quick {
        return Ok(row);
    }
    let out = temporary.join(MEASURE).join(shape.name);
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::tempdir_in(&parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    let part = format!("{MEASURE} {}", shape.name);
    let ended = Worker {
        kind,
        quick: arguments.quick,
        part: &part,
        side: Side::Device,
        directory: Some(directory.path()),
    }
    .run(&out)?;
    let (outcome, note, measurements) = measure::read(&out, ended);
    report.measurements.extend(measurements);
    Ok(Row { outcome, note, seconds: Some(start.elapsed().as_secs_f64()), ..row })
}
