//! Chat templates, rendered as transformers renders them: Jinja with trimmed blocks.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::checkpoint::{Chat, Source};
use crate::error::{Error, Result};

/// A question put as the model was tuned to hear it, and the whole exchange, which starts with it.
pub(crate) struct Exchange {
    pub prompt: String,
    pub whole: String,
}

/// Characters of the longest template that is rendered; real ones have a tenth of it.
const LONGEST: usize = 1 << 16;

/// Stack for a template that nests as deeply as [`LONGEST`] lets it.
const STACK_BYTES: usize = 1 << 28;

/// Renders `question` and `answer` through the template of `source`; without one, a line each.
pub(crate) fn render(source: &Source, question: &str, answer: &str) -> Result<Exchange> {
    let Some(template) = source.chat_template() else {
        let prompt = format!("{question}\n");
        return Ok(Exchange { whole: format!("{prompt}{answer}"), prompt });
    };
    let bad = |reason: String| Error::ChatTemplate { file: source.path().into(), reason };
    if template.len() > LONGEST {
        return Err(bad(format!("it has {} characters, more than any real one", template.len())));
    }
    let exchange = std::thread::scope(|scope| {
        let work = || exchange(template, source.chat(), question, answer);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        thread.map_err(|e| e.to_string())?.join().unwrap_or_else(|_| Err("it contradicts itself".into()))
    });
    let exchange = exchange.map_err(bad)?;
    if !exchange.whole.starts_with(&exchange.prompt) {
        return Err(bad("the exchange does not begin with its prompt".into()));
    }
    Ok(exchange)
}

fn exchange(template: &str, chat: &Chat, question: &str, answer: &str) -> std::result::Result<Exchange, String> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| e.to_string())?);
    // A downloaded template may not run for ever.
    env.set_fuel(Some(1_000_000));
    env.set_unknown_method_callback(unknown_method_callback);
    env.add_function("raise_exception", |text: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    let template = env.template_from_str(template).map_err(|e| e.to_string())?;
    let Chat { bos_token, eos_token, .. } = chat;
    let render = |messages, add_generation_prompt: bool| {
        let known = context! { messages, add_generation_prompt, bos_token, eos_token };
        template.render(known).map_err(|e| e.to_string())
    };
    let user = context! { role => "user", content => question };
    let assistant = context! { role => "assistant", content => answer };
    Ok(Exchange { prompt: render(vec![user.clone()], true)?, whole: render(vec![user, assistant], false)? })
}
