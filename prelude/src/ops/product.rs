//! Matrix products of strided slices with the gemm crate, which provides candle's kernels too.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

use super::Real;

/// A matrix in a slice: element (i, j) is at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Creates a matrix of `rows` rows of `columns` elements; the rows start `stride` apart.
    #[inline(always)]
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, row: stride, column: 1 }
    }

    /// Returns the transpose.
    #[inline(always)]
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Returns a range of rows.
    #[inline(always)]
    fn of_rows(self, rows: Range<usize>) -> Self {
        let data = if rows.is_empty() { &[] } else { &self.data[rows.start * self.row..] };
        Self { data, rows: rows.len(), ..self }
    }

    /// Returns the number of elements from the first to the last.
    fn extent(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            0
        } else {
            (self.rows - 1) * self.row + (self.columns - 1) * self.column + 1
        }
    }
}

/// What a product does with existing values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Replace,
    Add,
}

/// Computes `out = scale * a b`, or adds to `out`; `out` is a row-major matrix whose rows start
/// `stride` apart. `parallel` uses all threads of the current pool.
#[inline(always)]
pub(crate) fn product<T: Real>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    (out, stride): (&mut [T], usize),
    into: Into,
    parallel: bool,
) {
    let (m, n) = (a.rows, b.columns);
    assert!(
        stride >= n && (m == 0 || (m - 1) * stride + n <= out.len()),
        "a matrix beyond its slice"
    );
    // SAFETY: all elements of the result lie within `out`, which is borrowed mutably.
    unsafe { run(a, b, scale, (out.as_mut_ptr(), stride), into, parallel) }
}

/// Returns `a b` in new memory, row by row, on all threads of the current pool.
pub(crate) fn new_product<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let (m, n) = (a.rows, b.columns);
    if a.columns == 0 {
        return vec![T::zero(); m * n];
    }
    let mut out = Vec::with_capacity(m * n);
    // SAFETY: the vector has room for all m x n elements, and the product writes every one of them
    // without reading what was there.
    unsafe {
        run(a, b, T::one(), (out.as_mut_ptr(), n), Into::Replace, true);
        out.set_len(m * n);
    }
    out
}

/// # Safety
/// `out` must be writable for all elements of the result, and with `Into::Add` hold them.
#[inline(always)]
unsafe fn run<T: Real>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    (out, stride): (*mut T, usize),
    into: Into,
    parallel: bool,
) {
    let (m, n) = (a.rows, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(b.rows == a.columns, "a product of matrices that do not fit");
    assert!(a.extent() <= a.data.len() && b.extent() <= b.data.len(), "a matrix beyond its slice");
    let threads = if parallel { rayon::current_num_threads() } else { 1 };
    let longer = m.max(n);
    // SAFETY: every element read lies within its slice, as asserted above; `out` is the caller's.
    unsafe {
        match threads {
            1 => block(a, b, scale, (out, stride), into, Parallelism::None),
            _ if longer < threads * FEWEST => {
                block(a, b, scale, (out, stride), into, Parallelism::Rayon(0))
            }
            _ => blocks(
                a,
                b,
                scale,
                (Out(out), stride),
                into,
                threads * longer.div_ceil(threads * MOST),
            ),
        }
    }
}

/// The minimum number of rows or columns of the block of one thread; smaller blocks are slow.
const FEWEST: usize = 128;

/// The maximum; with larger blocks, the kernel's operands fall out of the cache between uses.
const MOST: usize = 6144;

/// The alignment of blocks in rows and columns: the tile size of the kernels.
const UNIT: usize = 192;

/// The destination of a result, for several threads that write disjoint parts.
#[derive(Clone, Copy)]
struct Out<T>(*mut T);

// SAFETY: threads write disjoint parts only.
unsafe impl<T> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Out<T> {}

impl<T> Out<T> {
    /// # Safety
    /// As for a raw pointer.
    unsafe fn add(self, count: usize) -> *mut T {
        // SAFETY: guaranteed by the caller.
        unsafe { self.0.add(count) }
    }
}

/// Computes the product in `count` blocks of rows or columns, whichever are more numerous.
/// Independent threads are faster than the kernels' own parallelism.
///
/// # Safety
/// As for [`run`]; all elements read must lie within their slices.
unsafe fn blocks<T: Real>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    (out, stride): (Out<T>, usize),
    into: Into,
    count: usize,
) {
    let (m, n) = (a.rows, b.columns);
    let longer = m.max(n);
    let start = |i: usize| if i == count { longer } else { i * longer / count / UNIT * UNIT };
    (0..count).into_par_iter().with_max_len(1).for_each(|i| {
        let range = start(i)..start(i + 1);
        // SAFETY: the blocks lie within the matrices, and those of the result are disjoint.
        unsafe {
            let at = |step: usize| out.add(range.start * step);
            if m > n {
                block(
                    a.of_rows(range.clone()),
                    b,
                    scale,
                    (at(stride), stride),
                    into,
                    Parallelism::None,
                )
            } else {
                block(
                    a,
                    b.t().of_rows(range.clone()).t(),
                    scale,
                    (at(1), stride),
                    into,
                    Parallelism::None,
                )
            }
        }
    });
}

/// # Safety
/// As for [`run`]; all elements read must lie within their slices.
#[inline(always)]
unsafe fn block<T: Real>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    scale: T,
    (out, stride): (*mut T, usize),
    into: Into,
    parallelism: Parallelism,
) {
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    let step = |x: usize| x as isize;
    let alpha = if into == Into::Add { T::one() } else { T::zero() };
    // SAFETY: guaranteed by the caller.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            step(stride),
            into == Into::Add,
            a.data.as_ptr(),
            step(a.column),
            step(a.row),
            b.data.as_ptr(),
            step(b.column),
            step(b.row),
            alpha,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}
