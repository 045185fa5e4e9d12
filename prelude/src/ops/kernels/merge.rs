//! Launches of the merge and of the gradient of its scales.
//!
//! A kernel takes 8 sources. Of more than that, the sum of the first ones is kept in f32, and the
//! next launch adds to it; only the last one rounds.

use candle_core::{DType, Result};

use super::launch::{Argument, Launch, Queue, blocks_of, lanes_for};
use super::named;
use crate::ops::Form;

/// `MOST_SOURCES` of the text.
pub(super) const MOST_SOURCES: usize = 8;

/// Elements that a lane takes at a time.
const AT_ONCE: usize = 4;

/// Rows that a group of the forward pass takes; the scales of its columns are read once.
const HEIGHT: usize = 8;

/// The weight of one source.
pub(super) struct Source<'a, B> {
    pub(super) weight: &'a B,
    /// f32, bf16 or f16.
    pub(super) dtype: DType,
}

/// The weights of all sources, rows x columns, and what they share a scale with.
pub(super) struct Weights<'a, B> {
    pub(super) sources: &'a [Source<'a, B>],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) form: Form,
}

/// The elements that share a scale. Where rows do not matter, the weight is one long row.
#[derive(Clone, Copy)]
enum Sharing {
    All,
    Column,
    Row,
    None,
}

impl<B> Weights<'_, B> {
    /// Returns rows, columns and sharing.
    fn layout(&self) -> (usize, usize, Sharing) {
        let (rows, columns, form) = (self.rows, self.columns, self.form);
        match (form.rows == rows, form.columns == columns) {
            (true, true) => (1, rows * columns, Sharing::None),
            (false, false) => (1, rows * columns, Sharing::All),
            (false, true) if columns == 1 => (1, rows, Sharing::All),
            (false, true) => (rows, columns, Sharing::Column),
            (true, false) if rows == 1 => (1, columns, Sharing::All),
            (true, false) => (rows, columns, Sharing::Row),
        }
    }

    /// The number of scales of one source.
    fn scales(&self) -> usize {
        self.form.rows * self.form.columns
    }
}

/// Pushes the weights of up to 8 sources, their number, and which are f32 or f16.
fn push_sources<'a, B>(arguments: &mut Vec<Argument<'a, B>>, sources: &'a [Source<'a, B>]) {
    for i in 0..MOST_SOURCES {
        // The kernel does not read what it has no source for.
        arguments.push(Argument::In(sources.get(i).unwrap_or(&sources[0]).weight));
    }
    let bits = |i: usize, dtype| match dtype {
        DType::F32 => 1 << i,
        DType::F16 => 1 << (MOST_SOURCES + i),
        _ => 0,
    };
    let dtypes = sources.iter().enumerate().map(|(i, source)| bits(i, source.dtype));
    arguments.push(Argument::U32(sources.len() as u32));
    arguments.push(Argument::U32(dtypes.sum()));
}

/// Writes the merge of `weights` with `scales` (sources x R x C, f32) to `merged`, of `dtype`.
///
/// # Errors
/// No kernel for the dtypes; the device refuses a launch.
pub(super) fn forward<Q: Queue>(
    queue: &Q,
    weights: &Weights<'_, Q::Buffer>,
    scales: &Q::Buffer,
    merged: &mut Q::Buffer,
    dtype: DType,
) -> Result<()> {
    let (rows, columns, sharing) = weights.layout();
    let (per_row, per_column) = match sharing {
        Sharing::All => (0, 0),
        Sharing::Column | Sharing::None => (0, 1),
        Sharing::Row => (1, 0),
    };
    let lanes = lanes_for(columns.div_ceil(AT_ONCE));
    let mut before: Option<Q::Buffer> = None;
    let batches = weights.sources.len().div_ceil(MOST_SOURCES);
    for (batch, sources) in weights.sources.chunks(MOST_SOURCES).enumerate() {
        let last = batch + 1 == batches;
        let mut kept = if last { None } else { Some(queue.allocate(DType::F32, rows * columns)?) };
        let out = kept.as_mut().unwrap_or(&mut *merged);
        let mut arguments = vec![
            Argument::Out(out),
            Argument::In(before.as_ref().unwrap_or(scales)),
            Argument::In(scales),
        ];
        push_sources(&mut arguments, sources);
        arguments.extend([
            Argument::U32(u32::from(before.is_some())),
            Argument::size(rows),
            Argument::size(columns),
            Argument::size(HEIGHT),
            Argument::size(batch * MOST_SOURCES * weights.scales()),
            Argument::size(weights.scales()),
            Argument::U64(per_row),
            Argument::U64(per_column),
        ]);
        queue.launch(Launch {
            kernel: named("merge", if last { dtype } else { DType::F32 })?,
            arguments,
            groups: rows.div_ceil(HEIGHT) * columns.div_ceil(AT_ONCE * lanes),
            lanes,
        })?;
        before = kept;
    }
    Ok(())
}

/// Returns the gradient of the scales (sources x R x C, f32) for `gradient` of the merge, of
/// `dtype`.
///
/// # Errors
/// As for [`forward`].
pub(super) fn backward<Q: Queue>(
    queue: &Q,
    weights: &Weights<'_, Q::Buffer>,
    gradient: &Q::Buffer,
    dtype: DType,
) -> Result<Q::Buffer> {
    let per_source = weights.scales();
    let mut sums = queue.allocate(DType::F32, weights.sources.len() * per_source)?;
    for (batch, sources) in weights.sources.chunks(MOST_SOURCES).enumerate() {
        let first = batch * MOST_SOURCES * per_source;
        Part { queue, gradient, dtype, sources, layout: weights.layout(), per_source, first }
            .backward(&mut sums)?;
    }
    Ok(sums)
}

/// The gradient of the scales of up to 8 sources.
struct Part<'a, Q: Queue> {
    queue: &'a Q,
    gradient: &'a Q::Buffer,
    dtype: DType,
    sources: &'a [Source<'a, Q::Buffer>],
    layout: (usize, usize, Sharing),
    /// The scales of a source, and where those of the first one are.
    per_source: usize,
    first: usize,
}

impl<Q: Queue> Part<'_, Q> {
    fn backward(&self, sums: &mut Q::Buffer) -> Result<()> {
        match self.layout {
            (_, elements, Sharing::None) => self.by_element(elements, sums),
            (rows, columns, Sharing::Column) => self.by_column(rows, columns, sums),
            (rows, columns, Sharing::Row) => {
                self.by_row(rows, (rows * columns, columns), (self.per_source, self.first), sums)
            }
            (_, elements, Sharing::All) => self.by_weight(elements, sums),
        }
    }

    fn launch(
        &self,
        kernel: &str,
        out: &mut Q::Buffer,
        sizes: &[usize],
        (groups, lanes): (usize, usize),
    ) -> Result<()> {
        let mut arguments = vec![Argument::Out(out), Argument::In(self.gradient)];
        push_sources(&mut arguments, self.sources);
        arguments.extend(sizes.iter().map(|n| Argument::size(*n)));
        self.queue.launch(Launch { kernel: named(kernel, self.dtype)?, arguments, groups, lanes })
    }

    fn by_element(&self, elements: usize, sums: &mut Q::Buffer) -> Result<()> {
        let lanes = lanes_for(elements.div_ceil(AT_ONCE));
        let shape = (elements.div_ceil(AT_ONCE * lanes), lanes);
        self.launch("merge_by_element", sums, &[elements, self.first], shape)
    }

    fn by_column(&self, rows: usize, columns: usize, sums: &mut Q::Buffer) -> Result<()> {
        let (blocks, height) = blocks_of(rows);
        let lanes = lanes_for(columns.div_ceil(AT_ONCE));
        let shape = (blocks * columns.div_ceil(AT_ONCE * lanes), lanes);
        let width = self.sources.len() * columns;
        let mut parts = self.queue.allocate(DType::F32, blocks * width)?;
        self.launch("merge_by_column", &mut parts, &[rows, columns, height], shape)?;
        sum_columns(self.queue, &parts, (blocks, width), (sums, DType::F32), self.first)
    }

    /// Sums every row of `columns` elements, of `elements` in all.
    fn by_row(
        &self,
        rows: usize,
        (elements, columns): (usize, usize),
        (per_source, first): (usize, usize),
        sums: &mut Q::Buffer,
    ) -> Result<()> {
        let shape = (rows, lanes_for(columns.div_ceil(AT_ONCE)));
        self.launch("merge_by_row", sums, &[elements, columns, per_source, first], shape)
    }

    /// Sums pieces of the weight, then the sums of the pieces.
    fn by_weight(&self, elements: usize, sums: &mut Q::Buffer) -> Result<()> {
        const MOST: usize = 1024;
        const SHORTEST: usize = 4096;
        let length = elements.div_ceil(MOST).max(SHORTEST).next_multiple_of(AT_ONCE);
        let pieces = elements.div_ceil(length);
        let mut parts = self.queue.allocate(DType::F32, self.sources.len() * pieces)?;
        self.by_row(pieces, (elements, length), (pieces, 0), &mut parts)?;
        sum_rows(self.queue, &parts, (self.sources.len(), pieces), sums, self.first)
    }
}

/// Writes the sums over the rows of `parts` (rows x columns, f32) to `sums` from `first` on.
pub(super) fn sum_columns<Q: Queue>(
    queue: &Q,
    parts: &Q::Buffer,
    (rows, columns): (usize, usize),
    (sums, dtype): (&mut Q::Buffer, DType),
    first: usize,
) -> Result<()> {
    let lanes = lanes_for(columns);
    queue.launch(Launch {
        kernel: named("sum_columns", dtype)?,
        arguments: vec![
            Argument::Out(sums),
            Argument::In(parts),
            Argument::size(rows),
            Argument::size(columns),
            Argument::size(first),
        ],
        groups: columns.div_ceil(lanes),
        lanes,
    })
}

/// Writes the sum of every row of `x` (rows x columns, f32) to `sums` (f32) from `first` on.
pub(super) fn sum_rows<Q: Queue>(
    queue: &Q,
    x: &Q::Buffer,
    (rows, columns): (usize, usize),
    sums: &mut Q::Buffer,
    first: usize,
) -> Result<()> {
    queue.launch(Launch {
        kernel: "sum_rows".into(),
        arguments: vec![
            Argument::In(x),
            Argument::Out(sums),
            Argument::size(columns),
            Argument::size(first),
        ],
        groups: rows,
        lanes: lanes_for(columns),
    })
}
