//! Where cells are built, and the prelude built for them once, so that the first cell is quick.
//!
//! ```text
//! CACHE/dam/.cargo/config.toml      how: dependencies optimised, cells not
//! CACHE/dam/prelude-KEY/            the prelude, built; KEY: of its source, of the compiler and of how it is built
//! CACHE/dam/notebooks/PID/          where the cells of a kernel are built, with links to what is built already
//! ```

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};

/// The source of the prelude that this program was built with.
pub const PRELUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prelude");

/// The versions of everything that it needs.
pub const LOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");

/// Settings that optimise crates to a level.
macro_rules! optimised {
    ($level:literal: $($name:literal)*) => {
        concat!($("[profile.dev.package.", $name, "]\nopt-level = ", $level, "\n"),*)
    };
}

/// Cells compile fastest without optimisation, and what they call runs fastest with it. That is few crates: those that
/// compute, read weights or cut text into tokens. All others are half the time that the build takes.
const CARGO: &str = concat!(
    "[profile.dev]\ndebug-assertions = false\noverflow-checks = false\n",
    "[profile.dev.package.\"*\"]\nopt-level = 1\ndebug-assertions = false\noverflow-checks = false\n",
    optimised!(
        3: "dam-prelude" "candle-core" "gemm" "gemm-common" "gemm-f16" "gemm-f32" "gemm-f64" "pulp" "half" "float8" "rayon" "rayon-core"
        "crossbeam-deque" "crossbeam-epoch" "matrixmultiply" "nalgebra" "libm" "memmap2" "safetensors" "tokenizers" "fancy-regex"
        "regex-automata" "aho-corasick" "memchr" "spm_precompiled" "daachorse" "unicode-normalization-alignments" "hashbrown"
        "serde_json" "parquet" "zstd-sys" "zstd-safe" "snap" "simdutf8" "twox-hash" "flate2" "zlib-rs" "miniz_oxide" "crc32fast"
        "png" "fdeflate" "simd-adler32" "ring" "rand_chacha" "plotters" "ab_glyph_rasterizer"
    ),
    // Products of complex numbers, of which there are none, and what only writes code for the compiler.
    optimised!(
        0: "gemm-c32" "gemm-c64" "syn" "quote" "proc-macro2" "unicode-ident" "serde_derive" "darling" "darling_core" "darling_macro"
        "derive_builder_core" "derive_builder_macro" "nalgebra-macros" "zerocopy-derive" "synstructure" "yoke-derive" "zerofrom-derive"
        "thiserror-impl" "bytemuck_derive" "dyn-stack-macros" "monostate-impl" "macro_rules_attribute-proc_macro" "cc"
    ),
);

/// The features of the prelude, as this program has them.
pub const FEATURES: &[&str] = &[
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "metal")]
    "metal",
];

/// The directory of all of it, made with its settings.
///
/// # Errors
/// A home without a cache, or one that may not be written.
pub fn cache() -> Result<PathBuf> {
    let cache = dirs::cache_dir().context("no cache directory is known: set HOME or XDG_CACHE_HOME")?.join("dam");
    let config = cache.join(".cargo").join("config.toml");
    fs::create_dir_all(cache.join(".cargo")).with_context(|| format!("cannot write {}", cache.display()))?;
    if super::text(&config).ok().as_deref() != Some(CARGO) {
        let mut file = tempfile::NamedTempFile::new_in(cache.join(".cargo"))?;
        file.write_all(CARGO.as_bytes())?;
        file.persist(config)?;
    }
    Ok(cache)
}

/// Where the prelude is built, or will be.
///
/// # Errors
/// No source of the prelude, or no compiler.
pub fn prepared() -> Result<PathBuf> {
    let mut key = DefaultHasher::new();
    hash_files(Path::new(PRELUDE), &mut key)
        .with_context(|| format!("the prelude's source is not at {PRELUDE}: build `dam` again, from where its source is now"))?;
    let rustc = Command::new("rustc").arg("-vV").output().context("there is no Rust compiler: install Rust from rustup.rs")?;
    let lock = fs::read(LOCK).with_context(|| format!("there is no {LOCK}: build `dam` again, from where its source is now"))?;
    let linkers = ["mold", "lld"].map(|name| on_path(name).is_some());
    (rustc.stdout, lock, linkers, CARGO, FEATURES, env!("CARGO_PKG_VERSION")).hash(&mut key);
    Ok(cache()?.join(format!("prelude-{:016x}", key.finish())))
}

/// Names, sizes and times of all files under `path`.
fn hash_files(path: &Path, key: &mut DefaultHasher) -> Result<()> {
    let mut entries = fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (metadata, path) = (entry.metadata()?, entry.path());
        if metadata.is_dir() {
            hash_files(&path, key)?;
        } else {
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            (path, metadata.len(), modified.as_nanos()).hash(key);
        }
    }
    Ok(())
}

/// Where a program is.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// The processes that have a directory to build cells in.
///
/// # Errors
/// A cache that cannot be read.
pub fn running() -> Result<Vec<i32>> {
    let entries = fs::read_dir(cache()?.join("notebooks")).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    Ok(numbers.filter(|process| is_alive(*process)).collect())
}

fn is_alive(process: i32) -> bool {
    // SAFETY: signal 0 only asks whether the process is there.
    process > 0 && unsafe { libc::kill(process, 0) } == 0
}

/// A directory that is removed with the value.
pub struct Workplace(PathBuf);

impl Workplace {
    /// An empty one for this process; those of processes that are gone are removed.
    ///
    /// # Errors
    /// A cache that may not be written.
    pub fn new() -> Result<Self> {
        let notebooks = cache()?.join("notebooks");
        fs::create_dir_all(&notebooks)?;
        for entry in fs::read_dir(&notebooks)?.flatten() {
            let process = entry.file_name().to_string_lossy().parse::<i32>().unwrap_or(0);
            if !is_alive(process) || process == std::process::id().cast_signed() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let own = notebooks.join(std::process::id().to_string());
        fs::create_dir(&own)?;
        Ok(Self(own))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts there what is built in `prepared`: links, and copies of what cargo would write over.
    ///
    /// # Errors
    /// A disk without room.
    pub fn fill(&self, prepared: &Path) -> Result<()> {
        link(&prepared.join("target"), &self.0.join("target"), false)
    }

    /// Keeps what was built as `prepared`, whoever else did so meanwhile.
    ///
    /// # Errors
    /// A disk without room.
    pub fn keep(self, prepared: &Path) -> Result<()> {
        let earlier = earlier()?;
        tidy(&self.0.join("target"))?;
        match fs::rename(&self.0, prepared) {
            Err(error) if !prepared.is_dir() => return Err(error.into()),
            _ => {}
        }
        // Whoever works from it has links or copies of its own.
        if let Some(earlier) = earlier.filter(|earlier| earlier != prepared) {
            fs::remove_dir_all(earlier)?;
        }
        Ok(())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what nobody reads again: what the compiler keeps to build the prelude anew in part.
fn tidy(target: &Path) -> Result<()> {
    for entry in fs::read_dir(target)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "incremental") {
            fs::remove_dir_all(&path)?;
        } else if path.is_dir() && !path.ends_with("deps") && !path.ends_with(".fingerprint") {
            tidy(&path)?;
        }
    }
    Ok(())
}

/// What was prepared last, for whatever prelude.
///
/// # Errors
/// A cache that cannot be read.
pub fn earlier() -> Result<Option<PathBuf>> {
    let prepared = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("prelude-");
    let entries = fs::read_dir(cache()?)?.flatten().filter(prepared);
    Ok(entries.max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok()).map(|entry| entry.path()))
}

/// The versions that the program was built with become those that are built in `directory`.
///
/// # Errors
/// No source.
pub fn copy_lock(directory: &Path) -> Result<()> {
    fs::copy(LOCK, directory.join("Cargo.lock"))
        .with_context(|| format!("there is no {LOCK}: build `dam` again, from where its source is now"))?;
    Ok(())
}

/// Links all files of `from` under `to`, but for those of cells; `copies` those that cargo writes to again.
fn link(from: &Path, to: &Path, copies: bool) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text == "incremental" || ["ctx-", "libctx", "libcode_", ".cargo-"].iter().any(|own| text.starts_with(own)) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        let copies = copies || ["dam-prelude", "dam_prelude", "libdam_prelude"].iter().any(|own| text.starts_with(own));
        if entry.file_type()?.is_dir() {
            link(&source, &target, copies)?;
        } else if copies || fs::hard_link(&source, &target).is_err() {
            copy(&source, &target)?;
        }
    }
    Ok(())
}

/// A copy of the same age, as cargo judges by that.
fn copy(source: &Path, target: &Path) -> Result<()> {
    fs::copy(source, target)?;
    let modified = fs::metadata(source)?.modified()?;
    Ok(fs::File::options().write(true).open(target)?.set_modified(modified)?)
}
