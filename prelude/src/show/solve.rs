//! The result of `solve`.

use serde::Serialize;

use super::figure::{Figure, Series};
use super::numbers::{number, percent};
use super::table::Table;
use crate::solve::SolvedPart;

shown_with_picture!(SolveReport);

/// The result of `solve`: for each part of the model, what remains of the error that the
/// average of the sources has with them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SolveReport {
    /// The name of the scheme.
    pub scheme: String,
    /// The solved parts of the model, in order.
    pub parts: Vec<SolvedPart>,
    /// The examples used, over all sources.
    pub examples: usize,
    /// The tokens of these examples.
    pub tokens: usize,
    /// Wall-clock time.
    pub seconds: f64,
    /// Whether it was stopped before the last layer.
    pub stopped: bool,
    /// The loss on other text.
    pub other: Vec<OtherText>,
    /// The learning rate to train with from here, if the current one was meant for the average.
    pub lr: Option<f64>,
}

/// The loss on text that no source is about, in nats.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtherText {
    /// The name of the data.
    pub name: String,
    /// Before solving.
    pub before: f64,
    /// After it.
    pub after: f64,
}

impl SolveReport {
    /// The number of layers from the first to the last solved one.
    pub fn layers(&self) -> usize {
        self.parts.iter().filter_map(|part| part.layer).next_back().map_or(0, |layer| layer + 1)
    }

    /// The mean over layers of the share of the average's error that remains.
    pub fn share(&self) -> Option<f64> {
        mean(self.layer_parts().filter_map(SolvedPart::share))
    }

    /// The same for the best weights without a scheme, if they were computed.
    pub fn unrestricted_share(&self) -> Option<f64> {
        mean(self.layer_parts().filter_map(SolvedPart::unrestricted_share))
    }

    /// Plots the shares over the layers.
    pub fn plot(&self) -> Figure {
        Figure::solved(&self.scheme, &self.parts)
    }

    fn layer_parts(&self) -> impl Iterator<Item = &SolvedPart> {
        self.parts.iter().filter(|part| part.layer.is_some())
    }

    fn figure(&self) -> Option<Figure> {
        (self.layer_parts().count() > 1).then(|| self.plot())
    }

    fn table(&self) -> Table {
        let is_compared = self.unrestricted_share().is_some();
        let mut header = vec!["remaining error", "average", &self.scheme];
        header.extend(is_compared.then_some("unrestricted"));
        let mut table = Table::new("", header);
        let row = |name: String, share: Option<f64>, unrestricted: Option<f64>| {
            let cells = [Some(1.0), share].into_iter().chain(is_compared.then_some(unrestricted));
            let cell = |x: Option<f64>| x.map_or("-".into(), percent);
            [name].into_iter().chain(cells.map(cell)).collect()
        };
        let one = |part: &SolvedPart| row(part.name(), part.share(), part.unrestricted_share());
        table.rows = self.parts.iter().map(one).collect();
        if self.layer_parts().count() > 1 {
            table.rows.push(row("mean of layers".into(), self.share(), self.unrestricted_share()));
        }
        let data = match self.examples {
            0 => "on task vectors".to_owned(),
            examples => format!("on {examples} examples, {} tokens,", self.tokens),
        };
        table.notes.push(format!("solved {data} in {:.1} s", self.seconds));
        for OtherText { name, before, after } in &self.other {
            let (before, after) = (number(*before), number(*after));
            table.notes.push(format!("other text, {name}: loss {before} before, {after} after"));
        }
        if self.stopped {
            let last = self.layers() - 1;
            table.notes.push(format!("stopped after layer {last}: solved layers are kept"));
        }
        table.notes.extend(self.lr.map(rate_hint));
        table
    }
}

impl Figure {
    /// Plots what remains of the average's error in each layer.
    pub(crate) fn solved(scheme: &str, parts: &[SolvedPart]) -> Self {
        let layers = parts.iter().filter_map(|part| Some((part.layer? as f64, part)));
        let solved = layers.clone().filter_map(|(layer, part)| Some((layer, part.share()?)));
        let unrestricted =
            layers.clone().filter_map(|(layer, part)| Some((layer, part.unrestricted_share()?)));
        let mut series = vec![
            Series { is_main: true, ..Series::new(scheme, solved) },
            Series::new("unrestricted", unrestricted),
            Series::new("average", layers.map(|(layer, _)| (layer, 1.0))),
        ];
        series.retain(|series| !series.points.is_empty());
        let title = "remaining error, relative to the average";
        Self::curve(title, "layer", "", series).percent()
    }
}

/// The hint to train with the learning rate `lr` after a solution.
pub(crate) fn rate_hint(lr: f64) -> String {
    format!(
        "if the learning rate suits the average, train from here with a fifth of it: set lr={lr:e}"
    )
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
