//! Statements as a script: the inverse of `parse.rs`, and what makes a script run again where it
//! has run.

use crate::Result;
use crate::show::Comparison;

use super::super::Statement;
use super::super::arguments::{is_recipe, pair};
use super::super::parse::line;

const HEADER: &str = "\
# What was done in a session of DAM Lab. Run it in the directory where it was made: dam run FILE
# Paths are as they were given, and what was baked or saved is replaced.
";

/// The script of `statements`.
pub fn script(statements: &[Statement], _: &[String]) -> Result<String> {
    let mut text = HEADER.to_owned();
    for statement in statements {
        text.push_str(&line(&again(statement)));
        text.push('\n');
    }
    Ok(text)
}

/// The statement that does the same where it has been done before: what it wrote is replaced or,
/// where no flag does that, left alone.
fn again(statement: &Statement) -> Statement {
    let mut again = statement.clone();
    let arguments = &mut again.arguments;
    let forced = match statement.verb.as_str() {
        "bake" | "save" => true,
        "merge" => {
            arguments.iter().filter(|a| pair(a).is_none() && !a.starts_with("--")).count() > 1
        }
        "evolve" => {
            arguments.retain(|a| !is_recipe(a));
            false
        }
        "compare" => {
            arguments.retain(|a| {
                pair(a).is_some() || !Comparison::FORMATS.iter().any(|end| a.ends_with(end))
            });
            false
        }
        _ => false,
    };
    if forced && !arguments.iter().any(|a| a == "--force") {
        arguments.push("--force".into());
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::statements;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn statement(words: &[&str]) -> Statement {
        Statement {
            verb: words[0].into(),
            arguments: words[1..].iter().map(|w| (*w).to_owned()).collect(),
            line: 1,
        }
    }

    /// Whatever words there are, a line of them is read as them, beside others.
    #[test]
    fn what_is_written_is_what_was_read() {
        let pieces = [
            "'", "\"", " ", "#", ";", "\n", "\\", "\t", "\r", "a", "=", "~/", "\u{a0}", "\u{3000}",
            "日本", "--x", "\\\"",
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..2000 {
            let mut random = || -> String {
                (0..rng.random_range(0..6))
                    .map(|_| pieces[rng.random_range(0..pieces.len())])
                    .collect()
            };
            let words: Vec<String> = (0..4).map(|_| random()).collect();
            let before = statement(&["load", "a"]);
            let odd = Statement { verb: words[0].clone(), arguments: words[1..].to_vec(), line: 1 };
            let text = format!("{}\n{}\n{}", line(&before), line(&odd), line(&before));
            let read = statements(&text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            let same =
                |a: &Statement, b: &Statement| (&a.verb, &a.arguments) == (&b.verb, &b.arguments);
            assert!(
                read.len() == 3
                    && same(&read[0], &before)
                    && same(&read[1], &odd)
                    && same(&read[2], &before),
                "{text:?}"
            );
        }
    }

    #[test]
    fn words_are_quoted_only_where_it_is_needed() {
        let line = |words: &[&str]| line(&statement(words));
        assert_eq!(line(&["save", "a#b\\c"]), "save a#b\\c");
        assert_eq!(line(&["generate", "a b", "#", ""]), "generate \"a b\" \"#\" \"\"");
        assert_eq!(
            line(&["generate", "say \"it\"", "it's; \"so\""]),
            "generate 'say \"it\"' \"it's; \\\"so\\\"\""
        );
    }

    #[test]
    fn a_script_can_run_where_it_ran() {
        let done = [
            &["load", "a", "b"][..],
            &["evolve", "linear", "best.yml"],
            &["merge", "ties", "density=0.5"],
            &["merge", "ties", "density=0.5", "out"],
            &["wrap"],
            &["train", "3"],
            &["wrap"],
            &["bake", "dir"],
            &["compare", "dam", "on=x.md", "t.md"],
        ];
        let done: Vec<Statement> = done.iter().map(|words| statement(words)).collect();
        let text = script(&done, &[]).unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let expected = [
            "load a b",
            "evolve linear",
            "merge ties density=0.5",
            "merge ties density=0.5 out --force",
            "wrap",
            "train 3",
            "wrap",
            "bake dir --force",
            "compare dam on=x.md",
        ];
        assert_eq!(lines, expected);
    }
}
