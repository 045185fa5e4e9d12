//! Floor 6: what the primitives return, and how it shows itself: text for a terminal, HTML in a notebook.

mod comparison;
mod reports;
mod table;

pub use comparison::{Comparison, Contender};
pub use reports::{
    AVERAGE, Along, Answer, Distance, Distances, EvolveReport, Inspection, LossReport, MERGED, MergeReport, Scoreboard, Scores,
    SourceReport, SourceStats, Sources, StepReport, TensorDistances, TensorStats, TrainReport, WrapReport,
};
pub use table::Table;
