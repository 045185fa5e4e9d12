//! Every example runs, and so does the script of verbs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The built example `name`: `cargo test` builds all of them beside the program.
fn example(name: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_dam")).with_file_name("examples").join(name);
    assert!(program.is_file(), "{} is not built: run cargo test --workspace", program.display());
    Command::new(program)
}

/// What a run in a directory of its own prints.
fn prints(command: &mut Command, directory: &Path) -> String {
    let output = command.current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_primitive_has_an_example_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (name, words) in [
        ("01_load", &["japanese", "math", "no such file"][..]),
        ("02_wrap", &["sources", "trainable", "down_proj"]),
        ("03_loss", &["kl.japanese", "cosine", "mse.sql", "l1"]),
        ("04_step", &["gradient norm", "last loss", "stopped after step"]),
        ("05_inspect", &["mlp.up_proj", "column", "model.norm.weight"]),
        ("06_bake", &["exact match", "written", "merged"]),
        (
            "07_scheme",
            &[
                "agree with finite differences",
                "columns",
                "Stream",
                "japanese-math",
                "columns, at a mean loss of",
            ],
        ),
        ("08_solve", &["layer 0", "% left", "unrestricted", "rows_columns, solved"]),
    ] {
        let text = prints(&mut example(name), dir.path());
        for word in words {
            assert!(text.contains(word), "{name} does not print {word:?}: {text}");
        }
    }
    assert!(dir.path().join("merged-06/model.safetensors").is_file());
}

#[test]
fn the_script_of_verbs_runs() {
    let dir = tempfile::tempdir().unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/first_merge.dam");
    let text = prints(crate::common::dam(dir.path()).arg("run").arg(script), dir.path());
    assert!(text.contains("average") && text.contains("DAM") && text.contains("written"), "{text}");
    assert!(dir.path().join("first-merge/config.json").is_file());
}

/// The check of GPUs runs on the CPU, on the path of GPUs; every row passes, and none is missing.
#[test]
fn the_check_of_gpus_passes_on_the_path_of_gpus() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["cpu", "--quick", "--json", "report.json"];
    let text = prints(example("gpu_check").args(arguments), dir.path());
    for word in ["attention, window", "gemma3_text: gradients", "bake in f32: weights", "TFLOP/s"] {
        assert!(text.contains(word), "no {word:?}: {text}");
    }
    let report = std::fs::read(dir.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let skipped: Vec<_> = rows.iter().filter(|row| row["result"] != "pass").collect();
    assert!(skipped.len() == 1 && skipped[0]["note"] == "--quick", "{skipped:?}");
    // Both paths round differently somewhere: the reference is not the device itself.
    assert!(rows.iter().any(|row| row["dtype"] == "f32" && row["difference"].as_f64() > Some(0.0)));
    for family in dam_prelude::checkpoint::Architecture::families() {
        let row = |dtype: &str| {
            let name = format!("{family}: coefficients");
            rows.iter().any(|row| row["name"] == name.as_str() && row["dtype"] == dtype)
        };
        assert!(row("f32") && row("bf16"), "{family}");
    }
    assert_eq!(report["machine"]["device"], "cpu");
}
