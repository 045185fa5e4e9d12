//! Floor 6: what the primitives return, and how it shows itself: tables and pictures, as text for a terminal and as
//! HTML in a notebook.

/// Gives reports that draw themselves as a table their `Display` and `evcxr_display`.
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

        impl crate::show::Shown for $report {
            fn html(&self) -> String {
                self.table().html()
            }

            fn lines(&self, columns: Option<usize>) -> String {
                self.table().lines(columns)
            }
        }
    )*};
}

/// The same for reports that have a picture too, which a cell shows below the table.
macro_rules! shown_with_picture {
    ($($report:ty),*) => {$(
        impl std::fmt::Display for $report {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.table().fmt(f)
            }
        }

        impl $report {
            /// Shows it as the result of an evcxr cell, with its picture.
            pub fn evcxr_display(&self) {
                let (table, picture) = (self.table(), self.picture());
                let (html, text) = picture.map(|p| (p.html(), format!("\n\n{p}"))).unwrap_or_default();
                crate::show::cell(&format!("{}{html}", table.html()), &format!("{table}{text}"));
            }
        }

        impl crate::show::Shown for $report {
            fn html(&self) -> String {
                format!("{}{}", self.table().html(), self.picture().map(|p| p.html()).unwrap_or_default())
            }

            fn lines(&self, columns: Option<usize>) -> String {
                self.table().lines(columns)
            }
        }
    )*};
}

mod answers;
mod asked;
mod comparison;
mod difference;
mod figure;
mod inspect;
mod lines;
mod load;
mod merge;
mod numbers;
mod scores;
mod table;
mod train;
mod wrap;

pub(crate) use answers::full;
pub use answers::{Answer, Answers};
pub use asked::{Asked, AskedSource, AskedToken};
pub use comparison::{Comparison, Contender};
pub use difference::{Difference, TensorDifference};
pub use figure::{Bars, Curves, Figure, Heatmap, Histogram, Mark, Scale, Series, Spacing, Unit};
pub(crate) use inspect::short_name;
pub use inspect::{Along, Distance, Distances, Inspection, SourceStats, TensorDistances, TensorStats};
pub use lines::printable;
pub use load::{SourceReport, Sources};
pub use merge::{EvolveReport, MergeReport};
pub(crate) use numbers::bytes;
pub(crate) use scores::unused_columns;
pub use scores::{AVERAGE, MERGED, Scoreboard, Scores};
pub use table::Table;
pub(crate) use table::{escape, paragraph};
pub use train::{LossReport, StepReport, TrainReport};
pub use wrap::WrapReport;

/// What has a form for a notebook, and one for a terminal.
pub(crate) trait Shown {
    /// As an HTML fragment.
    fn html(&self) -> String;

    /// As text, for a terminal of so many columns if it is for one.
    fn lines(&self, columns: Option<usize>) -> String;
}

impl Shown for Table {
    fn html(&self) -> String {
        Table::html(self)
    }

    fn lines(&self, columns: Option<usize>) -> String {
        Table::lines(self, columns)
    }
}

impl Shown for Figure {
    fn html(&self) -> String {
        Figure::html(self)
    }

    fn lines(&self, columns: Option<usize>) -> String {
        self.text(columns.unwrap_or(COLUMNS), false)
    }
}

/// Columns that text is set in where nothing says how many there are.
pub const COLUMNS: usize = 80;

/// Shows something as an evcxr cell's result: HTML with its text twin.
fn cell(html: &str, text: &str) {
    println!("EVCXR_BEGIN_CONTENT text/html\n{html}\nEVCXR_END_CONTENT");
    println!("EVCXR_BEGIN_CONTENT text/plain\n{text}\nEVCXR_END_CONTENT");
}
