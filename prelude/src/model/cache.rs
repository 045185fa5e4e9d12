//! The keys and values of earlier tokens, which grow in place.

use candle_core::{Result, Tensor};

/// Cached keys and values of one sequence: one pair per layer, each positions x (key_value_heads *
/// head_dim).
#[derive(Default)]
pub struct Cache {
    layers: Vec<[Rows; 2]>,
}

/// Rows with room for more.
struct Rows {
    /// Room x width.
    all: Tensor,
    length: usize,
}

/// The rows that there is room for at first.
const FIRST: usize = 64;

impl Cache {
    /// Returns the number of cached positions.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |[keys, _]| keys.length)
    }

    /// Whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a copy that grows on its own.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn copy(&self) -> Result<Self> {
        let layer = |[keys, values]: &[Rows; 2]| Ok([keys.copy()?, values.copy()?]);
        Ok(Self { layers: self.layers.iter().map(layer).collect::<Result<_>>()? })
    }

    /// Appends keys and values of `layer`, the next or an earlier one, and returns all of that
    /// layer.
    pub(super) fn extend(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        if layer == self.layers.len() {
            self.layers.push([Rows::like(k)?, Rows::like(v)?]);
        }
        let [keys, values] = &mut self.layers[layer];
        Ok((keys.push(k)?, values.push(v)?))
    }
}

impl Rows {
    /// No rows yet, of the width, dtype and device of `rows`.
    fn like(rows: &Tensor) -> Result<Self> {
        let all = Tensor::zeros((FIRST, rows.dim(1)?), rows.dtype(), rows.device())?;
        Ok(Self { all, length: 0 })
    }

    fn copy(&self) -> Result<Self> {
        Ok(Self { all: self.all.copy()?, length: self.length })
    }

    /// Appends `new` and returns all rows, without copying those before.
    fn push(&mut self, new: &Tensor) -> Result<Tensor> {
        let end = self.length + new.dim(0)?;
        if end > self.all.dim(0)? {
            let wider = Tensor::zeros((2 * end, new.dim(1)?), new.dtype(), new.device())?;
            if self.length > 0 {
                wider.slice_set(&self.all.narrow(0, 0, self.length)?, 0, 0)?;
            }
            self.all = wider;
        }
        self.all.slice_set(&new.contiguous()?, 0, self.length)?;
        self.length = end;
        self.all.narrow(0, 0, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_are_appended_across_growth_and_layers() {
        let rows = |from: usize, count: usize| {
            let values: Vec<f32> = (3 * from..3 * (from + count)).map(|x| x as f32).collect();
            Tensor::from_vec(values, (count, 3), &Device::Cpu).unwrap()
        };
        let mut cache = Cache::default();
        assert!(cache.is_empty());
        let mut length = 0;
        for count in [5, 1, 58, 1, 200, 1] {
            for layer in 0..2 {
                let new = rows(length, count);
                let (k, v) = cache.extend(layer, &new, &new).unwrap();
                let all = rows(0, length + count).to_vec2::<f32>().unwrap();
                assert_eq!(k.to_vec2::<f32>().unwrap(), all);
                assert_eq!(v.to_vec2::<f32>().unwrap(), all);
            }
            length += count;
            assert_eq!(cache.len(), length);
        }
        let mut copy = cache.copy().unwrap();
        copy.extend(0, &rows(900, 1), &rows(900, 1)).unwrap();
        let (k, _) = cache.extend(0, &rows(length, 1), &rows(length, 1)).unwrap();
        assert_eq!(k.to_vec2::<f32>().unwrap(), rows(0, length + 1).to_vec2::<f32>().unwrap());
    }
}
