//! All tensors of a checkpoint by name.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use candle_core::DType;
use safetensors::Dtype;

use crate::checkpoint::storage::{Bytes, Stored, View};
use crate::error::{Error, Result};

/// A stored tensor that is not a plain float: integers, booleans, or floats that need a scale.
#[derive(Clone)]
pub(crate) struct Buffer {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub(in crate::checkpoint) bytes: Bytes,
    pub(in crate::checkpoint) range: Range<usize>,
}

impl Buffer {
    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

/// All tensors of a checkpoint, by name.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    pub tensors: BTreeMap<String, View>,
    /// Tensors of other dtypes.
    pub buffers: BTreeMap<String, Buffer>,
    /// The file with the tensors, or the index of the shards.
    pub file: PathBuf,
    /// Notes for the user on how it was read.
    pub notes: Vec<String>,
}

impl Archive {
    /// Adds a contiguous tensor: a float as a view, anything else as a buffer.
    pub(in crate::checkpoint) fn put(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Bytes,
        range: Range<usize>,
    ) {
        let (dtype, stored) = match dtype {
            Dtype::F32 => (DType::F32, Stored::Plain),
            Dtype::F16 => (DType::F16, Stored::Plain),
            Dtype::BF16 => (DType::BF16, Stored::Plain),
            Dtype::F64 => (DType::F32, Stored::Double),
            dtype => {
                self.buffers.insert(name, Buffer { dtype, shape, bytes, range });
                return;
            }
        };
        let file = self.file.clone();
        self.tensors
            .insert(name, View { dtype, shape, file, bytes, range, stored, deltas: Vec::new() });
    }

    /// Returns the tensor `name` after checking that it has `shape`.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<View> {
        let view = self.tensors.get(name);
        let view = view
            .ok_or_else(|| Error::MissingTensor { file: self.file.clone(), tensor: name.into() })?;
        if view.shape != shape {
            return Err(Error::Shape {
                file: view.file.clone(),
                tensor: name.into(),
                expected: shape.to_vec(),
                found: view.shape.clone(),
            });
        }
        Ok(view.clone())
    }
}
