//! Statements as a script.

const HEADER: &str = "\
# What was done in a session of DAM Lab. Run it in the directory where it was made: dam run FILE
# Paths are as they were given, and what was baked or saved is replaced.
";

/// The script of `lines`.
pub fn script(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("{HEADER}{lines}")
}
