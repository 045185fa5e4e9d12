//! Compares displayed texts, ignoring measured values.

/// The relative tolerance of numbers; they may also differ by one in their last digit.
const TOLERANCE: f64 = 5e-4;

/// The words after a measured number, which is not compared.
const MEASURED: [&str; 9] = ["s", "ms", "s,", "s.", "a", "per", "MB", "GB", "minutes"];

/// Compares the words of `found` with those of `committed`, numbers to four digits and without
/// measured values.
///
/// # Errors
/// The first difference.
pub fn same_text(committed: &str, found: &str) -> Result<(), String> {
    let (a, b) = (words(committed), words(found));
    if a.len() != b.len() {
        return Err(format!("committed is\n{committed}\n  found\n{found}"));
    }
    match a.iter().zip(&b).find(|(a, b)| !same_word(a, b)) {
        Some((a, b)) => Err(format!("committed is `{a}`, found `{b}`, in\n{found}")),
        None => Ok(()),
    }
}

/// The words of a text that are compared, without measured values and line drawing.
fn words(text: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut masked: Vec<(usize, usize)> = Vec::new();
    for line in text.lines() {
        let words = words_with_columns(line);
        // Columns are right-aligned with their headers.
        let names = words.iter().filter(|(_, word)| ["seconds", "memory", "time"].contains(word));
        let columns: Vec<(usize, usize)> =
            names.map(|(at, word)| (*at, at + word.chars().count())).collect();
        if !columns.is_empty() {
            masked = columns;
        } else if line.trim().is_empty() {
            masked.clear();
        }
        for (i, (at, word)) in words.iter().enumerate() {
            let end = at + word.chars().count();
            let in_column = masked.iter().any(|(_, column)| *column == end);
            let is_number = word.starts_with(|c: char| c.is_ascii_digit());
            let is_measured =
                is_number && words.get(i + 1).is_some_and(|(_, next)| MEASURED.contains(next));
            if word.chars().any(char::is_alphanumeric) && !(in_column && is_number) && !is_measured
            {
                kept.push((*word).to_owned());
            }
        }
    }
    kept
}

/// The words of a line with their starting columns.
fn words_with_columns(line: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let begin = rest.trim_start();
        let Some(word) = begin.split_whitespace().next() else { return words };
        let before = &line[..line.len() - begin.len()];
        words.push((before.chars().count(), word));
        rest = &begin[word.len()..];
    }
}

fn same_word(a: &str, b: &str) -> bool {
    let number = |word: &str| word.trim_matches(|c| "(),%*;:×[]".contains(c)).parse::<f64>().ok();
    match (number(a), number(b)) {
        (Some(x), Some(y)) => {
            let digits = a
                .split('.')
                .nth(1)
                .map_or(0, |part| part.chars().take_while(char::is_ascii_digit).count());
            let last = 10f64.powi(-i32::try_from(digits).unwrap_or(0)) * 1.01;
            (x - y).abs()
                <= (TOLERANCE * x.abs().max(y.abs())).max(if digits > 0 { last } else { 0.0 })
        }
        _ => a == b,
    }
}

/// `text` with every number replaced by `#`.
pub fn without_numbers(text: &str) -> String {
    let mut all = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' | '.' if all.ends_with('#') => {}
            '0'..='9' => all.push('#'),
            c => all.push(c),
        }
    }
    all
}
