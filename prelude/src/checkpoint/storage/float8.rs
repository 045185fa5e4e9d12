//! Float8 weights: 8-bit codes multiplied by the scale of their tensor, row or block.
//!
//! `f8_e4m3` has 4 exponent bits (bias 7), 3 mantissa bits, no infinity, and NaN at 0x7f and 0xff;
//! `f8_e5m2` is the upper half of an f16 (arXiv 2209.05433). A scale in `f8_e8m0` is a power of
//! two.

use half::f16;

/// The codes of a matrix, or of a stack of matrices, with their scales.
pub(crate) struct Float8 {
    pub codes: Codes,
    /// One scale per block, row by row.
    pub scales: Vec<f32>,
    /// Rows and columns per scale.
    pub block: (usize, usize),
    /// Rows and columns of a matrix.
    pub size: (usize, usize),
}

/// The code format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codes {
    E4M3,
    E5M2,
}

static E4M3: [f32; 256] = table(Codes::E4M3);
static E5M2: [f32; 256] = table(Codes::E5M2);

impl Codes {
    pub fn name(self) -> &'static str {
        match self {
            Codes::E4M3 => "f8_e4m3",
            Codes::E5M2 => "f8_e5m2",
        }
    }

    fn values(self) -> &'static [f32; 256] {
        match self {
            Codes::E4M3 => &E4M3,
            Codes::E5M2 => &E5M2,
        }
    }
}

const fn table(codes: Codes) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = match codes {
            Codes::E4M3 => e4m3(code as u32),
            Codes::E5M2 => f16::from_bits((code as u16) << 8).to_f32_const(),
        };
        code += 1;
    }
    values
}

const fn e4m3(code: u32) -> f32 {
    let (sign, exponent, mantissa) = (code >> 7 << 31, code >> 3 & 15, code & 7);
    match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        // 2^-9 per step.
        (0, _) => f32::from_bits(sign | 0x3f80_0000) * (mantissa as f32 / 512.0),
        _ => f32::from_bits(sign | (exponent + 120) << 23 | mantissa << 20),
    }
}

/// The value of a scale stored as an exponent: 2^(code - 127), and NaN at 255.
pub(crate) fn power(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

impl Float8 {
    /// Decodes values of one row from element `start`. `bytes` are all codes of the tensor.
    #[inline(always)]
    pub fn decode(&self, bytes: &[u8], start: usize, into: &mut [f32]) {
        let (rows, columns) = (self.size.0.max(1), self.size.1.max(1));
        let (row, mut column) = (start / columns, start % columns);
        let (down, across) = (rows.div_ceil(self.block.0), columns.div_ceil(self.block.1));
        let scales =
            &self.scales[(row / rows * down + row % rows / self.block.0) * across..][..across];
        let values = self.codes.values();
        let (mut codes, mut into) = (&bytes[start..start + into.len()], into);
        while !codes.is_empty() {
            let block = column / self.block.1;
            let length = codes.len().min((block + 1) * self.block.1 - column);
            let (now, rest) = codes.split_at(length);
            let (tile, after) = into.split_at_mut(length);
            let scale = scales[block];
            tile.iter_mut().zip(now).for_each(|(x, code)| *x = values[usize::from(*code)] * scale);
            (codes, into, column) = (rest, after, column + length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some values of `torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()`.
    #[test]
    fn codes_match_torch() {
        let expected = [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x7e, 448.0),
        ];
        for (code, value) in expected {
            assert_eq!(E4M3[code], value);
            assert_eq!(E4M3[code | 0x80].to_bits(), (-value).to_bits());
        }
        assert!(E4M3[0x7f].is_nan() && E4M3[0xff].is_nan());
        assert_eq!(
            (E5M2[0x01], E5M2[0x3c], E5M2[0x7b], E5M2[0xfb]),
            (1.525_878_9e-5, 1.0, 57344.0, -57344.0)
        );
        assert!(E5M2[0x7c].is_infinite() && E5M2[0x7d].is_nan());
        assert_eq!(
            (power(127), power(120), power(254), power(0)),
            (1.0, 0.0078125, 2f32.powi(127), 2f32.powi(-127))
        );
    }
}
