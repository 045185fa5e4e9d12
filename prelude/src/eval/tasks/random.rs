//! Python's random numbers: the Mersenne Twister of `random.Random(seed)`, with `sample`, which
//! draws examples, and `choices`, which draws bootstrap samples.

/// The size of the state in words.
const SIZE: usize = 624;

/// `random.Random`.
pub(super) struct Random {
    state: [u32; SIZE],
    index: usize,
}

impl Random {
    /// `random.Random(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [0u32; SIZE];
        state[0] = 19_650_218;
        for i in 1..SIZE {
            let before = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = before.wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let mix = |state: &[u32; SIZE], i: usize| state[i - 1] ^ (state[i - 1] >> 30);
        let mut i = 1;
        let advance = |state: &mut [u32; SIZE], i: &mut usize| {
            *i += 1;
            if *i >= SIZE {
                state[0] = state[SIZE - 1];
                *i = 1;
            }
        };
        // The key has one word, the seed.
        for _ in 0..SIZE {
            state[i] = (state[i] ^ mix(&state, i).wrapping_mul(1_664_525)).wrapping_add(seed);
            advance(&mut state, &mut i);
        }
        for _ in 1..SIZE {
            state[i] =
                (state[i] ^ mix(&state, i).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            advance(&mut state, &mut i);
        }
        state[0] = 0x8000_0000;
        Self { state, index: SIZE }
    }

    fn word(&mut self) -> u32 {
        if self.index >= SIZE {
            for i in 0..SIZE {
                let (next, far) = (self.state[(i + 1) % SIZE], self.state[(i + 397) % SIZE]);
                let joined = (self.state[i] & 0x8000_0000) | (next & 0x7fff_ffff);
                let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = far ^ (joined >> 1) ^ odd;
            }
            self.index = 0;
        }
        let mut y = self.state[self.index];
        self.index += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`, in [0, 1).
    pub fn random(&mut self) -> f64 {
        let (high, low) = (f64::from(self.word() >> 5), f64::from(self.word() >> 6));
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// An integer below `limit`, from 1 to 2^32 - 1.
    fn below(&mut self, limit: usize) -> usize {
        let bits = usize::BITS - limit.leading_zeros();
        loop {
            let drawn = (self.word() >> (32 - bits.clamp(1, 32))) as usize;
            if drawn < limit {
                return drawn;
            }
        }
    }

    /// The indices of `sample(population, count)` for `count` of at most `population`.
    pub fn sample(&mut self, population: usize, count: usize) -> Vec<usize> {
        let mut set = 21usize;
        if count > 5 {
            let power = (3.0 * count as f64).ln() / 4f64.ln();
            set += 4usize.pow(power.ceil() as u32);
        }
        if population <= set {
            let mut pool: Vec<usize> = (0..population).collect();
            let mut draw = |i: usize| {
                let at = self.below(population - i);
                let drawn = pool[at];
                pool[at] = pool[population - i - 1];
                drawn
            };
            return (0..count).map(&mut draw).collect();
        }
        let mut drawn: Vec<usize> = Vec::with_capacity(count);
        while drawn.len() < count {
            let at = self.below(population);
            if !drawn.contains(&at) {
                drawn.push(at);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As CPython 3.11 draws them.
    #[test]
    fn draws_are_those_of_python() {
        let mut random = Random::new(1234);
        assert_eq!(random.sample(20, 5), [14, 3, 0, 2, 1]);
        assert_eq!(random.sample(200, 5), [171, 177, 21, 25, 196]);
        assert_eq!(random.word(), 1_523_148_328);
        assert_eq!(Random::new(0).random(), 0.844_421_851_525_048_1);
        let mut random = Random::new(7);
        assert_eq!(random.sample(100, 8), SAMPLE_OF_100);
    }

    /// `random.Random(7).sample(range(100), 8)`.
    const SAMPLE_OF_100: [usize; 8] = [41, 19, 50, 83, 6, 9, 68, 12];
}
