//! bake: writes the merge as a Hugging Face checkpoint.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::Session;
use super::adapter::AsAdapter;
use super::bake_options::Bake;
use super::model_index::model_index;
use super::output::{Output, last};
use crate::checkpoint::{Content, Source, TensorSpec, Written, common_dtype, views};
use crate::coefficients::{COLUMNS, Wrap};
use crate::error::Result;
use crate::methods::Planned;

impl Session {
    pub(super) fn bake(&self, directory: &Path, options: &Bake) -> Result<Written> {
        self.models.check_files_unchanged()?;
        let output = Output {
            options,
            loaded: &self.models.sources,
            merged: &self.sources,
            configured: None,
            tokenizer: self.models.tokenizer_source(),
            restacked: None,
            card: self.card(),
        };
        if let Some(rank) = options.adapter {
            let specs: Vec<&TensorSpec> = self.merge.tensors.iter().map(|t| &t.spec).collect();
            let adapter = AsAdapter { output: &output, base: self.models.base(), rank };
            return adapter
                .write(directory, &specs, |name| self.merge.values(self.merge.tensor(name)?));
        }
        let stored = |spec| Ok((spec, common_dtype(&views(&self.sources, spec)?)));
        let rest = self.rest()?;
        let specs =
            self.merge.tensors.iter().map(|t| stored(&t.spec)).collect::<Result<Vec<_>>>()?;
        let mut entries = output.entries(
            specs.into_iter().chain(rest.iter().map(|t| (t.operands.spec(), t.operands.dtype()))),
        )?;
        let buffers = self.sources[0].buffers();
        entries.extend(output.copied(buffers));
        let rest: BTreeMap<&str, &Planned> =
            rest.iter().map(|t| (t.operands.spec().name.as_str(), t)).collect();
        output.write(directory, entries, |entry| {
            if let Some(buffer) = buffers.get(&entry.name) {
                return Ok(Content::Bytes(buffer.bytes()));
            }
            Ok(Content::Values(match rest.get(entry.name.as_str()) {
                Some(planned) => planned.values()?,
                None => self.merge.values(self.merge.tensor(&entry.name)?)?,
            }))
        })
    }

    /// Returns the model card: what was merged, how, and the scores.
    fn card(&self) -> String {
        let names: Vec<&str> = self.sources.iter().map(Source::name).collect();
        let index = match &self.scores {
            Some(scores) if scores.held_out => {
                model_index(&format!("DAM merge of {}", names.join(", ")), scores)
            }
            _ => String::new(),
        };
        let mut card = format!(
            "---\nlibrary_name: transformers\ntags:\n- merge\n- dam\n{index}---\n\n# A DAM merge\n\n",
        );
        let mut line = |text: String| writeln!(card, "{text}").unwrap_or(());
        let coefficients = match self.merge.wrap.scheme.name().as_str() {
            COLUMNS => "a coefficient per source and weight column".into(),
            _ => format!("coefficients of the scheme `{}`", self.merge.wrap.title()),
        };
        line(format!(
            "Merged by Differentiable Adaptive Merging (arXiv 2410.08371): {coefficients},"
        ));
        line(
            "learnt by making the merge agree with each source on that source's own data.\n".into(),
        );
        line("## Sources\n".into());
        for source in &self.models.sources {
            let data = match self.models.data.get(source.name()) {
                Some(data) => format!("{} examples of `{}`", data.examples.len(), last(&data.spec)),
                None => "no data".into(),
            };
            let merged = if self.sources.iter().any(|s| s.name() == source.name()) {
                ""
            } else {
                " (the base; not merged)"
            };
            line(format!("- `{}`: `{}`, {data}{merged}", source.name(), last(source.spec())));
        }
        if let Some(note) = self.rest_note() {
            line(format!("\n{note}."));
        }
        line("\n## Recipe\n\n```json".into());
        let Wrap { scheme, options } = &self.merge.wrap;
        let mut wrap = serde_json::json!({"scheme": scheme.name(), "options": options});
        scheme.settings().into_iter().for_each(|(key, value)| wrap[key] = value.into());
        let recipe =
            serde_json::json!({"wrap": wrap, "settings": self.models.settings, "steps": self.step});
        line(serde_json::to_string_pretty(&recipe).unwrap_or_default());
        line("```".into());
        match &self.start {
            Some(start) => line(format!("\nStart of the coefficients: {start}.")),
            None if self.step == 0 => {
                line("\nNot trained: these are the initial coefficients.".into());
            }
            None => {}
        }
        if let (Some((_, first)), Some((_, last))) =
            (self.history.total.first(), self.history.total.last())
        {
            line(format!(
                "\nLoss at step 1: {first:.5}, at step {}: {last:.5}.",
                self.history.total.len()
            ));
        }
        if let Some(scores) = &self.scores {
            let held_out =
                if scores.held_out { "On held-out data." } else { "On the training data." };
            line(format!("\n## Scores\n\n{held_out}"));
            if !scores.data.is_empty() {
                line(
                    "\n| data | loss | perplexity | exact match |\n| --- | --- | --- | --- |"
                        .into(),
                );
            }
            for (name, s) in &scores.data {
                let exact = s.exact_match.map_or("-".into(), |x| format!("{:.1}%", 100.0 * x));
                line(format!("| {name} | {:.4} | {:.3} | {exact} |", s.loss, s.perplexity));
            }
            if !scores.tasks.is_empty() {
                line("\n| task | examples | metric | filters | score | standard error | questions |\n| --- | --- | --- | --- | --- | --- | --- |".into());
            }
            for task in scores.groups.values().chain(scores.tasks.values()) {
                for metric in &task.metrics {
                    let stderr = metric.stderr.map_or("-".into(), |x| format!("{x:.4}"));
                    line(format!(
                        "| {} | {} | {} | {} | {:.4} | {stderr} | {} |",
                        task.name,
                        task.shots,
                        metric.name,
                        metric.filter,
                        metric.value,
                        task.questions
                    ));
                }
            }
        }
        card
    }
}
