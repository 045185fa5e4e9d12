//! An open GGUF file: its metadata, and views of its tensors as they are stored.

use std::io::Cursor;
use std::path::PathBuf;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};

use super::metadata::Metadata;
use crate::checkpoint::storage::{Bytes, Stored, View, map};
use crate::error::{Error, Result};
use crate::guard::guarded;

/// An open GGUF file.
pub(super) struct Container {
    pub path: PathBuf,
    pub content: Content,
    pub architecture: String,
    bytes: Bytes,
}

/// The maximum size of the metadata in bytes; each may become a value of 32 bytes. Large
/// vocabularies take 15 MB.
const MAX_METADATA_BYTES: usize = 32 << 20;

impl Container {
    /// Opens a file and reads its metadata.
    pub fn open(path: PathBuf) -> Result<Self> {
        let bytes = map(&path)?;
        let bad = |reason: String| Error::Gguf { file: path.clone(), reason };
        if !bytes.starts_with(b"GGUF") {
            return Err(bad("it does not begin with the bytes GGUF".into()));
        }
        // candle's reader checks every count and length against the available bytes, but may still
        // panic.
        let head = &bytes[..bytes.len().min(MAX_METADATA_BYTES)];
        let read =
            || Content::read(&mut Cursor::new(head)).map_err(|e| crate::error::first_line(&e));
        let content = guarded(read).map_err(bad)?;
        let architecture = match content.metadata.get("general.architecture").map(Value::to_string)
        {
            Some(Ok(name)) => name.clone(),
            _ => return Err(bad("general.architecture is missing".into())),
        };
        Ok(Self { path, content, bytes, architecture })
    }

    pub fn metadata(&self) -> Metadata<'_> {
        Metadata::new(&self.content, &self.architecture)
    }

    /// A view of a stored tensor.
    pub fn view(&self, name: &str, info: &TensorInfo) -> Result<View> {
        let bad = |reason: String| Error::Gguf {
            file: self.path.clone(),
            reason: format!("tensor `{name}` {reason}"),
        };
        let shape = info.shape.dims().to_vec();
        let (per, size, columns) = (
            info.ggml_dtype.block_size(),
            info.ggml_dtype.type_size(),
            shape.last().copied().unwrap_or(0),
        );
        let elements = shape
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d))
            .filter(|n| *n > 0 && columns % per == 0);
        let elements = elements.ok_or_else(|| {
            bad(format!("has shape {shape:?}, which does not fit blocks of {per}"))
        })?;
        let start = self
            .content
            .tensor_data_offset
            .checked_add(info.offset)
            .and_then(|s| usize::try_from(s).ok());
        let end = start.and_then(|s| s.checked_add((elements / per).checked_mul(size)?));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= self.bytes.len())) else {
            return Err(bad(format!("ends beyond the file's {} bytes", self.bytes.len())));
        };
        let (dtype, stored) = match info.ggml_dtype {
            GgmlDType::F32 => (DType::F32, Stored::Plain),
            GgmlDType::F16 => (DType::F16, Stored::Plain),
            GgmlDType::BF16 => (DType::BF16, Stored::Plain),
            kind => (DType::F32, Stored::Blocks(kind)),
        };
        let (file, bytes) = (self.path.clone(), self.bytes.clone());
        Ok(View { dtype, shape, file, bytes, range: start..end, stored, deltas: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, safetensors};

    use super::*;

    /// The file and the numbers were made by `tests/data/gguf/make.py`.
    #[test]
    fn every_block_format_is_decoded_like_the_reference() {
        let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/gguf");
        let container = Container::open(data.join("formats.gguf")).unwrap();
        let expected = safetensors::load(data.join("expected.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(container.content.tensor_infos.len(), 13);
        for (name, info) in &container.content.tensor_infos {
            let view = container.view(name, info).unwrap();
            let found: Vec<f32> = view
                .to_tensor(&Device::Cpu)
                .unwrap()
                .to_dtype(DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let expected: Vec<f32> = expected[name].flatten_all().unwrap().to_vec1().unwrap();
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{name}: {a} and {b}");
            }
            // Pieces with arbitrary boundaries.
            let mut piece = vec![0.0; 901];
            view.read(333, &mut piece);
            assert_eq!(piece, found[333..1234], "{name}");
        }
    }
}
