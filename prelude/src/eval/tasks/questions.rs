//! The questions of a task: contexts with examples, continuations and right answers, as texts.
//!
//! ```text
//! description, example 1, ..., example n, question [, prefix of the answer]
//! example = text, target_delimiter, answer, fewshot_delimiter
//! ```
//!
//! A context is made of turns of a conversation, which a chat template may render.

use minijinja::value::{Value, ValueKind};

use super::TaskOptions;
use super::config::{Config, Layout, Sampler};
use super::fields::{Document, Fields};
use super::keys;
use super::output::Output;
use super::random::Random;
use super::turn::Turn;
use crate::data::{integer, is_space, place, python_str};
use crate::error::Result;
use crate::interrupt;

/// The harness's seed of examples.
const SEED: u32 = 1234;

/// A question as the model receives it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The index of its document in the split, from 0.
    pub index: usize,
    /// The turns of its context, or of one for each choice.
    pub turns: Vec<Vec<Turn>>,
    /// The contexts that are made of the turns.
    pub contexts: Vec<String>,
    /// What follows a context, if its likelihood is computed.
    pub continuations: Vec<String>,
    pub choices: Vec<String>,
    pub target: Value,
    pub gold: Gold,
}

/// The right answers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Gold {
    /// Indices of choices. Any that is not a choice counts as wrong.
    Indices(Vec<i64>),
    /// Texts, any of which is right.
    Texts(Vec<String>),
    /// The continuation itself.
    Continuation,
}

/// What the first question decides for all, as in the harness.
struct Shape {
    /// Whether each choice has a context, and `doc_to_text` is the index of the right one.
    has_contexts: bool,
    /// Whether targets are lists.
    has_targets: bool,
}

/// Makes the questions of documents, without their contexts.
///
/// # Errors
/// A field that cannot be made or does not fit, with its document.
pub(super) fn questions(
    fields: &Fields<'_>,
    documents: &[Value],
    examples: &[Value],
    options: &TaskOptions,
) -> Result<Vec<Question>> {
    let config = fields.config;
    let limit = options.questions.unwrap_or(usize::MAX);
    let mut pool = Pool { config, examples, random: Random::new(SEED) };
    let split = config.split();
    let mut shape = None;
    let mut questions = Vec::new();
    for (index, value) in documents.iter().enumerate().take(limit) {
        interrupt::check()?;
        let document = Document { split, index, value };
        let shape = match &mut shape {
            Some(shape) => shape,
            None => shape.insert(Shape {
                has_contexts: config.layout.choice.is_some()
                    && integer(&fields.text(&config.layout, document)?).is_some(),
                has_targets: is_list(&fields.target(&config.layout, document)?),
            }),
        };
        questions.push(question(fields, &mut pool, shape, document, options.chat)?);
    }
    Ok(questions)
}

fn is_list(value: &Value) -> bool {
    value.kind() == ValueKind::Seq
}

fn question(
    fields: &Fields<'_>,
    pool: &mut Pool<'_>,
    shape: &Shape,
    document: Document<'_>,
    chat: bool,
) -> Result<Question> {
    let config = fields.config;
    let layout = &config.layout;
    let description = fields.plain("description", document, &config.description)?;
    let mut before: Vec<Turn> = Vec::new();
    if !description.is_empty() {
        before.push(Turn::new("system", description, ""));
    }
    let from = config.examples_from().unwrap_or("fewshot_config.samples");
    for (index, value) in pool.draw(fields, document)? {
        before.extend(example(fields, shape, Document { split: from, index, value })?);
    }
    let text = fields.text(layout, document)?;
    let choices = fields.choices(layout, document)?.unwrap_or_default();
    let target = fields.target(layout, document)?;
    let prefix = layout.prefix.as_deref().unwrap_or_default();
    let prefix = fields.plain("gen_prefix", document, prefix)?;
    let context = |text: &str, delimiter: &str| {
        let between = if joins(text, &prefix) { "" } else { delimiter };
        let own = [Turn::new("user", text, between)];
        before.iter().cloned().chain(own).chain(begun(&prefix)).collect()
    };
    let turns = if shape.has_contexts {
        if config.metrics.iter().any(|metric| metric.is_mutual()) {
            let reason = "it is an index, so every choice has its own context, which acc_mutual_info does not compare";
            return Err(fields.bad("doc_to_text", document, reason, "use acc"));
        }
        choices.iter().map(|choice| context(choice, "")).collect()
    } else {
        let Some(text) = text.as_str() else {
            let reason = format!("`{}` is not a text", python_str(&text));
            let hint = "use a column of texts, or a template such as {{column}}";
            return Err(fields.bad("doc_to_text", document, reason, hint));
        };
        vec![context(text, &layout.target_delimiter)]
    };
    let mut question = Question {
        index: document.index,
        turns,
        contexts: Vec::new(),
        continuations: Vec::new(),
        choices,
        target,
        gold: Gold::Continuation,
    };
    // After a chat template, only a prefix of the answer needs a delimiter.
    let prefix = layout.prefix.as_deref().unwrap_or_default();
    let has_delimiter = !chat || (!prefix.is_empty() && !prefix.ends_with(is_space));
    let delimiter = if has_delimiter { layout.target_delimiter.as_str() } else { "" };
    match config.output {
        Output::MultipleChoice => {
            let answers: Vec<String> = if shape.has_contexts {
                vec![python_str(&question.target); question.choices.len()]
            } else {
                question.choices.clone()
            };
            question.continuations =
                answers.iter().map(|answer| format!("{delimiter}{answer}")).collect();
            let right = if shape.has_contexts { &text } else { &question.target };
            question.gold = Gold::Indices(indices(fields, shape, &question, right, document)?);
        }
        Output::Likelihood | Output::Rolling => {
            let Some(text) = question.target.as_str() else {
                let reason = format!("`{}` is not a text", python_str(&question.target));
                let hint = "use a column of texts, or a template such as {{column}}";
                return Err(fields.bad("doc_to_target", document, reason, hint));
            };
            question.continuations = vec![text.to_owned()];
        }
        Output::Generate => {
            question.gold = Gold::Texts(texts(fields, shape, &question, document)?);
        }
    }
    Ok(question)
}

/// Whether a text and what follows it need no delimiter.
fn joins(before: &str, after: &str) -> bool {
    before.is_empty()
        || after.is_empty()
        || before.ends_with(is_space)
        || after.starts_with(is_space)
}

/// The beginning of an answer, if there is one.
fn begun(prefix: &str) -> Option<Turn> {
    (!prefix.is_empty()).then(|| Turn::new("assistant", prefix, ""))
}

/// An example with its answer.
fn example(fields: &Fields<'_>, shape: &Shape, document: Document<'_>) -> Result<Vec<Turn>> {
    let layout = &fields.config.examples;
    let text = fields.text(layout, document)?;
    let choices = fields.choices(layout, document)?;
    let target = fields.target(layout, document)?;
    let bad = |key: &str, value: &Value| {
        let reason = format!("`{}` is neither a text nor one of the choices", python_str(value));
        fields.bad(key, document, reason, "correct the field, or draw other examples")
    };
    let pick = |index: &Value| -> Option<String> {
        let choices = choices.as_ref()?;
        choices.get(place(integer(index)?, choices.len())?).cloned()
    };
    let question = match text.as_str() {
        Some(text) => text.to_owned(),
        None => Some(&text)
            .filter(|_| shape.has_contexts)
            .and_then(pick)
            .ok_or_else(|| bad("doc_to_text", &text))?,
    };
    let prefix = layout.prefix.as_deref().unwrap_or_default();
    let prefix = fields.plain("gen_prefix", document, prefix)?;
    let Layout { target_delimiter, fewshot_delimiter, .. } = layout;
    let has_answer = !target.is_none() && target.as_str() != Some("");
    let between = match prefix.is_empty() {
        true if has_answer => target_delimiter.as_str(),
        false if !joins(&question, &prefix) => target_delimiter.as_str(),
        _ => "",
    };
    let question = Turn::new("user", question, between);
    if !has_answer {
        return Ok([question].into_iter().chain(begun(&prefix)).collect());
    }
    let is_index = target.is_integer() || target.kind() == ValueKind::Bool;
    let answer = match target.as_str() {
        Some(text) => Some(text.to_owned()),
        None if is_list(&target) => {
            target.get_item_by_index(0).ok().and_then(|first| first.as_str().map(str::to_owned))
        }
        None if is_index && !shape.has_contexts => pick(&target),
        None => None,
    };
    let answer = answer.ok_or_else(|| bad("doc_to_target", &target))?;
    let space = if joins(&prefix, &answer) { "" } else { " " };
    let answer = format!("{prefix}{space}{answer}");
    Ok(vec![question, Turn::new("assistant", answer, fewshot_delimiter)])
}

/// The indices of the right choices.
fn indices(
    fields: &Fields<'_>,
    shape: &Shape,
    question: &Question,
    right: &Value,
    document: Document<'_>,
) -> Result<Vec<i64>> {
    let bad = |reason: String| {
        let hint = "use the index of a choice from 0, its text, or a list of indices";
        fields.bad("doc_to_target", document, reason, hint)
    };
    let several = shape.has_targets && !shape.has_contexts;
    if is_list(right) != several {
        let kind = |several| if several { "a list" } else { "one answer" };
        let reason = format!("it is {}, and {} before", kind(!several), kind(several));
        return Err(bad(reason));
    }
    if several {
        let indices: Option<Vec<i64>> =
            right.try_iter().into_iter().flatten().map(|item| integer(&item)).collect();
        let reason = || format!("`{}` is not a list of indices", python_str(right));
        return indices.ok_or_else(|| bad(reason()));
    }
    let index = match right.as_str() {
        // What is not a choice is never right.
        Some(text) => {
            question.choices.iter().position(|own| own == text).map_or(-100, |i| i as i64)
        }
        None => {
            integer(right).ok_or_else(|| bad(format!("`{}` is no index", python_str(right))))?
        }
    };
    Ok(vec![index])
}

/// The texts of which any is the right answer.
fn texts(
    fields: &Fields<'_>,
    shape: &Shape,
    question: &Question,
    document: Document<'_>,
) -> Result<Vec<String>> {
    let config = fields.config;
    let target = &question.target;
    let bad = |reason: String, hint: &str| fields.bad("doc_to_target", document, reason, hint);
    let makes_tags = config.pipelines.iter().any(|pipeline| pipeline.makes_tags());
    if config.layout.choice.is_some() {
        let at = integer(target).and_then(|index| place(index, question.choices.len()));
        let text = at.and_then(|at| question.choices.get(at)).cloned();
        let reason = || format!("`{}` is not the index of a choice", python_str(target));
        let hint = "with doc_to_choice, doc_to_target is an index from 0";
        return text.map(|text| vec![text]).ok_or_else(|| bad(reason(), hint));
    }
    if shape.has_targets {
        let texts = keys::texts(target).filter(|_| !makes_tags);
        let hint = "make it a list of texts in every document, without regex_pos";
        let reason = || format!("`{}` is not a list of texts", python_str(target));
        return texts.ok_or_else(|| bad(reason(), hint));
    }
    if makes_tags && target.as_str().is_none() {
        let reason = format!("`{}` is not a text", python_str(target));
        return Err(bad(reason, "after regex_pos, every tag is compared with one text"));
    }
    Ok(vec![python_str(target)])
}

/// Documents to draw examples from.
struct Pool<'a> {
    config: &'a Config,
    examples: &'a [Value],
    random: Random,
}

impl<'a> Pool<'a> {
    /// Draws the examples of a question, with their indices.
    fn draw(
        &mut self,
        fields: &Fields<'_>,
        document: Document<'_>,
    ) -> Result<Vec<(usize, &'a Value)>> {
        let shots = self.config.shots;
        if shots == 0 {
            return Ok(Vec::new());
        }
        let examples = self.examples;
        let all = || examples.iter().enumerate();
        let own = document.value;
        let removes = self.config.removes_question();
        let is_other = |(_, value): &(usize, &Value)| !removes || *value != own;
        let others = || all().filter(is_other).collect::<Vec<_>>();
        let drawn: Vec<(usize, &Value)> = match self.config.sampler {
            Sampler::FirstN => others().into_iter().take(shots).collect(),
            Sampler::Random => {
                let count = shots + usize::from(removes);
                let mut drawn = Vec::new();
                if count <= examples.len() {
                    let indices = self.random.sample(examples.len(), count).into_iter();
                    drawn = indices.map(|i| (i, &examples[i])).filter(is_other).collect();
                    drawn.truncate(shots);
                    if drawn.len() < shots {
                        // Copies of the question were among them.
                        let rest = others();
                        if rest.len() >= shots {
                            let indices = self.random.sample(rest.len(), shots).into_iter();
                            drawn = indices.map(|i| rest[i]).collect();
                        }
                    }
                }
                drawn
            }
        };
        if drawn.len() < shots {
            let reason = format!("there are fewer than {shots} other documents to draw from");
            let hint = "lower num_fewshot, or name a larger fewshot_split";
            return Err(fields.bad("num_fewshot", document, reason, hint));
        }
        Ok(drawn)
    }
}
