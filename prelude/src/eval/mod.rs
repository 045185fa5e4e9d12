//! Evaluation on data, generation, and the cost of a task.

mod choose;
mod continuations;
mod cost;
mod generate;
mod generate_each;
mod groups;
mod likelihood;
mod next_tokens;
mod paired;
mod score;
mod sql;
mod standard_error;
mod tasks;

pub use choose::{Choices, choose, option_likelihoods};
pub use continuations::likelihoods;
pub use cost::{Cost, measured};
pub use generate::{Generation, generate};
pub use likelihood::{Likelihood, MARGIN, favoured, log_probs};
pub(crate) use likelihood::{log_prob, log_sum_exp, without};
pub use next_tokens::{NextToken, likeliest, next_tokens};
pub use paired::{Paired, paired};
pub use score::{Score, score};
pub use standard_error::mean_error;
pub(crate) use standard_error::{deviation, mean};
pub(crate) use tasks::harness_json;
pub use tasks::{
    EncodedTask, TASK_PREFIX, Task, TaskAnswer, TaskGroup, TaskList, TaskMetric, TaskOptions,
    TaskQuestion, TaskScores,
};
pub(crate) use tasks::{SPIDER_PREFIX, ready_tasks, task_of};
