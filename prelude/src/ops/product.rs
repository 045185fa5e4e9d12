//! Matrix products of slices with strides, through the gemm crate, whose kernels candle runs on too.

use gemm::Parallelism;

use super::Real;

/// A matrix within a slice: element (i, j) at `i * row + j * column`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `rows` rows of `columns` elements, their starts `stride` apart.
    #[inline(always)]
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, row: stride, column: 1 }
    }

    /// Its transpose.
    #[inline(always)]
    pub fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Elements from its first to its last.
    fn extent(&self) -> usize {
        if self.rows == 0 || self.columns == 0 { 0 } else { (self.rows - 1) * self.row + (self.columns - 1) * self.column + 1 }
    }
}

/// What a product does with what was there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    Replace,
    Add,
}

/// `out = scale * a b`, or that added; `out` is a row-major matrix whose rows start `stride` apart.
/// `parallel`: on all threads of the current pool.
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
    assert!(stride >= n && (m == 0 || (m - 1) * stride + n <= out.len()), "a matrix beyond its slice");
    // SAFETY: all elements of the result lie within `out`, which is borrowed mutably.
    unsafe { run(a, b, scale, (out.as_mut_ptr(), stride), into, parallel) }
}

/// `a b` in memory of its own, row by row, on all threads of the current pool.
pub(crate) fn new_product<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let (m, n) = (a.rows, b.columns);
    if a.columns == 0 {
        return vec![T::zero(); m * n];
    }
    let mut out = Vec::with_capacity(m * n);
    // SAFETY: the vector has room for all m x n elements, and the product writes every one of them without
    // reading what was there.
    unsafe {
        run(a, b, T::one(), (out.as_mut_ptr(), n), Into::Replace, true);
        out.set_len(m * n);
    }
    out
}

/// # Safety
/// `out` must be writable for all elements of the result, and with `Into::Add` hold them.
#[inline(always)]
unsafe fn run<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>, scale: T, (out, stride): (*mut T, usize), into: Into, parallel: bool) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(b.rows == k, "a product of matrices that do not fit");
    assert!(a.extent() <= a.data.len() && b.extent() <= b.data.len(), "a matrix beyond its slice");
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    let step = |x: usize| x as isize;
    let alpha = if into == Into::Add { T::one() } else { T::zero() };
    // SAFETY: every element that is read lies within its slice, as asserted above; `out` is the caller's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
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
