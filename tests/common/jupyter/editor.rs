//! What an editor requests of a kernel.

use jupyter_protocol::messaging::{
    CompleteRequest, HistoryRequest, InspectRequest, IsCompleteRequest,
};
use serde_json::Value;

use super::kernel::Kernel;

impl Kernel {
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
}
