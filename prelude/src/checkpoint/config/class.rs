//! The class in `architectures`: whether a checkpoint of a known family is a language model.

use serde_json::Value;

/// Returns the reason why a checkpoint with the configuration `json` is not a language model, such
/// as a classifier or an embedding model of a family that has language models; `None` if it is one.
/// `has_output` says whether it has an output layer, of its own or tied.
pub(crate) fn other_than_language_model(json: &[u8], has_output: bool) -> Option<String> {
    let config: Value = serde_json::from_slice(json).ok()?;
    let class = config["architectures"][0].as_str()?;
    let is_language_model = match class.rsplit_once("For") {
        Some((_, head)) => ["CausalLM", "ConditionalGeneration"].contains(&head),
        None => has_output || !class.ends_with("Model"),
    };
    (!is_language_model).then(|| format!("`{class}` is not a language model"))
}

#[cfg(test)]
mod tests {
    use super::other_than_language_model;

    #[test]
    fn classifiers_and_models_without_a_head_are_not_language_models() {
        for (class, has_output, expected) in [
            ("LlamaForCausalLM", true, true),
            ("Gemma3ForConditionalGeneration", true, true),
            ("Gemma2ForSequenceClassification", true, false),
            ("Qwen2ForTokenClassification", true, false),
            ("LlamaForQuestionAnswering", true, false),
            ("MistralModel", false, false),
            ("Qwen2Model", true, true),
            ("InternVLChatModel", true, true),
            // Its missing output layer is an error.
            ("LlamaForCausalLM", false, true),
        ] {
            let json = format!("{{\"architectures\": [\"{class}\"]}}");
            let reason = other_than_language_model(json.as_bytes(), has_output);
            assert_eq!(reason.is_none(), expected, "{class}: {reason:?}");
        }
        assert_eq!(other_than_language_model(b"{}", false), None);
    }
}
