//! Selects the files other than weights that a merge copies from its sources.
//!
//! Files that depend on each other come from one source: tokenizer files from the source that
//! provides the tokenizer, processor files from the first source that has one. Files that belong to
//! config.json (such as custom code) come from the source that provides config.json. Licences come
//! from all sources.

use std::collections::BTreeMap;

use crate::checkpoint::{
    Group, MAX_SIDE_BYTES, MAX_SIDE_FILES, Source, WHOLE_GROUPS, is_vocabulary,
};
use crate::error::Result;

/// A file to copy.
pub(super) struct SideFile<'a> {
    /// Its name in the merge.
    pub name: String,
    pub group: Group,
    pub source: &'a Source,
    /// Its name in the source.
    own: String,
    size: u64,
}

impl SideFile<'_> {
    /// Reads the file.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        Ok(self.source.side_file(&self.own)?.map(|bytes| bytes.to_vec()).unwrap_or_default())
    }
}

/// The files to copy, and the files left out, each with the reason.
pub(super) struct SideFiles<'a> {
    pub files: Vec<SideFile<'a>>,
    pub left_out: Vec<String>,
}

/// Selects the files of `wanted` groups. `models` are the sources in order of preference;
/// `tokenizer_sources` is the same for tokenizer files.
pub(super) fn select<'a>(
    models: &[&'a Source],
    tokenizer_sources: &[&'a Source],
    wanted: impl Fn(Group) -> bool,
) -> SideFiles<'a> {
    let mut listed: Vec<(&'a Source, crate::checkpoint::SideFiles)> = Vec::new();
    for source in models.iter().chain(tokenizer_sources) {
        if !listed.iter().any(|(known, _)| known.identity() == source.identity()) {
            listed.push((source, source.side_files()));
        }
    }
    let of = |source: &Source, group: Group| {
        let beside = listed.iter().find(|(known, _)| known.identity() == source.identity());
        beside
            .into_iter()
            .flat_map(|(_, beside)| &beside.files)
            .filter(move |(_, g, _)| *g == group)
    };
    let mut all: Vec<SideFile<'a>> = Vec::new();
    let mut take = |source: &'a Source, group: Group| {
        all.extend(of(source, group).map(|(name, group, size)| SideFile {
            name: name.clone(),
            group: *group,
            source,
            own: name.clone(),
            size: *size,
        }));
    };
    let provider = models.iter().find(|s| of(s, Group::Config).next().is_some());
    for group in [Group::Config, Group::Other] {
        provider.into_iter().for_each(|source| take(source, group));
    }
    for group in WHOLE_GROUPS {
        let order = if group == Group::Tokenizer { tokenizer_sources } else { models };
        let whole = order.iter().find(|s| {
            of(s, group).any(|(name, ..)| group != Group::Tokenizer || is_vocabulary(name))
        });
        let any = || order.iter().find(|s| of(s, group).next().is_some());
        whole.or_else(any).into_iter().for_each(|source| take(source, group));
    }
    for source in models {
        take(source, Group::Licence);
    }
    all.retain(|file| wanted(file.group));
    let mut left_out: Vec<String> = Vec::new();
    for (source, beside) in &listed {
        let skipped = beside
            .left_out
            .iter()
            .filter(|_| all.iter().any(|file| file.source.identity() == source.identity()));
        left_out.extend(skipped.map(|(name, why)| format!("{name} of {} ({why})", source.name())));
    }
    SideFiles { files: within_limits(rename_licences(all), &mut left_out), left_out }
}

/// Renames licences that have the same name but different text, by appending the source's name.
/// Equal texts are kept once.
fn rename_licences(files: Vec<SideFile<'_>>) -> Vec<SideFile<'_>> {
    let mut kept: Vec<SideFile<'_>> = Vec::new();
    let mut texts: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for mut file in files {
        if file.group == Group::Licence {
            // A file that cannot be read is reported when it is written.
            let text = file.bytes().unwrap_or_default();
            let known = texts.entry(file.own.clone()).or_default();
            if known.contains(&text) {
                continue;
            }
            if !known.is_empty() {
                file.name = licence_name(&file.own, file.source.name());
            }
            known.push(text);
        }
        if !kept.iter().any(|other| other.name == file.name) {
            kept.push(file);
        }
    }
    kept
}

/// Turns `LICENSE` into `LICENSE-math`, and `LICENSE.txt` into `LICENSE-math.txt`.
fn licence_name(name: &str, source: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let source: String = source.chars().map(plain).take(64).collect();
    match name.split_once('.') {
        Some((stem, end)) => format!("{stem}-{source}.{end}"),
        None => format!("{name}-{source}"),
    }
}

/// Returns as many of `files` as the limits allow; config.json is always included.
fn within_limits<'a>(files: Vec<SideFile<'a>>, left_out: &mut Vec<String>) -> Vec<SideFile<'a>> {
    let mut kept = Vec::new();
    let mut bytes = 0;
    for file in files {
        if kept.len() < MAX_SIDE_FILES && bytes + file.size <= MAX_SIDE_BYTES {
            bytes += file.size;
            kept.push(file);
        } else {
            let source = file.source.name();
            left_out.push(format!("{} of {source} (too many files or bytes)", file.own));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_named_after_their_sources() {
        assert_eq!(licence_name("LICENSE", "math"), "LICENSE-math");
        assert_eq!(licence_name("LICENSE.txt", "a/b c"), "LICENSE-a-b-c.txt");
    }
}
