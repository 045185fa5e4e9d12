//! Exact ranks of a tensor's elements by magnitude, without sorting or copying the tensor. Two
//! passes count the leading and then the trailing bits to find the value at a rank. If only some of
//! the elements with that value are selected, a third pass finds the first of them by position.
//! Non-negative floats are ordered like their bits.

use std::collections::BTreeSet;

use super::{Block, Operands, TILE};

/// A position in the order from the largest to the smallest element; ties are ordered by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    bits: u32,
    position: usize,
}

impl Cut {
    /// Before all elements.
    pub const FIRST: Self = Self { bits: u32::MAX, position: 0 };
    /// After all elements.
    pub const LAST: Self = Self { bits: 0, position: usize::MAX };

    /// Returns the value at the rank, if the rank is in range.
    pub fn value(&self) -> f32 {
        f32::from_bits(self.bits)
    }

    /// For each element of `keys` (non-negative) from position `start` on, writes to `kept` whether
    /// it is ahead of the cut.
    #[inline(always)]
    pub fn ahead(&self, start: usize, keys: &[f32], kept: &mut [bool]) {
        // Positions matter only for ties, and only in the block with the last of them.
        let pairs = kept.iter_mut().zip(keys);
        if start + keys.len() <= self.position {
            pairs.for_each(|(kept, x)| *kept = x.to_bits() >= self.bits);
        } else if start >= self.position {
            pairs.for_each(|(kept, x)| *kept = x.to_bits() > self.bits);
        } else {
            let equal = |i: usize| start + i < self.position;
            pairs.enumerate().for_each(|(i, (kept, x))| {
                *kept = x.to_bits() > self.bits || x.to_bits() == self.bits && equal(i);
            });
        }
    }
}

/// A requested rank: the number of elements of the keys of `row` ahead of the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rank {
    pub row: usize,
    pub rank: usize,
}

/// The numbers of values of the leading and the trailing bits; the sign bit is always 0.
const HIGH: usize = 1 << 15;
const LOW: usize = 1 << 16;

/// Returns the cuts at `ranks`. `keys` overwrites the sources of a block with non-negative keys;
/// row `r` has the keys of source `r`.
pub(super) fn cuts(
    tensor: &Operands,
    ranks: &[Rank],
    keys: impl Fn(&mut Block<'_>) + Sync,
) -> Vec<Cut> {
    let n = tensor.elements();
    let inside: Vec<Rank> = ranks.iter().copied().filter(|r| r.rank > 0 && r.rank < n).collect();
    // Only requested rows have keys.
    let rows: Vec<usize> =
        inside.iter().map(|r| r.row).collect::<BTreeSet<_>>().into_iter().collect();
    let place = |row: usize| rows.binary_search(&row).unwrap_or(0);
    let join = |a: &mut Vec<u64>, b: Vec<u64>| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);

    // The leading bits of the element at each rank, and how many elements are ahead within these
    // bits.
    let high = tensor.tally(
        || vec![0u64; rows.len() * HIGH],
        |counts, block| {
            keys(block);
            for (row, counts) in rows.iter().zip(counts.chunks_mut(HIGH)) {
                block.source(*row).iter().for_each(|x| counts[(x.to_bits() >> 16) as usize] += 1);
            }
        },
        join,
    );
    let leading: Vec<(usize, usize)> =
        inside.iter().map(|r| find(&high[place(r.row) * HIGH..][..HIGH], r.rank)).collect();

    // The trailing bits.
    let low = tensor.tally(
        || vec![0u64; inside.len() * LOW],
        |counts, block| {
            keys(block);
            for ((rank, (lead, _)), counts) in
                inside.iter().zip(&leading).zip(counts.chunks_mut(LOW))
            {
                let bits = block.source(rank.row).iter().map(|x| x.to_bits());
                bits.filter(|bits| bits >> 16 == *lead as u32)
                    .for_each(|bits| counts[(bits & 0xffff) as usize] += 1);
            }
        },
        join,
    );
    let found = leading.iter().enumerate().map(|(i, (lead, rest))| {
        let (trail, wanted) = find(&low[i * LOW..][..LOW], *rest);
        let equals = low[i * LOW + trail] as usize;
        ((lead << 16 | trail) as u32, wanted, equals)
    });
    let found: Vec<(u32, usize, usize)> = found.collect();

    // The position of the last selected tie.
    let split = found.iter().any(|(_, wanted, equals)| wanted < equals);
    let equals = |sums: &mut Vec<(usize, Vec<usize>)>, block: &mut Block<'_>| {
        keys(block);
        let count = |(rank, (bits, _, _)): (&Rank, &(u32, usize, usize))| {
            block.source(rank.row).iter().filter(|x| x.to_bits() == *bits).count()
        };
        sums.push((block.start(), inside.iter().zip(&found).map(count).collect()));
    };
    let blocks = if split { tensor.chunks(Vec::new, equals).concat() } else { Vec::new() };
    let cut = |i: usize| {
        let (bits, wanted, equals) = found[i];
        if wanted == equals {
            return Cut { bits, position: usize::MAX };
        }
        let mut before = 0;
        let block = blocks.iter().find(|(_, counts)| {
            before += counts[i];
            before >= wanted
        });
        let Some((start, counts)) = block else { return Cut { bits, position: usize::MAX } };
        let mut left = wanted - (before - counts[i]);
        let mut position = *start;
        tensor.for_blocks(*start, TILE.min(n - start), |block| {
            keys(block);
            for x in block.source(inside[i].row) {
                if left > 0 {
                    position += 1;
                    left -= usize::from(x.to_bits() == bits);
                }
            }
        });
        Cut { bits, position }
    };
    let mut inner = (0..inside.len()).map(cut);
    let place = |r: &Rank| match r.rank {
        0 => Cut::FIRST,
        rank if rank >= n => Cut::LAST,
        _ => inner.next().unwrap_or(Cut::LAST),
    };
    ranks.iter().map(place).collect()
}

/// Finds the slot of `counts`, from the last downwards, that contains element number `rank` (from
/// 1), and the number of the element within the slot.
fn find(counts: &[u64], rank: usize) -> (usize, usize) {
    let mut left = rank;
    for (slot, count) in counts.iter().enumerate().rev() {
        match left.checked_sub(*count as usize) {
            Some(more) if more > 0 => left = more,
            _ => return (slot, left),
        }
    }
    (0, left)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::methods::stream::tests::operands;

    fn absolute(block: &mut Block<'_>) {
        (0..block.sources())
            .for_each(|i| block.source_mut(i).iter_mut().for_each(|x| *x = x.abs()));
    }

    /// Returns which elements are ahead of the cut at `rank`, by sorting.
    fn sorted(values: &[f32], rank: usize) -> Vec<bool> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()).then(a.cmp(b)));
        let mut kept = vec![false; values.len()];
        order[..rank].iter().for_each(|i| kept[*i] = true);
        kept
    }

    #[test]
    fn cuts_equal_those_by_sorting_with_many_ties() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let n = 150_001;
        let fine: Vec<f32> = (0..n).map(|_| rng.random::<f32>() - 0.5).collect();
        let coarse: Vec<f32> = (0..n).map(|_| (rng.random::<f32>() * 9.0).floor() - 4.0).collect();
        let tensor = operands(&[n], &[&fine, &coarse], None);
        let places = [0, 1, 17, 511, 512, n / 3, n / 2, n - 1, n];
        let ranks: Vec<Rank> =
            (0..2).flat_map(|row| places.map(|rank| Rank { row, rank })).collect();
        for (rank, cut) in ranks.iter().zip(cuts(&tensor, &ranks, absolute)) {
            let values = if rank.row == 0 { &fine } else { &coarse };
            let mut kept = vec![false; n];
            for (i, kept) in kept.chunks_mut(512).enumerate() {
                let keys: Vec<f32> =
                    values[i * 512..][..kept.len()].iter().map(|x| x.abs()).collect();
                cut.ahead(i * 512, &keys, kept);
            }
            assert!(kept == sorted(values, rank.rank), "{rank:?}");
        }
    }

    /// A source with density 1 has no keys; its negative values must not be read as keys.
    #[test]
    fn ignores_rows_that_are_not_requested() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.7).sin()).collect();
        let tensor = operands(&[1000], &[&values, &values], None);
        let second =
            |block: &mut Block<'_>| block.source_mut(1).iter_mut().for_each(|x| *x = x.abs());
        let rank = Rank { row: 1, rank: 300 };
        let both = cuts(&tensor, &[Rank { row: 0, ..rank }, rank], absolute);
        let alone = cuts(&tensor, &[rank], second);
        assert_eq!((both[1].bits, both[1].position), (alone[0].bits, alone[0].position));
    }
}
