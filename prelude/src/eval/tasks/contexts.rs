//! Contexts of questions from their turns: one after another as plain text, or through the chat
//! template of a source, as `--apply_chat_template` of the harness does.

use super::config::Config;
use super::keys::bad;
use super::questions::Question;
use super::turn::Turn;
use crate::checkpoint::Source;
use crate::data::{message, open_prompts};
use crate::error::{Error, Result};

/// Makes the contexts of `questions` as plain text.
pub(super) fn join(questions: &mut [Question]) {
    let text = |turns: Vec<Turn>| turns.into_iter().flat_map(|turn| [turn.text, turn.delimiter]);
    for question in questions {
        let turns = std::mem::take(&mut question.turns).into_iter();
        question.contexts = turns.map(|turns| text(turns).collect()).collect();
    }
}

/// Makes the contexts of `questions` with the chat template of `source`. Returns the number of
/// questions whose description is missing, because the template refuses system messages.
///
/// # Errors
/// There is no template, or it cannot render a question.
pub(super) fn render(
    config: &Config,
    source: &Source,
    questions: &mut [Question],
) -> Result<usize> {
    let refused = |reason| Error::ChatTemplate {
        source_name: source.name().into(),
        file: source.path().into(),
        reason,
    };
    if source.chat().template().map_err(refused)?.is_none() {
        let what = format!("`{}` has no chat template, which --chat needs", source.name());
        let hint = "leave out --chat, or add chat_template.jinja beside the weights";
        return Err(Error::Sources { what, hint });
    }
    let turns = questions.iter().flat_map(|question| &question.turns);
    let one = |turn: &Turn| message(turn.role, &turn.text);
    let conversations: Vec<Vec<_>> = turns.map(|turns| turns.iter().map(one).collect()).collect();
    let mut rendered = open_prompts(source, &conversations)?.into_iter();
    let mut without = 0;
    for question in questions {
        let place = || format!("document {} of {}", question.index + 1, config.split());
        let hint = "correct the document or the chat template, or leave out --chat";
        let count = std::mem::take(&mut question.turns).len();
        let mut lost = false;
        for prompt in rendered.by_ref().take(count) {
            let prompt = prompt.map_err(|reason| bad(&config.file, place(), reason, hint))?;
            lost |= prompt.without_system;
            question.contexts.push(prompt.text);
        }
        without += usize::from(lost);
    }
    Ok(without)
}
