//! The cache: the build directories of cells, and the prelude that is built once for all of them so
//! that the first cell is fast.
//!
//! ```text
//! CACHE/dam/.cargo/config.toml      build settings: dependencies optimised, cells not
//! CACHE/dam/prelude-KEY/            the built prelude, what cargo answered, and the standard library's source; KEY: a hash of its source, the compiler and the settings
//! CACHE/dam/notebooks/PID/          the build directory of one kernel, with links to the built prelude
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::answers::ANSWERS;
use super::direct::CALLS;
use crate::kernel::files::text;

/// Cargo settings that give crates an optimisation level.
macro_rules! optimised {
    ($level:literal: $($name:literal)*) => {
        concat!($("[profile.dev.package.", $name, "]\nopt-level = ", $level, "\n"),*)
    };
}

/// Cells compile fastest without optimisation, and the crates they call run fastest with it. Only a
/// few crates are fully optimised: those that compute, read weights or tokenize. All others account
/// for half of the build time.
pub const CARGO: &str = concat!(
    "[profile.dev]\ndebug-assertions = false\noverflow-checks = false\nlto = \"off\"\n",
    "[profile.dev.package.\"*\"]\nopt-level = 1\ndebug-assertions = false\noverflow-checks = false\n",
    optimised!(
        3: "dam-prelude" "candle-core" "gemm" "gemm-common" "gemm-f16" "gemm-f32" "gemm-f64" "pulp" "half" "float8" "rayon" "rayon-core"
        "crossbeam-deque" "crossbeam-epoch" "matrixmultiply" "nalgebra" "libm" "memmap2" "safetensors" "tokenizers" "fancy-regex"
        "regex-automata" "aho-corasick" "memchr" "spm_precompiled" "daachorse" "unicode-normalization-alignments" "hashbrown"
        "serde_json" "parquet" "zstd-sys" "zstd-safe" "snap" "simdutf8" "twox-hash" "flate2" "zlib-rs" "miniz_oxide" "crc32fast"
        "png" "fdeflate" "simd-adler32" "ring" "rand_chacha" "plotters" "ab_glyph_rasterizer" "sha1" "sha2"
    ),
    // Complex products are never used, the next ones parse little or wait for the network, and the
    // others only generate code at compile time.
    optimised!(
        0: "gemm-c32" "gemm-c64" "annotate-snippets" "encoding_rs" "idna" "serde-saphyr" "sysinfo" "ureq" "ureq-proto" "url" "syn" "quote" "proc-macro2" "unicode-ident" "serde_derive" "darling" "darling_core" "darling_macro"
        "derive_builder_core" "derive_builder_macro" "nalgebra-macros" "zerocopy-derive" "synstructure" "yoke-derive" "zerofrom-derive"
        "thiserror-impl" "bytemuck_derive" "dyn-stack-macros" "monostate-impl" "macro_rules_attribute-proc_macro" "cc"
    ),
);

/// The cache directory, created with the build settings.
///
/// # Errors
/// There is no cache directory, or it is not writable.
pub fn cache() -> Result<PathBuf> {
    let cache =
        dirs::cache_dir().context("no cache directory: set HOME or XDG_CACHE_HOME")?.join("dam");
    let config = cache.join(".cargo").join("config.toml");
    fs::create_dir_all(cache.join(".cargo"))
        .with_context(|| format!("cannot write {}", cache.display()))?;
    if text(&config).ok().as_deref() != Some(CARGO) {
        let mut file = tempfile::NamedTempFile::new_in(cache.join(".cargo"))?;
        file.write_all(CARGO.as_bytes())?;
        file.persist(config)?;
    }
    Ok(cache)
}

/// The running processes that have a build directory.
///
/// # Errors
/// The cache is not readable.
pub fn running_kernels() -> Result<Vec<i32>> {
    let entries = fs::read_dir(cache()?.join("notebooks")).into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    Ok(numbers.filter(|process| is_alive(*process)).collect())
}

fn is_alive(process: i32) -> bool {
    // SAFETY: signal 0 only checks whether the process exists.
    process > 0 && unsafe { libc::kill(process, 0) } == 0
}

/// The build directory of a kernel, deleted when dropped.
pub struct BuildDirectory(PathBuf);

impl BuildDirectory {
    /// Creates an empty directory for this process, and deletes those of processes that have ended.
    ///
    /// # Errors
    /// The cache is not writable.
    pub fn new() -> Result<Self> {
        let notebooks = cache()?.join("notebooks");
        fs::create_dir_all(&notebooks)?;
        // Cargo resolves links in some of the paths that it writes.
        let notebooks = notebooks.canonicalize()?;
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

    /// Fills the directory from `prepared`, which is built for this kernel: its crates, and what
    /// cargo did and answered.
    ///
    /// # Errors
    /// The disk is full.
    pub fn fill(&self, prepared: &Path) -> Result<()> {
        for known in [CALLS, ANSWERS] {
            if prepared.join(known).is_dir() {
                link(&prepared.join(known), &self.0.join(known), true)?;
            }
        }
        self.reuse(prepared)
    }

    /// Fills the directory with the crates of an earlier build: hard links, and copies of files
    /// that cargo would overwrite. Cargo finds which of them it has to build again.
    ///
    /// # Errors
    /// The disk is full.
    pub fn reuse(&self, earlier: &Path) -> Result<()> {
        link(&earlier.join("target"), &self.0.join("target"), false)
    }

    /// Moves the build to `prepared`, unless another process has done so meanwhile.
    ///
    /// # Errors
    /// The disk is full.
    pub fn publish(self, prepared: &Path) -> Result<()> {
        let earlier = latest_build()?;
        remove_incremental(&self.0.join("target"))?;
        match fs::rename(&self.0, prepared) {
            Err(error) if !prepared.is_dir() => return Err(error.into()),
            _ => {}
        }
        // Kernels that use the earlier build have links or copies.
        if let Some(earlier) = earlier.filter(|earlier| earlier != prepared) {
            fs::remove_dir_all(earlier)?;
        }
        Ok(())
    }
}

impl Drop for BuildDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Deletes the incremental compilation files, which are not read again.
fn remove_incremental(target: &Path) -> Result<()> {
    for entry in fs::read_dir(target)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "incremental") {
            fs::remove_dir_all(&path)?;
        } else if path.is_dir() && !path.ends_with("deps") && !path.ends_with(".fingerprint") {
            remove_incremental(&path)?;
        }
    }
    Ok(())
}

/// The latest build of any version of the prelude.
///
/// # Errors
/// The cache is not readable.
pub fn latest_build() -> Result<Option<PathBuf>> {
    let prepared =
        |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("prelude-");
    let entries = fs::read_dir(cache()?)?.flatten().filter(prepared);
    Ok(entries
        .max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok())
        .map(|entry| entry.path()))
}

/// Links all files of `from` into `to`, except those of cells; copies those that cargo overwrites.
fn link(from: &Path, to: &Path, copies: bool) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text == "incremental"
            || ["ctx-", "libctx", "libcode_", ".cargo-"].iter().any(|own| text.starts_with(own))
        {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        let copies = copies
            || ["dam-prelude", "dam_prelude", "libdam_prelude", ".fingerprint", "build"]
                .iter()
                .any(|own| text.starts_with(own));
        if entry.file_type()?.is_dir() {
            link(&source, &target, copies)?;
        } else if copies || fs::hard_link(&source, &target).is_err() {
            copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Copies a file with its modification time, which cargo compares.
fn copy(source: &Path, target: &Path) -> Result<()> {
    fs::copy(source, target)?;
    let modified = fs::metadata(source)?.modified()?;
    Ok(fs::File::options().write(true).open(target)?.set_modified(modified)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CARGO;

    #[test]
    fn the_program_and_its_cells_optimise_the_same_crates() {
        let tables = CARGO.split("[profile.dev.package.");
        let of_cells: BTreeSet<&str> =
            tables.filter_map(|table| table.strip_suffix("]\nopt-level = 3\n")).collect();
        let manifest = include_str!("../../../Cargo.toml").lines();
        let of_program: BTreeSet<&str> =
            manifest.filter_map(|line| line.strip_suffix(".opt-level = 3")).collect();
        assert_eq!(of_cells, of_program);
    }
}
