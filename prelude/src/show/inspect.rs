//! The results of `inspect`: statistics of coefficients, or distances of a merge from its sources.

use serde::Serialize;

use super::figure::Figure;
use super::table::Table;

shown_with_picture!(Inspection, Distances);

/// The dimension along which the coefficients of a tensor vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Along {
    /// One per column.
    Column,
    /// One per row.
    Row,
    /// One per element.
    Element,
    /// One for the whole tensor.
    Tensor,
}

/// Statistics of one source's coefficients in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceStats {
    /// The mean.
    pub mean: f64,
    /// The minimum.
    pub min: f64,
    /// The maximum.
    pub max: f64,
    /// The population standard deviation.
    pub std: f64,
}

/// Statistics of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorStats {
    /// The name in the checkpoint.
    pub name: String,
    /// `linear`, `embedding`, `norm` or `bias`.
    pub kind: &'static str,
    /// Whether it is trained.
    pub trains: bool,
    /// The statistics of each source, by name.
    pub sources: Vec<(String, SourceStats)>,
    /// The dimension along which the coefficients vary.
    pub along: Along,
    /// The columns or rows in which sources differ most, each with the coefficient of every source.
    /// Empty if the sources do not differ, or if every element has its own coefficient.
    pub columns: Vec<(usize, Vec<f64>)>,
}

/// The result of `inspect`: the coefficients `c`, before `f`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// In the order of computation.
    pub tensors: Vec<TensorStats>,
    /// For a single tensor: its coefficients, column by source.
    #[serde(skip)]
    pub columns: Option<Figure>,
}

impl Inspection {
    /// Plots the coefficients of a single tensor, column by source, or the mean coefficient of
    /// several, tensor by source.
    pub fn plot(&self) -> Figure {
        if let Some(columns) = &self.columns {
            return columns.clone();
        }
        let short = |t: &TensorStats| short_name(&t.name).to_owned();
        let sources: Vec<String> = self
            .tensors
            .first()
            .map(|t| t.sources.iter().map(|(n, _)| n.clone()).collect())
            .unwrap_or_default();
        let neutral = 1.0 / sources.len().max(1) as f64;
        let values =
            self.tensors.iter().map(|t| t.sources.iter().map(|(_, s)| s.mean).collect()).collect();
        let rows = self.tensors.iter().map(short).collect();
        Figure::heatmap(
            "coefficients, tensor by tensor",
            "source",
            "mean coefficient",
            rows,
            sources,
            values,
            neutral,
        )
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.plot()).filter(|_| !self.tensors.is_empty())
    }

    fn table(&self) -> Table {
        if let [tensor] = self.tensors.as_slice() {
            return one_tensor(tensor);
        }
        let names = self
            .tensors
            .first()
            .map(|t| t.sources.iter().map(|(n, _)| n.clone()).collect())
            .unwrap_or_default();
        let header = [vec!["tensor".to_owned()], names, vec!["range".to_owned()]].concat();
        let columns = if self.tensors.iter().all(|t| t.along == Along::Column) {
            " over columns"
        } else {
            ""
        };
        let mut table = Table::new(format!("coefficients c: mean ± std{columns}"), header);
        for tensor in &self.tensors {
            let mut row = vec![short_name(&tensor.name).to_owned()];
            row.extend(tensor.sources.iter().map(|(_, s)| format!("{:.3} ± {:.3}", s.mean, s.std)));
            let low = tensor.sources.iter().map(|(_, s)| s.min).fold(f64::INFINITY, f64::min);
            let high = tensor.sources.iter().map(|(_, s)| s.max).fold(f64::NEG_INFINITY, f64::max);
            row.push(format!("{low:.2} to {high:.2}"));
            table.rows.push(row);
        }
        table
    }
}

/// Returns the name of a tensor without the common prefix and suffix.
pub(crate) fn short_name(name: &str) -> &str {
    name.trim_start_matches("model.").trim_end_matches(".weight")
}

fn one_tensor(tensor: &TensorStats) -> Table {
    let header =
        [vec!["source".to_owned()], ["mean", "std", "min", "max"].map(str::to_owned).to_vec()]
            .concat();
    let what = if tensor.along == Along::Row { "row" } else { "column" };
    let columns: Vec<String> = tensor.columns.iter().map(|(j, _)| format!("{what} {j}")).collect();
    let mut table =
        Table::new(format!("{} ({})", tensor.name, tensor.kind), [header, columns].concat());
    for (i, (name, s)) in tensor.sources.iter().enumerate() {
        let mut row = vec![name.clone()];
        row.extend([s.mean, s.std, s.min, s.max].map(|x| format!("{x:.4}")));
        row.extend(tensor.columns.iter().map(|(_, c)| format!("{:.4}", c[i])));
        table.rows.push(row);
    }
    table.notes.push(match (tensor.along, tensor.columns.is_empty()) {
        (Along::Element, _) => "every element has its own coefficient".into(),
        (Along::Tensor, _) => "the whole tensor has one coefficient per source".into(),
        (_, true) => format!("sources do not differ in any {what}"),
        (_, false) => format!("shows the {what}s in which sources differ most"),
    });
    table
}

/// The distance of a merged tensor from a source's.
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
    /// The name in the checkpoint.
    pub name: String,
    /// `linear`, `embedding`, `norm` or `bias`.
    pub kind: &'static str,
    /// The distance from each source, by name.
    pub sources: Vec<(String, Distance)>,
}

/// The result of `inspect` for a static merge: its distance from each source.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distances {
    /// The method's name.
    pub method: String,
    /// In the order of computation.
    pub tensors: Vec<TensorDistances>,
}

impl Distances {
    /// Returns the sources of all tensors; stacked layers have different ones.
    fn sources(&self) -> Vec<&String> {
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in self.tensors.iter().flat_map(|t| &t.sources) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Plots the distance of the merge from each source, tensor by tensor.
    pub fn plot(&self) -> Figure {
        let names = self.sources();
        let of = |t: &TensorDistances, name: &String| {
            t.sources
                .iter()
                .find(|(source, _)| source == name)
                .map_or(f64::NAN, |(_, d)| d.relative)
        };
        let values =
            self.tensors.iter().map(|t| names.iter().map(|name| of(t, name)).collect()).collect();
        let rows = self.tensors.iter().map(|t| short_name(&t.name).to_owned()).collect();
        let columns = names.into_iter().cloned().collect();
        let title = format!("distance of the {} merge from each source", self.method);
        Figure::heatmap(title, "source", "relative distance", rows, columns, values, 0.0)
    }

    fn figure(&self) -> Option<Figure> {
        Some(self.plot()).filter(|_| !self.tensors.is_empty())
    }

    fn table(&self) -> Table {
        let names = self.sources();
        let title = format!(
            "distance of the {} merge from each source, relative to the norm of the source (cosine)",
            self.method
        );
        let mut table =
            Table::new(title, ["tensor"].into_iter().chain(names.iter().map(|name| name.as_str())));
        for tensor in &self.tensors {
            let of = |name: &&String| {
                tensor.sources.iter().find(|(source, _)| source == *name).map(|(_, d)| d)
            };
            let cell = |d: Option<&Distance>| {
                d.map_or("-".into(), |d| format!("{:.4} ({:.4})", d.relative, d.cosine))
            };
            let name = short_name(&tensor.name).to_owned();
            table
                .rows
                .push([name].into_iter().chain(names.iter().map(|name| cell(of(name)))).collect());
        }
        table
    }
}
