//! Sources from the hub, tested against a local server that simulates the faults of real ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{data, golden};
use crate::server::{COMMIT, Fault, Server, git, sha256};

/// A repository with a golden model, and files that are not needed.
fn repository() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(golden("model0")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            fs::read(&path).unwrap(),
        );
    }
    for unused in
        ["pytorch_model.bin", "onnx/model.onnx", "README.md", "original/consolidated.safetensors"]
    {
        files.insert(unused.into(), vec![0; 100]);
    }
    files
}

/// [`crate::server::program`] with additional environment variables.
fn program(home: &Path, endpoint: &str, verbs: &str, more: &[(&str, &str)]) -> Command {
    let mut command = crate::server::program(home, endpoint, verbs);
    command.envs(more.iter().copied());
    command
}

/// The output of `dam -c VERBS`.
fn run(home: &Path, endpoint: &str, verbs: &str, more: &[(&str, &str)]) -> (Output, String) {
    let output = program(home, endpoint, verbs, more).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[track_caller]
fn run_ok(home: &Path, endpoint: &str, verbs: &str, more: &[(&str, &str)]) -> String {
    let (output, text) = run(home, endpoint, verbs, more);
    assert!(output.status.success(), "{text}");
    text
}

#[track_caller]
fn assert_fails(home: &Path, endpoint: &str, verbs: &str, words: &[&str]) {
    let (output, text) = run(home, endpoint, verbs, &[]);
    assert!(!output.status.success(), "{text}");
    assert!(words.iter().all(|word| text.contains(word)) && text.contains("hint:"), "{text}");
    // The cache contains no incomplete files under their final names.
    let mut stack = vec![home.join("hub")];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                stack.push(path);
            } else if folder.ends_with("blobs") && path.extension().is_none() {
                let content = fs::read(&path).unwrap();
                assert!(repository().values().any(|whole| *whole == content), "{path:?}");
            }
        }
    }
    assert!(!home.join("evil").exists() && !home.parent().unwrap().join("evil").exists());
}

/// Side files are downloaded, within limits, and copied to the baked checkpoint.
#[test]
fn side_files_are_downloaded_from_the_hub() {
    let needed = [
        "1_Pooling/config.json",
        "LICENSE",
        "additional_chat_templates/tools.jinja",
        "processor_config.json",
        "modeling_x.py",
        "preprocessor_config.json",
        "tokenizer.model",
    ];
    let not = [
        "a.png",
        "figures/b.json",
        "another/config.json",
        "train.jsonl",
        "trainer_state.json",
        ".gitattributes",
    ];
    let mut files = repository();
    needed
        .iter()
        .chain(&not)
        .for_each(|name| drop(files.insert((*name).to_owned(), name.as_bytes().to_vec())));
    files.insert("large.json".into(), vec![b' '; (64 << 20) + 1]);
    let (server, home) = (Server::start(files), tempfile::tempdir().unwrap());
    let home = home.path();
    run_ok(home, &server.endpoint, "load a=org/name b=org/name; merge linear out", &[]);
    let log = server.log();
    for name in needed {
        assert!(log.iter().any(|line| line.contains(name)), "{name}: {log:?}");
        assert_eq!(fs::read_to_string(home.join("out").join(name)).unwrap(), name);
    }
    assert!(!not.iter().any(|name| log.iter().any(|line| line.contains(name))), "{log:?}");
    assert!(!home.join("out/large.json").exists());
    let snapshot = home.join("hub/models--org--name/snapshots").join(COMMIT);
    assert!(snapshot.join("modeling_x.py").exists() && !snapshot.join("large.json").exists());
    // The second time nothing is downloaded, and the same files are copied.
    run_ok(home, &server.endpoint, "load a=org/name b=org/name; merge linear again", &[]);
    let log = server.log();
    assert!(
        log.iter().all(|line| line.contains("/api/") || line.contains("large.json")),
        "{log:?}"
    );
    assert!(home.join("again/1_Pooling/config.json").exists());
    run_ok(
        home,
        "http://127.0.0.1:9",
        "load a=org/name b=org/name; merge linear offline",
        &[("HF_HUB_OFFLINE", "1")],
    );
    assert!(home.join("offline/LICENSE").exists());
}

#[test]
fn only_needed_files_are_downloaded_and_only_once() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    let home = home.path();
    let text = run_ok(home, &server.endpoint, "load org/name", &[]);
    assert!(text.contains("name") && text.contains("llama"), "{text}");
    let log = server.log();
    assert!(
        !log.iter().any(|l| l.contains(".bin")
            || l.contains("onnx")
            || l.contains("README")
            || l.contains("original")),
        "{log:?}"
    );
    // The cache layout is Python's.
    let folder = home.join("hub/models--org--name");
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    let pointer = folder.join("snapshots").join(COMMIT).join("model.safetensors");
    let target = fs::read_link(&pointer).unwrap();
    assert!(target.starts_with("../../blobs"), "{target:?}");
    assert_eq!(fs::read(&pointer).unwrap(), fs::read(golden("model0/model.safetensors")).unwrap());
    assert!(!folder.join("snapshots").join(COMMIT).join("README.md").exists());
    // Again: only the listing is requested. For a commit, nothing is.
    run_ok(home, &server.endpoint, "load org/name", &[]);
    assert_eq!(server.log(), ["/api/models/org/name/revision/main"]);
    run_ok(home, &server.endpoint, &format!("load org/name@{COMMIT}"), &[]);
    assert!(server.log().is_empty());
    // Offline, and with an unreachable server.
    run_ok(home, &server.endpoint, "load org/name", &[("HF_HUB_OFFLINE", "1")]);
    run_ok(home, "http://127.0.0.1:1", "load org/name", &[]);
    assert!(server.log().is_empty());
    // A revision with adapters.
    fs::create_dir(home.join("local")).unwrap();
    run_ok(home, &server.endpoint, "load org/name@v1", &[]);
    assert_eq!(fs::read_to_string(folder.join("refs/v1")).unwrap(), COMMIT);
}

#[test]
fn concurrent_programs_download_once() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| run_ok(home.path(), &server.endpoint, "load org/name", &[]));
        }
    });
    let folder = home.path().join("hub/models--org--name");
    let weights =
        fs::read_link(folder.join("snapshots").join(COMMIT).join("model.safetensors")).unwrap();
    let etag = weights.file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        fs::read(folder.join("blobs").join(&etag)).unwrap(),
        fs::read(golden("model0/model.safetensors")).unwrap()
    );
    assert!(!folder.join("blobs").join(format!("{etag}.incomplete")).exists());
    // The lock is where Python expects it.
    assert!(home.path().join("hub/.locks/models--org--name").join(format!("{etag}.lock")).exists());
}

#[test]
fn a_session_with_hub_sources_can_be_reopened() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    let data = golden("data0.jsonl");
    let verbs = format!(
        "load a=org/name b=org/other; data a={0} b={0}; wrap; step; save s.dam",
        data.display()
    );
    run_ok(home.path(), &server.endpoint, &verbs, &[]);
    run_ok(home.path(), "http://127.0.0.1:1", "open s.dam; step", &[]);
}

#[test]
fn shards_gguf_files_and_adapters_are_downloaded() {
    let (mut files, home) = (BTreeMap::new(), tempfile::tempdir().unwrap());
    for entry in fs::read_dir(data("families/llama-sharded")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            fs::read(&path).unwrap(),
        );
    }
    files.insert("q/llama.gguf".into(), fs::read(data("gguf/llama.gguf")).unwrap());
    let server = Server::start(files);
    run_ok(home.path(), &server.endpoint, "load org/sharded", &[]);
    let text = run_ok(home.path(), &server.endpoint, "load org/sharded/q/llama.gguf", &[]);
    assert!(text.contains("Q8_0"), "{text}");
    let adapter = ["adapter_config.json", "adapter_model.safetensors"];
    let files =
        adapter.map(|name| (name.to_owned(), fs::read(data("lora/plain").join(name)).unwrap()));
    let server = Server::start(files.into());
    let text = run_ok(
        home.path(),
        &server.endpoint,
        &format!("load {}+org/adapter", golden("model0").display()),
        &[],
    );
    assert!(text.contains("LoRA"), "{text}");
    let (output, text) = run(home.path(), &server.endpoint, "load org/adapter", &[]);
    assert!(!output.status.success() && text.contains("BASE+org/adapter"), "{text}");
}

#[test]
fn the_tokenizer_of_an_adapter_is_downloaded() {
    let math = Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude/builtin/math");
    let adapter = ["adapter_config.json", "adapter_model.safetensors"];
    let mut files = BTreeMap::from(
        adapter
            .map(|name| (name.to_owned(), fs::read(data("adapters/tokens").join(name)).unwrap())),
    );
    files.insert(
        "tokenizer_config.json".into(),
        fs::read(math.join("tokenizer_config.json")).unwrap(),
    );
    files.insert("notes.txt".into(), b"x".to_vec());
    let (server, home) = (Server::start(files), tempfile::tempdir().unwrap());
    let base = data("adapters/untied").display().to_string();
    run_ok(
        home.path(),
        &server.endpoint,
        &format!("load {base}+org/adapter; merge passthrough out"),
        &[],
    );
    let written = fs::read_to_string(home.path().join("out/tokenizer_config.json")).unwrap();
    assert!(written.contains("<|end|>"));
}

#[test]
fn the_token_is_sent_only_to_the_hub() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    server.require("secret");
    assert_fails(home.path(), &server.endpoint, "load org/name", &["gated", "licence", "HF_TOKEN"]);
    server.log();
    run_ok(home.path(), &server.endpoint, "load org/name", &[("HF_TOKEN", "secret")]);
    let log = server.log();
    assert!(log.iter().filter(|l| l.starts_with("cdn")).count() > 0, "{log:?}");
    assert!(log.iter().all(|l| l.starts_with("cdn") != l.contains(" token")), "{log:?}");
    // The token stored by Python's login.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("token"), "secret\n").unwrap();
    run_ok(other.path(), &server.endpoint, "load org/name", &[]);
}

#[test]
fn interrupted_downloads_are_resumed() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    let size = fs::metadata(golden("model0/model.safetensors")).unwrap().len() as usize;
    server.fault(Fault::Drops(size / 3 + 1));
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
    let log = server.log();
    assert!(log.iter().any(|l| l.contains(&format!("from {}", size / 3 + 1))), "{log:?}");
    // A server without range support starts over.
    let home = tempfile::tempdir().unwrap();
    let blobs = home.path().join("hub/models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    server.fault(Fault::Drops(0));
    assert_fails(
        home.path(),
        &server.endpoint,
        "load org/name",
        &["model.safetensors", "0 of", "load again"],
    );
    server.fault(Fault::NoRanges);
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
}

#[test]
fn faults_have_distinct_errors_and_leave_no_incomplete_files() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    let (home, endpoint) = (home.path(), server.endpoint.as_str());
    for (fault, words) in [
        (Fault::Status(404, "RepoNotFound"), &["repository"][..]),
        (Fault::Status(401, ""), &["repository", "private"]),
        (Fault::Status(403, "GatedRepo"), &["gated"]),
        (Fault::Status(500, ""), &["500"]),
        (Fault::Status(418, ""), &["418"]),
        (Fault::Garbage, &["unexpected response"]),
        (Fault::Outside, &["../../evil"]),
        (Fault::BadEtag, &["ETag"]),
        (Fault::Circle, &["redirects"]),
        (Fault::Short, &["model.safetensors", "received"]),
        (Fault::Long, &["received more"]),
    ] {
        println!("{fault:?}");
        server.fault(fault);
        assert_fails(home, endpoint, "load org/name", words);
    }
    server.fault(Fault::None);
    assert_fails(home, endpoint, "load org/name@v9", &["revision"]);
    assert_fails(home, "http://127.0.0.1:1", "load org/absent", &["cannot reach", "127.0.0.1"]);
    assert_fails(home, endpoint, "load org/name/none.gguf", &["none.gguf"]);
    server.fault(Fault::Busy(2));
    run_ok(home, endpoint, "load org/name", &[]);
}

/// Mirrors may use other ETags than checksums: the content is then accepted unverified.
#[test]
fn an_etag_that_is_not_a_checksum_is_accepted() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    server.fault(Fault::PartsEtag);
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
    let folder = home.path().join("hub/models--org--name");
    let pointer = folder.join("snapshots").join(COMMIT).join("model.safetensors");
    assert!(fs::read_link(&pointer).unwrap().to_string_lossy().ends_with("-2"));
    assert_eq!(fs::read(&pointer).unwrap(), fs::read(golden("model0/model.safetensors")).unwrap());
    // It is not downloaded again.
    server.log();
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
    assert_eq!(server.log(), ["/api/models/org/name/revision/main"]);
}

#[test]
fn datasets_are_downloaded_from_the_hub() {
    let home = tempfile::tempdir().unwrap();
    let line = |id: u32| format!("{{\"input_ids\": [{id}, 2, 3]}}\n").into_bytes();
    let files = [
        ("data/train-1.jsonl", 5),
        ("data/train-0.jsonl", 4),
        ("data/test-0.jsonl", 9),
        ("README.md", 1),
    ];
    let server = Server::start(files.map(|(name, id)| (name.to_owned(), line(id))).into());
    let load = format!("load a={}", golden("model0").display());
    let text = run_ok(home.path(), &server.endpoint, &format!("{load}; data a=hub:org/set"), &[]);
    assert!(text.contains("2 examples"), "{text}");
    let text = run_ok(
        home.path(),
        &server.endpoint,
        &format!("{load}; data a=hub:org/set@main/data/test-0.jsonl"),
        &[],
    );
    assert!(text.contains("1 examples"), "{text}");
    assert!(server.log().iter().any(|l| l.contains("/datasets/org/set/resolve/")));
    run_ok(home.path(), "http://127.0.0.1:1", &format!("{load}; data a=hub:org/set"), &[]);
    let (output, text) =
        run(home.path(), &server.endpoint, &format!("{load}; data a=hub:../x"), &[]);
    assert!(!output.status.success() && text.contains("hub:org/name"), "{text}");
}

#[test]
fn unsupported_weights_are_named() {
    let home = tempfile::tempdir().unwrap();
    let only = |names: &[&str]| {
        Server::start(names.iter().map(|n| ((*n).to_owned(), b"{}".to_vec())).collect())
    };
    let server = only(&["config.json", "tf_model.h5"]);
    assert_fails(
        home.path(),
        &server.endpoint,
        "load org/h5",
        &["neither safetensors nor pytorch_model.bin"],
    );
    let server = only(&["a.Q4_K.gguf"]);
    assert_fails(home.path(), &server.endpoint, "load org/gguf", &["org/gguf/a.Q4_K.gguf"]);
}

#[test]
fn bin_weights_are_downloaded_if_there_are_no_others() {
    let (home, mut files) = (tempfile::tempdir().unwrap(), BTreeMap::new());
    for entry in fs::read_dir(data("formats/bin-shards")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(
            path.file_name().unwrap().to_str().unwrap().to_owned(),
            fs::read(&path).unwrap(),
        );
    }
    let server = Server::start(files);
    run_ok(home.path(), &server.endpoint, "load org/old", &[]);
    let parts = server.log().iter().filter(|l| l.contains(".bin") && !l.contains("index")).count();
    assert!(parts >= 2, "{:?}", server.log());
    // All of them are in the cache.
    run_ok(home.path(), "http://127.0.0.1:1", "load org/old", &[("HF_HUB_OFFLINE", "1")]);
}

#[test]
fn a_file_with_a_wrong_checksum_is_downloaded_once_more() {
    let server = Server::start(repository());
    for fault in [Fault::Flipped(1), Fault::FlippedSmall(1)] {
        let home = tempfile::tempdir().unwrap();
        server.fault(fault);
        run_ok(home.path(), &server.endpoint, "load org/name", &[]);
        let folder = home.path().join("hub/models--org--name/snapshots").join(COMMIT);
        for name in ["model.safetensors", "config.json"] {
            assert_eq!(fs::read(folder.join(name)).unwrap(), repository()[name], "{name}");
        }
    }
    let home = tempfile::tempdir().unwrap();
    server.fault(Fault::Flipped(100));
    server.log();
    assert_fails(
        home.path(),
        &server.endpoint,
        "load org/name",
        &["model.safetensors", "twice", "checksum", "HF_ENDPOINT"],
    );
    assert_eq!(server.log().iter().filter(|line| line.starts_with("cdn")).count(), 2);
    let blobs = home.path().join("hub/models--org--name/blobs");
    assert!(
        !blobs.join(format!("{}.incomplete", sha256(&repository()["model.safetensors"]))).exists()
    );
    server.fault(Fault::FlippedSmall(100));
    assert_fails(home.path(), &server.endpoint, "load org/other", &["twice", "checksum"]);
}

/// The checksum covers what an earlier attempt, or someone else, left in the cache.
#[test]
fn resumed_downloads_are_verified_in_full() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    let whole = repository()["model.safetensors"].clone();
    let blobs = home.path().join("hub/models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&whole)));
    let mut wrong = whole[..whole.len() / 2].to_vec();
    wrong[100] ^= 1;
    for wrong in [wrong, vec![0; whole.len()], vec![0; whole.len() + 5]] {
        fs::write(&part, wrong).unwrap();
        run_ok(home.path(), &server.endpoint, "load org/name", &[]);
        assert_eq!(fs::read(blobs.join(sha256(&whole))).unwrap(), whole);
        fs::remove_dir_all(home.path().join("hub/models--org--name/snapshots")).unwrap();
        fs::remove_file(blobs.join(sha256(&whole))).unwrap();
    }
    // A valid half is not downloaded again.
    fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    server.log();
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
    let cdn: Vec<String> =
        server.log().into_iter().filter(|line| line.starts_with("cdn")).collect();
    assert!(cdn.iter().any(|line| line.ends_with(&format!("from {}", whole.len() / 2))), "{cdn:?}");
    assert!(blobs.join(git(&repository()["config.json"])).exists());
}

#[test]
fn downloads_that_stall_or_make_no_progress_fail() {
    let size = repository()["model.safetensors"].len();
    let quick = [("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    let stuck = |fault: Fault, words: &[&str]| {
        let (server, home, begin) =
            (Server::start(repository()), tempfile::tempdir().unwrap(), Instant::now());
        server.fault(fault);
        let (output, text) = run(home.path(), &server.endpoint, "load org/name", &quick);
        assert!(!output.status.success() && words.iter().all(|word| text.contains(word)), "{text}");
        assert!(
            text.contains("hint:") && begin.elapsed() < Duration::from_secs(25),
            "{:?} {text}",
            begin.elapsed()
        );
        server.log().iter().filter(|line| line.starts_with("cdn")).count()
    };
    let tries = stuck(Fault::Stalls(size / 3), &["model.safetensors", "load again"]);
    // The first attempts make progress: a third each.
    assert!((5..=10).contains(&tries), "{tries}");
    stuck(Fault::Stalls(0), &["0 of", "timeout"]);
    stuck(Fault::Trickles, &["bytes per second"]);
    stuck(Fault::TricklesListing, &["bytes per second"]);
    // Without ranges, each attempt ends below the best so far.
    let tries = stuck(
        Fault::BreaksAnew(vec![size / 2, size / 3, size / 4]),
        &["cannot resume", &format!("{} of {size}", size / 2)],
    );
    assert!((5..=7).contains(&tries), "{tries}");
}

#[test]
fn requested_waits_are_limited_and_ctrl_c_ends_them() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    server.fault(Fault::Wait(3600));
    let begin = Instant::now();
    assert_fails(home.path(), &server.endpoint, "load org/name", &["429", "3600 s"]);
    assert!(begin.elapsed() < Duration::from_secs(5));
    let stopped = |fault: Fault, home: &Path| {
        server.fault(fault);
        let mut command = program(home, &server.endpoint, "load org/name", &[]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        // SAFETY: sends a signal to a child process.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        let begin = Instant::now();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?} {text}", begin.elapsed());
        assert!(!output.status.success() && text.contains("stopped"), "{text}");
    };
    stopped(Fault::Wait(50), home.path());
    stopped(Fault::Stalls(1000), home.path());
    stopped(Fault::Trickles, home.path());
    stopped(Fault::TricklesListing, home.path());
    // The partial download is kept and resumed.
    server.fault(Fault::None);
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
}

#[test]
fn links_that_leave_the_cache_are_not_followed() {
    let server = Server::start(repository());
    let whole = repository()["model.safetensors"].clone();
    let blob = sha256(&whole);
    let at = |link: &str, is_folder: bool| {
        let home = tempfile::tempdir().unwrap();
        let (out, folder) = (home.path().join("out"), home.path().join("hub/models--org--name"));
        fs::create_dir(&out).unwrap();
        fs::write(out.join("kept"), "kept").unwrap();
        let link = match link {
            "" => folder,
            link => folder.join(link.replace("BLOB", &blob).replace("COMMIT", COMMIT)),
        };
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(if is_folder { out.clone() } else { out.join("kept") }, &link).unwrap();
        let (output, text) = run(home.path(), &server.endpoint, "load org/name", &[]);
        assert!(
            !output.status.success() && text.contains("leaves the cache") && text.contains("hint:"),
            "{link:?} {text}"
        );
        assert_eq!(fs::read_to_string(out.join("kept")).unwrap(), "kept", "{link:?}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "{link:?}");
    };
    for link in
        ["blobs/BLOB.incomplete", "blobs/BLOB", "refs/main", "snapshots/COMMIT/model.safetensors"]
    {
        at(link, false);
    }
    for link in [
        "",
        "blobs",
        "refs",
        "snapshots",
        "snapshots/COMMIT",
        "../.locks",
        "../.locks/models--org--name",
    ] {
        at(link, true);
    }
    // The same for reading a complete snapshot.
    let home = tempfile::tempdir().unwrap();
    run_ok(home.path(), &server.endpoint, "load org/name", &[]);
    let pointer =
        home.path().join("hub/models--org--name/snapshots").join(COMMIT).join("config.json");
    fs::write(home.path().join("config.json"), fs::read(&pointer).unwrap()).unwrap();
    fs::remove_file(&pointer).unwrap();
    symlink(home.path().join("config.json"), &pointer).unwrap();
    let (output, text) =
        run(home.path(), &server.endpoint, "load org/name", &[("HF_HUB_OFFLINE", "1")]);
    assert!(!output.status.success() && text.contains("leaves the cache"), "{text}");
}

#[test]
fn the_cache_is_where_python_expects_it() {
    let (server, home) = (Server::start(repository()), tempfile::tempdir().unwrap());
    let at = |name: &str| home.path().join(name).display().to_string();
    run_ok(
        home.path(),
        &server.endpoint,
        "load org/name",
        &[("HUGGINGFACE_HUB_CACHE", &at("older"))],
    );
    assert!(
        home.path().join("older/models--org--name").exists() && !home.path().join("hub").exists()
    );
    // The newer name takes precedence.
    run_ok(
        home.path(),
        &server.endpoint,
        "load org/name",
        &[("HUGGINGFACE_HUB_CACHE", &at("other")), ("HF_HUB_CACHE", &at("newer"))],
    );
    assert!(
        home.path().join("newer/models--org--name").exists() && !home.path().join("other").exists()
    );
}
