//! Starts a kernel of this program and talks to it as a Jupyter client.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use jupyter_protocol::messaging::{
    CompleteRequest, ExecuteRequest, HistoryRequest, InputReply, InspectRequest, InterruptRequest,
    IsCompleteRequest, JupyterMessage, JupyterMessageContent, KernelInfoRequest, ShutdownRequest,
};
use jupyter_zmq_client::{
    ClientControlConnection, ClientIoPubConnection, ClientShellConnection, ClientStdinConnection,
    create_client_control_connection, create_client_iopub_connection,
    create_client_shell_connection_with_identity, create_client_stdin_connection_with_identity,
    peek_ports_with_listeners, peer_identity_for_session,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// The timeout of each operation.
const TIMEOUT: Duration = Duration::from_secs(300);

/// One output of a cell as in a notebook file, with its display id.
pub type Output = Value;

/// The result of a cell.
#[derive(Debug, Default)]
pub struct CellResult {
    pub outputs: Vec<Output>,
    pub status: String,
    /// The times at which live displays were updated.
    pub updates: Vec<Instant>,
    pub seconds: f64,
}

impl CellResult {
    /// All output of one kind: `stdout`, `stderr`, `error`, or `shown` for plain text.
    pub fn text(&self, kind: &str) -> String {
        let text = |output: &Output| match (output["output_type"].as_str(), kind) {
            (Some("stream"), _) if output["name"] == kind => {
                output["text"].as_str().map(str::to_owned)
            }
            (Some("error"), "error") => {
                Some(format!("{}: {}\n{}", output["ename"], output["evalue"], output["traceback"]))
            }
            (Some("execute_result" | "display_data"), "shown") => {
                output["data"]["text/plain"].as_str().map(str::to_owned)
            }
            _ => None,
        };
        self.outputs.iter().filter_map(text).collect::<Vec<_>>().join("\n")
    }
}

/// The process of a kernel, killed on drop.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Sockets = (ClientShellConnection, ClientControlConnection, ClientIoPubConnection);

/// Connects to a kernel that may still be starting. Another test that is starting a process may
/// briefly hold the ports open, which resets the connection, so this is retried.
async fn connect(info: &ConnectionInfo, session: &str) -> Sockets {
    let sockets = || async {
        let identity = peer_identity_for_session(session)?;
        let shell = create_client_shell_connection_with_identity(info, session, identity).await?;
        let control = create_client_control_connection(info, session).await?;
        jupyter_zmq_client::Result::Ok((
            shell,
            control,
            create_client_iopub_connection(info, "", session).await?,
        ))
    };
    for _ in 0..100 {
        if let Ok(sockets) = sockets().await {
            return sockets;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sockets().await.unwrap()
}

/// A running kernel.
pub struct Kernel {
    runtime: Runtime,
    process: Process,
    shell: ClientShellConnection,
    control: ClientControlConnection,
    iopub: ClientIoPubConnection,
    info: ConnectionInfo,
    _directory: tempfile::TempDir,
}

/// The cache directory of the prelude built for tests, inside the target directory.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")
}

/// `dam` with the environment for notebooks.
pub fn dam(directory: &Path) -> Command {
    let mut command = super::dam(directory);
    command.env("XDG_CACHE_HOME", cache()).env_remove("RUST_BACKTRACE");
    command
}

/// Builds the prelude for cells once; the lock file makes tests in other processes wait.
pub fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        std::fs::create_dir_all(cache()).unwrap();
        let lock = std::fs::File::create(cache().join("lock")).unwrap();
        lock.lock().unwrap();
        let place = tempfile::tempdir().unwrap();
        let output =
            dam(place.path()).args(["jupyter", "install", "--prefix", "."]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

impl Kernel {
    /// Starts a kernel in `directory`.
    pub fn start(directory: &Path) -> Self {
        Self::start_as(&mut dam(directory))
    }

    /// Starts a kernel with a command from [`dam`].
    pub fn start_as(command: &mut Command) -> Self {
        prepare();
        let runtime = Runtime::new().unwrap();
        let files = tempfile::tempdir().unwrap();
        let (ports, listeners) =
            runtime.block_on(peek_ports_with_listeners("127.0.0.1".parse().unwrap(), 5)).unwrap();
        let info = ConnectionInfo {
            ip: "127.0.0.1".into(),
            transport: Transport::TCP,
            shell_port: ports[0],
            iopub_port: ports[1],
            stdin_port: ports[2],
            control_port: ports[3],
            hb_port: ports[4],
            key: "a key of the tests".into(),
            signature_scheme: "hmac-sha256".into(),
            kernel_name: None,
        };
        let file = files.path().join("connection.json");
        std::fs::write(&file, serde_json::to_string(&info).unwrap()).unwrap();
        drop(listeners);
        let process =
            Process(command.env("JPY_PARENT_PID", "").arg("kernel").arg(&file).spawn().unwrap());
        let (shell, control, iopub) = runtime.block_on(connect(&info, "tests"));
        let mut kernel = Self { runtime, process, shell, control, iopub, info, _directory: files };
        kernel.wait_until_ready();
        kernel
    }

    /// Sends a cell as another client, which disconnects before the reply.
    pub fn send_and_disconnect(&mut self, code: &str) {
        let request: JupyterMessage = JupyterMessage::new(ExecuteRequest::new(code.into()), None);
        self.runtime.block_on(async {
            let (mut shell, ..) = connect(&self.info, "another").await;
            shell.send(request.clone()).await.unwrap();
            // The request has arrived when the kernel reports busy for it.
            while self
                .iopub
                .read()
                .await
                .unwrap()
                .parent_header
                .is_none_or(|parent| parent.msg_id != request.header.msg_id)
            {}
        });
    }

    /// The status of the reply to `code`, sent by the first of two clients with the same identity.
    pub fn run_with_shared_identity(&mut self, code: &str) -> Value {
        let request: JupyterMessage = JupyterMessage::new(ExecuteRequest::new(code.into()), None);
        self.runtime.block_on(async {
            let (mut shell, ..) = connect(&self.info, "twins").await;
            let _twin = connect(&self.info, "twins").await;
            shell.send(request).await.unwrap();
            json!(timeout(TIMEOUT, shell.read()).await.unwrap().unwrap().content)["status"].clone()
        })
    }

    /// Runs a cell that requests input; returns the prompt and the standard output.
    pub fn run_and_answer(&mut self, code: &str, line: &str) -> (String, String) {
        let mut stdin = self.stdin();
        let request = self
            .send_request(ExecuteRequest { allow_stdin: true, ..ExecuteRequest::new(code.into()) });
        let question = self.runtime.block_on(async {
            let question = timeout(TIMEOUT, stdin.read()).await.unwrap().unwrap();
            let answer = InputReply { value: line.into(), ..InputReply::default() };
            stdin.send(JupyterMessage::new(answer, Some(&question))).await.unwrap();
            json!(question.content)["prompt"].as_str().unwrap().to_owned()
        });
        let cell = self.outputs(&request, |_, _| {});
        assert_eq!(self.reply()["status"], "ok");
        (question, cell.text("stdout"))
    }

    /// Runs a cell that requests input and interrupts it. A reply to that request is sent after the
    /// cell has ended, and again while the cell `next` is requesting input. Returns the standard
    /// output of both.
    pub fn run_and_answer_late(&mut self, code: &str, next: &str) -> (String, String) {
        let mut stdin = self.stdin();
        let request = self
            .send_request(ExecuteRequest { allow_stdin: true, ..ExecuteRequest::new(code.into()) });
        let question =
            self.runtime.block_on(async { timeout(TIMEOUT, stdin.read()).await.unwrap().unwrap() });
        self.interrupt();
        let first = self.outputs(&request, |_, _| {});
        self.reply();
        let answer = |value: &str, question: &JupyterMessage| {
            JupyterMessage::new(
                InputReply { value: value.into(), ..InputReply::default() },
                Some(question),
            )
        };
        self.runtime.block_on(stdin.send(answer("late", &question))).unwrap();
        let request = self
            .send_request(ExecuteRequest { allow_stdin: true, ..ExecuteRequest::new(next.into()) });
        self.runtime.block_on(async {
            let own = timeout(TIMEOUT, stdin.read()).await.unwrap().unwrap();
            stdin.send(answer("later", &question)).await.unwrap();
            stdin.send(answer("own", &own)).await.unwrap();
        });
        let second = self.outputs(&request, |_, _| {});
        assert_eq!(self.reply()["status"], "ok");
        (first.text("stdout"), second.text("stdout"))
    }

    fn stdin(&self) -> ClientStdinConnection {
        self.runtime.block_on(async {
            let identity = peer_identity_for_session("tests").unwrap();
            create_client_stdin_connection_with_identity(&self.info, "tests", identity)
                .await
                .unwrap()
        })
    }

    /// The ports of the five sockets.
    pub fn ports(&self) -> [u16; 5] {
        let ConnectionInfo { shell_port, iopub_port, stdin_port, control_port, hb_port, .. } =
            self.info;
        [shell_port, iopub_port, stdin_port, control_port, hb_port]
    }

    /// Waits until the kernel replies and its iopub messages arrive.
    fn wait_until_ready(&mut self) {
        let begin = Instant::now();
        let (mut answers, mut publishes) = (false, false);
        while !(answers && publishes) {
            assert!(begin.elapsed() < Duration::from_secs(60), "the kernel does not answer");
            self.send_request(KernelInfoRequest {});
            let soon = Duration::from_millis(500);
            let (shell, iopub) = (&mut self.shell, &mut self.iopub);
            self.runtime.block_on(async {
                answers |= timeout(soon, shell.read()).await.is_ok_and(|reply| reply.is_ok());
                publishes |= timeout(soon, iopub.read()).await.is_ok_and(|message| message.is_ok());
            });
        }
        // Discards the replies to all requests.
        let (shell, soon) = (&mut self.shell, Duration::from_millis(300));
        self.runtime.block_on(async { while timeout(soon, shell.read()).await.is_ok() {} });
    }

    fn send_request(&mut self, content: impl Into<JupyterMessageContent>) -> JupyterMessage {
        let message = JupyterMessage::new(content, None);
        self.runtime.block_on(self.shell.send(message.clone())).unwrap();
        message
    }

    /// The content of the next reply.
    pub fn reply(&mut self) -> Value {
        let reply = self
            .runtime
            .block_on(async { timeout(TIMEOUT, self.shell.read()).await })
            .unwrap()
            .unwrap();
        json!(reply.content)
    }

    /// Sends a cell without waiting for the reply.
    pub fn send(&mut self, code: &str) -> JupyterMessage {
        self.send_request(ExecuteRequest::new(code.into()))
    }

    /// Runs a cell to the end.
    pub fn run(&mut self, code: &str) -> CellResult {
        self.run_while(code, |_, _| {})
    }

    /// Runs a cell; calls `look` after every message for it.
    pub fn run_while(
        &mut self,
        code: &str,
        look: impl FnMut(&mut Self, &CellResult),
    ) -> CellResult {
        let begin = Instant::now();
        let request = self.send(code);
        let mut cell = self.outputs(&request, look);
        cell.seconds = begin.elapsed().as_secs_f64();
        cell.status = self.reply()["status"].as_str().unwrap().into();
        cell
    }

    /// The outputs of a cell that was sent, up to idle.
    pub fn outputs(
        &mut self,
        request: &JupyterMessage,
        mut look: impl FnMut(&mut Self, &CellResult),
    ) -> CellResult {
        let mut cell = CellResult::default();
        loop {
            let message = self
                .runtime
                .block_on(async { timeout(TIMEOUT, self.iopub.read()).await })
                .unwrap()
                .unwrap();
            if message
                .parent_header
                .as_ref()
                .is_none_or(|parent| parent.msg_id != request.header.msg_id)
            {
                continue;
            }
            let content = json!(message.content);
            match message.message_type() {
                "status" if content["execution_state"] == "idle" => return cell,
                "status" | "execute_input" => continue,
                "clear_output" => cell.outputs.clear(),
                "stream" => match cell.outputs.last_mut() {
                    Some(last) if last["output_type"] == "stream" && last["name"] == content["name"] => {
                        let text = last["text"].as_str().unwrap().to_owned() + content["text"].as_str().unwrap();
                        last["text"] = text.into();
                    }
                    _ => cell.outputs.push(json!({"output_type": "stream", "name": content["name"], "text": content["text"]})),
                },
                "update_display_data" => {
                    cell.updates.push(Instant::now());
                    let id = &content["transient"]["display_id"];
                    let shown = cell.outputs.iter_mut().find(|output| output["id"] == *id).expect("shown before");
                    shown["data"] = content["data"].clone();
                }
                "display_data" => {
                    let id = &content["transient"]["display_id"];
                    cell.outputs.push(json!({"output_type": "display_data", "data": content["data"], "metadata": {}, "id": id}));
                }
                "execute_result" => cell.outputs.push(json!({
                    "output_type": "execute_result", "data": content["data"], "metadata": {},
                    "execution_count": content["execution_count"],
                })),
                "error" => cell.outputs.push(json!({
                    "output_type": "error", "ename": content["ename"], "evalue": content["evalue"], "traceback": content["traceback"],
                })),
                other => panic!("an unexpected {other}"),
            }
            look(self, &cell);
        }
    }

    /// Interrupts the running cell.
    pub fn interrupt(&mut self) {
        self.command(InterruptRequest {});
    }

    fn command(&mut self, content: impl Into<JupyterMessageContent>) {
        let message = JupyterMessage::new(content, None);
        self.runtime.block_on(async {
            self.control.send(message).await.unwrap();
            timeout(Duration::from_secs(30), self.control.read()).await.unwrap().unwrap();
        });
    }

    /// The content of the reply to a request. Asserts that the kernel reported busy, then idle,
    /// which clients require of a reply.
    pub fn request(&mut self, content: impl Into<JupyterMessageContent>) -> Value {
        let request = self.send_request(content);
        let reply = self.reply();
        self.assert_busy_then_idle(&request);
        reply
    }

    /// The same on the control socket.
    pub fn control_request(&mut self, content: impl Into<JupyterMessageContent>) -> Value {
        let request = JupyterMessage::new(content, None);
        let reply = self.runtime.block_on(async {
            self.control.send(request.clone()).await.unwrap();
            timeout(Duration::from_secs(30), self.control.read()).await.unwrap().unwrap()
        });
        self.assert_busy_then_idle(&request);
        json!(reply.content)
    }

    fn assert_busy_then_idle(&mut self, request: &JupyterMessage) {
        let mut states = Vec::new();
        while states.last().is_none_or(|state| state != "idle") {
            let message = self
                .runtime
                .block_on(async { timeout(TIMEOUT, self.iopub.read()).await })
                .unwrap()
                .unwrap();
            if message
                .parent_header
                .as_ref()
                .is_some_and(|parent| parent.msg_id == request.header.msg_id)
            {
                states.push(json!(message.content)["execution_state"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(states, ["busy", "idle"], "{}", request.message_type());
    }

    /// The next update of a display shown by an earlier cell: its new content.
    pub fn update(&mut self) -> Value {
        loop {
            let soon = Duration::from_secs(60);
            let message = self
                .runtime
                .block_on(async { timeout(soon, self.iopub.read()).await })
                .unwrap()
                .unwrap();
            match message.message_type() {
                "update_display_data" => return json!(message.content),
                "stream" => panic!("{}", json!(message.content)),
                _ => {}
            }
        }
    }

    /// The completions at the end of `code`.
    pub fn complete(&mut self, code: &str) -> Vec<String> {
        let reply =
            self.request(CompleteRequest { code: code.into(), cursor_pos: code.chars().count() });
        reply["matches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    }

    /// The documentation at the end of `code`.
    pub fn inspect(&mut self, code: &str) -> String {
        self.request(InspectRequest {
            code: code.into(),
            cursor_pos: code.chars().count(),
            detail_level: Some(0),
        })["data"]["text/plain"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn is_complete(&mut self, code: &str) -> String {
        self.request(IsCompleteRequest { code: code.into() })["status"].as_str().unwrap().into()
    }

    pub fn history(&mut self) -> Value {
        self.request(HistoryRequest::Tail { n: 3, output: false, raw: true })["history"].clone()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Shuts the kernel down and waits until it has ended.
    pub fn shut_down(mut self) {
        self.command(ShutdownRequest { restart: false });
        let begin = Instant::now();
        while self.process.0.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the kernel does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
