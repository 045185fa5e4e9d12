//! Selects the next examples: epochs of a seeded permutation. The only state is the number of
//! examples drawn.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::seed::seed_of;

/// Returns the `count` examples of `name` (with `examples` in total) after the first `drawn`.
/// `shuffle` is the seed; `None` keeps the order of the file.
pub(crate) fn next(
    name: &str,
    examples: usize,
    drawn: usize,
    count: usize,
    shuffle: Option<u64>,
) -> Vec<usize> {
    let mut epoch = usize::MAX;
    let mut order: Vec<usize> = (0..examples).collect();
    let mut next = |at: usize| {
        if let Some(seed) = shuffle
            && epoch != at / examples
        {
            epoch = at / examples;
            order = (0..examples).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed_of(
                seed.wrapping_add(epoch as u64),
                name,
            )));
        }
        order[at % examples]
    };
    (drawn..drawn + count).map(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn every_example_comes_once_per_epoch_and_orders_differ() {
        let sorted = |mut v: Vec<usize>| {
            v.sort_unstable();
            v
        };
        let (first, second) = (next("a", 9, 0, 9, Some(1)), next("a", 9, 9, 9, Some(1)));
        assert_eq!(sorted(first.clone()), (0..9).collect::<Vec<_>>());
        assert_eq!(sorted(second.clone()), (0..9).collect::<Vec<_>>());
        assert_ne!(first, second);
        assert_ne!(first, next("b", 9, 0, 9, Some(1)));
    }

    #[test]
    fn drawing_in_parts_equals_drawing_at_once() {
        let pieces: Vec<usize> = (0..7).flat_map(|i| next("a", 5, i * 3, 3, Some(4))).collect();
        assert_eq!(pieces, next("a", 5, 0, 21, Some(4)));
        assert_eq!(next("a", 3, 2, 3, None), [2, 0, 1]);
    }
}
