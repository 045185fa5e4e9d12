//! `dam jupyter install` and `uninstall`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use dam_prelude::Error;

use super::registry;
use super::spec::{InstallTarget, require_ours, write_spec};
use crate::kernel::cargo::cache::{cache, running_kernels};
use crate::kernel::cells::engine::prepare;

/// Builds the prelude for notebooks if it is not built yet, calling `before_build` first, and
/// installs the kernel in Jupyter.
///
/// # Errors
/// The prelude does not build, or the directory is not writable or contains another kernel.
pub fn install(target: &InstallTarget, before_build: impl FnOnce()) -> Result<PathBuf> {
    let directory = target.directory()?;
    require_ours(&directory)?;
    prepare(before_build)?;
    let parent =
        directory.parent().context("no directory for kernels: set HOME, or use --prefix")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot write {}", parent.display()))?;
    let new = tempfile::tempdir_in(parent)?;
    write_spec(target, new.path())?;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::rename(new.keep(), &directory)?;
    registry::add(&directory)?;
    Ok(directory)
}

/// What happened to the built prelude on uninstallation.
pub enum PreludeState {
    /// Deleted.
    Removed,
    /// Kept, because these kernels use it.
    Needed(Vec<PathBuf>),
    /// Deleted, except the build directories of this many running kernels.
    Running(usize),
}

/// Uninstalls the kernel, and deletes the built prelude unless other kernels use it.
///
/// # Errors
/// There is no kernel in the directory, or it is not one of `dam`.
pub fn uninstall(target: &InstallTarget) -> Result<(PathBuf, PreludeState)> {
    let directory = target.directory()?;
    if !directory.is_dir() {
        return Err(Error::NotFound { path: directory }.into());
    }
    require_ours(&directory)?;
    fs::remove_dir_all(&directory)
        .with_context(|| format!("cannot remove {}", directory.display()))?;
    let others = registry::others(&directory)?;
    if !others.is_empty() {
        return Ok((directory, PreludeState::Needed(others)));
    }
    let running = running_kernels()?;
    match running.len() {
        0 => fs::remove_dir_all(cache()?)?,
        // The build directories of running kernels stay until the next installation.
        _ => {
            for entry in fs::read_dir(cache()?)?
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("prelude-"))
            {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok((
        directory,
        if running.is_empty() {
            PreludeState::Removed
        } else {
            PreludeState::Running(running.len())
        },
    ))
}
