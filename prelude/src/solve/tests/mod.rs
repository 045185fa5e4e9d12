//! Solutions against dense ones in numpy, and against the conditions that every solution meets.

mod agreement;
mod conditions;
mod families;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::{SolveSettings, SolvedPart, Sweep};
use crate::checkpoint::Source;
use crate::coefficients::{BiasStart, Merge, Options, Wrap, find};
use crate::data::{Dataset, Example};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

/// Sources by name and path in the test data.
fn sources(paths: &[(&str, &str)]) -> Vec<Source> {
    let open = |(name, path): &(&str, &str)| {
        Source::open(&format!("{name}={}", data(path).display())).unwrap()
    };
    paths.iter().map(open).collect()
}

/// Three golden sources.
fn golden() -> Vec<Source> {
    sources(&[("m0", "golden/model0"), ("m1", "golden/model1"), ("m2", "golden/model2")])
}

fn read(path: &str, source: &Source) -> Dataset {
    Dataset::read(&data(path).display().to_string(), source).unwrap()
}

fn golden_data(sources: &[Source]) -> Vec<Dataset> {
    (0..3).map(|i| read(&format!("golden/data{i}.jsonl"), &sources[0])).collect()
}

/// Examples of arbitrary tokens.
fn arbitrary(vocabulary: u32, seed: u32) -> Dataset {
    let ids =
        move |start: u32| (0..12).map(move |i| (start + 7 * i + seed * (i * i + 1)) % vocabulary);
    let examples = (0..6).map(|i| Example { ids: ids(5 * i + seed).collect(), prompt: 0 });
    Dataset { spec: String::new(), examples: examples.collect(), questions: vec![], unused: vec![] }
}

fn scheme(name: &str) -> Wrap {
    let options = Options { bias: BiasStart::Same, ..Options::default() };
    Wrap { scheme: (find(name).unwrap().build)(&[]).unwrap(), options }
}

/// A merge with its sources and data.
struct Case {
    merge: Merge,
    sources: Vec<Source>,
    data: Vec<Dataset>,
}

impl Case {
    fn new(sources: Vec<Source>, data: Vec<Dataset>, how: impl Into<Wrap>) -> Self {
        Self { merge: Merge::new(&sources, how, Device::Cpu).unwrap(), sources, data }
    }

    fn sweep(&self, settings: SolveSettings, dtype: DType) -> crate::Result<Sweep> {
        let of = |name: &str| {
            let i = self.sources.iter().position(|s| s.name() == name)?;
            self.data.get(i)
        };
        Sweep::new(&self.merge, &self.sources, settings, dtype, 128, of)
    }

    /// Solves all parts.
    fn solve(
        &self,
        settings: SolveSettings,
        dtype: DType,
        base: Option<&Source>,
    ) -> crate::Result<Vec<SolvedPart>> {
        let mut sweep = self.sweep(settings, dtype)?;
        let mut parts = Vec::new();
        while let Some(part) = sweep.next(&self.merge, &self.sources, base, None)? {
            parts.push(part);
        }
        Ok(parts)
    }
}

/// A user's own scheme: what `make` returns for every tensor.
fn own(scheme: impl crate::Scheme + 'static) -> Wrap {
    let options = Options { bias: BiasStart::Same, ..scheme.options() };
    Wrap { scheme: Arc::new(scheme), options }
}
