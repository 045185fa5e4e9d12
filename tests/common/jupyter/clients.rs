//! Clients beside the first one, and cells that request input.

use jupyter_protocol::messaging::{ExecuteRequest, InputReply, JupyterMessage};
use jupyter_zmq_client::{
    ClientStdinConnection, create_client_stdin_connection_with_identity, peer_identity_for_session,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::kernel::{Kernel, TIMEOUT, connect};

impl Kernel {
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
}
