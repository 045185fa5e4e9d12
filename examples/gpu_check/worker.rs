//! A process per part and side. The path of operations is fixed for a process (the library reads
//! `DAM_DEVICE_PATH` once), so on a CPU the two sides need two. A process that a driver ends, or a
//! device that a failed kernel leaves unusable, costs one part.

use std::any::Any;
use std::collections::HashMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use dam_prelude::candle_core::{Device, Tensor, safetensors};
use serde_json::{Value, json};

use crate::arguments::Kind;
use crate::check::{Check, Part};
use crate::compare::Findings;
use crate::target::{Found, Side, Target};

/// Which process to start.
#[derive(Clone, Copy)]
pub struct Worker<'a> {
    pub kind: Kind,
    pub quick: bool,
    pub part: &'a str,
    pub side: Side,
    /// Where large models are written.
    pub directory: Option<&'a Path>,
}

impl Worker<'_> {
    /// Runs the process, with results in `out`. Returns how it ended, if not well.
    pub fn run(&self, out: &Path) -> Result<Option<String>> {
        fs::create_dir_all(out)?;
        let errors = out.join("stderr");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(self.kind.name()).args(self.quick.then_some("--quick"));
        command.args(["--worker", self.part, self.side.name()]).arg(out);
        if let Some(directory) = self.directory {
            command.arg("--dir").arg(directory);
        }
        command.stderr(File::create(&errors)?).env_remove("DAM_DEVICE_PATH");
        if self.side == Side::Device && self.kind == Kind::Cpu {
            command.env("DAM_DEVICE_PATH", "1");
        }
        let status = command.status().context("cannot start another process of this program")?;
        if status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&fs::read(errors)?).into_owned();
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(4)..].join("; ");
        Ok(Some(format!("the process ended with {status}: {last}")))
    }
}

/// Runs the checks of `part` in this process and writes what they find to `out`.
pub fn run_checks(part: &Part, kind: Kind, side: Side, out: &Path) -> Result<()> {
    for (index, check) in part.checks.iter().enumerate() {
        let start = Instant::now();
        let run = || (check.run)(&Target::open(side, kind, check.half)?);
        let found = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            bail!("it panicked: {}", message(&*panic));
        });
        write(index, &found, start.elapsed().as_secs_f64(), out)
            .with_context(|| format!("{}: cannot write results", check.name))?;
    }
    Ok(())
}

/// Returns an error and its causes in one line, without the backtraces of candle, and once each:
/// some errors repeat their cause.
pub fn says(error: &anyhow::Error) -> String {
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = error.chain().map(|cause| first(cause.to_string())).collect();
    all.dedup();
    all.join(": ")
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

fn write(index: usize, found: &Result<Found>, seconds: f64, out: &Path) -> Result<()> {
    let mut about = json!({"seconds": seconds});
    match found {
        Err(error) => about["error"] = says(error).into(),
        Ok(found) => {
            let tensors: HashMap<String, Tensor> = found.tensors.iter().cloned().collect();
            safetensors::save(&tensors, out.join(format!("{index}.safetensors")))?;
            let texts = found.texts.iter().map(|(name, text)| (name.clone(), text.clone().into()));
            about["texts"] = Value::Object(texts.collect());
        }
    }
    Ok(fs::write(out.join(format!("{index}.json")), about.to_string())?)
}

/// Reads what the check `index` found; `ended` says how the process ended, if not well.
pub fn read(index: usize, check: &Check, out: &Path, ended: Option<&str>) -> Findings {
    let read = || -> Result<Findings> {
        let about = match fs::read(out.join(format!("{index}.json"))) {
            Ok(bytes) => serde_json::from_slice::<Value>(&bytes)?,
            Err(_) => bail!("{}", ended.unwrap_or("no result")),
        };
        let mut findings = Findings {
            seconds: about["seconds"].as_f64().unwrap_or_default(),
            error: about["error"].as_str().map(str::to_owned),
            ..Findings::default()
        };
        if findings.error.is_none() {
            let file = out.join(format!("{index}.safetensors"));
            findings.tensors = safetensors::load(file, &Device::Cpu)?.into_iter().collect();
            for (name, text) in about["texts"].as_object().into_iter().flatten() {
                findings.texts.insert(name.clone(), text.as_str().unwrap_or_default().into());
            }
        }
        Ok(findings)
    };
    read().unwrap_or_else(|error| Findings {
        error: Some(format!("{}: {error:#}", check.name)),
        ..Findings::default()
    })
}
