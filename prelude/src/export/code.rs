//! Statements as Rust: blocks of lines over three variables, in order.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `models` | the sources before they are wrapped, with their data and settings |
//! | `dam` | the merge in training, which then has sources, data and settings |
//! | `merged` | the latest static merge |
//!
//! A verb writes its lines through [`Code`], which knows the variables that exist.

use std::fmt::Write;

use crate::Result;
use crate::error::refuse;

/// The maximum width of a line.
const WIDTH: usize = 100;

/// A program that is being written.
#[derive(Default)]
pub struct Code {
    /// The names of the sources at the end.
    names: Vec<String>,
    pub(super) blocks: Vec<Block>,
    /// The block and line of the last `let models`.
    models: Option<(usize, usize)>,
    has_dam: bool,
    /// The static merge, if it is the latest, and whether it has the current data and settings.
    merged: Option<(&'static str, bool)>,
    /// Whether the seed may differ from the default.
    seeded: bool,
    /// Whether there are training steps to plot.
    trained: bool,
}

/// A statement in Rust.
pub struct Block {
    /// The verb.
    pub verb: &'static str,
    /// What it does.
    pub about: &'static str,
    /// The line of the statement.
    pub statement: String,
    /// The lines of Rust.
    pub lines: Vec<String>,
    /// An expression at the end that shows itself.
    pub shown: Option<String>,
    /// One that only a cell can show.
    pub in_cell: Option<String>,
}

impl Block {
    /// A statement that has no lines yet.
    pub fn new(verb: &'static str, about: &'static str, statement: String) -> Self {
        Self { verb, about, statement, lines: Vec::new(), shown: None, in_cell: None }
    }
}

impl Code {
    /// An empty program over sources that are called `names` in the end.
    pub fn new(names: Vec<String>) -> Self {
        Self { names, ..Self::default() }
    }

    /// Begins a statement.
    pub fn begin(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Ends a statement; one that needs no Rust leaves no block.
    pub fn end(&mut self) {
        self.blocks.pop_if(|block| block.lines.is_empty() && block.shown.is_none());
    }

    /// Adds a line.
    pub fn line(&mut self, line: impl Into<String>) {
        if let Some(block) = self.blocks.last_mut() {
            block.lines.push(line.into());
        }
    }

    /// Sets what the statement shows: an expression with `Display`.
    pub fn show(&mut self, expression: impl Into<String>) {
        if let Some(block) = self.blocks.last_mut() {
            block.shown = Some(expression.into());
        }
    }

    /// Sets what the statement shows in a cell only.
    pub fn show_in_cell(&mut self, expression: impl Into<String>) {
        if let Some(block) = self.blocks.last_mut() {
            block.in_cell = Some(expression.into());
        }
    }

    /// Whether there are sources.
    pub fn has_models(&self) -> bool {
        self.has_dam || self.models.is_some()
    }

    /// The names of sources.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the sources are wrapped.
    pub fn has_dam(&self) -> bool {
        self.has_dam
    }

    /// Checks that they are.
    ///
    /// # Errors
    /// They are not.
    pub fn dam(&self) -> Result<()> {
        if !self.has_dam {
            return refuse(
                "the session begins with a merge that no verb created",
                "only verbs can be exported: begin with load and wrap, or with open",
            );
        }
        Ok(())
    }

    /// The sources, to read.
    pub fn models(&mut self) -> &'static str {
        if self.has_dam {
            return "dam.models()";
        }
        if self.models.is_none() {
            self.let_models("Models::default()");
        }
        "models"
    }

    /// The sources before they are wrapped, to change.
    pub fn models_mut(&mut self) -> &'static str {
        let models = self.models();
        let line =
            self.models.and_then(|(block, line)| self.blocks.get_mut(block)?.lines.get_mut(line));
        if let Some(line) = line.filter(|line| line.starts_with("let models")) {
            line.insert_str("let ".len(), "mut ");
        }
        models
    }

    /// Binds `models`.
    pub fn let_models(&mut self, expression: &str) {
        self.line(format!("let models = {expression};"));
        self.models =
            self.blocks.last().map(|block| (self.blocks.len() - 1, block.lines.len() - 1));
        (self.has_dam, self.merged, self.trained) = (false, None, false);
    }

    /// Binds `dam`.
    pub fn let_dam(&mut self, expression: &str) {
        self.line(format!("let dam = {expression};"));
        (self.has_dam, self.merged, self.trained) = (true, None, false);
    }

    /// Binds `merged`.
    pub fn let_merged(&mut self, expression: &str) {
        self.line(format!("let merged = {expression};"));
        self.made("merged");
    }

    /// Writes `what` to `file`, unless that exists.
    pub fn write_new(&mut self, file: Option<&str>, what: &str) {
        if let Some(file) = file {
            self.line(format!(
                "if !std::path::Path::new({file:?}).exists() {{\n    {what}.write({file:?})?;\n}}"
            ));
        }
    }

    /// The latest merge is the static merge `expression`.
    pub fn made(&mut self, expression: &'static str) {
        self.merged = Some((expression, true));
    }

    /// The latest merge.
    ///
    /// # Errors
    /// There is none.
    pub fn latest(&mut self) -> Result<&'static str> {
        match self.merged {
            None => self.dam().map(|()| "dam"),
            Some((merged, true)) => Ok(merged),
            Some((merged, false)) => {
                let models = self.models();
                self.let_merged(&format!("{merged}.with_models(&{models})"));
                Ok("merged")
            }
        }
    }

    /// Whether there is no merge yet.
    pub fn is_only_loaded(&self) -> bool {
        !self.has_dam && self.merged.is_none()
    }

    /// Data or settings have changed.
    pub fn changed(&mut self) {
        self.merged = self.merged.map(|(merged, _)| (merged, false));
    }

    /// `dam` has been trained and is the latest merge.
    pub fn trains(&mut self) {
        (self.merged, self.trained) = (None, true);
    }

    /// `dam` has been solved and is the latest merge.
    pub fn solves(&mut self) {
        self.merged = None;
    }

    /// The seed may have changed.
    pub fn seeds(&mut self) {
        self.seeded = true;
    }

    /// The field with the seed, if it may differ from the default.
    pub fn seed(&self) -> Option<(&'static str, String)> {
        let of = if self.has_dam { "dam.settings().seed" } else { "models.settings.seed" };
        self.seeded.then(|| ("seed", of.to_owned()))
    }

    /// What to look at in the end: a description and an expression each.
    pub(super) fn endings(&self) -> Vec<(&'static str, String)> {
        let mut endings = Vec::new();
        let latest = match (self.merged, self.has_dam) {
            (Some((merged, _)), _) => merged,
            (None, true) => "dam",
            (None, false) => return endings,
        };
        if latest == "dam" && self.trained {
            endings.push(("The loss, term by term.", "dam.plot(\"loss\")?".to_owned()));
        }
        let lean = "Each source's share, layer by layer.";
        endings.push((lean, format!("{latest}.plot(\"lean\")?")));
        let inspected = if latest == "dam" {
            "The coefficients, tensor by tensor."
        } else {
            "The distance from each source."
        };
        endings.push((inspected, format!("{latest}.inspect(\"\")?")));
        endings
    }
}

/// `before item, item after`, on several lines if it is long.
pub fn call(before: &str, items: &[String], after: &str) -> String {
    let line = format!("{before}{}{after}", items.join(", "));
    if line.len() <= WIDTH || items.len() < 2 {
        return line;
    }
    let mut text = format!("{before}\n");
    for item in items {
        let _ = writeln!(text, "    {},", item.replace('\n', "\n    "));
    }
    text + after
}

/// `name { field: value, ..rest }`; without a rest, all fields are given.
pub fn fields(name: &str, given: &[(&str, String)], rest: Option<&str>) -> String {
    let mut all: Vec<String> =
        given.iter().map(|(field, value)| format!("{field}: {value}")).collect();
    all.extend(rest.map(|rest| format!("..{rest}")));
    let line = format!("{name} {{ {} }}", all.join(", "));
    if line.len() <= WIDTH - 20 {
        return line;
    }
    // No comma may follow the rest.
    let comma = if rest.is_none() { "," } else { "" };
    format!("{name} {{\n    {}{comma}\n}}", all.join(",\n").replace('\n', "\n    "))
}

/// The fields among `(field, value, default)` that differ from their defaults.
pub fn changed<const N: usize>(
    values: [(&'static str, usize, usize); N],
) -> impl Iterator<Item = (&'static str, String)> {
    differing(values.map(|(field, value, default)| (field, value != default, value.to_string())))
}

/// The fields among `(field, whether it differs from its default, value)` that do.
pub fn differing<const N: usize>(
    values: [(&'static str, bool, String); N],
) -> impl Iterator<Item = (&'static str, String)> {
    let differ = values.into_iter().filter(|(_, differs, _)| *differs);
    differ.map(|(field, _, value)| (field, value))
}

/// Texts as Rust strings.
pub fn strings<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Vec<String> {
    texts.into_iter().map(|text| format!("{:?}", text.as_ref())).collect()
}
