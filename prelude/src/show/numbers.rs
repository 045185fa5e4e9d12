//! Formats numbers for display.

pub(super) fn perplexity(x: f64) -> String {
    if x < 1e6 { format!("{x:.3}") } else { format!("{x:.1e}") }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Formats a probability: in percent, or with an exponent if it is tiny.
pub(super) fn probability(p: f64) -> String {
    if p == 0.0 || p >= 5e-4 { percent(p) } else { format!("{p:.0e}") }
}

/// Formats a share with its standard error, both in percent: `79.5% ± 2.9`.
pub(super) fn with_error(share: f64, stderr: Option<f64>) -> String {
    match stderr {
        Some(stderr) => format!("{} ± {:.1}", percent(share), 100.0 * stderr),
        None => percent(share),
    }
}

/// Formats six significant digits.
pub(super) fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 1e-3 { format!("{x:.3e}") } else { format!("{x:.5}") }
}

/// Formats three significant digits, for figures.
pub(super) fn brief(x: f64) -> String {
    let size = x.abs();
    match size {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{x:.1e}").replace(".0e", "e"),
        size if size >= 99.95 => format!("{x:.0}"),
        size if size >= 9.995 => format!("{x:.1}"),
        size if size >= 0.9995 => format!("{x:.2}"),
        size if size >= 0.01 => format!("{x:.3}"),
        _ => format!("{x:.4}"),
    }
}

pub(super) fn count(n: usize) -> String {
    let digits = n.to_string();
    let grouped =
        digits.as_bytes().rchunks(3).rev().map(|c| String::from_utf8_lossy(c).into_owned());
    grouped.collect::<Vec<_>>().join(",")
}

pub(crate) fn bytes(n: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}
