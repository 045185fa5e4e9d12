//! What the processor's vector instructions can do, without memory: fused multiply-adds in f32, and
//! dot products of bf16 pairs with f32 sums (AVX512-BF16), on one thread and on all. Products of
//! matrices in bf16 pay only where the second are faster.
//! `cargo bench -p dam-prelude --bench vector_rates`.

#[cfg(target_arch = "x86_64")]
mod rates {
    use std::arch::x86_64::{
        __m512, __m512bh, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps,
        _mm512_set1_ps, _mm512_setzero_ps,
    };
    use std::hint::black_box;
    use std::mem::transmute;
    use std::thread;
    use std::time::Instant;

    /// Independent sums, enough to hide the latency of an instruction.
    const SUMS: usize = 16;

    const ROUNDS: usize = 10_000_000;

    #[target_feature(enable = "avx512f")]
    fn f32_rounds(x: f32) -> f32 {
        let (a, b) = (_mm512_set1_ps(x), _mm512_set1_ps(0.5 * x));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(a, b, *sum));
        }
        _mm512_reduce_add_ps(sums.into_iter().fold(a, |a, b| _mm512_add_ps(a, b)))
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_rounds(x: f32) -> f32 {
        let a = _mm512_set1_ps(x);
        // SAFETY: both types are 64 bytes of plain numbers.
        let pairs = |x: __m512| unsafe { transmute::<__m512, __m512bh>(x) };
        let (pairs, others) = (pairs(a), pairs(_mm512_set1_ps(0.5 * x)));
        let mut sums = [_mm512_setzero_ps(); SUMS];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, pairs, others));
        }
        _mm512_reduce_add_ps(sums.into_iter().fold(a, |a, b| _mm512_add_ps(a, b)))
    }

    /// Prints the rate of `rounds` of `flops` operations per instruction on 1 and on all threads.
    fn measure(name: &str, flops: f64, rounds: impl Fn(f32) -> f32 + Sync) {
        for threads in [1, thread::available_parallelism().map_or(1, usize::from)] {
            let start = Instant::now();
            thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| black_box(rounds(black_box(1e-9))));
                }
            });
            let rate = (threads * ROUNDS * SUMS) as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!(
                "{name}, {threads} threads: {rate:.2} billion instructions/s, {:.0} GFLOP/s",
                rate * flops
            );
        }
    }

    pub fn print() {
        if !is_x86_feature_detected!("avx512f") {
            return println!("no AVX-512");
        }
        // SAFETY: the instructions are there.
        measure("f32 multiply-add", 32.0, |x| unsafe { f32_rounds(x) });
        if is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the instructions are there.
            measure("bf16 dot product", 64.0, |x| unsafe { bf16_rounds(x) });
        } else {
            println!("no AVX512-BF16");
        }
    }
}

fn main() {
    #[cfg(target_arch = "x86_64")]
    rates::print();
    #[cfg(not(target_arch = "x86_64"))]
    println!("measured on x86-64 only");
}
