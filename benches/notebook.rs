//! Latency of a notebook: from the start of its kernel to the first result, and from a cell to its
//! result for cells that compute little. `cargo bench --features jupyter --bench notebook`.
//!
//! Target: 3 s to the first result, 0.4 s per cell.

#[cfg(unix)]
#[path = "../tests/common/mod.rs"]
mod common;

/// The number of kernels started for each first cell.
#[cfg(unix)]
const TIMES: usize = 5;

/// A first cell without a variable, one of a plain type, and one of the prelude's.
#[cfg(unix)]
const FIRST: [&str; 3] = [
    "1 + 1",
    "let n = 7; n",
    "let dam = load([\"builtin:japanese\", \"builtin:math\"])?.wrap(Columns::default())?; dam.steps()",
];

/// The cells after the last of them.
#[cfg(unix)]
const CELLS: [&str; 9] = [
    "let n = 7;",
    "n + 1",
    "dam.steps()",
    "dam.loss()?",
    "let step = dam.step()?;",
    "step.step",
    "for i in 0..3 { println!(\"{i}\"); }",
    "let names: Vec<String> = (0..3).map(|i| format!(\"{i}\")).collect();",
    "names.len()",
];

#[cfg(unix)]
fn main() {
    use common::jupyter::{Kernel, prepare};

    prepare();
    println!("{:40} {:>8} {:>8}", "", "median", "largest");
    let mut cells: Vec<Vec<f64>> = vec![Vec::new(); CELLS.len()];
    for first in FIRST {
        let (mut started, mut shown) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let place = tempfile::tempdir().expect("a directory for the kernel");
            let begun = std::time::Instant::now();
            let mut kernel = Kernel::start(place.path());
            started.push(begun.elapsed().as_secs_f64());
            let cell = kernel.run(first);
            shown.push(begun.elapsed().as_secs_f64());
            assert_eq!(cell.status, "ok", "{first}: {cell:?}");
            if first != FIRST[FIRST.len() - 1] {
                continue;
            }
            for (times, code) in cells.iter_mut().zip(CELLS) {
                let cell = kernel.run(code);
                assert_eq!(cell.status, "ok", "{code}: {cell:?}");
                times.push(cell.seconds);
            }
        }
        report("start to the kernel's first reply", started);
        report(&format!("start to: {first}"), shown);
    }
    for (times, code) in cells.iter().zip(CELLS) {
        report(code, times.clone());
    }
    report("all these cells", cells.concat());
}

#[cfg(unix)]
fn report(what: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let short: String = what.chars().take(40).collect();
    println!(
        "{short:40} {:6.2} s {:6.2} s",
        seconds[seconds.len() / 2],
        seconds[seconds.len() - 1]
    );
}

#[cfg(not(unix))]
fn main() {}
