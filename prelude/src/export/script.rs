//! Statements as a script.

const HEADER: &str = "\
# A session of DAM Lab. Run it in the directory of that session: dam run FILE
# Paths are as they were given, and existing output of bake and save is replaced.
";

/// The script of `lines`.
pub fn script(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("{HEADER}{lines}")
}
