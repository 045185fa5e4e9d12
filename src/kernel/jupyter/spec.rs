//! The kernel specification, by which Jupyter knows the kernel: where it is and what it contains.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dam_prelude::Error;
use serde_json::{Value, json};

use crate::kernel::files::text;

/// The display name in Jupyter.
const TITLE: &str = "DAM (Rust)";

/// The logo: two columns that become one, in colours that work on light and dark pages.
const LOGO: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64">
<g stroke-width="5" fill="none" stroke-linecap="round">
<path stroke="#0072b2" d="M16 8v14c0 12 16 10 16 22v12"/><path stroke="#e69f00" d="M48 8v14c0 12-16 10-16 22v12"/>
</g><circle cx="32" cy="46" r="5" fill="#009e73"/></svg>
"##;

/// The directory of kernels to install to.
#[derive(clap::Args)]
pub struct InstallTarget {
    /// Install for the current user (the default)
    #[arg(long, conflicts_with = "prefix")]
    user: bool,
    /// Install for the environment at DIR, such as a virtual environment
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// The name of the kernel, for several installations side by side
    #[arg(long, default_value = "dam")]
    name: String,
}

impl InstallTarget {
    /// The directory of the kernel specification.
    pub fn directory(&self) -> Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.chars().all(plain) {
            let hint = "letters, digits, `-`, `_` and `.`, as Jupyter requires";
            return Err(Error::bad_value("--name", &self.name, hint).into());
        }
        let data = match &self.prefix {
            Some(prefix) => prefix.join("share").join("jupyter"),
            None => user_data()?,
        };
        Ok(data.join("kernels").join(self.name.to_lowercase()))
    }
}

/// Jupyter's data directory of the current user.
pub fn user_data() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("JUPYTER_DATA_DIR") {
        return Ok(directory.into());
    }
    let home = dirs::home_dir().context("no home directory: set HOME, or use --prefix")?;
    Ok(match std::env::var_os("XDG_DATA_HOME") {
        _ if cfg!(target_os = "macos") => home.join("Library").join("Jupyter"),
        Some(data) => PathBuf::from(data).join("jupyter"),
        None => home.join(".local").join("share").join("jupyter"),
    })
}

/// Writes the specification of the kernel into `directory`.
///
/// # Errors
/// The directory is not writable.
pub fn write_spec(target: &InstallTarget, directory: &Path) -> Result<()> {
    let title =
        if target.name == "dam" { TITLE.to_owned() } else { format!("{TITLE} {}", target.name) };
    let own = std::env::current_exe()?.display().to_string();
    // Linux appends this if the file has been replaced since the start.
    let own = own.strip_suffix(" (deleted)").map_or(own.clone(), str::to_owned);
    let argv = [own, "kernel".into(), "{connection_file}".into()];
    let mut spec = json!({"argv": argv, "display_name": title, "language": "rust", "interrupt_mode": "message"});
    // A gateway starts kernels with few environment variables.
    if let Some(cache) = std::env::var_os("XDG_CACHE_HOME") {
        spec["env"] = json!({"XDG_CACHE_HOME": cache.to_string_lossy()});
    }
    fs::write(directory.join("kernel.json"), serde_json::to_string_pretty(&spec)?)?;
    fs::write(directory.join("logo-svg.svg"), LOGO)?;
    // Other users may use a kernel installed in an environment.
    Ok(fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?)
}

/// Fails if the directory contains another program's kernel.
pub fn require_ours(directory: &Path) -> Result<()> {
    if directory.exists() && !is_ours(directory) {
        let what = "a kernel of dam";
        return Err(Error::NotReplaced { path: directory.to_owned(), what }.into());
    }
    Ok(())
}

/// Whether a directory contains a kernel specification of `dam`.
pub fn is_ours(directory: &Path) -> bool {
    let text = text(&directory.join("kernel.json")).unwrap_or_default();
    let spec: Value = serde_json::from_str(&text).unwrap_or_default();
    let title = spec["display_name"].as_str().unwrap_or_default();
    title.starts_with(TITLE) && spec["argv"][1] == "kernel"
}
