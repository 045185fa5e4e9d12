//! Replies that need no cell: what the kernel is, what was run, and what it does not do.

use jupyter_protocol::messaging::{
    HistoryEntry, HistoryReply, HistoryRequest, IsCompleteReply, JupyterMessage,
    JupyterMessageContent, KernelInfoReply, LanguageInfo, ReplyStatus, UnknownMessage,
};
use serde_json::json;

use crate::kernel::cells::code::{Completeness, completeness};

/// The kernel info.
pub fn kernel_info() -> KernelInfoReply {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: "5.3".into(),
        implementation: "dam".into(),
        implementation_version: version.clone(),
        language_info: LanguageInfo {
            name: "rust".into(),
            version,
            mimetype: Some("text/rust".into()),
            file_extension: Some(".rs".into()),
            pygments_lexer: Some("rust".into()),
            codemirror_mode: Some(jupyter_protocol::messaging::CodeMirrorMode::Simple("rust".into())),
            nbconvert_exporter: Some("script".into()),
        },
        banner: "DAM Lab: merge language models one step at a time. The prelude is in scope; %help lists the verbs.".into(),
        help_links: Vec::new(),
        debugger: false,
        error: None,
    }
}

/// The reply to a request whether `code` is complete.
pub fn completeness_reply(code: &str) -> IsCompleteReply {
    match completeness(code) {
        Completeness::Complete => IsCompleteReply::complete(),
        Completeness::Incomplete(depth) => IsCompleteReply::incomplete("    ".repeat(depth)),
        Completeness::Invalid => IsCompleteReply::invalid(),
    }
}

/// The reply to a history request; `all` is the code of all executed cells.
pub fn history_reply(request: &HistoryRequest, all: Vec<String>) -> HistoryReply {
    let entries = all.into_iter().enumerate().map(|(i, code)| (i + 1, code));
    let entries: Vec<(usize, String)> = match request {
        HistoryRequest::Tail { n, .. } => {
            let entries: Vec<_> = entries.collect();
            let first = entries.len().saturating_sub(usize::try_from(*n).unwrap_or(0));
            entries[first..].to_vec()
        }
        HistoryRequest::Range { start, stop, .. } => {
            let in_range = |i: &usize| {
                *i as i64 >= i64::from(*start) && (*stop == 0 || (*i as i64) < i64::from(*stop))
            };
            entries.filter(|(i, _)| in_range(i)).collect()
        }
        HistoryRequest::Search { pattern, .. } => {
            let part = pattern.trim_matches('*');
            entries.filter(|(_, code)| code.contains(part)).collect()
        }
    };
    HistoryReply::new(
        entries.into_iter().map(|(i, code)| HistoryEntry::Input(0, i, code)).collect(),
    )
}

/// The reply to an aborted cell, which has no execution count.
pub fn aborted(cell: &JupyterMessage) -> JupyterMessageContent {
    let request =
        UnknownMessage { msg_type: cell.header.msg_type.clone(), ..UnknownMessage::default() };
    request.reply(json!({"status": "aborted"}))
}

/// The reply to an unknown request.
pub fn unsupported(message: &JupyterMessage) -> JupyterMessageContent {
    let request =
        UnknownMessage { msg_type: message.header.msg_type.clone(), ..UnknownMessage::default() };
    request.reply(json!({"status": "error", "ename": "unknown", "evalue": "unsupported request", "traceback": []}))
}
