//! How a source is specified: `[NAME=]SOURCE[+ADAPTER...]`.

use std::path::Path;

use crate::checkpoint::storage::BUILTIN_PREFIX;

/// Splits `SOURCE+ADAPTER...`; an existing path with a `+` in its name stays whole.
pub(super) fn split_adapters(spec: &str) -> (&str, Vec<&str>) {
    let (mut source, mut adapters) = (spec, Vec::new());
    while !Path::new(source).exists() {
        let Some((rest, adapter)) = source.rsplit_once('+') else { break };
        adapters.insert(0, adapter);
        source = rest;
    }
    (source, adapters)
}

/// Splits `NAME=SOURCE`; a name consists of letters, digits, `-` and `_`. An existing path with `=`
/// stays whole, unless the part after the `=` exists too.
pub(crate) fn split_name(spec: &str) -> (Option<&str>, &str) {
    let plain =
        |s: &str| !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
    match spec.split_once('=') {
        Some((name, rest))
            if plain(name) && (Path::new(rest).exists() || !Path::new(spec).exists()) =>
        {
            (Some(name), rest)
        }
        _ => (None, spec),
    }
}

/// The name of a source at `path` that was given none.
pub(super) fn default_name(path: &Path) -> String {
    let text = path.display().to_string();
    let last = text.strip_prefix(BUILTIN_PREFIX).or_else(|| path.file_name()?.to_str());
    last.filter(|s| !s.is_empty()).unwrap_or("model").to_owned()
}
