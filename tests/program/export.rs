//! Exported scripts, programs and notebooks run and reproduce the coefficients bit for bit.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{copy_checkpoint, dam, golden, json};
use dam_prelude::coefficients::SCHEMES;
use dam_prelude::train::SETTINGS;
use serde_json::Value;

/// A session: its verbs, and its kind of result. A merge in training is saved; any other merge is
/// baked.
struct Session {
    name: String,
    verbs: String,
    result: ResultKind,
}

#[derive(Clone, Copy, PartialEq)]
enum ResultKind {
    Trained,
    Merged,
    Evolved,
}

const LOAD: &str = "load base=base m0=model0; load m1=model1 m2=model2; data m0=data0.jsonl 'm1=the \"data\" of m1.jsonl' m2=data2.jsonl";

fn session(name: &str, verbs: impl Into<String>, result: ResultKind) -> Session {
    Session { name: name.into(), verbs: verbs.into(), result }
}

fn sessions() -> Vec<Session> {
    let trained = |name: &str, verbs: String| session(name, verbs, ResultKind::Trained);
    let mut all = vec![
        trained(
            "settings",
            format!(
                "set seed=3 threads=1; {LOAD}; \
                 set lr=0.02 optimizer=mofo weight_decay=0.01 schedule=linear warmup=1 total_steps=9 clip=0.5 batch_size=2 \
                 shuffle=off max_length=16 temperature=1.5 reduction=token_mean kl=0.5 mse=0.1; \
                 wrap f=tanh train=linear,norm init=random bias=same base=on; loss; step; \
                 set entropy=0.01 cosine=0.02 l1=1e-6 l2=2e-6 overlap=1e-4 weighted_overlap=1e-4 top_k=4 seed=5 recompute=on \
                 device=cpu threads=2 dtype=f32 lr=1e-2; set lr; train 2; data m0=data1.jsonl; set optimizer=adamw; step 2"
            ),
        ),
        trained(
            "again",
            format!(
                "{LOAD}; set batch_size=2; wrap; train 2; plot loss loss.svg; eval; inspect 'layers.0.*'; save middle; \
                 wrap rows train=linear; step; set seed=9; wrap low_rank rank=2 init=random; step 2; set l1=1e-3"
            ),
        ),
        trained("more", format!("{LOAD}; wrap; step; load m3=model0; data m3=data1.jsonl; set lr=0.01; wrap; step 2")),
        trained("opened", format!("{LOAD}; set seed=4; wrap; step 2; save kept; step; open kept; step; wrap init=random; step")),
        trained(
            "started",
            format!("{LOAD}; wrap init=recipe.yml; merge linear; wrap init=ties bias=same; step; inspect; plot lean"),
        ),
        trained(
            "solved",
            format!(
                "{LOAD}; wrap init=solve examples=2; step; wrap rows; solve examples=3 ridge=0.2 target=merged residual=off \
                 unrestricted=off layers=1 other=data1.jsonl; solve data=none; step; solve inputs=own"
            ),
        ),
        session("regmean", format!("{LOAD}; merge wudi ridge=0.5; merge regmean examples=2"), ResultKind::Merged),
        trained(
            "builtin",
            "load ja=builtin:japanese builtin:math; plot distances; wrap; train 2; generate 'say \"it\\'; # now' tokens=2; \
             generate \"What's\n7 + 5?\" tokens=3; compare dam linear steps=1 examples=2 table.md; \
             bake out shard=1MB; bake out dtype=f32 --force; merge linear weight=1,2 other dtype=bf16; step; eval --all"
                .replace("\\'", "'\"'\"'"),
        ),
        session(
            "methods",
            format!(
                "{LOAD}; merge ties density=0.5 weight=1,0.5,0.25; inspect norm; merge recipe.yml; merge greedy_soup data=data0.jsonl; \
                 merge dare_ties seed=7; set seed=1; data m0=data2.jsonl; eval data1.jsonl data2.jsonl; plot lean"
            ),
            ResultKind::Merged,
        ),
        session("evolved", format!("{LOAD}; evolve linear budget=5 groups=2 examples=2 best.yml; eval"), ResultKind::Evolved),
        session(
            "settled",
            format!("{LOAD}; wrap; step; set seed=2; evolve budget=4 examples=1; set batch_size=2; inspect model.norm.weight"),
            ResultKind::Merged,
        ),
        session("soup", format!("{LOAD}; wrap; step; merge greedy_soup"), ResultKind::Merged),
    ];
    all.extend(SCHEMES.iter().map(|scheme| {
        let options = if scheme.name == "columns" { "" } else { " bias=same" };
        trained(
            &format!("scheme_{}", scheme.name),
            format!("{LOAD}; set batch_size=2; wrap {}{options}; step 2", scheme.name),
        )
    }));
    all
}

/// A directory with golden checkpoints and data, in which a session was run and exported in every
/// format.
struct Exported {
    directory: tempfile::TempDir,
    session: Session,
}

impl Exported {
    fn new(session: Session) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        ["base", "model0", "model1", "model2"]
            .iter()
            .for_each(|name| copy_checkpoint(name, &at.join(name)));
        for (from, to) in [
            (0, "data0.jsonl"),
            (1, "data1.jsonl"),
            (1, "the \"data\" of m1.jsonl"),
            (2, "data2.jsonl"),
        ] {
            std::fs::copy(golden(&format!("data{from}.jsonl")), at.join(to)).unwrap();
        }
        std::fs::write(at.join("recipe.yml"), "models:\n- model: m0\n  parameters: {weight: 0.5}\n- model: m1\n  parameters: {weight: 0.3}\n- model: m2\n  parameters: {weight: 0.2}\nmerge_method: linear\n").unwrap();
        let line = format!(
            "{}; export do.dam; export do.rs; export do.ipynb; {}",
            session.verbs,
            Self::end(&session).0
        );
        let (replies, ok) = json(at, &line);
        assert!(ok, "{}: {:?}", session.name, replies.last());
        std::fs::rename(at.join("end"), at.join("first")).unwrap();
        Self { directory, session }
    }

    /// What stores the result of a session, as a verb and in Rust.
    fn end(session: &Session) -> (&'static str, &'static str) {
        match session.result {
            ResultKind::Trained => ("save end", "dam.save(\"end\")?;"),
            ResultKind::Merged => ("bake end", "merged.bake(\"end\")?;"),
            ResultKind::Evolved => ("bake end", "evolved.merged.bake(\"end\")?;"),
        }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap()
    }

    /// Asserts that the result equals that of the original session byte for byte, and deletes it.
    fn assert_same(&self, form: &str) {
        let at = self.directory.path();
        let file = |name: &str| {
            if at.join(name).is_dir() {
                at.join(name).join("model.safetensors")
            } else {
                at.join(name)
            }
        };
        let [first, end] = ["first", "end"].map(|name| std::fs::read(file(name)).unwrap());
        assert!(first == end, "{}: {form} gives other coefficients", self.session.name);
        let end = at.join("end");
        if end.is_dir() { std::fs::remove_dir_all(end) } else { std::fs::remove_file(end) }
            .unwrap();
    }
}

/// The exported program as a module with `pub fn main`, which also stores its result.
fn program(exported: &Exported) -> String {
    let text = exported.read("do.rs");
    assert!(text.contains("\nfn main() -> dam_prelude::Result<()> {\n"), "{text}");
    let body = text.strip_suffix("    Ok(())\n}\n").unwrap_or_else(|| panic!("{text}"));
    let end = Exported::end(&exported.session).1;
    format!("{}    {end}\n    Ok(())\n}}\n", body.replace("\nfn main()", "\npub fn main()"))
}

/// The exported notebook as such a module, after a check of its cells against nbformat 4.5.
fn notebook(exported: &Exported) -> String {
    let notebook: Value = serde_json::from_str(&exported.read("do.ipynb")).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&notebook), ["cells", "metadata", "nbformat", "nbformat_minor"]);
    assert_eq!((&notebook["nbformat"], &notebook["nbformat_minor"]), (&4.into(), &5.into()));
    let kernel = &notebook["metadata"]["kernelspec"];
    assert_eq!((&kernel["name"], &kernel["display_name"]), (&"dam".into(), &"DAM (Rust)".into()));
    assert_eq!(notebook["metadata"]["language_info"]["name"], "rust");
    let mut ids = BTreeSet::new();
    let mut text =
        String::from("use dam_prelude::*;\n\npub fn main() -> dam_prelude::Result<()> {\n");
    let mut before = "";
    for cell in notebook["cells"].as_array().unwrap() {
        let id = cell["id"].as_str().unwrap();
        assert!(
            (1..=64).contains(&id.len())
                && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
            "{id}"
        );
        assert!(ids.insert(id.to_owned()), "{id} twice");
        assert!(cell["metadata"].is_object());
        let lines: Vec<&str> =
            cell["source"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
        let (last, rest) = lines.split_last().unwrap();
        assert!(
            rest.iter().all(|line| line.ends_with('\n') && line.matches('\n').count() == 1)
                && !last.contains('\n'),
            "{lines:?}"
        );
        let kind = cell["cell_type"].as_str().unwrap();
        match kind {
            "markdown" => assert_eq!(keys(cell), ["cell_type", "id", "metadata", "source"]),
            "code" => {
                assert_eq!(
                    keys(cell),
                    ["cell_type", "execution_count", "id", "metadata", "outputs", "source"]
                );
                assert!(
                    cell["execution_count"].is_null()
                        && cell["outputs"].as_array().unwrap().is_empty()
                );
                assert_eq!(before, "markdown", "{id} is explained");
                // The last statement is an expression, whose value a cell shows.
                let source = lines.concat();
                let shown = source.rfind(";\n").map_or(0, |i| i + 2);
                let shown = source[shown..]
                    .strip_prefix("}\n")
                    .map_or(shown, |rest| source.len() - rest.len());
                assert!(!source.ends_with(';') && !source[shown..].is_empty(), "{source}");
                let _ = writeln!(text, "{}\nlet _ = &({});", &source[..shown], &source[shown..]);
            }
            other => panic!("{other}"),
        }
        before = kind;
    }
    let end = Exported::end(&exported.session).1;
    text + end + "\nOk(())\n}\n"
}

/// Compiles `main.rs` with the library built for this test: the newest one that links.
fn compile(main: &Path) -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("libdam_prelude") && name.ends_with(".rlib")
    };
    let mut libraries: Vec<PathBuf> =
        std::fs::read_dir(&deps).unwrap().map(|e| e.unwrap().path()).filter(is_library).collect();
    libraries.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().modified().unwrap()));
    let out = main.with_extension("");
    let mut errors = String::new();
    for library in libraries {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc
            .args(["--edition", "2024", "-D", "warnings", "--extern"])
            .arg(format!("dam_prelude={}", library.display()));
        let output = rustc
            .arg("-L")
            .arg(format!("dependency={}", deps.display()))
            .arg("-o")
            .arg(&out)
            .arg(main)
            .output()
            .unwrap();
        if output.status.success() {
            return out;
        }
        if errors.is_empty() {
            errors = String::from_utf8_lossy(&output.stderr).into_owned();
        }
    }
    panic!("{errors}");
}

/// Every session, in every format.
#[test]
fn exported_sessions_reproduce_the_coefficients() {
    let all: Vec<Exported> = sessions().into_iter().map(Exported::new).collect();

    // As scripts.
    for exported in &all {
        let at = exported.directory.path();
        let text = exported.read("do.dam");
        assert!(text.starts_with("# "));
        std::fs::write(
            at.join("ended.dam"),
            format!("{text}{}\n", Exported::end(&exported.session).0),
        )
        .unwrap();
        let run = dam(at).args(["run", "ended.dam"]).output().unwrap();
        assert!(
            run.status.success(),
            "{}:\n{text}\n{}",
            exported.session.name,
            String::from_utf8_lossy(&run.stderr)
        );
        exported.assert_same("the script");
    }

    // As programs and notebooks, all in one binary to compile only once.
    let place = tempfile::tempdir().unwrap();
    let (mut modules, mut arms) = (String::new(), String::new());
    for exported in &all {
        for (form, text) in [("program", program(exported)), ("notebook", notebook(exported))] {
            let module = format!("{form}_{}", exported.session.name);
            std::fs::write(place.path().join(format!("{module}.rs")), text).unwrap();
            let _ = writeln!(modules, "mod {module};");
            let _ = writeln!(arms, "        Some(\"{module}\") => {module}::main(),");
        }
    }
    let main = format!(
        "{modules}\nfn main() -> dam_prelude::Result<()> {{\n    match std::env::args().nth(1).as_deref() {{\n{arms}        \
         other => panic!(\"{{other:?}}\"),\n    }}\n}}\n"
    );
    std::fs::write(place.path().join("main.rs"), main).unwrap();
    let binary = compile(&place.path().join("main.rs"));
    for exported in &all {
        for form in ["program", "notebook"] {
            let module = format!("{form}_{}", exported.session.name);
            let run = Command::new(&binary)
                .arg(&module)
                .current_dir(exported.directory.path())
                .output()
                .unwrap();
            assert!(run.status.success(), "{module}: {}", String::from_utf8_lossy(&run.stderr));
            exported.assert_same(&module);
        }
    }
}

/// The sessions above cover all settings.
#[test]
fn every_setting_is_exported() {
    let verbs: String =
        sessions().into_iter().map(|session| session.verbs).collect::<Vec<_>>().join(" ");
    for key in SETTINGS.iter().map(|setting| setting.key) {
        assert!(verbs.contains(&format!(" {key}=")), "{key}");
    }
}

/// Interrupted training is exported with the number of steps made.
#[test]
#[cfg(unix)]
fn interrupted_training_is_exported_with_the_steps_made() {
    use crate::common::terminal::{Terminal, ctrl};
    let exported = Exported::new(session("before", format!("{LOAD}; wrap"), ResultKind::Trained));
    let at = exported.directory.path();
    let mut dam = Terminal::dam(at);
    dam.line(&format!("{LOAD}; wrap; step"));
    dam.wait_for("step 1 ·");
    dam.line("train 1000000; bake never");
    std::thread::sleep(std::time::Duration::from_secs(1));
    dam.send(ctrl('c'));
    dam.wait_for("not run: bake never");
    dam.line("export stopped.dam; save end; quit");
    assert!(dam.end().success() && !at.join("never").exists());
    let end: Value = serde_json::from_str(&json(at, "open end; history").0[0].to_string()).unwrap();
    let steps = end["step"].as_u64().unwrap() - 1;
    let text = exported.read("stopped.dam");
    assert!(
        steps > 0 && text.lines().any(|line| line == format!("train {steps}")),
        "{steps}: {text}"
    );
}

/// Exports that are refused leave existing files unchanged.
#[test]
fn export_needs_a_known_extension_and_does_not_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let error = |line: &str| {
        let (replies, ok) = json(at, line);
        assert!(!ok, "{line}");
        let last = replies.last().unwrap().clone();
        format!("{} {}", last["error"].as_str().unwrap(), last["hint"].as_str().unwrap_or_default())
    };
    for name in ["merge", "merge.py", ".dam", "merge.dam.txt"] {
        let message = error(&format!("load builtin:math; export {name}"));
        assert!([".ipynb", ".dam", ".rs"].iter().all(|end| message.contains(end)), "{message}");
    }
    assert!(error("export a.dam").contains("nothing to export"));
    assert!(error("load builtin:math; export").contains("usage"));
    std::fs::write(at.join("a.dam"), "mine").unwrap();
    assert!(error("load builtin:math; export a.dam").contains("a.dam"));
    assert_eq!(std::fs::read_to_string(at.join("a.dam")).unwrap(), "mine");
    let (replies, ok) = json(at, "load builtin:math; export a.dam --force; export B.IPYNB");
    assert!(ok, "{replies:?}");
    let text = std::fs::read_to_string(at.join("a.dam")).unwrap();
    assert_eq!(replies[1]["bytes"], text.len());
    assert!(text.ends_with("\nload builtin:math\n"), "{text}");
    let mut left: Vec<String> = std::fs::read_dir(at)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["B.IPYNB", "a.dam"]);
}
