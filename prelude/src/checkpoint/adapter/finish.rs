//! The last steps of applying an adapter: whether the base stays tied, the number of rows of its
//! vocabulary, and notes.

use serde_json::json;

use super::Adapter;
use super::base::{Base, set};
use super::config::Init;
use crate::checkpoint::storage::View;
use crate::error::Result;

impl Adapter {
    /// Determines whether a tied base stays tied.
    pub(super) fn resolve_tying(
        &self,
        base: &mut Base<'_>,
        [embedding, output]: [Option<View>; 2],
    ) -> Result<()> {
        let (Some(name), head) = (base.embedding.clone(), base.output.clone()) else {
            return Ok(());
        };
        let is_same =
            |view: &Option<View>, now: &View| view.as_ref().is_some_and(|view| view.is(now));
        if self.config.keeps_tied {
            // The embedding's changes apply to both tensors; if only the output layer is stored,
            // its changes do.
            let from_output = is_same(&embedding, &base.tensors[&name])
                && !is_same(&output, &base.tensors[&head]);
            let (from, to) = if from_output { (&head, &name) } else { (&name, &head) };
            let view = base.tensors[from].clone();
            base.tensors.insert(to.clone(), view);
        }
        if base.has_one_vocabulary_tensor()? {
            base.tensors.remove(&head);
            Ok(())
        } else {
            base.untie(&format!(
                "the adapter `{}` changes the embedding and the output layer differently",
                self.name()
            ))
        }
    }

    /// Updates the vocabulary size if the adapter changed the number of rows.
    pub(super) fn update_vocab_size(
        &self,
        base: &mut Base<'_>,
        before: Option<usize>,
    ) -> Result<()> {
        let Some((name, before)) = base.embedding.clone().zip(before) else { return Ok(()) };
        let first = |view: &View| view.shape.first().copied();
        let after = base.tensors.get(&name).and_then(first).unwrap_or(before);
        let output = base.tensors.get(&base.output).and_then(first).unwrap_or(after);
        if output != after {
            return Err(self.mismatch_error(
                format!("it has {after} rows for the embedding, but the output layer has {output}"),
                "training resized the vocabulary: save the adapter with both layers (save_pretrained(DIR, save_embedding_layers=True))".into(),
            ));
        }
        if after == before {
            return Ok(());
        }
        base.notes.push(format!(
            "the adapter `{}` has a vocabulary of {after} rows; the base has {before}",
            self.name()
        ));
        base.edit(|config| set(config, "vocab_size", &json!(after)))
    }

    /// Adds notes for the user.
    pub(super) fn add_notes(&self, base: &mut Base<'_>, left_out: &[&str], changed: usize) {
        let name = self.name();
        if let Some(first) = left_out.first() {
            let count = left_out.len();
            base.notes.push(format!(
                "the adapter `{name}` has parts for {count} modules that its adapter_config.json excludes, for example `{first}`; they are ignored, as in PEFT"
            ));
        }
        let initial = match self.config.init {
            Init::Plain => None,
            Init::Principal => Some("without their principal part (PiSSA)"),
            Init::DrawnPrincipal => Some(
                "without their principal part (PiSSA; exact here, whereas PEFT approximates it at random on each load)",
            ),
            Init::LeadingColumns => Some("without their leading columns (OLoRA)"),
        };
        if let Some(initial) = initial.filter(|_| changed > 0) {
            base.notes.push(format!(
                "the adapter `{name}` was trained on a changed base: {changed} weights {initial}"
            ));
        }
        if !self.parts.stripped_prefixes.is_empty() {
            let wrappers = self
                .parts
                .stripped_prefixes
                .iter()
                .map(|w| format!("`{w}`"))
                .collect::<Vec<_>>()
                .join(", ");
            base.notes
                .push(format!("removed {wrappers} from the tensor names of the adapter `{name}`"));
        }
    }
}
