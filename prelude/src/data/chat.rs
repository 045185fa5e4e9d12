//! Chat templates, rendered as transformers renders them: Jinja with trimmed blocks.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::checkpoint::Source;
use crate::error::{Error, Result};

/// A question put as the model was tuned to hear it, and the whole exchange, which starts with it.
pub(crate) struct Exchange {
    pub prompt: String,
    pub whole: String,
}

/// Renders `question` and `answer` through the template of `source`; without one, a line each.
pub(crate) fn render(source: &Source, question: &str, answer: &str) -> Result<Exchange> {
    let Some(template) = source.chat_template() else {
        let prompt = format!("{question}\n");
        return Ok(Exchange { whole: format!("{prompt}{answer}"), prompt });
    };
    let bad = |reason: String| Error::ChatTemplate { file: source.path().into(), reason };
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| bad(e.to_string()))?);
    // A downloaded template may not run for ever.
    env.set_fuel(Some(1_000_000));
    env.set_unknown_method_callback(unknown_method_callback);
    env.add_function("raise_exception", |text: String| -> std::result::Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    let token = |id: &u32| source.tokenizer().and_then(|t| t.id_to_token(*id));
    let eos_token = source.architecture().eos.first().and_then(token).unwrap_or_default();
    let render = |messages, add_generation_prompt: bool| {
        env.render_str(template, context! { messages, add_generation_prompt, eos_token => &eos_token, bos_token => "" })
            .map_err(|e| bad(e.to_string()))
    };
    let user = context! { role => "user", content => question };
    let assistant = context! { role => "assistant", content => answer };
    let prompt = render(vec![user.clone()], true)?;
    let whole = render(vec![user, assistant], false)?;
    if !whole.starts_with(&prompt) {
        return Err(bad("the exchange does not begin with its prompt".into()));
    }
    Ok(Exchange { prompt, whole })
}
