//! Floor 6: what the primitives return, and how it shows itself: text for a terminal, HTML in a notebook.

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
    )*};
}

mod comparison;
mod inspect;
mod load;
mod merge;
mod numbers;
mod scores;
mod table;
mod train;
mod wrap;

pub use comparison::{Comparison, Contender};
pub use inspect::{Along, Distance, Distances, Inspection, SourceStats, TensorDistances, TensorStats};
pub use load::{SourceReport, Sources};
pub use merge::{EvolveReport, MergeReport};
pub use scores::{AVERAGE, Answer, MERGED, Scoreboard, Scores};
pub use table::Table;
pub use train::{LossReport, StepReport, TrainReport};
pub use wrap::WrapReport;
