//! What is decided once an adapter is on: whether a tied base still is tied, how many rows its vocabulary has, and what
//! is said of it all.

use serde_json::json;

use super::super::view::View;
use super::Adapter;
use super::base::{Base, set};
use super::config::Init;
use crate::error::Result;

impl Adapter {
    /// Decides whether a base that was tied still is.
    pub(super) fn settle(&self, base: &mut Base<'_>, [embedding, output]: [Option<View>; 2]) -> Result<()> {
        let (Some(name), head) = (base.embedding.clone(), base.output.clone()) else { return Ok(()) };
        let is_same = |view: &Option<View>, now: &View| view.as_ref().is_some_and(|view| view.is(now));
        if self.config.keeps_tied {
            // The embedding's changes hold for both; where only the output layer is stored, its.
            let from_output = is_same(&embedding, &base.tensors[&name]) && !is_same(&output, &base.tensors[&head]);
            let (from, to) = if from_output { (&head, &name) } else { (&name, &head) };
            let view = base.tensors[from].clone();
            base.tensors.insert(to.clone(), view);
        }
        match base.has_one_vocabulary_tensor()? {
            true => {
                base.tensors.remove(&head);
                Ok(())
            }
            false => base.untie(&format!("the adapter `{}` changes the embedding and the output layer differently", self.name())),
        }
    }

    /// Says how many rows the vocabulary has, where the adapter changed that.
    pub(super) fn grow(&self, base: &mut Base<'_>, before: Option<usize>) -> Result<()> {
        let Some((name, before)) = base.embedding.clone().zip(before) else { return Ok(()) };
        let first = |view: &View| view.shape.first().copied();
        let after = base.tensors.get(&name).and_then(first).unwrap_or(before);
        let output = base.tensors.get(&base.output).and_then(first).unwrap_or(after);
        if output != after {
            return Err(self.misfit(
                format!("it brings {after} rows of the embedding, and the output layer has {output}"),
                "its training resized the vocabulary: save the adapter with both (save_pretrained(DIR, save_embedding_layers=True))".into(),
            ));
        }
        if after == before {
            return Ok(());
        }
        base.notes.push(format!("the adapter `{}` brings a vocabulary of {after} rows, the base has {before}", self.name()));
        base.edit(|config| set(config, "vocab_size", &json!(after)))
    }

    /// Says what a reader should know of it.
    pub(super) fn say(&self, base: &mut Base<'_>, left_out: &[&str], changed: usize) {
        let name = self.name();
        if let Some(first) = left_out.first() {
            let count = left_out.len();
            base.notes.push(format!(
                "the adapter `{name}` has parts for {count} modules that its adapter_config.json leaves out, as `{first}`: they are left out, as in PEFT"
            ));
        }
        let initial = match self.config.init {
            Init::Plain => None,
            Init::Principal => Some("without their principal part (PiSSA)"),
            Init::DrawnPrincipal => {
                Some("without their principal part (PiSSA; PEFT approximates it at random at every load, here it is exact)")
            }
            Init::LeadingColumns => Some("without the part of their leading columns (OLoRA)"),
        };
        if let Some(initial) = initial.filter(|_| changed > 0) {
            base.notes.push(format!("the adapter `{name}` was trained on a changed base: {changed} weights {initial}"));
        }
        if !self.parts.taken_off.is_empty() {
            let wrappers = self.parts.taken_off.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
            base.notes.push(format!("{wrappers} was removed from the names in the adapter `{name}`"));
        }
    }
}
