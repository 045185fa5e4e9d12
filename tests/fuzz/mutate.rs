//! Mutations of valid input, each determined by its number and therefore reproducible.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers that are rarely valid.
const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "2",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551616",
    "1e308",
    "-1e-320",
    "0.5",
    "9999999999",
];

/// Words with a meaning in one of the formats.
const WORDS: [&str; 30] = [
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"a\"",
    "[[[[[[[[",
    "{\"a\":",
    "NaN",
    "\\u0000",
    "\u{fdfa}",
    "\0",
    ";",
    "'",
    "\"",
    "#",
    "../",
    "/",
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for x in range(100000) %}",
    " ~ x ~ x",
    "|tojson",
    "* 100000",
    "&a ",
    "*a",
    "%Y",
    "type",
];

/// Mutation `number` of the valid inputs `seeds`.
pub fn mutated(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let pick = |rng: &mut ChaCha8Rng, n: usize| if n == 0 { 0 } else { rng.random_range(0..n) };
    let mut bytes = seeds[pick(&mut rng, seeds.len())].clone();
    for _ in 0..1 + pick(&mut rng, 4) {
        let at = pick(&mut rng, bytes.len() + 1);
        // Headers are at the beginning: half of all changes are made there.
        let at = if rng.random() { at } else { at.min(pick(&mut rng, 400)) };
        match pick(&mut rng, 10) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << pick(&mut rng, 8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.random();
                }
            }
            // A length or an offset.
            3 => {
                let word = [0, 1, u64::MAX, 1 << 31, 1 << 32, 1 << 62, u64::from(u32::MAX)]
                    [pick(&mut rng, 7)]
                .to_le_bytes();
                let width = [4, 8][pick(&mut rng, 2)];
                for (byte, new) in bytes.iter_mut().skip(at).zip(&word[..width]) {
                    *byte = *new;
                }
            }
            4 | 5 => replace_number(&mut bytes, at, NUMBERS[pick(&mut rng, NUMBERS.len())]),
            6 => insert(&mut bytes, at, WORDS[pick(&mut rng, WORDS.len())].as_bytes()),
            // Repeats a piece once or many times.
            7 => {
                let piece = bytes[at..bytes.len().min(at + 1 + pick(&mut rng, 200))].to_vec();
                let times = [1, 1, 2, 40][pick(&mut rng, 4)];
                let to = pick(&mut rng, bytes.len() + 1);
                insert(&mut bytes, to, &piece.repeat(times));
            }
            8 => {
                let end = bytes.len().min(at + 1 + pick(&mut rng, 60));
                bytes.drain(at..end);
            }
            // The beginning of this input and the end of another.
            _ => {
                let other = &seeds[pick(&mut rng, seeds.len())];
                bytes.truncate(at);
                bytes.extend(&other[pick(&mut rng, other.len() + 1)..]);
            }
        }
    }
    bytes.truncate(1 << 20);
    bytes
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let at = at.min(bytes.len());
    bytes.splice(at..at, piece.iter().copied());
}

/// Replaces the first number from `at`.
fn replace_number(bytes: &mut Vec<u8>, at: usize, number: &str) {
    let Some(begin) = bytes.iter().skip(at).position(u8::is_ascii_digit).map(|i| at + i) else {
        return;
    };
    let end =
        bytes[begin..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |i| begin + i);
    bytes.splice(begin..end, number.bytes());
}
