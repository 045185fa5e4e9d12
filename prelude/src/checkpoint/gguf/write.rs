//! Writes a GGUF file: metadata, then tensors block by block; no tensor is held in memory.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use candle_core::DType;
use candle_core::quantized::gguf_file::Value;

use super::write_keys::TensorMapping;
use crate::checkpoint::storage::deinterleaved;
use crate::checkpoint::write::Encoding;
use crate::checkpoint::write::{Content, Slot, Values, fill_slots};
use crate::error::{Error, Result};
use crate::work::Work;

/// Tensors begin at multiples of this.
const ALIGNMENT: u64 = 32;

/// A tensor to write.
pub(crate) struct GgufTensor<'a> {
    /// llama.cpp's name and layout.
    pub mapping: TensorMapping,
    /// The shape, rows first.
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// Where its values come from.
    pub data: TensorData<'a>,
}

/// The source of a tensor's values.
pub(crate) enum TensorData<'a> {
    Merged(&'a str),
    Generated(&'a [f32]),
}

/// A file to write, with metadata `keys`.
pub(crate) struct GgufFile<'a> {
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<GgufTensor<'a>>,
}

impl GgufFile<'_> {
    /// Writes to `file`, which is at `path`; `content` returns the values of a merged tensor.
    ///
    /// # Errors
    /// A value that its encoding cannot represent, or a file that cannot be written.
    pub fn write<'c>(
        &'c self,
        file: &mut File,
        path: &Path,
        content: impl Fn(&str) -> Result<Content<'c>> + Sync,
    ) -> Result<()> {
        let mut offsets = Vec::new();
        let mut offset = 0u64;
        for tensor in &self.tensors {
            offsets.push(offset);
            offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
        }
        let header = self.header(&offsets);
        let start = header.len() as u64;
        file.write_all(&header).map_err(|e| Error::io("write", path, e))?;
        // The last tensor is padded too.
        file.set_len(start + offset).map_err(|e| Error::io("write", path, e))?;
        let slot = |(tensor, offset): (&'_ GgufTensor<'_>, &u64)| Slot {
            name: tensor.mapping.name.clone(),
            encoding: tensor.encoding,
            start: start + offset,
            bytes: tensor.bytes(),
        };
        let slots: Vec<Slot> = self.tensors.iter().zip(&offsets).map(slot).collect();
        let work = Work::begin("write", "writing the merge", Some(offset));
        fill_slots(file, path, &slots, &work, |i| self.tensors[i].content(&content))
    }

    fn header(&self, offsets: &[u64]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut bytes, key);
            bytes.extend(kind(value).to_le_bytes());
            put(&mut bytes, value);
        }
        for (tensor, offset) in self.tensors.iter().zip(offsets) {
            text(&mut bytes, &tensor.mapping.name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            // The fastest dimension first.
            tensor.shape.iter().rev().for_each(|size| bytes.extend((*size as u64).to_le_bytes()));
            bytes.extend(tensor.encoding.ggml().to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        bytes
    }
}

impl GgufTensor<'_> {
    fn bytes(&self) -> u64 {
        let (values, bytes) = self.encoding.block();
        self.shape.iter().product::<usize>() as u64 / values as u64 * bytes as u64
    }

    /// Its values in file order.
    fn content<'c>(
        &'c self,
        content: &impl Fn(&str) -> Result<Content<'c>>,
    ) -> Result<Content<'c>> {
        let values = match &self.data {
            TensorData::Generated(values) => {
                let values: &'c [f32] = values;
                return Ok(Content::Values(Box::new(move |start, into| {
                    into.copy_from_slice(&values[start..start + into.len()])
                })));
            }
            TensorData::Merged(name) => match content(name)? {
                Content::Values(values) => values,
                Content::Bytes(_) => {
                    return Err(super::write_keys::refused(format!("`{name}` contains integers")));
                }
            },
        };
        let columns =
            if self.shape.len() > 1 { self.shape.last().copied().unwrap_or(1).max(1) } else { 1 };
        let (head, added) = (self.mapping.interleaved, self.mapping.added);
        let values: Values<'c> = match head {
            None => values,
            Some(head) => Box::new(move |start, into: &mut [f32]| {
                let mut done = 0;
                while done < into.len() {
                    let (row, column) = ((start + done) / columns, (start + done) % columns);
                    let length = (columns - column).min(into.len() - done);
                    values(
                        deinterleaved(row, head) * columns + column,
                        &mut into[done..done + length],
                    );
                    done += length;
                }
            }),
        };
        Ok(Content::Values(if added == 0.0 {
            values
        } else {
            Box::new(move |start, into: &mut [f32]| {
                values(start, into);
                into.iter_mut().for_each(|x| *x += added);
            })
        }))
    }
}

/// The encoding of a tensor of `shape` if `wanted` is requested. As in llama.cpp, vectors are f32,
/// and rows that are not whole blocks are f16.
pub(crate) fn encoding(shape: &[usize], wanted: Encoding) -> Encoding {
    match wanted {
        _ if shape.len() < 2 => Encoding::Plain(DType::F32),
        Encoding::Q8_0 if !shape.last().copied().unwrap_or(0).is_multiple_of(32) => {
            Encoding::Plain(DType::F16)
        }
        wanted => wanted,
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The type number of a value.
fn kind(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(x) => bytes.extend(x.to_le_bytes()),
        Value::I8(x) => bytes.extend(x.to_le_bytes()),
        Value::U16(x) => bytes.extend(x.to_le_bytes()),
        Value::I16(x) => bytes.extend(x.to_le_bytes()),
        Value::U32(x) => bytes.extend(x.to_le_bytes()),
        Value::I32(x) => bytes.extend(x.to_le_bytes()),
        Value::U64(x) => bytes.extend(x.to_le_bytes()),
        Value::I64(x) => bytes.extend(x.to_le_bytes()),
        Value::F32(x) => bytes.extend(x.to_le_bytes()),
        Value::F64(x) => bytes.extend(x.to_le_bytes()),
        Value::Bool(x) => bytes.push(u8::from(*x)),
        Value::String(x) => text(bytes, x),
        Value::Array(items) => {
            bytes.extend(items.first().map_or(8, kind).to_le_bytes());
            bytes.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| put(bytes, item));
        }
    }
}
