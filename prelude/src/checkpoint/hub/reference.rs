//! References to repositories on the hub.

use std::path::{Component, Path};

use hf_hub::{Repo, RepoType};

/// A reference to a repository on the hub, `org/name` or `org/name@revision`, and optionally to a
/// file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubRef {
    pub repo: String,
    pub revision: String,
    /// A file in the repository, if given.
    pub file: Option<String>,
    pub is_dataset: bool,
}

impl HubRef {
    /// Parses `org/name[@revision][/path/of/file]`; `None` if it does not have that form.
    pub fn parse(spec: &str, is_dataset: bool) -> Option<Self> {
        let plain = |s: &str| {
            let fits = s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            !s.is_empty() && fits && !s.starts_with('.') && !s.contains("..")
        };
        let (org, rest) = spec.split_once('/')?;
        let (name, file) =
            rest.split_once('/').map_or((rest, None), |(name, file)| (name, Some(file.to_owned())));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let fits =
            plain(org) && plain(name) && plain(revision) && file.as_deref().is_none_or(is_inside);
        fits.then(|| Self {
            repo: format!("{org}/{name}"),
            revision: revision.into(),
            file,
            is_dataset,
        })
    }

    pub(super) fn repo(&self) -> Repo {
        let kind = if self.is_dataset { RepoType::Dataset } else { RepoType::Model };
        Repo::with_revision(self.repo.clone(), kind, self.revision.clone())
    }

    /// The reference to the same files at `commit`.
    pub fn pinned(&self, commit: &str) -> String {
        let file = self.file.as_deref().map_or_else(String::new, |file| format!("/{file}"));
        format!("{}@{commit}{file}", self.repo)
    }
}

/// Whether a name stays inside its directory.
pub(super) fn is_inside(name: &str) -> bool {
    let normal = |c: Component<'_>| matches!(c, Component::Normal(_));
    !name.is_empty()
        && !name.contains(['\\', '\0', ':'])
        && Path::new(name).components().all(normal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_references_are_distinguished_from_paths() {
        let reference =
            |spec: &str| HubRef::parse(spec, false).map(|p| (p.repo, p.revision, p.file));
        assert_eq!(reference("org/name"), Some(("org/name".into(), "main".into(), None)));
        assert_eq!(
            reference("o/n@v1/a/b.gguf"),
            Some(("o/n".into(), "v1".into(), Some("a/b.gguf".into())))
        );
        for spec in
            ["name", "./a", "../a/b", "/a/b", "a/..", "a/b/../c", "a b/c", "a/b@../x", "a//b"]
        {
            assert_eq!(reference(spec), None, "{spec}");
        }
    }
}
