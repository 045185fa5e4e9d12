//! Options of `bake`.

/// Options of `bake`.
///
/// ```
/// use dam_prelude::{Bake, Columns, load};
///
/// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
/// let directory = tempfile::tempdir()?;
/// let options = Bake { dtype: Some("f32".into()), shard_bytes: 1_000_000, ..Bake::default() };
/// let written = dam.bake_with(directory.path().join("merged"), &options)?;
/// assert!(written.path.join("model.safetensors.index.json").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bake {
    /// `f32`, `f16` or `bf16`, or `q8_0` for a GGUF file. `None` keeps the sources' dtype of each
    /// tensor (f32 if they differ).
    pub dtype: Option<String>,
    /// The maximum size of a shard in bytes. A GGUF file is always one file.
    pub shard_bytes: u64,
    /// Replaces an existing checkpoint.
    pub force: bool,
    /// The rank of a LoRA adapter to write instead of a checkpoint. The adapter holds the
    /// difference from the base: the source marked `base`, or the one base model of the sources'
    /// own adapters.
    pub adapter: Option<usize>,
}

impl Default for Bake {
    fn default() -> Self {
        Self { dtype: None, shard_bytes: 5_000_000_000, force: false, adapter: None }
    }
}
