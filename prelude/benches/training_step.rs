//! A training step of three built-in sources beside its lower bound: the forward and backward
//! passes of the merged model alone, on the same tokens, as plain training of one model would make
//! them.
//!
//! ```text
//! MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483647 cargo bench -p dam-prelude --bench training_step
//! ```
//!
//! The variables make glibc keep freed memory between steps, as `dam` does.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dam_prelude::candle_core::{DType, Device, Tensor, Var};
use dam_prelude::checkpoint::Source;
use dam_prelude::data::{Batch, Dataset};
use dam_prelude::model::{Decoder, SourceWeights};
use dam_prelude::ops::cross_entropy;
use dam_prelude::{Columns, load};

const SOURCES: [&str; 3] = ["builtin:japanese", "builtin:math", "builtin:sql"];
const BATCH: usize = 8;

fn training_step(c: &mut Criterion) {
    let mut models = load(SOURCES).unwrap();
    models.settings.batch_size = BATCH;
    models.settings.shuffle = false;
    let dam = models.wrap(Columns::default()).unwrap();

    let source = Source::open(SOURCES[0]).unwrap();
    let weights = SourceWeights { source: &source, device: &Device::Cpu, dtype: DType::F32 }
        .collect()
        .unwrap();
    let variable = |(name, w): (String, Tensor)| (name, Var::from_tensor(&w).unwrap().into_inner());
    let weights: BTreeMap<String, Tensor> = weights.into_iter().map(variable).collect();
    let batches = SOURCES.map(|name| {
        let data = Dataset::read(name, &source).unwrap();
        let sequences: Vec<&[u32]> =
            data.examples[..BATCH].iter().map(|e| e.ids.as_slice()).collect();
        Batch::new(sequences, &Device::Cpu).unwrap()
    });
    let plain = || {
        let decoder = Decoder::new(source.architecture().unwrap(), &weights);
        for batch in &batches {
            let hidden = decoder.hidden(batch).unwrap();
            let targets = vec![0; batch.tokens()];
            let loss = cross_entropy(&decoder.logits(&hidden).unwrap(), &targets).unwrap();
            black_box(loss.backward().unwrap());
        }
    };

    let mut group = c.benchmark_group("training step");
    group.bench_function("dam", |b| b.iter(|| black_box(dam.step().unwrap())));
    group.bench_function("forward and backward alone", |b| b.iter(plain));
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = training_step }
criterion_main!(benches);
