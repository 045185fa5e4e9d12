//! Statements as Rust: blocks of lines over three variables, in the order in which they were done.
//!
//! | variable | what |
//! | --- | --- |
//! | `models` | the sources before they are wrapped, with their data and settings |
//! | `dam` | the merge in training; sources, data and settings are then its own |
//! | `merged` | a merge that trains nothing, until something else is made |
//!
//! A verb writes its lines through [`Code`], which knows which of them there are.

use std::fmt::Write;

use crate::Result;

use super::super::arguments::at_home;
use super::super::context::refuse;
use super::super::{Statement, find};

/// The longest line that is not broken.
const WIDTH: usize = 100;

/// A program in the making.
#[derive(Default)]
pub struct Code {
    /// What sources are called at the end.
    names: Vec<String>,
    pub(super) blocks: Vec<Block>,
    /// The block and line of the last `let models`.
    models: Option<(usize, usize)>,
    has_dam: bool,
    /// The merge that trains nothing, where it is the latest, and whether it has the data and
    /// settings of now.
    merged: Option<(&'static str, bool)>,
    /// Whether the seed may be another than by default.
    seeded: bool,
    /// Whether there are steps to look back at.
    trained: bool,
}

/// What a statement is.
pub(super) struct Block {
    pub statement: Statement,
    pub lines: Vec<String>,
    /// An expression at the end that shows itself.
    pub shown: Option<String>,
    /// One that only a cell can show.
    pub in_cell: Option<String>,
}

impl Code {
    /// What `statements` are in Rust; sources are called `names` in the end.
    ///
    /// # Errors
    /// A statement that acts on what no statement before it made.
    pub(super) fn of(statements: &[Statement], names: &[String]) -> Result<Self> {
        let mut code = Self { names: names.to_vec(), ..Self::default() };
        for statement in statements {
            let Some(rust) = find(&statement.verb)?.rust else { continue };
            code.blocks.push(Block {
                statement: statement.clone(),
                lines: Vec::new(),
                shown: None,
                in_cell: None,
            });
            rust(&mut code, &statement.arguments)?;
            code.blocks.pop_if(|block| block.lines.is_empty() && block.shown.is_none());
        }
        Ok(code)
    }

    /// One more line.
    pub fn line(&mut self, line: impl Into<String>) {
        if let Some(block) = self.blocks.last_mut() {
            block.lines.push(line.into());
        }
    }

    /// What the statement shows: an expression that has a `Display`.
    pub fn show(&mut self, expression: impl Into<String>) {
        if let Some(block) = self.blocks.last_mut() {
            block.shown = Some(expression.into());
        }
    }

    /// What a cell shows of a statement that a program says nothing of.
    pub fn show_in_cell(&mut self, expression: impl Into<String>) {
        if let Some(block) = self.blocks.last_mut() {
            block.in_cell = Some(expression.into());
        }
    }

    /// Whether there are sources.
    pub fn has_models(&self) -> bool {
        self.has_dam || self.models.is_some()
    }

    /// Names that sources have.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the sources are wrapped.
    pub fn has_dam(&self) -> bool {
        self.has_dam
    }

    /// An error where they are not.
    ///
    /// # Errors
    /// As said.
    pub fn dam(&self) -> Result<()> {
        match self.has_dam {
            true => Ok(()),
            false => refuse(
                "what was done begins with a merge that no verb made",
                "only verbs are exported: begin with load and wrap, or with open",
            ),
        }
    }

    /// The sources as they are now, to be read.
    pub fn models(&mut self) -> &'static str {
        if self.has_dam {
            return "dam.models()";
        }
        if self.models.is_none() {
            self.let_models("Models::default()");
        }
        "models"
    }

    /// The sources that are not wrapped yet, to be changed.
    pub fn models_mut(&mut self) -> &'static str {
        let models = self.models();
        let line =
            self.models.and_then(|(block, line)| self.blocks.get_mut(block)?.lines.get_mut(line));
        if let Some(line) = line.filter(|line| line.starts_with("let models")) {
            line.insert_str("let ".len(), "mut ");
        }
        models
    }

    /// `models` are these from now on.
    pub fn let_models(&mut self, expression: &str) {
        self.line(format!("let models = {expression};"));
        self.models =
            self.blocks.last().map(|block| (self.blocks.len() - 1, block.lines.len() - 1));
        (self.has_dam, self.merged, self.trained) = (false, None, false);
    }

    /// `dam` is this from now on.
    pub fn let_dam(&mut self, expression: &str) {
        self.line(format!("let dam = {expression};"));
        (self.has_dam, self.merged, self.trained) = (true, None, false);
    }

    /// `merged` is this from now on.
    pub fn let_merged(&mut self, expression: &str) {
        self.line(format!("let merged = {expression};"));
        self.made("merged");
    }

    /// A merge that trains nothing has been made, and is what `expression` says.
    pub fn made(&mut self, expression: &'static str) {
        self.merged = Some((expression, true));
    }

    /// What was made last.
    ///
    /// # Errors
    /// Nothing was.
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

    /// Whether nothing has been made yet.
    pub fn is_only_loaded(&self) -> bool {
        !self.has_dam && self.merged.is_none()
    }

    /// Data or settings are others from now on.
    pub fn changed(&mut self) {
        self.merged = self.merged.map(|(merged, _)| (merged, false));
    }

    /// The merge is trained, and is the latest.
    pub fn trains(&mut self) {
        (self.merged, self.trained) = (None, true);
    }

    /// The seed may be another from now on.
    pub fn seeds(&mut self) {
        self.seeded = true;
    }

    /// The field with the seed, where it may be another than by default.
    pub fn seed(&self) -> Option<(&'static str, String)> {
        let of = if self.has_dam { "dam.settings().seed" } else { "models.settings.seed" };
        self.seeded.then(|| ("seed", of.to_owned()))
    }

    /// What is worth a look at the end, each with what it is.
    pub(super) fn endings(&self) -> Vec<(&'static str, String)> {
        let mut endings = Vec::new();
        let latest = match (self.merged, self.has_dam) {
            (Some((merged, _)), _) => merged,
            (None, true) => "dam",
            (None, false) => return endings,
        };
        if latest == "dam" && self.trained {
            endings.push(("How the loss went, term by term.", "dam.plot(\"loss\")?".to_owned()));
        }
        let lean = "Which source each layer leans to.";
        endings.push((lean, format!("{latest}.plot(\"lean\")?")));
        let inspected = if latest == "dam" {
            "What the coefficients became."
        } else {
            "How far it is from each source."
        };
        endings.push((inspected, format!("{latest}.inspect(\"\")?")));
        endings
    }
}

/// `before item, item after`, broken into lines where it is long.
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
    // Nothing may follow the rest, not even a comma.
    let comma = if rest.is_none() { "," } else { "" };
    format!("{name} {{\n    {}{comma}\n}}", all.join(",\n").replace('\n', "\n    "))
}

/// Texts as Rust strings.
pub fn strings<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Vec<String> {
    texts.into_iter().map(|text| format!("{:?}", text.as_ref())).collect()
}

/// A path as a Rust string; the home directory is put in here, as in a verb.
pub fn path(path: &str) -> String {
    format!("{:?}", at_home(path))
}
