//! Encodes f32 values as the bytes of a stored dtype and checks them.

use candle_core::DType;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::vectorised::vectorised;

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Individually, as f32, f16 or bf16.
    Plain(DType),
    /// In blocks of 32: an f16 scale and 32 integers from -127 to 127.
    Q8_0,
}

/// Values per block of `q8_0`.
const BLOCK: usize = 32;

impl Encoding {
    /// The number of values per block, and of bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Encoding::Plain(dtype) => (1, dtype.size_in_bytes()),
            Encoding::Q8_0 => (BLOCK, 2 + BLOCK),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Encoding::Plain(dtype) => dtype.as_str(),
            Encoding::Q8_0 => "q8_0",
        }
    }

    /// The ggml type number.
    pub fn ggml(self) -> u32 {
        match self {
            Encoding::Plain(DType::F16) => 1,
            Encoding::Plain(DType::BF16) => 30,
            Encoding::Plain(_) => 0,
            Encoding::Q8_0 => 8,
        }
    }

    /// Encodes `values`, which must be whole blocks, like [`encode`].
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) -> Option<usize> {
        match self {
            Encoding::Plain(dtype) => encode(values, dtype, bytes),
            Encoding::Q8_0 => {
                let mut blocks = values
                    .as_chunks::<BLOCK>()
                    .0
                    .iter()
                    .zip(bytes.as_chunks_mut::<34>().0)
                    .enumerate();
                blocks.find_map(|(i, (values, bytes))| {
                    encode_q8_0(values, bytes).map(|at| i * BLOCK + at)
                })
            }
        }
    }
}

/// Like ggml's reference: `d = max |x| / 127`, then each `x / d` is rounded half away from zero.
/// Returns the position of a value that cannot be represented.
fn encode_q8_0(values: &[f32; BLOCK], bytes: &mut [u8; 34]) -> Option<usize> {
    let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = most / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored = f16::from_f32(scale);
    // Non-finite values are ignored by `max` or make the scale infinite.
    let finite = values.iter().fold(0f32, |sum, x| sum + x * 0.0) == 0.0;
    if !finite || !stored.is_finite() || !inverse.is_finite() {
        return values
            .iter()
            .position(|x| !x.is_finite())
            .or_else(|| values.iter().position(|x| x.abs() == most));
    }
    bytes[..2].copy_from_slice(&stored.to_le_bytes());
    for (byte, x) in bytes[2..].iter_mut().zip(values) {
        *byte = ((x * inverse).round() as i8).cast_unsigned();
    }
    None
}

/// Values converted at a time, small enough for the L1 cache.
const TILE: usize = 512;

/// Encodes `values` as little-endian `dtype` (f32, f16 or bf16, rounded to even) into `bytes`,
/// which must have exactly the right size. Returns the position of the first value that `dtype`
/// cannot represent: NaN, infinity, or one that is too large.
pub(crate) fn encode(values: &[f32], dtype: DType, bytes: &mut [u8]) -> Option<usize> {
    let width = dtype.size_in_bytes();
    let tiles = values.chunks(TILE).zip(bytes.chunks_mut(TILE * width)).enumerate();
    for (tile, (values, bytes)) in tiles {
        let fits = match dtype {
            DType::BF16 => vectorised(
                #[inline(always)]
                || encode_bf16(values, bytes),
            ),
            DType::F16 => encode_f16(values, bytes),
            _ => vectorised(
                #[inline(always)]
                || encode_f32(values, bytes),
            ),
        };
        if !fits {
            return values.iter().position(|x| !fits_in(*x, dtype)).map(|at| tile * TILE + at);
        }
    }
    None
}

/// Whether `dtype` can represent `x`.
fn fits_in(x: f32, dtype: DType) -> bool {
    match dtype {
        DType::F16 => f16::from_f32(x).is_finite(),
        DType::BF16 => bf16::from_f32(x).is_finite(),
        _ => x.is_finite(),
    }
}

#[inline(always)]
fn encode_f32(values: &[f32], bytes: &mut [u8]) -> bool {
    let mut bad = false;
    for (x, b) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
        bad |= !x.is_finite();
        *b = x.to_le_bytes();
    }
    !bad
}

/// Rounds to nearest, ties to even, by an addition that carries into the remaining bits.
#[inline(always)]
fn encode_bf16(values: &[f32], bytes: &mut [u8]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let mut bad = false;
    for (x, b) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        bad |= bits & EXPONENT == EXPONENT || rounded & EXPONENT == EXPONENT;
        *b = ((rounded >> 16) as u16).to_le_bytes();
    }
    !bad
}

fn encode_f16(values: &[f32], bytes: &mut [u8]) -> bool {
    let mut half = [f16::ZERO; TILE];
    let half = &mut half[..values.len()];
    half.convert_from_f32_slice(values);
    let mut bad = false;
    for (x, b) in half.iter().zip(bytes.as_chunks_mut::<2>().0) {
        bad |= x.to_bits() & 0x7c00 == 0x7c00;
        *b = x.to_le_bytes();
    }
    !bad
}

/// [`encode`] into a new vector, for tests.
#[cfg(test)]
pub(crate) fn encoded(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * dtype.size_in_bytes()];
    assert_eq!(encode(values, dtype, &mut bytes), None);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The half crate rounds to even too: both agree on every bf16 pattern, its neighbours and
    /// ties.
    #[test]
    fn rounding_is_to_even() {
        let patterns = (0..=u16::MAX).flat_map(|high| {
            [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| u32::from(high) << 16 | low)
        });
        let values: Vec<f32> =
            patterns.map(f32::from_bits).filter(|x| bf16::from_f32(*x).is_finite()).collect();
        let expected: Vec<u8> =
            values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        assert_eq!(encoded(&values, DType::BF16), expected);
        let values: Vec<f32> =
            values.into_iter().filter(|x| f16::from_f32(*x).is_finite()).collect();
        let expected: Vec<u8> =
            values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        assert_eq!(encoded(&values, DType::F16), expected);
    }

    #[test]
    fn unrepresentable_values_are_found() {
        let cases = [
            (DType::F32, f32::INFINITY),
            (DType::F16, 65520.0),
            (DType::BF16, f32::MAX),
            (DType::BF16, f32::NAN),
        ];
        for (dtype, bad) in cases {
            let mut values = vec![1.0; 3 * TILE];
            for at in [0, TILE - 1, 2 * TILE + 5] {
                values.fill(1.0);
                values[at] = bad;
                assert_eq!(
                    encode(&values, dtype, &mut vec![0; values.len() * dtype.size_in_bytes()]),
                    Some(at),
                    "{dtype:?}"
                );
            }
        }
    }
}
