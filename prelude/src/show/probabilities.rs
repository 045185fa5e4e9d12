//! The merge's answer with the probability of each token, and of the answer under each source.

use super::lines::{or_nothing, printable};
use super::numbers::percent;
use super::table::{Table, escape};
use super::{MERGED, Render};
use crate::eval::Likelihood;

/// An answer with its probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AnswerProbabilities {
    /// The prompt.
    pub prompt: String,
    /// The merge's answer.
    pub answer: String,
    /// The likelihood of the answer under the merge.
    pub likelihood: Likelihood,
    /// The tokens of the answer.
    pub tokens: Vec<TokenProbability>,
    /// Each source's name, its own answer, and the likelihood of the merge's answer under it.
    pub sources: Vec<(String, String, Likelihood)>,
}

/// A token of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenProbability {
    /// The text that it completes; empty within a character of several tokens.
    pub text: String,
    /// Its probability under the merge, given the prompt and the tokens before it.
    pub probability: f64,
}

impl AnswerProbabilities {
    /// Returns the table of answers; the probability is that of the merge's answer.
    pub fn table(&self) -> Table {
        let mut table = Table::new("", ["model", "answer", "probability of DAM's answer"]);
        table.text_columns.insert(1);
        let mut row = |name: &str, answer: &str, likelihood: &Likelihood| {
            let probability = match likelihood.tokens {
                0 => "-".to_owned(),
                _ => percent(likelihood.log_likelihood.exp()),
            };
            let answer = printable(or_nothing(answer));
            table.rows.push(vec![printable(name), answer, probability]);
        };
        row(MERGED, &self.answer, &self.likelihood);
        self.sources.iter().for_each(|(name, answer, found)| row(name, answer, found));
        table
    }

    /// Returns the table, and below it each token with its probability: the bar under a token is as
    /// wide as it is probable. Only answers are broken within words.
    pub fn html(&self) -> String {
        let table = Render::html(&self.table()).replace(
            "<td style=\"text-align:left;white-space:pre-wrap\">",
            "<td style=\"text-align:left;white-space:pre-wrap;overflow-wrap:anywhere;min-width:7em\">",
        );
        let token = |token: &TokenProbability| {
            let shown = percent(token.probability);
            let bar = format!(
                "<span style=\"display:block;height:3px;background:#4c78a8;width:{:.0}%\"></span>",
                100.0 * token.probability
            );
            format!(
                "<span style=\"display:inline-block;margin:0 0.3em 0.3em 0;text-align:center\">\
                 <span style=\"white-space:pre\">{}</span>{bar}<small>{shown}</small></span>",
                escape(&printable(&token.text))
            )
        };
        let tokens: String = self.tokens.iter().map(token).collect();
        format!("{table}<div style=\"margin:0.4em 0\">{tokens}</div>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_percent_and_text_is_escaped() {
        let likelihood = Likelihood { tokens: 1, log_likelihood: 0.25f64.ln() };
        let answer = AnswerProbabilities {
            prompt: "?".into(),
            answer: "a<b".into(),
            likelihood,
            tokens: vec![TokenProbability { text: "a<b".into(), probability: 0.25 }],
            sources: vec![("math".into(), String::new(), Likelihood::default())],
        };
        let html = answer.html();
        assert!(html.contains("a&lt;b") && !html.contains("a<b"), "{html}");
        assert!(html.contains("width:25%") && html.contains("25.0%"), "{html}");
        assert!(answer.table().to_string().contains("25.0%"), "{}", answer.table());
    }
}
