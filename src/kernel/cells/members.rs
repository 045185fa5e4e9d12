//! The public and private members of types, read from the source of the prelude, of candle, and of
//! the most used modules of the standard library.
//!
//! rust-analyzer completes every member that exists, and evcxr does not report which of them a cell
//! may use. Querying the documentation of each would take seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dam_prelude::notebook::SOURCE;
use ra_ap_syntax::ast::{HasName, HasVisibility};
use ra_ap_syntax::{AstNode, Edition, SourceFile, ast};

use crate::kernel::cargo::library;
use crate::kernel::cargo::package::LOCK;
use crate::kernel::environment::HOME;
use crate::kernel::files::text;

/// How closely a member belongs to the type being completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// A member of the type itself.
    Own,
    /// A member of a trait.
    Trait,
    /// Not offered: private, or from a trait that every type implements.
    Hidden,
}

/// Methods of traits that every type implements.
const BLANKET: [&str; 12] = [
    "into",
    "try_into",
    "from",
    "try_from",
    "borrow",
    "borrow_mut",
    "to_owned",
    "clone_into",
    "type_id",
    "into_either",
    "into_either_with",
    "clone_from",
];

/// Methods of traits that most types implement.
const COMMON: [&str; 19] = [
    "clone",
    "to_string",
    "fmt",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "cmp",
    "partial_cmp",
    "max",
    "min",
    "clamp",
    "hash",
    "hash_slice",
    "default",
    "evcxr_display",
    "drop",
];

/// Files of the standard library that define the types used most in cells.
const LIBRARY: [&str; 9] = [
    "alloc/src/vec/mod.rs",
    "alloc/src/string.rs",
    "alloc/src/slice.rs",
    "alloc/src/str.rs",
    "core/src/option.rs",
    "core/src/result.rs",
    "core/src/slice/mod.rs",
    "core/src/str/mod.rs",
    "std/src/path.rs",
];

/// The members of types, by type name and member name.
#[derive(Debug, Default)]
pub struct Members {
    public: BTreeMap<String, BTreeSet<String>>,
    private: BTreeMap<String, BTreeSet<String>>,
}

impl Members {
    /// The members in the prelude, candle and the standard library, read once.
    pub fn known() -> &'static Self {
        static KNOWN: OnceLock<Members> = OnceLock::new();
        KNOWN.get_or_init(|| {
            let mut members = Self::default();
            let sources = [Some(PathBuf::from(SOURCE).join("src")), candle()];
            sources.into_iter().flatten().for_each(|source| members.directory(&source));
            let library = library::original().unwrap_or_default();
            LIBRARY
                .iter()
                .for_each(|file| members.source(&text(&library.join(file)).unwrap_or_default()));
            members
        })
    }

    /// The rank of member `name` for a type called `of`, if that is known.
    pub fn rank(&self, of: Option<&str>, name: &str) -> Rank {
        let has = |all: &BTreeMap<String, BTreeSet<String>>, of: &str| {
            all.get(of).is_some_and(|names| names.contains(name))
        };
        let anywhere = |all: &BTreeMap<String, BTreeSet<String>>| {
            all.values().any(|names| names.contains(name))
        };
        let is_private = match of {
            Some(of) if has(&self.public, of) => false,
            Some(of) if has(&self.private, of) => true,
            // For example a member reached through a reference.
            _ => anywhere(&self.private) && !anywhere(&self.public),
        };
        match name {
            _ if is_private || BLANKET.contains(&name) => Rank::Hidden,
            _ if COMMON.contains(&name) => Rank::Trait,
            _ => Rank::Own,
        }
    }

    fn directory(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.directory(&path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                self.source(&text(&path).unwrap_or_default());
            }
        }
    }

    /// Records the members that a file declares.
    fn source(&mut self, text: &str) {
        for node in SourceFile::parse(text, Edition::Edition2024).syntax_node().descendants() {
            if let Some(of) = ast::Impl::cast(node.clone()).filter(|of| of.trait_().is_none()) {
                let Some(owner) =
                    of.self_ty().and_then(|kind| name(&kind.syntax().text().to_string()))
                else {
                    continue;
                };
                for item in of.assoc_item_list().into_iter().flat_map(|list| list.assoc_items()) {
                    if let ast::AssocItem::Fn(function) = item {
                        self.record(&owner, &function);
                    }
                }
            } else if let Some(of) = ast::Struct::cast(node) {
                let Some(owner) = of.name().map(|name| name.text().to_string()) else { continue };
                if let Some(ast::FieldList::RecordFieldList(fields)) = of.field_list() {
                    fields.fields().for_each(|field| self.record(&owner, &field));
                }
            }
        }
    }

    fn record(&mut self, owner: &str, member: &(impl HasName + HasVisibility)) {
        let Some(name) = member.name().map(|name| name.text().to_string()) else { return };
        let is_public =
            member.visibility().is_some_and(|visibility| visibility.syntax().text() == "pub");
        let all = if is_public { &mut self.public } else { &mut self.private };
        all.entry(owner.to_owned()).or_default().insert(name);
    }
}

/// The last segment of the path of a type, without type arguments: `a::B<C>` is `B`.
pub fn name(kind: &str) -> Option<String> {
    let bare = kind.trim().trim_start_matches(['&', '*']).trim_start_matches("mut ").trim();
    let path = bare.split(['<', ' ', ';', '\n']).next()?;
    let last = path.rsplit("::").next()?;
    (!last.is_empty() && last.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .then(|| last.to_owned())
}

/// The directory of candle's source.
fn candle() -> Option<PathBuf> {
    let version = LOCK.split("name = \"candle-core\"\nversion = \"").nth(1)?.split('"').next()?;
    let home = std::env::var_os(HOME)
        .map(PathBuf::from)
        .or_else(|| Some(dirs::home_dir()?.join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry").join("src")).ok()?.flatten();
    let mut sources = registries
        .map(|registry| registry.path().join(format!("candle-core-{version}")).join("src"));
    sources.find(|source| source.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_members_are_distinguished_from_private_ones() {
        let mut members = Members::default();
        members.source(
            "pub struct Dam { pub steps: usize, session: u8 }\n\
             impl Dam { pub fn train(&self) {} pub(crate) fn rest(&self) {} fn run(&self) {} }\n\
             impl<T> Other<T> { pub fn run(&self) {} }\n\
             impl Clone for Dam { fn clone(&self) -> Self { *self } }",
        );
        let of = |name: &str| members.rank(Some("Dam"), name);
        assert_eq!(["train", "steps", "made_by_a_macro"].map(of), [Rank::Own; 3]);
        assert_eq!(["session", "rest", "run", "into", "to_owned"].map(of), [Rank::Hidden; 5]);
        assert_eq!((of("clone"), members.rank(Some("Other"), "run")), (Rank::Trait, Rank::Own));
        assert_eq!(
            (members.rank(None, "run"), members.rank(None, "rest")),
            (Rank::Own, Rank::Hidden)
        );
    }

    #[test]
    fn members_of_the_prelude_and_candle_are_found() {
        let members = Members::known();
        let of = |of: &str, name: &str| members.rank(Some(of), name);
        assert_eq!(
            (of("Dam", "train"), of("Dam", "session"), of("Dam", "with_session")),
            (Rank::Own, Rank::Hidden, Rank::Hidden)
        );
        assert_eq!(of("Tensor", "matmul"), Rank::Own);
    }

    #[test]
    fn the_name_of_a_type_is_the_last_segment_of_its_path() {
        let names = ["Dam", "&mut a::B<C>", "Vec<a::B>", "[i32; 3]", "impl Fn()"].map(name);
        assert_eq!(
            names,
            [Some("Dam".into()), Some("B".into()), Some("Vec".into()), None, Some("impl".into())]
        );
    }
}
