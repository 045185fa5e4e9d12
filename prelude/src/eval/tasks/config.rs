//! A task as its file describes it, in the keys of lm-evaluation-harness.
//!
//! Every key is followed as there, or refused by name.

use std::path::{Path, PathBuf};

use minijinja::value::{Value, ValueKind};

use super::adapters::{self, Adapter};
use super::data_files::{DataFiles, check_split, data_files, known};
use super::databases::{Databases, databases};
use super::filters::{Pipeline, pipelines};
use super::keys::{Keys, pairs};
use super::metric_list::{Metric, metrics};
use super::output::Output;
use crate::error::Result;

/// How a field of a document is made.
#[derive(Clone, Debug)]
pub(super) enum Field {
    /// A column, or a template.
    Text(String),
    /// A number or a list, the same for all documents.
    Fixed(Value),
}

/// The texts of a question with its answer.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub text: Field,
    pub target: Field,
    pub choice: Option<Field>,
    /// Between a question and its answer.
    pub target_delimiter: String,
    /// After an example.
    pub fewshot_delimiter: String,
    /// The beginning of the answer.
    pub prefix: Option<String>,
}

/// How examples are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampler {
    /// At random, with the harness's seed.
    Random,
    FirstN,
}

/// Limits of generated answers.
#[derive(Clone, Debug)]
pub(super) struct GenerationLimits {
    /// Texts that end an answer.
    pub until: Vec<String>,
    /// The maximum number of tokens.
    pub tokens: usize,
}

/// A task.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub file: PathBuf,
    pub name: String,
    pub output: Output,
    pub data: DataFiles,
    pub training_split: Option<String>,
    pub validation_split: Option<String>,
    pub test_split: Option<String>,
    pub description: String,
    pub layout: Layout,
    pub shots: usize,
    /// The layout of examples.
    pub examples: Layout,
    pub example_split: Option<String>,
    /// Examples in the file itself.
    pub example_documents: Option<Vec<Value>>,
    pub sampler: Sampler,
    pub generation: GenerationLimits,
    pub pipelines: Vec<Pipeline>,
    pub metrics: Vec<Metric>,
    /// What makes columns of a document before templates are rendered.
    pub adapter: Option<Adapter>,
    /// The databases that generated queries run on.
    pub databases: Option<Databases>,
    /// All keys, for reports.
    pub keys: Vec<(String, Value)>,
}

/// The harness's limit on generated tokens.
const TOKENS: usize = 256;

impl Config {
    /// Reads the task with the keys `all` of `file`, or of a task that has only a name.
    ///
    /// # Errors
    /// A key that cannot be followed, by name.
    pub fn new(file: &Path, all: Vec<(String, Value)>) -> Result<Self> {
        let mut keys = Keys::new(file, all.clone());
        refuse_keys(&keys)?;
        let stem = file.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let name = keys.text("task")?.unwrap_or(stem);
        // They describe the task, group tasks, or look for test data in training data.
        keys.skip(&[
            "task_alias",
            "metadata",
            "tag",
            "should_decontaminate",
            "doc_to_decontamination_query",
        ]);
        let output = output(&mut keys)?;
        let data = data_files(&mut keys)?;
        let splits = [
            keys.text("training_split")?,
            keys.text("validation_split")?,
            keys.text("test_split")?,
        ];
        for (split, key) in splits.iter().zip(["training_split", "validation_split", "test_split"])
        {
            check_split(&keys, &data, key, split.as_deref())?;
        }
        let [training_split, validation_split, test_split] = splits;
        if test_split.is_none() && validation_split.is_none() {
            let hint = format!("name a split of the data: {}", known(&data));
            return Err(keys.bad("test_split", "there is no split to score on", hint));
        }
        let fewshot_split = keys.text("fewshot_split")?;
        let layout = layout(&mut keys, None)?;
        let description = keys.text("description")?.unwrap_or_default();
        let shots = keys.count("num_fewshot")?.unwrap_or(0);
        let (examples, example_split, example_documents, sampler) =
            examples(&mut keys, &layout, fewshot_split)?;
        check_split(&keys, &data, "fewshot_split", example_split.as_deref())?;
        if output == Output::MultipleChoice && layout.choice.is_none() {
            let hint = "name the column of choices, or write a list or a template of one";
            return Err(keys.bad("doc_to_choice", "multiple_choice needs it", hint));
        }
        if keys.integer("repeats")?.is_some_and(|n| n != 1) {
            let hint = "remove it: an answer without sampling is always the same";
            return Err(keys.bad("repeats", "answers are generated once", hint));
        }
        let generation = generation(&mut keys, output, &layout)?;
        let pipelines = pipelines(&mut keys, output)?;
        let metrics = metrics(&mut keys, output)?;
        let adapter = adapter(&mut keys)?;
        let databases = databases(&mut keys, &metrics)?;
        keys.finish()?;
        Ok(Self {
            file: file.into(),
            name,
            output,
            data,
            training_split,
            validation_split,
            test_split,
            description,
            layout,
            shots,
            examples,
            example_split,
            example_documents,
            sampler,
            generation,
            pipelines,
            metrics,
            adapter,
            databases,
            keys: all,
        })
    }

    /// The split to score on.
    pub fn split(&self) -> &str {
        self.test_split.as_ref().or(self.validation_split.as_ref()).map_or("", String::as_str)
    }

    /// The split of examples, as the harness chooses it; none if they are in the file itself.
    pub fn examples_from(&self) -> Option<&str> {
        if self.example_split.is_none() && self.example_documents.is_some() {
            return None;
        }
        let split = self.example_split.as_ref().or(self.training_split.as_ref());
        let split = split.or(self.validation_split.as_ref()).or(self.test_split.as_ref());
        split.map(String::as_str)
    }

    /// Whether a question is removed from the examples of itself, as the harness decides it.
    pub fn removes_question(&self) -> bool {
        self.example_split == self.test_split
    }
}

/// Refuses keys that are something else's than a task's, or Python's.
fn refuse_keys(keys: &Keys<'_>) -> Result<()> {
    for (key, hint) in [
        ("class", "name the tasks one by one: eval task:A.yaml task:B.yaml"),
        ("task_list", "name the tasks one by one, or write a group: the keys group and task"),
        ("limit", "give it to the verb: eval task:FILE.yaml limit=100"),
        ("use_prompt", "write the prompt as doc_to_text and doc_to_target"),
        ("custom_dataset", "use dataset_path: json, parquet or csv"),
    ] {
        if keys.has(key) {
            return Err(keys.bad(key, "this key is not supported in a task file", hint));
        }
    }
    Ok(())
}

fn adapter(keys: &mut Keys<'_>) -> Result<Option<Adapter>> {
    let Some(name) = keys.text("process_docs")? else { return Ok(None) };
    let hint = || {
        let names = adapters::names();
        format!("use one of {names}, or write the columns that it makes into the data file")
    };
    let found = adapters::adapter(&name);
    found
        .map(Some)
        .ok_or_else(|| keys.bad("process_docs", format!("there is no adapter `{name}`"), hint()))
}

fn output(keys: &mut Keys<'_>) -> Result<Output> {
    let name = keys.text("output_type")?.unwrap_or_else(|| "generate_until".into());
    let found = Output::ALL.into_iter().find(|(own, _)| *own == name);
    let names = Output::ALL.map(|(name, _)| name).join(", ");
    let hint = format!("use one of {names}");
    found
        .map(|(_, output)| output)
        .ok_or_else(|| keys.bad("output_type", format!("unknown output type `{name}`"), hint))
}

/// The layout in `keys`; what is missing is that of `parent`.
fn layout(keys: &mut Keys<'_>, parent: Option<&Layout>) -> Result<Layout> {
    let field = |keys: &mut Keys<'_>, key: &'static str| -> Result<Option<Field>> {
        let Some(value) = keys.take(key) else { return Ok(None) };
        match value.kind() {
            ValueKind::String => Ok(value.as_str().map(|text| Field::Text(text.to_owned()))),
            ValueKind::Number if value.is_integer() && key != "doc_to_choice" => {
                Ok(Some(Field::Fixed(value)))
            }
            ValueKind::Seq if key != "doc_to_text" => Ok(Some(Field::Fixed(value))),
            // The choices are the values, in order.
            ValueKind::Map if key == "doc_to_choice" => {
                let items = pairs(&value).into_iter().map(|(_, choice)| choice);
                Ok(Some(Field::Fixed(items.collect())))
            }
            _ => {
                let hint = "write the name of a column or a template, in quotes";
                Err(keys.bad(key, "it is neither a column nor a template", hint))
            }
        }
    };
    let text = field(keys, "doc_to_text")?.or_else(|| parent.map(|p| p.text.clone()));
    let text = text.ok_or_else(|| {
        keys.bad("doc_to_text", "it is missing", "add it; whole texts have doc_to_text: \"\"")
    })?;
    let target = field(keys, "doc_to_target")?.or_else(|| parent.map(|p| p.target.clone()));
    let target = target.ok_or_else(|| keys.bad("doc_to_target", "it is missing", "add it"))?;
    let choice = field(keys, "doc_to_choice")?.or_else(|| parent.and_then(|p| p.choice.clone()));
    let or = |found: Option<String>, own: fn(&Layout) -> &String, default: &str| {
        found.unwrap_or_else(|| parent.map_or_else(|| default.to_owned(), |p| own(p).clone()))
    };
    Ok(Layout {
        text,
        target,
        choice,
        target_delimiter: or(keys.text("target_delimiter")?, |p| &p.target_delimiter, " "),
        fewshot_delimiter: or(keys.text("fewshot_delimiter")?, |p| &p.fewshot_delimiter, "\n\n"),
        prefix: keys.text("gen_prefix")?.or_else(|| parent.and_then(|p| p.prefix.clone())),
    })
}

type Examples = (Layout, Option<String>, Option<Vec<Value>>, Sampler);

fn examples(keys: &mut Keys<'_>, parent: &Layout, split: Option<String>) -> Result<Examples> {
    let Some(value) = keys.take("fewshot_config") else {
        return Ok((parent.clone(), split, None, Sampler::Random));
    };
    let mut inside = Keys::within(keys.file, "fewshot_config", &value)?;
    let sampler = match inside.text("sampler")?.as_deref() {
        None | Some("default") => Sampler::Random,
        Some("first_n") => Sampler::FirstN,
        Some(other) => {
            let reason = format!("unknown sampler `{other}`");
            return Err(inside.bad("sampler", reason, "use default or first_n"));
        }
    };
    let split = inside.text("split")?.or(split);
    let documents = inside.list("samples");
    if documents.iter().flatten().any(|document| document.kind() != ValueKind::Map) {
        return Err(inside.bad(
            "samples",
            "it is not a list of objects",
            "write a list of objects",
        ));
    }
    let layout = layout(&mut inside, Some(parent))?;
    inside.finish()?;
    Ok((layout, split, documents, sampler))
}

fn generation(keys: &mut Keys<'_>, output: Output, layout: &Layout) -> Result<GenerationLimits> {
    let until = vec![layout.fewshot_delimiter.clone()];
    let Some(value) = keys.take("generation_kwargs") else {
        return Ok(GenerationLimits { until, tokens: TOKENS });
    };
    if output != Output::Generate {
        let reason = format!("{} generates nothing", output.name());
        return Err(keys.bad("generation_kwargs", reason, "remove it"));
    }
    let mut inside = Keys::within(keys.file, "generation_kwargs", &value)?;
    let until = inside.texts("until")?.unwrap_or(until);
    let mut tokens = None;
    for key in ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"] {
        tokens = tokens.or(inside.count(key)?);
    }
    let temperature = inside.take("temperature").map_or(Ok(0.0), f64::try_from);
    let Ok(temperature) = temperature else {
        return Err(inside.bad("temperature", "it is not a number", "remove it"));
    };
    let samples = inside.flag("do_sample")?.unwrap_or(temperature > 0.0);
    if samples {
        let hint = "write do_sample: false: scores of sampled answers change with every run";
        return Err(inside.bad("do_sample", "answers are not sampled", hint));
    }
    inside.finish()?;
    match tokens {
        Some(0) => {
            let hint = "write a number of at least 1";
            Err(keys.bad("generation_kwargs", "max_gen_toks is 0", hint))
        }
        tokens => Ok(GenerationLimits { until, tokens: tokens.unwrap_or(TOKENS) }),
    }
}
