//! Fuzz target for chat templates; see [`crate::fuzz`].

use super::chat::{Conversation, message, render_by};
use crate::checkpoint::Chat;

/// A chat template.
pub fn template(bytes: &[u8]) {
    let messages = [
        message("system", "You are brief."),
        message("user", "What is 12 plus 7?"),
        message("assistant", "19"),
        message("user", "<|end|>{{ 1 }}"),
        message("assistant", "日本語"),
    ];
    let whole = Conversation { messages: messages.to_vec(), prompt: 4, tools: None };
    let part = Conversation { messages: messages[1..3].to_vec(), prompt: 1, tools: None };
    let mut chat = Chat::default().with_template(&String::from_utf8_lossy(bytes));
    let tokens = [
        ("bos_token", "<s>"),
        ("eos_token", "</s>"),
        ("pad_token", "<pad>"),
        ("unk_token", "<unk>"),
    ];
    chat.tokens = tokens.map(|(name, token)| (name, token.to_owned())).into();
    let _ = render_by(&chat, &[&whole, &part]);
}
