//! The replies of the primitives.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Comparison, Table};
use crate::checkpoint::{Lack, Written};
use crate::coefficients::Checked;
use crate::eval::Score;
use crate::train::Forecast;

/// Gives reports that draw themselves as a table their `Display` and `evcxr_display`.
macro_rules! shown_as_table {
    ($($report:ty),*) => {$(
        impl fmt::Display for $report {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.table().fmt(f)
            }
        }

        impl $report {
            /// Shows it as the result of an evcxr cell.
            pub fn evcxr_display(&self) {
                self.table().evcxr_display();
            }
        }
    )*};
}

shown_as_table!(
    Sources,
    WrapReport,
    Checked,
    LossReport,
    StepReport,
    TrainReport,
    Inspection,
    Scores,
    Scoreboard,
    Answer,
    MergeReport,
    Comparison,
    EvolveReport,
    Distances,
    Written
);

/// One loaded source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// What the user calls it.
    pub name: String,
    /// Its directory, or `builtin:NAME`.
    pub path: PathBuf,
    /// Its family, as config.json names it.
    pub architecture: String,
    /// Decoder layers; none where the family cannot be run here, so that only static methods merge it.
    pub layers: Option<usize>,
    /// Features of a hidden state.
    pub width: Option<usize>,
    /// The number of weights.
    pub parameters: usize,
    /// Of most of its weights.
    pub dtype: String,
    /// The size of its weights.
    pub bytes: usize,
    /// Tensors of the file that no layer uses.
    pub unused: Vec<String>,
    /// Tensors of whole numbers or truth values, which no method merges: those of the first source are taken.
    pub copied: Vec<String>,
    /// Whether it is the base model.
    pub is_base: bool,
    /// What of its file could not be taken over: `no tokenizer: ...`.
    pub note: Option<String>,
    /// Rows of the vocabulary that all sources are seen with.
    pub vocabulary: usize,
    /// What of it this source lacks and is given by others.
    pub lack: Lack,
}

/// What `load` gives: every source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sources(pub Vec<SourceReport>);

impl Sources {
    fn table(&self) -> Table {
        let header = ["source", "family", "layers", "width", "parameters", "dtype", "size", "from"];
        let mut table = Table::new("", header);
        for s in &self.0 {
            table.rows.push(vec![
                s.name.clone(),
                s.architecture.clone(),
                s.layers.map_or("-".into(), |n| n.to_string()),
                s.width.map_or("-".into(), |n| n.to_string()),
                count(s.parameters),
                s.dtype.clone(),
                bytes(s.bytes as u64),
                s.path.display().to_string(),
            ]);
            if s.is_base {
                table.notes.push(format!("{} is the base model: it is not merged itself unless wrap base=on", s.name));
            }
            if s.layers.is_none() {
                let note = "cannot be run here: static methods only (merge linear)";
                table.notes.push(format!("{}: the family {} {note}", s.name, s.architecture));
            }
            if !s.copied.is_empty() {
                let copied = s.copied.join(", ");
                table.notes.push(format!("{}: not merged but copied from the first source: {copied}", s.name));
            }
            table.notes.extend(s.note.iter().map(|note| format!("{}: {note}", s.name)));
            if s.lack != Lack::default() {
                table.notes.push(lacks(s));
            }
            if !s.unused.is_empty() {
                table.notes.push(format!("not used of {}: {}", s.name, s.unused.join(", ")));
            }
        }
        table
    }
}

/// What a source lacks of the vocabulary, in words.
fn lacks(source: &SourceReport) -> String {
    let Lack { tokens, padding, examples, from } = &source.lack;
    let more = if *tokens > examples.len() { ", ..." } else { "" };
    let plural = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{} {what}s", count(n)) };
    let tokens = (*tokens > 0).then(|| format!("{} ({}{more})", plural(*tokens, "token"), examples.join(" ")));
    let padding = (*padding > 0).then(|| format!("{} of padding", plural(*padding, "row")));
    let what = [tokens, padding].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    format!("{} lacks {what}, given by {}; tokens are matched by their text", source.name, from.join(" and "))
}

/// What `wrap` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrapReport {
    /// What is merged, in the order of the coefficients.
    pub sources: Vec<String>,
    /// Weights that have coefficients; biases are not counted.
    pub tensors: usize,
    /// The scheme's name and settings.
    pub scheme: String,
    /// All numbers that make the coefficients, those of biases too: in columns the coefficients themselves.
    pub coefficients: usize,
    /// Those that train.
    pub trainable: usize,
    /// Weights of one source.
    pub parameters: usize,
    /// What training it will take.
    pub forecast: Forecast,
    /// What a reader should know of this start.
    pub notes: Vec<String>,
}

impl WrapReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["merge of", "tensors", "coefficients", "trainable", "share of weights"]);
        let share = 100.0 * self.coefficients as f64 / self.parameters.max(1) as f64;
        table.rows.push(vec![
            self.sources.join(" + "),
            self.tensors.to_string(),
            count(self.coefficients),
            count(self.trainable),
            format!("{share:.2}%"),
        ]);
        table.notes = forecast(&self.forecast);
        table.notes.extend(self.notes.iter().cloned());
        table
    }
}

/// What training will take, in words.
fn forecast(f: &Forecast) -> Vec<String> {
    let assumed = if f.has_data { "" } else { ", assumed until there is data" };
    let pace = match f.minutes {
        Some(minutes) if minutes < 1.0 => format!("about {:.0} s a hundred steps", (60.0 * minutes).max(1.0)),
        Some(minutes) => format!("about {minutes:.0} min a hundred steps"),
        None => "on a GPU".into(),
    };
    let again = if f.recompute { "; layers are computed again on the way down to save memory" } else { "" };
    vec![
        format!("training: {pace} ({} tokens a step{assumed}){again}", count(f.tokens)),
        format!(
            "memory: {} to work in, up to {} for teachers' answers, sources of {} mapped; {} are free",
            bytes(f.working_bytes),
            bytes(f.teacher_bytes),
            bytes(f.mapped_bytes),
            bytes(f.available_bytes),
        ),
        format!("disk: {} when it is baked", bytes(f.disk_bytes)),
    ]
}

impl Checked {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["scheme", "tensors", "parameters", "gradients checked"]);
        let counts = [self.tensors, self.parameters, self.gradients].map(count);
        table.rows.push([vec![self.scheme.clone()], counts.to_vec()].concat());
        table.notes.push("shapes and starts are right, and gradients agree with finite differences".into());
        table
    }
}

/// What `loss` gives: the objective on the batch that the next step will use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LossReport {
    /// The sum of all terms.
    pub total: f64,
    /// Every term that is on, with its weight: `kl.NAME`, `cosine`, ...
    pub terms: Vec<(String, f64)>,
    /// What a reader should know of these numbers.
    pub notes: Vec<String>,
}

impl LossReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["term", "loss"]);
        table.rows = self.terms.iter().map(|(name, loss)| vec![name.clone(), number(*loss)]).collect();
        table.rows.push(vec!["total".into(), number(self.total)]);
        table.notes = self.notes.clone();
        table
    }
}

/// What `step` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub step: usize,
    /// The loss before the step.
    pub total: f64,
    /// Its terms, as in [`LossReport`].
    pub terms: Vec<(String, f64)>,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub lr: f64,
}

impl StepReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["step", "loss", "gradient norm", "lr"]);
        table.rows.push(vec![self.step.to_string(), number(self.total), number(self.grad_norm), format!("{:e}", self.lr)]);
        table
    }
}

/// What `train` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// Steps made by this call.
    pub steps: usize,
    /// The step reached.
    pub reached: usize,
    /// The loss before the first and before the last step of this call.
    pub first: f64,
    /// See `first`.
    pub last: f64,
    /// The learning rate of the last step.
    pub lr: f64,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was stopped before all steps were made.
    pub stopped: bool,
    /// The loss before every step.
    pub losses: Vec<f64>,
}

impl TrainReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["steps", "reached", "first loss", "last loss", "seconds"]);
        let row = [self.steps.to_string(), self.reached.to_string(), number(self.first), number(self.last)];
        table.rows.push([row.to_vec(), vec![format!("{:.1}", self.seconds)]].concat());
        if self.steps > 1 && self.last > self.first {
            table.notes.push(
                "the loss has risen: lower the learning rate (set lr=), or take more examples a step (set batch_size=)".into(),
            );
        }
        if self.steps > 0 && self.lr == 0.0 {
            table
                .notes
                .push("the linear schedule has ended: the learning rate is 0 (set total_steps=, or schedule=constant)".into());
        }
        if self.stopped {
            table.notes.push(format!("stopped after step {}: everything is kept, train goes on from there", self.reached));
        }
        table
    }
}

/// What the coefficients of a tensor differ along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Along {
    /// One a column.
    Column,
    /// One a row.
    Row,
    /// One an element.
    Element,
    /// None: one for the whole tensor.
    Tensor,
}

/// Statistics of one source's coefficients in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceStats {
    /// Over all of them.
    pub mean: f64,
    /// The least of them.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Over all of them, of the population.
    pub std: f64,
}

/// One tensor of an inspection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorStats {
    /// As in the checkpoint.
    pub name: String,
    /// `linear`, `embedding`, `norm` or `bias`.
    pub kind: &'static str,
    /// Whether the optimiser moves it.
    pub trains: bool,
    /// Each source by name.
    pub sources: Vec<(String, SourceStats)>,
    /// What the coefficients differ along.
    pub along: Along,
    /// The columns or rows where sources differ most, each with the coefficient of every source; none where they do
    /// not, and of elements.
    pub columns: Vec<(usize, Vec<f64>)>,
}

/// What `inspect` gives: the coefficients `c`, before `f`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// In the order of computation.
    pub tensors: Vec<TensorStats>,
}

impl Inspection {
    fn table(&self) -> Table {
        if let [tensor] = self.tensors.as_slice() {
            return one_tensor(tensor);
        }
        let names = self.tensors.first().map(|t| t.sources.iter().map(|(n, _)| n.clone()).collect()).unwrap_or_default();
        let header = [vec!["tensor".to_owned()], names, vec!["range".to_owned()]].concat();
        let columns = if self.tensors.iter().all(|t| t.along == Along::Column) { " over columns" } else { "" };
        let mut table = Table::new(format!("coefficients c: mean ± spread{columns}"), header);
        for tensor in &self.tensors {
            let mut row = vec![tensor.name.trim_start_matches("model.").to_owned()];
            row.extend(tensor.sources.iter().map(|(_, s)| format!("{:.3} ± {:.3}", s.mean, s.std)));
            let low = tensor.sources.iter().map(|(_, s)| s.min).fold(f64::INFINITY, f64::min);
            let high = tensor.sources.iter().map(|(_, s)| s.max).fold(f64::NEG_INFINITY, f64::max);
            row.push(format!("{low:.2} to {high:.2}"));
            table.rows.push(row);
        }
        table
    }
}

fn one_tensor(tensor: &TensorStats) -> Table {
    let header = [vec!["source".to_owned()], ["mean", "spread", "least", "most"].map(str::to_owned).to_vec()].concat();
    let what = if tensor.along == Along::Row { "row" } else { "column" };
    let columns: Vec<String> = tensor.columns.iter().map(|(j, _)| format!("{what} {j}")).collect();
    let mut table = Table::new(format!("{} ({})", tensor.name, tensor.kind), [header, columns].concat());
    for (i, (name, s)) in tensor.sources.iter().enumerate() {
        let mut row = vec![name.clone()];
        row.extend([s.mean, s.std, s.min, s.max].map(|x| format!("{x:.4}")));
        row.extend(tensor.columns.iter().map(|(_, c)| format!("{:.4}", c[i])));
        table.rows.push(row);
    }
    table.notes.push(match (tensor.along, tensor.columns.is_empty()) {
        (Along::Element, _) => "every element has a coefficient of its own".into(),
        (Along::Tensor, _) => "the whole tensor has one coefficient a source".into(),
        (_, true) => format!("sources do not differ in any {what}"),
        (_, false) => format!("{what}s are those where sources differ most"),
    });
    table
}

/// What `eval` gives: a score for each data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// By the name of the data.
    pub data: BTreeMap<String, Score>,
    /// Whether this is data the merge does not learn from.
    pub held_out: bool,
}

impl Scores {
    pub(super) fn warning(&self) -> Option<String> {
        (!self.held_out).then(|| "this is the data that the merge learns from: name held-out files to be sure".into())
    }

    /// The mean loss over data sets, in nats.
    pub fn mean_loss(&self) -> f64 {
        self.data.values().map(|s| s.loss).sum::<f64>() / self.data.len().max(1) as f64
    }

    /// The mean accuracy over data sets that have questions, 0 to 1.
    pub fn mean_accuracy(&self) -> Option<f64> {
        let all: Vec<f64> = self.data.values().filter_map(Score::accuracy).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    fn table(&self) -> Table {
        let chooses = self.data.values().any(|s| s.multiple_choice.is_some());
        let header = ["data", "tokens", "loss", "perplexity", "exact match", "multiple choice"];
        let mut table = Table::new("", header.into_iter().take(if chooses { 6 } else { 5 }));
        for (name, s) in &self.data {
            let share = |x: Option<f64>| x.map_or("-".into(), percent);
            let mut row = vec![name.clone(), count(s.tokens), number(s.loss), perplexity(s.perplexity), share(s.exact_match)];
            row.extend(chooses.then(|| share(s.multiple_choice)));
            table.rows.push(row);
        }
        table.notes.extend(self.warning());
        table
    }
}

/// The row of the sources' average in a [`Scoreboard`].
pub const AVERAGE: &str = "average";

/// The row of the merge.
pub const MERGED: &str = "DAM";

/// Every source, their average and the merge on the same data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scoreboard {
    /// By the name of the source, [`AVERAGE`] or [`MERGED`].
    pub rows: Vec<(String, Scores)>,
}

impl Scoreboard {
    /// The scores of the row named `name`.
    pub fn row(&self, name: &str) -> Option<&Scores> {
        self.rows.iter().find(|(row, _)| row == name).map(|(_, scores)| scores)
    }

    fn table(&self) -> Table {
        let data: Vec<&String> = self.rows.first().map(|(_, s)| s.data.keys().collect()).unwrap_or_default();
        let header = ["model".to_owned()].into_iter().chain(data.iter().map(|d| (*d).clone())).chain(["mean".to_owned()]);
        let mut table = Table::new("exact match (loss)", header);
        table.notes.extend(self.rows.first().and_then(|(_, scores)| scores.warning()));
        for (name, scores) in &self.rows {
            let mut row = vec![name.clone()];
            row.extend(scores.data.values().map(|s| match s.accuracy() {
                Some(exact) => format!("{} ({:.2})", percent(exact), s.loss),
                None => format!("({:.2})", s.loss),
            }));
            let loss = scores.mean_loss();
            let exact = scores.mean_accuracy().map(|x| percent(x) + " ").unwrap_or_default();
            row.push(format!("{exact}({loss:.2})"));
            table.rows.push(row);
        }
        table
    }
}

/// What `evolve` gives beside the merge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvolveReport {
    /// What merged the candidates.
    pub method: String,
    /// Candidates that were tried.
    pub tried: usize,
    /// Tokens that they ran.
    pub tokens: u64,
    /// The loss where the search began, in nats, on the data that candidates were judged by.
    pub first: f64,
    /// The least loss.
    pub best: f64,
    /// Numbers that were searched over.
    pub dimensions: usize,
    /// Whether it was stopped before its budget was spent.
    pub stopped: bool,
}

impl EvolveReport {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["method", "numbers", "candidates", "first loss", "best loss", "tokens"]);
        let numbers = [self.dimensions.to_string(), self.tried.to_string(), number(self.first), number(self.best)];
        table.rows.push([vec![self.method.clone()], numbers.into(), vec![count(self.tokens as usize)]].concat());
        if self.stopped {
            table.notes.push("stopped: this is the best so far".into());
        }
        table
    }
}

/// What `generate` gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked.
    pub prompt: String,
    /// What the merge says, without special tokens.
    pub text: String,
}

impl Answer {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["prompt", "answer"]);
        table.rows.push(vec![self.prompt.clone(), self.text.clone()]);
        table
    }
}

/// What `merge` gives.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeReport {
    /// The method's name.
    pub method: String,
    /// What is merged, in the order of the weights.
    pub sources: Vec<String>,
    /// What they are measured from, where the method does that.
    pub base: Option<String>,
    /// Tensors of the merge.
    pub tensors: usize,
    /// Weights of the merge.
    pub parameters: usize,
    /// Where it is, if it was written.
    pub written: Option<Written>,
    /// Tensors of whole numbers or truth values, copied from the first source.
    pub copied: Vec<String>,
    /// What a reader should know of it.
    pub notes: Vec<String>,
}

impl MergeReport {
    fn table(&self) -> Table {
        let sources = self.sources.join(" + ");
        let from = self.base.as_ref().map(|base| format!(", measured from {base}")).unwrap_or_default();
        let mut table = match &self.written {
            Some(written) => {
                let mut table = written.table();
                table.notes.push(format!("{} merge of {sources}{from}", self.method));
                table
            }
            None => {
                let mut table = Table::new("", ["merge of", "method", "tensors", "weights"]);
                table.rows.push(vec![sources + &from, self.method.clone(), count(self.tensors), count(self.parameters)]);
                table.notes.push("not written: eval, generate and inspect try it, bake DIR writes it".into());
                table
            }
        };
        if let (Some(first), false) = (self.sources.first(), self.copied.is_empty()) {
            table.notes.push(format!("copied from {first}, as whole numbers do not merge: {}", self.copied.join(", ")));
        }
        table.notes.extend(self.notes.iter().cloned());
        table
    }
}

/// How far a merged tensor is from one source's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// `|M - W| / |W|`
    pub relative: f64,
    /// `<M, W> / (|M| |W|)`
    pub cosine: f64,
}

/// One tensor of [`Distances`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDistances {
    /// As in the checkpoint.
    pub name: String,
    /// `linear`, `embedding`, `norm` or `bias`.
    pub kind: &'static str,
    /// Each source by name.
    pub sources: Vec<(String, Distance)>,
}

/// What `inspect` gives of a merge that trains nothing: how far it is from each source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distances {
    /// The method's name.
    pub method: String,
    /// In the order of computation.
    pub tensors: Vec<TensorDistances>,
}

impl Distances {
    fn table(&self) -> Table {
        // Stacked layers come from different sources.
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in self.tensors.iter().flat_map(|t| &t.sources) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let title = format!("distance of the {} merge from each source, relative to its size (cosine)", self.method);
        let mut table = Table::new(title, ["tensor"].into_iter().chain(names.iter().map(|name| name.as_str())));
        for tensor in &self.tensors {
            let of = |name: &&String| tensor.sources.iter().find(|(source, _)| source == *name).map(|(_, d)| d);
            let cell = |d: Option<&Distance>| d.map_or("-".into(), |d| format!("{:.4} ({:.4})", d.relative, d.cosine));
            let name = tensor.name.trim_start_matches("model.").to_owned();
            table.rows.push([name].into_iter().chain(names.iter().map(|name| cell(of(name)))).collect());
        }
        table
    }
}

impl Written {
    fn table(&self) -> Table {
        let mut table = Table::new("", ["written", "files", "size"]);
        table.rows.push(vec![self.path.display().to_string(), self.files.to_string(), bytes(self.bytes)]);
        table
    }
}

fn perplexity(x: f64) -> String {
    if x < 1e6 { format!("{x:.3}") } else { format!("{x:.1e}") }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Six significant digits, enough to compare and few enough to read.
fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:.3e}") } else { format!("{x:.5}") }
}

pub(super) fn count(n: usize) -> String {
    let digits = n.to_string();
    let grouped = digits.as_bytes().rchunks(3).rev().map(|c| String::from_utf8_lossy(c).into_owned());
    grouped.collect::<Vec<_>>().join(",")
}

pub(super) fn bytes(n: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}
