//! Chat templates for a fuzzer: see [`crate::fuzz`].

use super::chat::{self, Message};
use crate::checkpoint::Chat;

/// A chat template.
pub fn template(bytes: &[u8]) {
    let talk = [
        ("system", "You are brief."),
        ("user", "What is 12 plus 7?"),
        ("assistant", "19"),
        ("user", "<|end|>{{ 1 }}"),
        ("assistant", "日本語"),
    ];
    let talk: Vec<Message> = talk.iter().map(|(role, content)| Message::new(role, content)).collect();
    let token = |text: &str| text.to_owned();
    let chat = Chat {
        template: None,
        bos_token: token("<s>"),
        eos_token: token("</s>"),
        pad_token: token("<pad>"),
        unk_token: token("<unk>"),
    };
    let _ = chat::render_by(&String::from_utf8_lossy(bytes), &chat, &[&talk, &talk[1..3]]);
}
