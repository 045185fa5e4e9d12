//! Records the copied files in the model card, for users and to recognize them before a checkpoint
//! is replaced.

use std::collections::BTreeSet;

/// The heading of the list of copied files.
const HEADING: &str = "## Files copied";

/// The section of a model card that lists copied files by source, in lines such as "- from `a`:
/// `x.json`". [`recorded`] parses it.
pub(crate) fn record(copied: &[(String, String)]) -> String {
    let mut text = String::new();
    let mut sources: Vec<&str> = Vec::new();
    for (source, _) in copied {
        if !sources.contains(&source.as_str()) {
            sources.push(source);
        }
    }
    for source in sources {
        let files =
            copied.iter().filter(|(from, _)| from == source).map(|(_, name)| format!("`{name}`"));
        text += &format!(
            "- from `{}`: {}\n",
            source.replace('`', "'"),
            files.collect::<Vec<_>>().join(", ")
        );
    }
    if text.is_empty() { text } else { format!("\n{HEADING}\n\n{text}") }
}

/// The files that a model card lists as copied.
pub(crate) fn recorded(card: &str) -> BTreeSet<&str> {
    let lines = card
        .lines()
        .skip_while(|line| *line != HEADING)
        .skip(1)
        .take_while(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once("`: "))
        .flat_map(|(_, files)| files.split('`').skip(1).step_by(2))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_lists_the_copied_files() {
        let pair = |source: &str, name: &str| (source.to_owned(), name.to_owned());
        let copied =
            [pair("a`b", "x.json"), pair("c", "1_Pooling/config.json"), pair("a`b", "LICENSE")];
        let card = format!("# A merge\n{}\n## More\n\n- `not`: `this.txt`\n", record(&copied));
        assert!(
            card.contains(
                "- from `a'b`: `x.json`, `LICENSE`\n- from `c`: `1_Pooling/config.json`\n"
            ),
            "{card}"
        );
        assert_eq!(
            recorded(&card).into_iter().collect::<Vec<_>>(),
            ["1_Pooling/config.json", "LICENSE", "x.json"]
        );
        assert!(recorded("- from `a`: `x.json`").is_empty() && record(&[]).is_empty());
    }
}
