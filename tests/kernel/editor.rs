//! Completion, documentation and history.

use std::time::{Duration, Instant};

use crate::{MERGE, shared};

#[test]
fn completion_lists_members_of_the_type_first() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let words = kernel.complete("dam.");
    for word in [
        "into()",
        "try_into()",
        "borrow()",
        "to_owned()",
        "type_id()",
        "session()",
        "free_caches()",
        "0",
        "with_weights(",
    ] {
        assert!(!words.contains(&word.to_owned()), "{word}: {words:?}");
    }
    let at = |name: &str| words.iter().position(|word| word.trim_end_matches(['(', ')']) == name);
    for own in ["train", "loss", "step", "inspect", "bake"] {
        assert!(
            at(own).unwrap_or_else(|| panic!("{own}: {words:?}"))
                < at("clone").unwrap_or(usize::MAX),
            "{own}: {words:?}"
        );
    }
    let begin = Instant::now();
    kernel.complete("dam.");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // Between the arguments of a call, and after a line of verbs.
    assert!(kernel.inspect("%step\ndam.train(1").contains("optimiser steps"));
}

#[test]
fn completion_documentation_and_history_work() {
    let mut kernel = shared();
    assert_eq!(kernel.run(MERGE).status, "ok");
    let words = kernel.complete("dam.tra");
    assert!(words.iter().any(|word| word.starts_with("train")), "{words:?}");
    assert!(kernel.complete("%tr").contains(&"train".to_owned()));
    assert!(kernel.inspect("dam.train").contains("optimiser steps"));
    assert!(kernel.inspect("%train").contains("train N"));
    assert_eq!(kernel.is_complete("for i in 0..3 {"), "incomplete");
    assert_eq!(kernel.is_complete("let a = 1;"), "complete");
    assert_eq!(kernel.is_complete("a)"), "invalid");
    let history = kernel.history();
    assert_eq!(history.as_array().unwrap().last().unwrap()[2], MERGE);
}
