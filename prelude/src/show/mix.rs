//! The result of `mix`.

use serde::Serialize;

use super::inspect::short_name;
use super::numbers::{count, number};
use super::table::Table;

shown_as_table!(MixReport);

/// Coefficients changed by hand.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MixReport {
    /// The names of the tensors.
    pub tensors: Vec<String>,
    /// Every merged source.
    pub sources: Vec<MixedSource>,
}

/// The mean coefficient of a source in the tensors, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MixedSource {
    /// The name of the source.
    pub name: String,
    /// Before.
    pub before: f64,
    /// After.
    pub after: f64,
}

impl MixReport {
    fn table(&self) -> Table {
        let what = match self.tensors.as_slice() {
            [one] => short_name(one).to_owned(),
            all => format!("{} tensors", count(all.len())),
        };
        let mut table =
            Table::new(format!("mean coefficients of {what}"), ["source", "before", "after"]);
        let row = |s: &MixedSource| vec![s.name.clone(), number(s.before), number(s.after)];
        table.rows = self.sources.iter().map(row).collect();
        table
    }
}
