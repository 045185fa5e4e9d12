//! Measurements of merges in the shapes of real models: load, wrap, seconds per step, peak memory,
//! and the share of the card's arithmetic.
//!
//! A step of `T` tokens with `P` weights in products takes `6 P T` operations: `2 P T` forward and
//! `4 P T` backward, and `2 P T` more if layers are recomputed. Teachers add `2 P T`, in the first
//! epoch alone. Products of attention and all that is not a product are not counted. The speed of
//! the card is that of one large product of bf16 matrices by candle, measured just before.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use dam_prelude::candle_core::{DType, Device, Tensor};
use dam_prelude::{Columns, Dam, Error};
use serde_json::{Value, json};

use crate::arguments::Kind;
use crate::families::write_data;
use crate::memory::Watch;
use crate::report::{Measurement, Outcome};
use crate::target::{Side, Target};
use crate::weights::Shape;
use crate::worker::says;

const SOURCES: u64 = 3;

/// Steps whose teachers are cached; the median counts.
const CACHED: usize = 3;

/// The file of the results.
const RESULTS: &str = "measurements.json";

/// The measurements so far, and how it ended.
struct Meter<'a> {
    shape: &'a Shape,
    out: &'a Path,
    all: Vec<Measurement>,
}

impl Meter<'_> {
    fn push(&mut self, mut measurement: Measurement) -> Result<()> {
        measurement.name = format!("{}-shaped: {}", self.shape.name, measurement.name);
        self.all.push(measurement);
        // Written each time: what was measured survives the end of the process.
        self.write(Outcome::Fail, "it did not reach the end")
    }

    fn add(&mut self, name: &str, value: f64, unit: &str, note: impl Into<String>) -> Result<()> {
        let (name, unit, note) = (name.into(), unit.into(), note.into());
        self.push(Measurement { name, value: Some(value), unit, note })
    }

    fn write(&self, outcome: Outcome, note: &str) -> Result<()> {
        let all: Vec<Value> = self.all.iter().map(Measurement::json).collect();
        let text = json!({"outcome": outcome.to_string(), "note": note, "measurements": all});
        Ok(fs::write(self.out.join(RESULTS), text.to_string())?)
    }
}

/// Reads the results of a run: how it ended, with a note, and the measurements.
pub fn read(out: &Path, ended: Option<String>) -> (Outcome, String, Vec<Measurement>) {
    let read = || -> Result<Value> { Ok(serde_json::from_slice(&fs::read(out.join(RESULTS))?)?) };
    let found = read().unwrap_or_default();
    let all = found["measurements"].as_array().into_iter().flatten().map(Measurement::of).collect();
    let note = found["note"].as_str().unwrap_or("no result").to_owned();
    match (ended, found["outcome"].as_str()) {
        (Some(ended), _) => (Outcome::Fail, ended, all),
        (None, Some("pass")) => (Outcome::Pass, note, all),
        (None, Some("skipped")) => (Outcome::Skipped, note, all),
        (None, _) => (Outcome::Fail, note, all),
    }
}

/// Measures a merge of `shape` in this process, with the sources in `directory`.
pub fn run(shape: &Shape, kind: Kind, quick: bool, directory: &Path, out: &Path) -> Result<()> {
    let mut meter = Meter { shape, out, all: Vec::new() };
    if let Some(obstacle) = shape.obstacle(directory, SOURCES, kind == Kind::Cpu)? {
        return meter.write(Outcome::Skipped, &obstacle);
    }
    match measure(&mut meter, kind, quick, directory) {
        Ok(()) => meter.write(Outcome::Pass, ""),
        Err(error) if is_memory(&error) => {
            meter.write(Outcome::Skipped, &format!("it does not fit the device: {}", says(&error)))
        }
        Err(error) => meter.write(Outcome::Fail, &says(&error)),
    }
}

/// Whether an error says that the device is out of memory: of this library, or of a driver. An
/// illegal memory access is another matter.
fn is_memory(error: &anyhow::Error) -> bool {
    let is_refused = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(Error::TooLarge { .. }))
    };
    let text = format!("{error:#}").to_lowercase().replace('_', " ");
    error.chain().any(is_refused) || text.contains("out of memory")
}

fn measure(meter: &mut Meter<'_>, kind: Kind, quick: bool, directory: &Path) -> Result<()> {
    let (shape, target) = (meter.shape, Target::open(Side::Device, kind, true)?);
    let speed = product_speed(&target.device, if quick { 256 } else { 8192 })?;
    meter.add("one product of bf16 matrices", speed / 1e12, "TFLOP/s", "the card's arithmetic")?;

    let name = |source: u64| format!("s{source}");
    let start = Instant::now();
    thread::scope(|scope| {
        let write =
            |source| scope.spawn(move || shape.write(&directory.join(name(source)), source));
        let writers: Vec<_> = (0..SOURCES).map(write).collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().unwrap_or_else(|_| anyhow::bail!("a model could not be written"))
        })
    })?;
    let gigabytes = (SOURCES * shape.bytes()) as f64 / 1e9;
    let note = format!("{SOURCES} sources, {gigabytes:.1} GB in all");
    meter.add("write random sources", start.elapsed().as_secs_f64(), "s", note)?;

    let watch = Watch::start(kind);
    let start = Instant::now();
    let path = |source| format!("{}={}", name(source), directory.join(name(source)).display());
    let mut models = target.load(&(0..SOURCES).map(path).collect::<Vec<_>>())?;
    meter.add("load", start.elapsed().as_secs_f64(), "s", "")?;
    let longest = if quick { 64 } else { 2048 };
    for source in 0..SOURCES {
        let file = directory.join(format!("{}.jsonl", name(source)));
        let vocabulary = shape.architecture.vocabulary as u32;
        write_data(&file, vocabulary, &[longest, longest], source)?;
        models.data(&name(source), &file.display().to_string())?;
    }
    (models.settings.batch_size, models.settings.shuffle) = (1, false);
    models.settings.max_length = longest;
    let start = Instant::now();
    let dam = models.wrap(Columns::default())?;
    target.device.synchronize()?;
    meter.add(
        "wrap",
        start.elapsed().as_secs_f64(),
        "s",
        "with the copy of sources to the device",
    )?;

    let mut length = longest;
    loop {
        match steps(meter, &dam, length, speed) {
            // A shorter example may fit.
            Err(error) if is_memory(&error) && length > longest / 8 => length /= 2,
            ended => {
                ended?;
                break;
            }
        }
        dam.set(dam_prelude::Settings { max_length: length, ..dam.settings() })?;
    }
    match watch {
        Ok(watch) => meter.push(watch.peak("peak device memory".into())),
        Err(note) => meter.push(Measurement {
            name: "peak device memory".into(),
            value: None,
            unit: "GiB".into(),
            note,
        }),
    }
}

/// Measures steps with examples of `length` tokens.
fn steps(meter: &mut Meter<'_>, dam: &Dam, length: usize, speed: f64) -> Result<()> {
    let timed = || -> Result<f64> {
        let start = Instant::now();
        dam.step()?;
        Ok(start.elapsed().as_secs_f64())
    };
    // Each source has two examples: the third step is the first whose teachers have all been run.
    let first = timed().with_context(|| format!("examples of {length} tokens"))?;
    let with_teachers = timed()?;
    let mut cached = (0..CACHED).map(|_| timed()).collect::<Result<Vec<f64>>>()?;
    cached.sort_by(f64::total_cmp);
    let cached = cached[CACHED / 2];

    let tokens = SOURCES as usize * length;
    let recompute = dam.report().forecast.recompute;
    let passes = if recompute { 8.0 } else { 6.0 };
    let work = passes * meter.shape.multiplied() as f64 * tokens as f64;
    let teachers = 2.0 * meter.shape.multiplied() as f64 * tokens as f64;
    let how = format!(
        "{SOURCES} x {length} tokens, {}",
        if recompute { "with recomputation" } else { "without recomputation" }
    );
    meter.add("first step", first, "s", format!("{how}; with all that is made once"))?;
    meter.add("step with teachers", with_teachers, "s", &how)?;
    meter.add("step without teachers", cached, "s", format!("{how}; median of {CACHED}"))?;
    for (name, seconds, work, formula) in [
        ("with teachers", with_teachers, work + teachers, passes + 2.0),
        ("without teachers", cached, work, passes),
    ] {
        let share = 100.0 * work / seconds / speed;
        meter.add(
            &format!("share of the card's arithmetic {name}"),
            share,
            "%",
            format!("{formula:.0} P T = {:.2e} operations", work),
        )?;
    }
    Ok(())
}

/// Returns the operations per second of a product of two `n` x `n` bf16 matrices.
fn product_speed(device: &Device, n: usize) -> Result<f64> {
    let matrix = || -> Result<Tensor> {
        Ok(Tensor::rand(-1f32, 1f32, (n, n), device)?.to_dtype(DType::BF16)?)
    };
    let (a, b) = (matrix()?, matrix()?);
    let repeat = |times: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            a.matmul(&b)?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    repeat(3)?;
    let times = 20;
    Ok(2.0 * (n as f64).powi(3) * times as f64 / repeat(times)?)
}
