//! Scores in a model card, in the form that the Hugging Face hub shows: `model-index`
//! (<https://huggingface.co/docs/hub/model-cards>).

use serde_json::{Map, Value, json};

use crate::show::Scores;

/// Returns the key `model-index` of a model card's front matter, as one line of JSON, which is
/// YAML; empty without scores. Scores that are infinite are left out.
pub(super) fn model_index(model: &str, scores: &Scores) -> String {
    let result = |dataset: Value, metrics: Vec<Value>| json!({"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics});
    let metric = |kind: &str, name: String, value: f64| {
        value.is_finite().then(|| json!({"type": kind, "name": name, "value": value}))
    };
    let data = scores.data.iter().map(|(name, score)| {
        let shares = [
            ("exact_match", score.exact_match),
            ("accuracy", score.multiple_choice),
            ("perplexity", Some(score.perplexity)),
        ];
        let metrics = shares
            .into_iter()
            .filter_map(|(kind, value)| metric(kind, kind.replace('_', " "), value?))
            .collect();
        result(json!({"name": name, "type": name}), metrics)
    });
    let tasks = scores.tasks.values().chain(scores.groups.values()).map(|task| {
        let mut dataset = Map::new();
        dataset.insert("name".into(), json!(task.name));
        let key = |key: &str| task.keys.get(key).and_then(Value::as_str).map(str::to_owned);
        // A data set of the hub has a name with an owner; a format of files says nothing.
        let repo = key("dataset_path").filter(|path| path.contains('/'));
        dataset.insert("type".into(), json!(repo.as_ref().unwrap_or(&task.name)));
        if let (Some(_), Some(config)) = (&repo, key("dataset_name")) {
            dataset.insert("config".into(), json!(config));
        }
        if let Some(split) = key("test_split").or_else(|| key("validation_split")) {
            dataset.insert("split".into(), json!(split));
        }
        let metrics = task.metrics.iter().filter_map(|own| {
            let name = match own.filter.as_str() {
                "none" => format!("{}, {}-shot", own.name, task.shots),
                filter => format!("{} ({filter}), {}-shot", own.name, task.shots),
            };
            metric(&own.name, name, own.value)
        });
        result(Value::Object(dataset), metrics.collect())
    });
    let results: Vec<Value> = data.chain(tasks).collect();
    if results.is_empty() {
        String::new()
    } else {
        format!("model-index: {}\n", json!([{"name": model, "results": results}]))
    }
}
