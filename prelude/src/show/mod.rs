//! Results of the primitives and their display: tables and figures, as text for a terminal and as
//! HTML in a notebook.

/// Implements `Display` and `evcxr_display` for reports shown as a table.
macro_rules! shown_as_table {
    ($($report:ty),*) => {$(
        impl std::fmt::Display for $report {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.table().fmt(f)
            }
        }

        impl $report {
            /// Shows it as the result of an evcxr cell.
            pub fn evcxr_display(&self) {
                self.table().evcxr_display();
            }
        }

        impl crate::show::render::Render for $report {
            fn html(&self) -> String {
                self.table().html()
            }

            fn lines(&self, columns: Option<usize>) -> String {
                self.table().lines(columns)
            }
        }
    )*};
}

/// The same for reports that also have a figure, which a cell shows below the table.
macro_rules! shown_with_picture {
    ($($report:ty),*) => {$(
        impl std::fmt::Display for $report {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.table().fmt(f)
            }
        }

        impl $report {
            /// Shows it as the result of an evcxr cell, with its figure.
            pub fn evcxr_display(&self) {
                let (table, picture) = (self.table(), self.figure());
                let (html, text) = picture.map(|p| (p.html(), format!("\n\n{p}"))).unwrap_or_default();
                crate::show::evcxr::cell(&format!("{}{html}", table.html()), &format!("{table}{text}"));
            }
        }

        impl crate::show::render::Render for $report {
            fn html(&self) -> String {
                format!("{}{}", self.table().html(), self.figure().map(|p| p.html()).unwrap_or_default())
            }

            fn lines(&self, columns: Option<usize>) -> String {
                self.table().lines(columns)
            }
        }
    )*};
}

mod answers;
mod ask;
mod comparison;
mod difference;
mod evcxr;
mod figure;
mod inspect;
mod lines;
mod load;
mod merge;
mod mix;
mod numbers;
mod probabilities;
mod questions;
mod render;
mod scores;
mod solve;
mod table;
mod trace;
mod train;
mod wrap;

pub(crate) use answers::full;
pub use answers::{Answer, Answers};
pub use ask::{AnswerToken, AskReport, SourceAnswer};
pub use comparison::{Comparison, MethodResult};
pub use difference::{Difference, TensorDifference};
pub(crate) use evcxr::cell;
pub use figure::{Bars, Curves, Figure, Heatmap, Histogram, Mark, Scale, Series, Spacing, Unit};
pub(crate) use inspect::short_name;
pub use inspect::{
    Along, Distance, Distances, Inspection, SourceStats, TensorDistances, TensorStats,
};
pub use lines::{COLUMNS, printable};
pub use load::{SourceReport, Sources};
pub use merge::{EvolveReport, MergeReport};
pub use mix::{MixReport, MixedSource};
pub(crate) use numbers::bytes;
pub(crate) use probabilities::{AnswerProbabilities, TokenProbability};
pub use questions::Questions;
pub(crate) use render::Render;
pub(crate) use scores::unused_columns;
pub use scores::{AVERAGE, MERGED, Scoreboard, Scores};
pub(crate) use solve::rate_hint;
pub use solve::{OtherText, SolveReport};
pub use table::Table;
pub(crate) use table::{escape, paragraph};
pub use trace::TraceReport;
pub use train::{LossReport, StepReport, TrainReport};
pub use wrap::WrapReport;
