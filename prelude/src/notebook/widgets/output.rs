//! What a closure of a control returns: nothing, text, a report, a figure, or an error.

use std::fmt::Debug;

use crate::checkpoint::Written;
use crate::show::{
    Answer, Answers, AskReport, Comparison, Difference, Figure, Inspection, LossReport, MixReport,
    Render, Scoreboard, Scores, SolveReport, StepReport, Table, TrainReport, escape,
};

/// The style of text.
const STYLE: &str = "white-space:pre-wrap;margin:0;padding:0";

/// What a control shows below itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// An HTML fragment.
    pub html: String,
}

impl Output {
    /// Text with its line breaks.
    pub fn text(text: &str) -> Self {
        Self { html: format!("<pre style=\"{STYLE}\">{}</pre>", escape(text)) }
    }

    /// An error in red.
    pub fn error(text: &str) -> Self {
        let style = "color:var(--jp-error-color1,#b00020)";
        Self { html: format!("<pre style=\"{STYLE};{style}\">{}</pre>", escape(text)) }
    }
}

/// A value that a control can show. A closure that only does something returns `()`.
pub trait IntoOutput {
    /// Returns what is shown.
    fn into_output(self) -> Output;
}

impl IntoOutput for Output {
    fn into_output(self) -> Output {
        self
    }
}

impl IntoOutput for () {
    fn into_output(self) -> Output {
        Output::default()
    }
}

impl<T: IntoOutput, E: Debug> IntoOutput for Result<T, E> {
    fn into_output(self) -> Output {
        match self {
            Ok(value) => value.into_output(),
            Err(error) => Output::error(&format!("error: {error:?}")),
        }
    }
}

macro_rules! shown_as_text {
    ($($kind:ty),*) => {$(
        impl IntoOutput for $kind {
            fn into_output(self) -> Output {
                Output::text(&self.to_string())
            }
        }
    )*};
}

macro_rules! shown_as_html {
    ($($kind:ty),*) => {$(
        impl IntoOutput for $kind {
            fn into_output(self) -> Output {
                Output { html: Render::html(&self) }
            }
        }
    )*};
}

shown_as_text!(String, &str, bool, char, f32, f64, i32, i64, u32, u64, usize);
shown_as_html!(
    Answer,
    Answers,
    AskReport,
    Comparison,
    Difference,
    Figure,
    Inspection,
    LossReport,
    MixReport,
    Scoreboard,
    Scores,
    SolveReport,
    StepReport,
    Table,
    TrainReport,
    Written
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_errors_are_escaped_html() {
        assert_eq!(().into_output(), Output::default());
        assert!("a < b".into_output().html.contains("a &lt; b"));
        let error = Err::<f64, _>(crate::Error::NothingToTrain).into_output().html;
        assert!(error.contains("error: ") && error.contains("hint: "), "{error}");
        assert!(Ok::<_, String>(Table::new("t", ["a"])).into_output().html.starts_with("<table>"));
    }
}
