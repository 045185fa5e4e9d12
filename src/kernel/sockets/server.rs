//! Serves Jupyter's sockets.
//!
//! Cells, completions and documentation are handled in order on one thread. Everything else is
//! answered at once, so that a kernel that is running a cell can still be queried, interrupted and
//! shut down. For every request on the shell and control sockets the kernel reports busy before it
//! and idle after it: JupyterLab does not accept a reply otherwise.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::ConnectionInfo;
use jupyter_protocol::messaging::{
    InterruptReply, JupyterMessage, JupyterMessageContent, ShutdownReply, Status,
};
use jupyter_zmq_client::{
    RouterRecvConnection, RouterSendConnection, create_kernel_control_connection,
    create_kernel_heartbeat_connection, create_kernel_iopub_connection,
    create_kernel_shell_connection, create_kernel_stdin_connection,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::proxy::{PAUSE, internal_info, serve_clients};
use super::replies::{kernel_info, unsupported};
use super::worker::Kernel;
use crate::kernel::cells::cell::Cells;
use crate::kernel::cells::output::CellOutput;
use crate::kernel::comms::channels::Channels;
use crate::kernel::files;
use crate::kernel::process::link::{Link, SOCKET};

/// How long shutdown waits for the worker thread to clean up.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long shutdown waits for the last messages to be delivered.
const LINGER: Duration = Duration::from_millis(200);

/// Serves the connection described by `file` until shutdown, with the internal sockets in
/// `directory`.
///
/// # Errors
/// The file is not a connection file, or a port is in use.
pub fn serve(file: &Path, directory: &Path) -> Result<()> {
    let text = files::text(file)?;
    let info: ConnectionInfo = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not a connection file of Jupyter, which starts the kernel itself: jupyter lab",
            file.display()
        )
    })?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(sockets(info, directory));
    // The worker may be in the middle of something long, for which the end does not wait.
    runtime.shutdown_background();
    done
}

async fn sockets(info: ConnectionInfo, directory: &Path) -> Result<()> {
    let session = uuid();
    let internal = internal_info(&info, directory);
    let mut heartbeat = create_kernel_heartbeat_connection(&internal).await?;
    let mut iopub_socket = create_kernel_iopub_connection(&internal, &session).await?;
    let (shell_send, shell) = create_kernel_shell_connection(&internal, &session).await?.split();
    let (mut control_send, mut control) =
        create_kernel_control_connection(&internal, &session).await?.split();
    let (stdin_send, mut stdin_socket) =
        create_kernel_stdin_connection(&internal, &session).await?.split();
    serve_clients(&info, &internal).await?;
    let (iopub, mut published) = unbounded_channel::<JupyterMessage>();
    let (shell_out, replies) = unbounded_channel();
    let (stdin, input_requests) = unbounded_channel();
    let (answer, answers) = channel();
    let (work, jobs) = channel();

    let shown = iopub.clone();
    // Without a receiver the kernel is shutting down.
    let output = CellOutput::paced(move |message| drop(shown.send(message)));
    let comms = Arc::new(Channels::default());
    let (receiver, widgets) = (Arc::clone(&output), Arc::clone(&comms));
    let socket = directory.join(SOCKET);
    let link = Link::listen(&socket, move |message| {
        let publish = |(content, metadata)| receiver.publish_comm(content, metadata);
        if !widgets.receive(&message, publish) {
            receiver.receive(&message);
        }
    })?;
    let cells = Cells::new(link, Arc::clone(&output), socket);
    let (history, answers) = (Mutex::default(), Mutex::new(answers));
    let kernel =
        Arc::new(Kernel { cells, comms, output, iopub, shell: shell_out, stdin, history, answers });
    let working = Arc::clone(&kernel);
    let worker = std::thread::spawn(move || working.work(&jobs));

    tokio::spawn(async move {
        loop {
            // A client that disconnects halfway does not affect others.
            if heartbeat.single_heartbeat().await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(message) = published.recv().await {
            let _ = iopub_socket.send(message.with_zmq_identities(Vec::new())).await;
        }
    });
    tokio::spawn(send(replies, shell_send));
    tokio::spawn(send(input_requests, stdin_send));
    tokio::spawn(async move {
        loop {
            let Ok(message) = stdin_socket.read().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let question = message.parent_header.map(|question| question.msg_id);
            if let JupyterMessageContent::InputReply(reply) = message.content
                && answer.send((question, reply.value)).is_err()
            {
                return;
            }
        }
    });
    tokio::spawn(receive_shell(Arc::clone(&kernel), shell, work.clone()));
    tokio::spawn(exit_with_parent());

    loop {
        let Ok(message) = control.read().await else { continue };
        kernel.status(&message, Status::busy());
        let (reply, last): (JupyterMessageContent, bool) = match &message.content {
            JupyterMessageContent::InterruptRequest(_) => {
                kernel.cells.interrupt();
                (InterruptReply::new().into(), false)
            }
            JupyterMessageContent::ShutdownRequest(request) => (
                ShutdownReply { restart: request.restart, ..ShutdownReply::default() }.into(),
                true,
            ),
            JupyterMessageContent::KernelInfoRequest(_) => {
                (JupyterMessageContent::KernelInfoReply(Box::new(kernel_info())), false)
            }
            _ => (unsupported(&message), false),
        };
        if last {
            kernel.cells.shut_down();
            let _ = work.send(None);
        }
        // The client may have disconnected.
        let _ = control_send.send(JupyterMessage::new(reply, Some(&message))).await;
        kernel.status(&message, Status::idle());
        if last {
            break;
        }
    }
    let cleaned = tokio::task::spawn_blocking(move || worker.join().is_ok());
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, cleaned).await;
    tokio::time::sleep(LINGER).await;
    Ok(())
}

/// Sends messages on a socket. Messages to a client that has disconnected are lost: Jupyter's
/// servers query a new kernel over short-lived connections.
async fn send(mut messages: UnboundedReceiver<JupyterMessage>, mut socket: RouterSendConnection) {
    while let Some(message) = messages.recv().await {
        let _ = socket.send(message).await;
    }
}

/// Receives requests on the shell socket.
async fn receive_shell(
    kernel: Arc<Kernel>,
    mut shell: RouterRecvConnection,
    work: Sender<Option<JupyterMessage>>,
) {
    loop {
        // Messages that are malformed or wrongly signed are ignored.
        let Ok(message) = shell.read().await else { continue };
        if matches!(message.content, JupyterMessageContent::ExecuteRequest(_)) {
            kernel.output.attach(&message);
        }
        if kernel.passes_comm(&message) {
            continue;
        }
        match kernel.answer(&message) {
            Some(reply) => {
                kernel.status(&message, Status::busy());
                let _ = kernel.shell.send(JupyterMessage::new(reply, Some(&message)));
                kernel.status(&message, Status::idle());
            }
            None if work.send(Some(message)).is_err() => return,
            None => {}
        }
    }
}

/// Exits when the parent process has ended.
async fn exit_with_parent() {
    let started = std::os::unix::process::parent_id();
    if std::env::var_os("JPY_PARENT_PID").is_none() {
        return;
    }
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if std::os::unix::process::parent_id() != started {
            std::process::exit(0);
        }
    }
}

fn uuid() -> String {
    JupyterMessage::new(Status::idle(), None).header.msg_id
}
