//! A notebook of the course, run by Jupyter in the kernel, on the device.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::arguments::Kind;
use crate::report::{Outcome, Row};

const NAME: &str = "01_first_merge.ipynb";
const NOTEBOOK: &str = include_str!("../../notebooks/01_first_merge.ipynb");

/// The kernel that `dam jupyter install` registers.
const KERNEL: &str = "dam";

/// Runs the notebook; its row.
pub fn row(part: &str, kind: Kind, quick: bool) -> Row {
    let start = Instant::now();
    let row = Row {
        part: part.into(),
        name: format!("notebook {NAME}"),
        dtype: "f32",
        reference: "every cell runs".into(),
        difference: None,
        tolerance: None,
        outcome: Outcome::Skipped,
        note: String::new(),
        seconds: None,
    };
    let missing = if quick { Some("--quick".into()) } else { missing() };
    if let Some(note) = missing {
        return Row { note, ..row };
    }
    let (outcome, note) = match run(kind) {
        Ok(cells) => (Outcome::Pass, format!("{cells} cells")),
        Err(error) => (Outcome::Fail, format!("{error:#}")),
    };
    Row { outcome, note, seconds: Some(start.elapsed().as_secs_f64()), ..row }
}

/// Returns what is needed and not there.
fn missing() -> Option<String> {
    let ask = |arguments: &[&str]| {
        let output = Command::new("jupyter").args(arguments).output().ok()?;
        output.status.success().then_some(output.stdout)
    };
    if ask(&["--version"]).is_none() {
        return Some("no jupyter".into());
    }
    if ask(&["nbconvert", "--version"]).is_none() {
        return Some("no jupyter nbconvert: pip install nbconvert".into());
    }
    let kernels = ask(&["kernelspec", "list", "--json"]).unwrap_or_default();
    let kernels: Value = serde_json::from_slice(&kernels).unwrap_or_default();
    kernels["kernelspecs"][KERNEL].is_null().then(|| {
        "no kernel: build dam with the features jupyter and cuda (or metal), and run dam jupyter install"
            .into()
    })
}

/// Runs the notebook with the setting `device`; the number of cells that ran.
fn run(kind: Kind) -> Result<usize> {
    let directory = tempfile::tempdir()?;
    let mut notebook: Value = serde_json::from_str(NOTEBOOK)?;
    let cells = notebook["cells"].as_array_mut().context("the notebook has no cells")?;
    let first = cells.iter().position(|cell| cell["cell_type"] == "code");
    let first = first.context("the notebook has no code")?;
    // The first code ends with `models`. A device that the kernel was not built for is an error.
    let set = format!(
        "models.settings.device = {:?}.into();\nmodels.settings.open_device()?",
        kind.name()
    );
    let cell = json!({
        "cell_type": "code", "id": "gpu-check", "metadata": {}, "execution_count": null,
        "outputs": [], "source": set,
    });
    cells.insert(first + 1, cell);
    let file = directory.path().join(NAME);
    fs::write(&file, notebook.to_string())?;
    let mut command = Command::new("jupyter");
    command.args(["nbconvert", "--to", "notebook", "--inplace", "--execute"]);
    command.arg("--ExecutePreprocessor.timeout=600").arg(&file).current_dir(directory.path());
    command.env_remove("DAM_DEVICE_PATH");
    if kind == Kind::Cpu {
        command.env("DAM_DEVICE_PATH", "1");
    }
    let output = command.output().context("cannot start jupyter")?;
    if !output.status.success() {
        bail!("{}", last_lines(&output));
    }
    executed(&file)
}

/// The end of a failed command's errors.
fn last_lines(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(6)..].join("; ")
}

/// Returns the number of code cells of `file`, all of which ran without an error.
fn executed(file: &Path) -> Result<usize> {
    let notebook: Value = serde_json::from_slice(&fs::read(file)?)?;
    let cells = notebook["cells"].as_array().into_iter().flatten();
    let mut count = 0;
    for cell in cells.filter(|cell| cell["cell_type"] == "code") {
        let outputs = cell["outputs"].as_array().into_iter().flatten();
        if let Some(error) = outputs.clone().find(|output| output["output_type"] == "error") {
            bail!("{}", error["evalue"].as_str().unwrap_or("a cell failed"));
        }
        if cell["execution_count"].is_null() {
            bail!("a cell did not run: {}", cell["source"]);
        }
        count += 1;
    }
    Ok(count)
}
