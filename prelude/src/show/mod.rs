//! Floor 6: what the primitives return, and how it shows itself: text for a terminal, HTML in a notebook.

mod reports;
mod table;

pub use reports::{
    AVERAGE, Along, Answer, Inspection, LossReport, MERGED, MergeReport, Scoreboard, Scores, SourceReport, SourceStats, Sources,
    StepReport, TensorStats, TrainReport, WrapReport,
};
pub use table::Table;
