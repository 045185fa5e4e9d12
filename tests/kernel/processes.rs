//! The kernel's processes and files.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::common::jupyter::{self, Kernel, prepare};
use crate::own;

/// The descendants of `process`.
fn descendants(process: u32) -> Vec<u32> {
    let all = std::process::Command::new("ps").args(["-eo", "pid=,ppid="]).output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    let pairs: Vec<(u32, u32)> = (all.lines())
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .collect();
    let mut found = vec![process];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(pairs.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        next += 1;
    }
    found.split_off(1)
}

fn is_alive(process: u32) -> bool {
    let state = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", &process.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8(state.stdout).unwrap();
    !state.trim().is_empty() && !state.starts_with('Z')
}

#[test]
fn the_socket_is_private_and_only_child_processes_are_killed() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let directory = tempfile::tempdir().unwrap();
    let mut command = jupyter::dam(directory.path());
    // SAFETY: the closure only calls umask, which is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::umask(0);
            Ok(())
        });
    }
    let mut kernel = Kernel::start_as(&mut command);
    let socket = kernel.run("println!(\"{}\", std::env::var(\"DAM_NOTEBOOK\")?);").text("stdout");
    let socket = std::path::Path::new(socket.trim());
    let mode = std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "{}", socket.display());
    // A process that claims to be the cells' process but is not a descendant is not killed.
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    writeln!(stream, "{{\"hello\": \"cells\", \"pid\": {}}}", other.id()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kernel.shut_down();
    let alive = is_alive(other.id());
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(alive);
}

#[test]
fn kernels_run_side_by_side_and_leave_no_process() {
    let ((mut one, _a), (mut two, _b)) = (own(), own());
    let (first, second) = (one.send("let x = 1;"), two.send("let x = 2;"));
    one.outputs(&first, |_, _| {});
    two.outputs(&second, |_, _| {});
    assert_eq!(
        (one.reply()["status"].clone(), two.reply()["status"].clone()),
        ("ok".into(), "ok".into())
    );
    assert_eq!((one.run("x").text("shown"), two.run("x").text("shown")), ("1".into(), "2".into()));
    let mut processes = descendants(one.id());
    assert!(processes.len() >= 2, "{processes:?}");
    // A kernel is shut down while it runs a cell.
    one.send("loop {}");
    std::thread::sleep(Duration::from_secs(2));
    one.shut_down();
    // A killed kernel cannot clean up: its processes end by themselves.
    processes.extend(descendants(two.id()));
    drop(two);
    let begin = Instant::now();
    while processes.iter().any(|process| is_alive(*process)) {
        assert!(begin.elapsed() < Duration::from_secs(20), "still there: {processes:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The built prelude is deleted with the last kernel that uses it, but not while one is running.
#[test]
fn uninstalling_a_kernel_keeps_the_others_usable() {
    prepare();
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("cache");
    std::fs::create_dir_all(&cache).unwrap();
    // The prelude built once for all tests, without the directories of running kernels.
    let all = std::fs::read_dir(jupyter::cache().join("dam"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let built =
        all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("prelude-"));
    std::fs::create_dir(cache.join("dam")).unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-al")
        .args(built)
        .arg(cache.join("dam"))
        .status()
        .unwrap();
    assert!(copied.success());
    let dam = |arguments: &[&str]| {
        let mut command = jupyter::dam(directory.path());
        let output =
            command.env("XDG_CACHE_HOME", &cache).arg("jupyter").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let built = || {
        std::fs::read_dir(cache.join("dam"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with("prelude-"))
    };
    dam(&["install", "--prefix", "one"]);
    dam(&["install", "--prefix", "one", "--name", "other"]);
    dam(&["install", "--prefix", "two"]);
    assert!(
        dam(&["uninstall", "--prefix", "one", "--name", "other"]).contains("stays, because")
            && built()
    );
    assert!(
        dam(&["uninstall", "--prefix", "one"]).contains("two/share/jupyter/kernels/dam") && built()
    );
    assert!(dam(&["uninstall", "--prefix", "two"]).contains("removed ") && !built());
}

/// A named pipe as connection file is refused instead of blocking.
#[test]
fn a_named_pipe_is_refused_as_connection_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("connection.json");
    let name = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    // SAFETY: the path is a NUL-terminated string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let output = crate::common::dam(directory.path()).arg("kernel").arg(&file).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("a pipe"), "{errors}");
}
