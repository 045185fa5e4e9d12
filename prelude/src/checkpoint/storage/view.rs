//! A stored tensor that stays where it is: plain floats, or blocks of a GGUF file, with adapters on
//! top, decoded to f32 a piece of a row at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, BlockQ8_1, BlockQ8K, GgmlType,
};
use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use rayon::prelude::*;

use super::bytes::Bytes;
use super::change::Change;
use super::float8::Float8;
use super::hash::{HASHED_BYTES, hash};
use super::mapped::Mapped;
use crate::device::upload;
use crate::error::{Error, Result};
use crate::vectorised::vectorised;
use crate::work::Work;

/// Elements decoded at a time, small enough to stay in the nearest cache: whole blocks of every
/// format.
pub(crate) const TILE: usize = 512;

/// One stored tensor.
#[derive(Clone)]
pub struct View {
    /// The plain dtype nearest to how it is stored: f32, f16 or bf16; f32 for blocks, bf16 for
    /// float8.
    pub(crate) dtype: DType,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    pub(in crate::checkpoint) file: PathBuf,
    pub(in crate::checkpoint) bytes: Bytes,
    pub(in crate::checkpoint) range: std::ops::Range<usize>,
    pub(in crate::checkpoint) stored: Stored,
    /// What adapters change, in order.
    pub(in crate::checkpoint) deltas: Vec<Arc<Change>>,
}

/// How the bytes are to be read.
#[derive(Clone)]
pub(crate) enum Stored {
    /// Little-endian elements of the view's dtype, row by row.
    Plain,
    /// Blocks of a GGUF file, row by row.
    Blocks(GgmlDType),
    /// The same, where every head of this many rows has its halves interleaved, as llama.cpp stores
    /// the query and key projections of llama models: rows 0, d/2, 1, d/2 + 1, ...
    Interleaved(GgmlDType, usize),
    /// Little-endian elements of the view's dtype, so many of them apart in each dimension.
    Strided(Arc<[usize]>),
    /// Little-endian f64, row by row.
    Double,
    /// Float8 codes with their scales.
    Float8(Arc<Float8>),
    /// Rows of other views.
    Gathered(Arc<Gathered>),
}

/// Rows of views of one width.
pub(crate) struct Gathered {
    views: Vec<View>,
    /// The view and its row, for every row.
    from: Arc<Vec<(usize, u32)>>,
}

/// Where a row is whose head of `head` rows is interleaved.
#[inline(always)]
pub(crate) fn interleaved(row: usize, head: usize) -> usize {
    let within = row % head;
    row - within + within % (head / 2) * 2 + within / (head / 2)
}

/// The row that is in place `row` of a head whose rows are interleaved: the other direction of
/// [`interleaved`].
pub(crate) fn deinterleaved(row: usize, head: usize) -> usize {
    let within = row % head;
    row - within + within % 2 * (head / 2) + within / 2
}

/// Elements of the largest blocks.
const MOST: usize = 256;

/// Bytes of the largest tile, in words that are aligned for every block.
const SCRATCH: usize = TILE * 4 / 8 + 64;

impl View {
    /// A view of bytes in memory.
    #[cfg(test)]
    pub(crate) fn of(bytes: Vec<u8>, dtype: DType, shape: &[usize]) -> Self {
        Self::owned(PathBuf::new(), bytes, dtype, shape)
    }

    /// A view of bytes that were read already.
    pub(crate) fn owned(file: PathBuf, bytes: Vec<u8>, dtype: DType, shape: &[usize]) -> Self {
        let (range, bytes) = (0..bytes.len(), Bytes::Owned(Arc::new(bytes)));
        Self {
            dtype,
            shape: shape.to_vec(),
            file,
            bytes,
            range,
            stored: Stored::Plain,
            deltas: Vec::new(),
        }
    }

    /// The view whose row r is row `from[r].1` of `views[from[r].0]`; the view `own` gives it its
    /// dtype.
    pub(crate) fn gathered(views: Vec<View>, own: usize, from: Arc<Vec<(usize, u32)>>) -> Self {
        let (dtype, columns, file) =
            (views[own].dtype, views[own].columns(), views[own].file.clone());
        let (shape, stored) =
            (vec![from.len(), columns], Stored::Gathered(Arc::new(Gathered { views, from })));
        Self {
            dtype,
            shape,
            file,
            bytes: Bytes::Static(&[]),
            range: 0..0,
            stored,
            deltas: Vec::new(),
        }
    }

    /// The bytes as they are stored, without what adapters change; none where rows are gathered.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }

    /// How it is stored, for a table: `bf16`, `Q4_1`.
    pub(in crate::checkpoint) fn format(&self) -> String {
        match &self.stored {
            Stored::Blocks(kind) | Stored::Interleaved(kind, _) => format!("{kind:?}"),
            Stored::Float8(float8) => float8.codes.name().to_owned(),
            Stored::Double => "f64".to_owned(),
            Stored::Plain | Stored::Strided(_) | Stored::Gathered(_) => {
                self.dtype.as_str().to_owned()
            }
        }
    }

    /// What its values depend on beside its bytes and what adapters add, for a fingerprint.
    pub(in crate::checkpoint) fn layout(&self) -> Vec<u64> {
        match &self.stored {
            Stored::Strided(strides) => strides.iter().map(|stride| *stride as u64).collect(),
            Stored::Float8(float8) => {
                float8.scales.iter().map(|scale| u64::from(scale.to_bits())).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether its bytes are elements of its dtype and nothing is changed.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.stored, Stored::Plain) && self.deltas.is_empty()
    }

    /// Whether `other` is the same bytes, read and changed in the same way.
    pub(in crate::checkpoint) fn is(&self, other: &Self) -> bool {
        let same_bytes = std::ptr::eq(self.bytes(), other.bytes())
            && self.dtype == other.dtype
            && self.shape == other.shape;
        let gathered = |view: &Self| {
            if let Stored::Gathered(rows) = &view.stored { Some(Arc::as_ptr(rows)) } else { None }
        };
        let changes = |view: &Self| view.deltas.iter().map(Arc::as_ptr).collect::<Vec<_>>();
        same_bytes && gathered(self) == gathered(other) && changes(self) == changes(other)
    }

    /// Whether `other` has the same shape and numbers.
    pub(in crate::checkpoint) fn has_values_of(&self, other: &Self) -> bool {
        const BLOCK: usize = 1 << 20;
        if self.shape != other.shape {
            return false;
        }
        if self.is(other) {
            return true;
        }
        let same = if self.is_plain() && other.is_plain() && self.dtype == other.dtype {
            self.bytes().par_chunks(BLOCK).zip(other.bytes().par_chunks(BLOCK)).all(|(a, b)| a == b)
        } else {
            let columns = self.columns().max(1);
            (0..self.shape.iter().product::<usize>() / columns).into_par_iter().all(|row| {
                let (mut a, mut b) = (vec![0f32; columns], vec![0f32; columns]);
                vectorised(
                    #[inline(always)]
                    || {
                        self.read(row * columns, &mut a);
                        other.read(row * columns, &mut b);
                    },
                );
                a == b
            })
        };
        self.release();
        other.release();
        same
    }

    /// Elements of a row.
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// A copy on `device`: in the stored dtype, or in f32 where it is decoded.
    pub(crate) fn to_tensor(&self, device: &Device) -> Result<Tensor> {
        if self.is_plain() {
            return Ok(upload(self.bytes(), self.dtype, &self.shape, device)?);
        }
        let mut values = vec![0f32; self.shape.iter().product()];
        self.decode_all(&mut values);
        Ok(Tensor::from_vec(values, self.shape.as_slice(), &Device::Cpu)?.to_device(device)?)
    }

    /// Decodes all elements into `values`, on threads of its own. While a worker of the common pool
    /// waits for its share, it runs other work of the pool, which may wait for a lock of the
    /// caller.
    fn decode_all(&self, values: &mut [f32]) {
        /// Fewer values per thread are not worth a thread.
        const LEAST: usize = 1 << 16;
        let columns = self.columns().max(1);
        let share = values.len().div_ceil(rayon::current_num_threads()).max(LEAST);
        let share = share.next_multiple_of(columns);
        let decode = |first: usize, values: &mut [f32]| {
            vectorised(
                #[inline(always)]
                || {
                    for (row, values) in values.chunks_mut(columns).enumerate() {
                        for (i, tile) in values.chunks_mut(TILE).enumerate() {
                            self.decode(first + row * columns + i * TILE, tile);
                        }
                    }
                },
            );
        };
        if values.len() <= share {
            return decode(0, values);
        }
        std::thread::scope(|scope| {
            for (i, values) in values.chunks_mut(share).enumerate() {
                scope.spawn(move || decode(i * share, values));
            }
        });
    }

    /// Elements from `start` on, of one row, as f32: at most [`TILE`], and whole blocks.
    #[inline(always)]
    pub(crate) fn decode<'a>(&self, start: usize, into: &'a mut [f32]) -> &'a [f32] {
        match &self.stored {
            Stored::Plain => self.plain(start, into),
            Stored::Blocks(kind) => self.blocks(*kind, start, into),
            Stored::Interleaved(kind, head) => {
                let (row, column) = (start / self.columns(), start % self.columns());
                self.blocks(*kind, interleaved(row, *head) * self.columns() + column, into);
            }
            Stored::Strided(strides) => self.strided(strides, start, into),
            Stored::Double => {
                for (x, b) in into.iter_mut().zip(self.bytes()[8 * start..].as_chunks::<8>().0) {
                    *x = f64::from_le_bytes(*b) as f32;
                }
            }
            Stored::Float8(float8) => float8.decode(self.bytes(), start, into),
            Stored::Gathered(rows) => {
                rows.decode(start / self.columns(), start % self.columns(), into)
            }
        }
        for change in &self.deltas {
            change.apply(start / self.columns(), start % self.columns(), into);
        }
        into
    }

    /// Elements from `start` on as f32, which may begin and end anywhere in a row.
    #[inline(always)]
    pub(crate) fn read(&self, start: usize, into: &mut [f32]) {
        if self.is_plain() {
            for (i, tile) in into.chunks_mut(TILE).enumerate() {
                self.plain(start + i * TILE, tile);
            }
            return;
        }
        let (columns, mut buffer, mut done) = (self.columns(), [0f32; TILE], 0);
        while done < into.len() {
            let column = (start + done) % columns;
            // Whole blocks around what is wanted.
            let first = column - column % MOST;
            let tile = self
                .decode(start + done - column + first, &mut buffer[..TILE.min(columns - first)]);
            let wanted = &tile[column - first..];
            let length = wanted.len().min(into.len() - done);
            into[done..done + length].copy_from_slice(&wanted[..length]);
            done += length;
        }
    }

    /// The files that it is read from, by where they are mapped.
    pub(in crate::checkpoint) fn files<'a>(
        &'a self,
        into: &mut BTreeMap<*const Mapped, &'a Mapped>,
    ) {
        match (&self.stored, &self.bytes) {
            (Stored::Gathered(rows), _) => rows.views.iter().for_each(|view| view.files(into)),
            (_, Bytes::Mapped(map)) => drop(into.insert(Arc::as_ptr(map), map)),
            _ => {}
        }
    }

    /// Begins to read it from its file, as [`Mapped::read_ahead`] says.
    pub(in crate::checkpoint) fn read_ahead(&self) {
        self.each_mapped(&|map, range| map.read_ahead(range));
    }

    /// Gives the memory that it was read into back to the system, and tells it that the file's
    /// pages are not needed soon.
    pub(in crate::checkpoint) fn forget(&self) {
        self.each_mapped(&|map, range| map.forget(range));
    }

    /// Calls `f` for every mapped file that it is read from, with the range of its bytes there.
    fn each_mapped(&self, f: &impl Fn(&Mapped, std::ops::Range<usize>)) {
        match (&self.stored, &self.bytes) {
            (Stored::Gathered(rows), _) => rows.views.iter().for_each(|view| view.each_mapped(f)),
            (_, Bytes::Mapped(map)) => f(map, self.range.clone()),
            _ => {}
        }
    }

    /// The mapped file that its own bytes are in, and their range.
    pub(in crate::checkpoint) fn mapped(&self) -> Option<(&Mapped, std::ops::Range<usize>)> {
        match &self.bytes {
            Bytes::Mapped(map) => Some((map, self.range.clone())),
            _ => None,
        }
    }

    /// The bytes of mapped files that it is read from.
    pub(in crate::checkpoint) fn mapped_bytes(&self) -> u64 {
        match (&self.stored, &self.bytes) {
            (Stored::Gathered(rows), _) => rows.views.iter().map(View::mapped_bytes).sum(),
            (_, Bytes::Mapped(_)) => self.range.len() as u64,
            _ => 0,
        }
    }

    /// Gives the memory that it was read into back to the system, until it is read again.
    pub(crate) fn release(&self) {
        match &self.stored {
            Stored::Gathered(rows) => rows.views.iter().for_each(View::release),
            _ => self.bytes.release(self.range.clone()),
        }
    }

    #[inline(always)]
    fn plain(&self, start: usize, into: &mut [f32]) {
        let width = self.dtype.size_in_bytes();
        let bytes = &self.bytes()[start * width..(start + into.len()) * width];
        match self.dtype {
            DType::F32 => {
                for (x, b) in into.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *x = f32::from_le_bytes(*b);
                }
            }
            DType::BF16 => {
                for (x, b) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
                }
            }
            _ => {
                let mut bits = [0u16; TILE];
                let bits = &mut bits[..into.len()];
                for (x, b) in bits.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *x = u16::from_le_bytes(*b);
                }
                bits.reinterpret_cast::<f16>().convert_to_f32_slice(into);
            }
        }
    }

    /// Elements of one row of a tensor whose elements lie apart.
    fn strided(&self, strides: &[usize], start: usize, into: &mut [f32]) {
        let (mut rest, mut place) = (start, 0);
        for (size, stride) in self.shape.iter().zip(strides).rev() {
            place += rest % size * stride;
            rest /= size;
        }
        let (step, width) = (strides.last().copied().unwrap_or(0), self.dtype.size_in_bytes());
        for (i, x) in into.iter_mut().enumerate() {
            let bytes = &self.bytes()[(place + i * step) * width..][..width];
            *x = match (self.dtype, bytes) {
                (DType::BF16, &[low, high]) => {
                    f32::from_bits(u32::from(u16::from_le_bytes([low, high])) << 16)
                }
                (_, &[low, high]) => f16::from_bits(u16::from_le_bytes([low, high])).to_f32(),
                (_, bytes) => bytes.first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b)),
            };
        }
    }

    fn blocks(&self, kind: GgmlDType, start: usize, into: &mut [f32]) {
        let (size, per) = (kind.type_size(), kind.block_size());
        let bytes = &self.bytes()[start / per * size..(start + into.len()) / per * size];
        match kind {
            GgmlDType::Q4_0 => decode_blocks::<BlockQ4_0>(bytes, into),
            GgmlDType::Q4_1 => decode_blocks::<BlockQ4_1>(bytes, into),
            GgmlDType::Q5_0 => decode_blocks::<BlockQ5_0>(bytes, into),
            GgmlDType::Q5_1 => decode_blocks::<BlockQ5_1>(bytes, into),
            GgmlDType::Q8_0 => decode_blocks::<BlockQ8_0>(bytes, into),
            GgmlDType::Q8_1 => decode_blocks::<BlockQ8_1>(bytes, into),
            GgmlDType::Q2K => decode_blocks::<BlockQ2K>(bytes, into),
            GgmlDType::Q3K => decode_blocks::<BlockQ3K>(bytes, into),
            GgmlDType::Q4K => decode_blocks::<BlockQ4K>(bytes, into),
            GgmlDType::Q5K => decode_blocks::<BlockQ5K>(bytes, into),
            GgmlDType::Q6K => decode_blocks::<BlockQ6K>(bytes, into),
            GgmlDType::Q8K => decode_blocks::<BlockQ8K>(bytes, into),
            GgmlDType::F32 => decode_blocks::<f32>(bytes, into),
            GgmlDType::F16 => decode_blocks::<f16>(bytes, into),
            GgmlDType::BF16 => decode_blocks::<half::bf16>(bytes, into),
        }
    }

    /// An error for the first NaN or infinity.
    pub(in crate::checkpoint) fn check_finite(&self, tensor: &str) -> Result<()> {
        self.check_finite_in(tensor, &Work::begin("load", tensor, None)).map(drop)
    }

    /// [`View::check_finite`] as a part of `work`, which counts the bytes; a stop is an error.
    /// Returns the hashes of its blocks of [`HASHED_BYTES`] bytes; none unless it is plain.
    pub(in crate::checkpoint) fn check_finite_in(
        &self,
        tensor: &str,
        work: &Work,
    ) -> Result<Vec<u64>> {
        let found = if self.is_plain() {
            self.bad_bits_and_hashes(work)
        } else {
            self.first_bad_value(work).map(|bad| (bad, Vec::new()))
        };
        // Whole sources would fill memory that nothing needs yet.
        self.release();
        let (bad, hashes) = found?;
        let Some(position) = bad else { return Ok(hashes) };
        let value = self
            .to_tensor(&Device::Cpu)?
            .flatten_all()?
            .to_dtype(DType::F32)?
            .get(position)?
            .to_scalar()?;
        Err(Error::NonFinite { file: self.file.clone(), tensor: tensor.into(), position, value })
    }

    /// The first position with a NaN or infinity, and the hashes of all blocks before it.
    fn bad_bits_and_hashes(&self, work: &Work) -> Result<(Option<usize>, Vec<u64>)> {
        let width = self.dtype.size_in_bytes();
        let blocks = self.bytes().par_chunks(HASHED_BYTES).enumerate().map(|(block, bytes)| {
            work.advance(bytes.len() as u64)?;
            let at = match self.dtype {
                DType::F32 => {
                    position(bytes, |b: [u8; 4]| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000)
                }
                DType::F16 => {
                    position(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7c00 == 0x7c00)
                }
                _ => position(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
            };
            Ok((at.map(|at| block * HASHED_BYTES / width + at), hash(bytes)))
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let bad = blocks.iter().find_map(|(bad, _)| *bad);
        Ok((bad, blocks.into_iter().map(|(_, hash)| hash).collect()))
    }

    /// The file whose bytes alone decide its values, and a name for which bytes and how; `None` if
    /// something else does, such as an adapter or scales.
    pub(in crate::checkpoint) fn place(&self) -> Option<(&Arc<Mapped>, String)> {
        let own = match &self.stored {
            Stored::Plain | Stored::Double | Stored::Blocks(_) | Stored::Interleaved(..) => true,
            Stored::Strided(_) | Stored::Float8(_) | Stored::Gathered(_) => false,
        };
        match &self.bytes {
            Bytes::Mapped(map) if own && self.deltas.is_empty() => {
                Some((map, format!("{}-{} {}", self.range.start, self.range.end, self.format())))
            }
            _ => None,
        }
    }

    fn first_bad_value(&self, work: &Work) -> Result<Option<usize>> {
        let columns = self.columns().max(1);
        let rows = self.shape.iter().product::<usize>() / columns;
        let bytes = (self.bytes().len() / rows.max(1)) as u64;
        first((0..rows).into_par_iter().map(|row| {
            work.advance(bytes)?;
            let mut buffer = [0f32; TILE];
            Ok(vectorised(
                #[inline(always)]
                || {
                    (0..columns).step_by(TILE).find_map(|column| {
                        let tile = self.decode(
                            row * columns + column,
                            &mut buffer[..TILE.min(columns - column)],
                        );
                        // Finite numbers times zero add up to zero.
                        let finite = tile.iter().fold(0f32, |sum, x| sum + x * 0.0) == 0.0;
                        let at =
                            if finite { None } else { tile.iter().position(|x| !x.is_finite()) };
                        at.map(|at| row * columns + column + at)
                    })
                },
            ))
        }))
    }
}

/// The first position that is found, or error.
fn first(
    found: impl IndexedParallelIterator<Item = Result<Option<usize>>>,
) -> Result<Option<usize>> {
    found.find_map_first(Result::transpose).transpose()
}

impl Gathered {
    /// Elements of row `row` from `column` on, as [`View::decode`] gives them.
    fn decode(&self, row: usize, column: usize, into: &mut [f32]) {
        let (view, row) = self.from[row];
        let view = &self.views[view];
        vectorised(
            #[inline(always)]
            || {
                view.decode(row as usize * view.columns() + column, into);
            },
        );
    }
}

/// Decodes `bytes`, whole blocks, which need not be aligned.
fn decode_blocks<B: GgmlType>(bytes: &[u8], into: &mut [f32]) {
    let mut words = [0u64; SCRATCH];
    let count = bytes.len() / size_of::<B>();
    assert!(
        bytes.len() <= size_of_val(&words)
            && align_of::<B>() <= align_of::<u64>()
            && count * B::BLCK_SIZE == into.len()
    );
    // SAFETY: the words have room for all bytes and are aligned for `B`, whose fields are floats
    // and integers, of which every bit pattern is a value. A tile is written whole before it is
    // read.
    let blocks = unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), words.as_mut_ptr().cast::<u8>(), bytes.len());
        std::slice::from_raw_parts(words.as_ptr().cast::<B>(), count)
    };
    B::to_float(blocks, into);
}

/// Where the first element with `test` is. Tests a block without a branch, then looks closer.
fn position<const W: usize>(bytes: &[u8], test: impl Fn([u8; W]) -> bool) -> Option<usize> {
    let (elements, _) = bytes.as_chunks::<W>();
    let any = elements.iter().fold(false, |found, e| found | test(*e));
    if any { elements.iter().position(|e| test(*e)) } else { None }
}
