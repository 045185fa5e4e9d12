//! Writes the contents of tensors to their places in a file, block by block, on all threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::encode::Encoding;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::work::Work;

/// Fills a slice with values starting at an element; called on any thread, in any order.
pub(crate) type Values<'a> = Box<dyn Fn(usize, &mut [f32]) + Send + Sync + 'a>;

/// The contents of a tensor.
pub(crate) enum Content<'a> {
    /// Values to encode.
    Values(Values<'a>),
    /// Bytes to copy.
    Bytes(&'a [u8]),
}

/// Bytes written at a time. Each thread reuses its buffer, because allocating memory costs more
/// than the work done with it.
const BLOCK: usize = 1 << 18;

/// Values computed at a time; they stay in the cache until they are encoded.
const VALUES: usize = 1 << 13;

/// The position of a tensor in a file.
pub(crate) struct Slot {
    pub name: String,
    pub encoding: Encoding,
    /// The offset of its first byte in the file.
    pub start: u64,
    pub bytes: u64,
}

/// Writes the content of each slot and reports progress to `work`. Many tensors are written at
/// once, so that no thread waits at the end of one.
///
/// # Errors
/// A value that its encoding cannot represent, a file that cannot be written, or a stop.
pub(crate) fn fill_slots<'a>(
    file: &File,
    path: &Path,
    slots: &[Slot],
    work: &Work,
    content: impl Fn(usize) -> Result<Content<'a>> + Sync,
) -> Result<()> {
    let buffers = Buffers::default();
    slots.par_iter().enumerate().try_for_each(|(i, slot)| {
        interrupt::check()?;
        let put = |at: usize, bytes: &[u8]| {
            work.advance(bytes.len() as u64)?;
            let start = slot.start + at as u64;
            file.write_all_at(bytes, start).map_err(|e| Error::io("write", path, e))?;
            start_writing(file, start, start + bytes.len() as u64);
            Ok(())
        };
        match content(i)? {
            Content::Bytes(bytes) => {
                bytes.chunks(BLOCK).enumerate().try_for_each(|(i, bytes)| put(i * BLOCK, bytes))
            }
            Content::Values(values) => {
                let step = BLOCK - BLOCK % slot.encoding.block().1;
                let blocks = (0..slot.bytes as usize).into_par_iter().step_by(step);
                blocks.try_for_each(|at| {
                    buffers.lend(|buffer, tile| {
                        let bytes = &mut buffer[..step.min(slot.bytes as usize - at)];
                        fill(slot, &values, at, bytes, tile)?;
                        put(at, bytes)
                    })
                })
            }
        }
    })
}

/// Bytes that the disk is asked to write at a time: enough for long stretches of the disk.
#[cfg(target_os = "linux")]
const WINDOW: u64 = 8 << 20;

/// Asks the kernel to write the window of the file that ends between `start` and `end` to the disk
/// now, while more is computed. By default it waits until a tenth of the memory is to be written,
/// and the sync at the end of the file waits for all of that.
fn start_writing(file: &File, start: u64, end: u64) {
    #[cfg(target_os = "linux")]
    if let (true, Ok(begin), Ok(length)) = (
        end / WINDOW > start / WINDOW,
        i64::try_from((end / WINDOW).saturating_sub(1) * WINDOW),
        i64::try_from(WINDOW),
    ) {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open, and the call takes no pointers. It is advice: what it
        // fails to write, the sync at the end writes or reports.
        let _ = unsafe {
            libc::sync_file_range(file.as_raw_fd(), begin, length, libc::SYNC_FILE_RANGE_WRITE)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, start, end);
}

/// Fills `bytes` with the content of `slot` from byte `at`.
fn fill(
    slot: &Slot,
    values: &Values<'_>,
    at: usize,
    bytes: &mut [u8],
    tile: &mut [f32],
) -> Result<()> {
    let (per, width) = slot.encoding.block();
    let mut start = at / width * per;
    for bytes in bytes.chunks_mut(VALUES / per * width) {
        let tile = &mut tile[..bytes.len() / width * per];
        values(start, tile);
        if let Some(bad) = slot.encoding.encode(tile, bytes) {
            let (tensor, dtype) = (slot.name.clone(), slot.encoding.name());
            return Err(Error::Unrepresentable {
                tensor,
                position: start + bad,
                value: tile[bad],
                dtype,
            });
        }
        start += tile.len();
    }
    Ok(())
}

/// Reusable buffers for blocks of bytes and values: as many as threads that use them at once.
#[derive(Default)]
struct Buffers(Mutex<Vec<(Vec<u8>, Vec<f32>)>>);

impl Buffers {
    fn lend<T>(&self, f: impl FnOnce(&mut [u8], &mut [f32]) -> T) -> T {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = free().pop();
        let (mut bytes, mut values) = taken.unwrap_or_else(|| (vec![0; BLOCK], vec![0.0; VALUES]));
        let result = f(&mut bytes, &mut values);
        free().push((bytes, values));
        result
    }
}
