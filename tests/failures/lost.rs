//! No work is lost: closed pipes, files that change, programs that write at once, and sessions that
//! reopen bit for bit.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{copy_checkpoint, dam, golden};
use dam_prelude::{Bake, Columns, Dam, Error, load};

/// Copies a golden model to `directory`.
fn copy(name: &str, directory: &Path) -> String {
    let to = directory.join(name);
    copy_checkpoint(name, &to);
    to.display().to_string()
}

/// A merge of copies that tests may damage.
fn merge(directory: &Path) -> Dam {
    let mut models = load([copy("model0", directory), copy("model1", directory)]).unwrap();
    for i in 0..2 {
        models
            .data(["model0", "model1"][i], &golden(&format!("data{i}.jsonl")).display().to_string())
            .unwrap();
    }
    models.wrap(Columns::default()).unwrap()
}

/// The reader closes the pipe; the rest is done all the same.
#[test]
fn a_closed_pipe_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let line = "load builtin:japanese builtin:math; wrap; train 2; bake merged; help";
    for json in [false, true] {
        let mut command = dam(dir.path());
        if json {
            command.arg("--json");
        }
        let line = line.replace("merged", if json { "merged-json" } else { "merged" });
        let mut child = command
            .args(["-c", &line])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(errors.matches("standard output is closed").count(), 1, "{errors}");
    }
    assert!(
        dir.path().join("merged/model.safetensors").is_file()
            && dir.path().join("merged-json/model.safetensors").is_file()
    );
}

#[test]
fn opened_sessions_equal_saved_ones_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    let settings = dam_prelude::train::Settings {
        lr: 0.1 + 0.2,
        temperature: 2.000_000_000_000_000_4,
        ..dam.settings()
    };
    dam.set(settings).unwrap();
    dam.train(5).unwrap();
    dam.eval(&[]).unwrap();
    let file = dir.path().join("s.dam");
    dam.save(&file).unwrap();
    let opened = Dam::open(&file).unwrap();
    assert_eq!(
        (opened.settings(), opened.history(), opened.scores()),
        (dam.settings(), dam.history(), dam.scores())
    );
    let again = dir.path().join("again.dam");
    opened.save(&again).unwrap();
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());
}

/// A flipped bit anywhere in the file is detected.
#[test]
fn damaged_sessions_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    dam.train(1).unwrap();
    let file = dir.path().join("s.dam");
    dam.save(&file).unwrap();
    let bytes = fs::read(&file).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 60) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 4;
        fs::write(&file, &damaged).unwrap();
        // Padding blanks in the header are not significant.
        if damaged[at] == b' ' ^ 4 && bytes[at] == b' ' {
            continue;
        }
        let error = Dam::open(&file).unwrap_err();
        assert!(error.hint().is_some(), "{at}: {error:?}");
    }
}

/// Of several programs that save to the same new file, one succeeds.
#[test]
fn one_of_several_concurrent_saves_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    let file = dir.path().join("s.dam");
    for _ in 0..5 {
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| dam.save_new(&file))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
        assert!(
            results.iter().all(|r| r.is_ok() || matches!(r, Err(Error::Exists { .. }))),
            "{results:?}"
        );
        fs::remove_file(&file).unwrap();
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// A checkpoint exists throughout its replacement, and leftovers of a killed program are removed by
/// the next.
#[test]
fn a_checkpoint_exists_throughout_its_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    let out = dir.path().join("out");
    dam.bake(&out).unwrap();
    // Leftovers of a killed program, and files of one that is still writing.
    let left = dir.path().join(".out.dam-killed012345");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("model.safetensors"), "half").unwrap();
    // Files of the user with similar names.
    let own = dir.path().join(".out.dam-backup");
    fs::create_dir(&own).unwrap();
    let busy = dir.path().join(".out.dam-busy01234567");
    fs::create_dir(&busy).unwrap();
    let lock = fs::File::open(&busy).unwrap();
    lock.lock().unwrap();
    let (done, seen) =
        (std::sync::atomic::AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                assert!(
                    out.join("config.json").is_file(),
                    "there was a moment without a checkpoint"
                );
                seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        for _ in 0..20 {
            dam.bake_with(&out, &Bake { force: true, ..Bake::default() }).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(seen.into_inner() > 100);
    assert!(!left.exists() && busy.exists() && own.exists());
}

/// Sources that change on disk are not merged as if they had not.
#[test]
fn changed_sources_are_detected() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    let merged = dam.models().merge(dam_prelude::methods::Linear::default()).unwrap();
    dam.step().unwrap();
    let weights = dir.path().join("model1/model.safetensors");
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    let touch =
        |when| fs::File::options().write(true).open(&weights).unwrap().set_modified(when).unwrap();
    touch(before + std::time::Duration::from_secs(5));
    let file = dir.path().join("s.dam");
    let changed = |error: Error| {
        assert!(
            matches!(&error, Error::Changed { file } if file.ends_with("model1/model.safetensors")),
            "{error:?}"
        )
    };
    changed(dam.bake(dir.path().join("out")).unwrap_err());
    changed(dam.save(&file).unwrap_err());
    changed(dam.save_new(&file).unwrap_err());
    changed(dam.step().unwrap_err());
    changed(dam.eval(&[]).unwrap_err());
    changed(merged.bake(dir.path().join("out")).unwrap_err());
    changed(merged.eval(&[]).unwrap_err());
    assert!(!file.exists() && !dir.path().join("out").exists());
    dam.inspect("").unwrap();
    dam.plot("coefficients").unwrap();
    // A truncated file is not read, which would crash the process; when it is restored, everything
    // works again.
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..100]).unwrap();
    changed(dam.step().unwrap_err());
    changed(dam.models().plot("distances").unwrap_err());
    changed(dam.models().wrap_from(Columns::default(), &merged).unwrap_err());
    fs::write(&weights, &bytes).unwrap();
    touch(before);
    dam.step().unwrap();
    dam.save(&file).unwrap();
}

/// Side files must be unchanged when they are written; training does not read them.
#[test]
fn changed_side_files_are_detected() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    let merged = dam.models().merge(dam_prelude::methods::Linear::default()).unwrap();
    let out = dir.path().join("out");
    for (name, text) in [("generation_config.json", Some("{}")), ("config.json", None)] {
        let file = dir.path().join("model1").join(name);
        let bytes = fs::read(&file).unwrap();
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        text.map_or_else(|| fs::remove_file(&file), |text| fs::write(&file, text)).unwrap();
        let changed = |error: Error| {
            assert!(matches!(&error, Error::Changed { file } if file.ends_with(name)), "{error:?}")
        };
        changed(dam.bake(&out).unwrap_err());
        changed(merged.bake(&out).unwrap_err());
        changed(dam.save(dir.path().join("s.dam")).unwrap_err());
        dam.step().unwrap();
        fs::write(&file, bytes).unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
    }
    dam.bake(&out).unwrap();
}

/// Snapshots within the memory budget are in memory, the others in files; both restore the same
/// state.
#[test]
fn snapshots_of_another_scheme_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let dam = merge(dir.path());
    let other = dam
        .models()
        .wrap(dam_prelude::Columns { bias: dam_prelude::BiasStart::Same, ..Columns::default() })
        .unwrap();
    let error = other.restore(&dam.snapshot().unwrap()).unwrap_err();
    assert!(error.to_string().contains("other options"), "{error}");
    other.restore(&other.snapshot().unwrap()).unwrap();
}

/// Shell completions, the manual page, and a script by its name.
#[test]
fn shell_completions_work() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_dam"))
            .current_dir(dir.path())
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr),
        )
    };
    for shell in ["bash", "zsh", "fish"] {
        let (ok, text) = run(&["completions", shell]);
        assert!(ok && text.contains("tour") && text.contains("completions"), "{shell}");
    }
    let (ok, text) = run(&["man"]);
    assert!(ok && text.contains(".TH dam"), "{text}");
    fs::write(dir.path().join("a.dam"), "dam> load builtin:math\n").unwrap();
    let (ok, text) = run(&["a.dam"]);
    assert!(ok && text.contains("math"), "{text}");
    let (ok, text) = run(&["lode"]);
    assert!(!ok && text.contains("lode") && text.contains("hint: "), "{text}");
}
