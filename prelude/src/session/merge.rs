//! merge: sources merged by a method that trains nothing, streamed from where they are to a checkpoint.

use std::fmt::Write;
use std::path::Path;

use super::output::{Output, last};
use super::{BASE, Bake, Models, on_threads};
use crate::checkpoint::{Content, Entry, Source};
use crate::error::{Error, Result};
use crate::methods::{Method, Operands, content};
use crate::show::MergeReport;

impl Models {
    /// Merges the sources by `method` into a Hugging Face checkpoint in a new directory. No forward pass
    /// is needed, so that models of any family can be merged; little memory is, as sources are read
    /// where they are mapped and the merge is written block by block.
    ///
    /// # Errors
    /// Fewer than two sources, a method whose parameters do not fit them, a value that the dtype cannot
    /// hold, or a directory that exists, has no room or may not be written; nothing is left behind.
    pub fn merge(&self, method: &dyn Method, directory: impl AsRef<Path>, options: &Bake) -> Result<MergeReport> {
        let sources = self.merged(method.merges_base())?;
        method.check(sources.len())?;
        let base = match method.needs_base() {
            true => Some(self.base().ok_or_else(|| Error::Sources {
                what: format!("{} merges what sources have learnt since their base model, and none is marked", method.name()),
                hint: "load base=SOURCE too",
            })?),
            false => None,
        };
        let first = &sources[0];
        let output = Output { options, loaded: &self.sources, merged: &sources, card: self.card(method, &sources) };
        let mut entries = output.entries(first.tensors())?;
        let buffers = first.buffers();
        entries.extend(buffers.iter().map(|(name, b)| Entry { name: name.clone(), shape: b.shape.clone(), dtype: b.dtype }));
        let directory = directory.as_ref();
        let specs = first.tensors();
        let written = on_threads(self.settings.threads, || {
            output.write(directory, entries, |entry| {
                let Some(spec) = specs.iter().find(|spec| spec.name == entry.name) else {
                    return Ok(Content::Bytes(buffers.get(&entry.name).map_or(&[], |b| b.bytes())));
                };
                let views = sources.iter().map(|s| s.view(&spec.name).cloned()).collect::<Result<_>>()?;
                let base = base.map(|b| b.view(&spec.name).cloned()).transpose()?;
                content(method, Operands::new(spec.clone(), views, base))
            })
        })?;
        Ok(MergeReport {
            method: method.name().into(),
            sources: sources.iter().map(|s| s.name().to_owned()).collect(),
            written,
            copied: buffers.keys().cloned().collect(),
        })
    }

    /// The model card: what was merged, and how.
    fn card(&self, method: &dyn Method, sources: &[Source]) -> String {
        let name = method.name();
        let mut card = format!("---\nlibrary_name: transformers\ntags:\n- merge\n---\n\n# A {name} merge\n\n## Sources\n\n");
        let mut line = |text: String| writeln!(card, "{text}").unwrap_or(());
        for source in &self.sources {
            let merged = sources.iter().any(|s| s.name() == source.name());
            match (merged, source.name() == BASE && method.needs_base()) {
                (true, _) => line(format!("- `{}`: `{}`", source.name(), last(source.spec()))),
                (false, true) => line(format!("- `{}`: `{}` (the base)", source.name(), last(source.spec()))),
                _ => {}
            }
        }
        line("\n## Recipe\n\n```json".into());
        let recipe = serde_json::json!({"method": name, "parameters": method.parameters()});
        line(serde_json::to_string_pretty(&recipe).unwrap_or_default());
        line("```".into());
        card
    }
}
