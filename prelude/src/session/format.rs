//! The formats in which a merge can be written.

use std::path::Path;

use candle_core::DType;

use crate::error::{Error, Result};

/// The dtype available only in GGUF files.
pub(super) const Q8_0: &str = "q8_0";

/// Whether `path` names a GGUF file.
pub(super) fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// Returns the dtype called `name`.
pub(super) fn named(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "f16" => Ok(DType::F16),
        "bf16" => Ok(DType::BF16),
        _ => Err(Error::bad_value(
            "dtype",
            name,
            "f32, f16 or bf16; q8_0 needs a path that ends in .gguf",
        )),
    }
}
