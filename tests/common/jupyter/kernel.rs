//! A running kernel, and a Jupyter client of it.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::connection_info::Transport;
use jupyter_protocol::messaging::{
    ExecuteRequest, InterruptRequest, JupyterMessage, JupyterMessageContent, KernelInfoRequest,
    ShutdownRequest,
};
use jupyter_zmq_client::{
    ClientControlConnection, ClientIoPubConnection, ClientShellConnection,
    create_client_control_connection, create_client_iopub_connection,
    create_client_shell_connection_with_identity, peek_ports_with_listeners,
    peer_identity_for_session,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::installed::{dam, prepare};
use super::result::CellResult;

/// The timeout of each operation.
pub const TIMEOUT: Duration = Duration::from_secs(300);

/// The process of a kernel, killed on drop.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub type Sockets = (ClientShellConnection, ClientControlConnection, ClientIoPubConnection);

/// Connects to a kernel that may still be starting. Another test that is starting a process may
/// briefly hold the ports open, which resets the connection, so this is retried.
pub async fn connect(info: &ConnectionInfo, session: &str) -> Sockets {
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

/// Whether `message` is about `request`.
fn is_for(message: &JupyterMessage, request: &JupyterMessage) -> bool {
    let parent = message.parent_header.as_ref();
    parent.is_some_and(|parent| parent.msg_id == request.header.msg_id)
}

/// A running kernel.
pub struct Kernel {
    pub(super) runtime: Runtime,
    process: Process,
    shell: ClientShellConnection,
    control: ClientControlConnection,
    pub(super) iopub: ClientIoPubConnection,
    pub(super) info: ConnectionInfo,
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
        let mut kernel = Self { runtime, process, shell, control, iopub, info };
        kernel.wait_until_ready();
        kernel
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
        let (mut sent, mut answers, mut publishes) = (0, 0, false);
        let soon = Duration::from_millis(500);
        while !(answers > 0 && publishes) {
            assert!(begin.elapsed() < Duration::from_secs(60), "the kernel does not answer");
            self.send_request(KernelInfoRequest {});
            sent += 1;
            let (shell, iopub) = (&mut self.shell, &mut self.iopub);
            self.runtime.block_on(async {
                let answered = timeout(soon, shell.read()).await.is_ok_and(|reply| reply.is_ok());
                answers += usize::from(answered);
                publishes |= timeout(soon, iopub.read()).await.is_ok_and(|message| message.is_ok());
            });
        }
        // Discards the other replies.
        let shell = &mut self.shell;
        self.runtime.block_on(async {
            while answers < sent && timeout(soon, shell.read()).await.is_ok() {
                answers += 1;
            }
        });
    }

    pub(super) fn send_request(
        &mut self,
        content: impl Into<JupyterMessageContent>,
    ) -> JupyterMessage {
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

    /// The next message on the iopub socket, which arrives within `limit`.
    pub(super) fn published(&mut self, limit: Duration) -> JupyterMessage {
        let iopub = &mut self.iopub;
        self.runtime.block_on(async { timeout(limit, iopub.read()).await }).unwrap().unwrap()
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
            let message = self.published(TIMEOUT);
            if !is_for(&message, request) {
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
                kind @ ("comm_open" | "comm_msg" | "comm_close") => {
                    let mut comm = content;
                    comm["type"] = kind.into();
                    cell.comms.push(comm);
                }
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
            let message = self.published(TIMEOUT);
            if is_for(&message, request) {
                states.push(json!(message.content)["execution_state"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(states, ["busy", "idle"], "{}", request.message_type());
    }

    /// The next update of a display shown by an earlier cell: its new content.
    pub fn update(&mut self) -> Value {
        loop {
            let message = self.published(Duration::from_secs(60));
            match message.message_type() {
                "update_display_data" => return json!(message.content),
                "stream" => panic!("{}", json!(message.content)),
                _ => {}
            }
        }
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
