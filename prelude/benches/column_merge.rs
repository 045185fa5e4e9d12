//! The column merge beside the same in candle's own operations, forward and backward.
//!
//! ```text
//! cargo bench -p dam-prelude --bench column_merge
//! ```
//!
//! Three bf16 sources of one layer of a 1.7B model: 61 million weights, merged by columns.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dam_prelude::Columns;
use dam_prelude::candle_core::{DType, Device, Result, Tensor, Var, safetensors};
use dam_prelude::checkpoint::{Architecture, Kind, Source};
use dam_prelude::coefficients::{Merge, MergedTensor};
use dam_prelude::model::{SourceWeights, Weights};

const SOURCES: usize = 3;
const CONFIG: &str = r#"{
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 1, "vocab_size": 64,
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    "hidden_act": "silu", "max_position_embeddings": 64, "rope_theta": 10000.0
}"#;

fn write_source(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("config.json"), CONFIG)?;
    let architecture = Architecture::parse(&dir.join("config.json"), CONFIG.as_bytes())
        .map_err(candle_core_error)?;
    let tensor = |shape: &[usize], kind| match kind {
        Kind::Norm => Tensor::ones(shape, DType::BF16, &Device::Cpu),
        _ => Tensor::randn(0f32, 0.02, shape, &Device::Cpu)?.to_dtype(DType::BF16),
    };
    let tensors = architecture
        .tensors()
        .into_iter()
        .map(|spec| Ok((spec.name, tensor(&spec.shape, spec.kind)?)));
    safetensors::save(&tensors.collect::<Result<_>>()?, dir.join("model.safetensors"))
}

fn candle_core_error(error: dam_prelude::Error) -> dam_prelude::candle_core::Error {
    dam_prelude::candle_core::Error::Msg(error.to_string())
}

/// `sum_i c_i W_i` as one writes it first.
fn composed(coefficients: &Tensor, weights: &[Tensor]) -> Result<Tensor> {
    let scaled =
        |(i, w): (usize, &Tensor)| w.to_dtype(DType::F32)?.broadcast_mul(&coefficients.get(i)?);
    let parts = weights.iter().enumerate().map(scaled).collect::<Result<Vec<_>>>()?;
    parts.iter().skip(1).try_fold(parts[0].clone(), |sum, part| sum + part)
}

fn column_merge(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let sources: Vec<Source> = (0..SOURCES)
        .map(|i| {
            let place = dir.path().join(format!("source{i}"));
            write_source(&place).unwrap();
            Source::open(&place.display().to_string()).unwrap()
        })
        .collect();
    let merge = Merge::new(&sources, Columns::default(), Device::Cpu).unwrap();
    // What either side starts from: the merge's tensors, and for candle their sources and
    // coefficients.
    let read = |tensor: &MergedTensor| {
        let weight = |source| {
            SourceWeights { source, device: &Device::Cpu, dtype: DType::BF16 }
                .weight(&tensor.spec.name)
                .unwrap()
        };
        let coefficients =
            Var::from_tensor(&merge.coefficients(tensor).unwrap().squeeze(1).unwrap()).unwrap();
        let gradient =
            Tensor::randn(0f32, 1.0, tensor.spec.shape.as_slice(), &Device::Cpu).unwrap();
        (coefficients, sources.iter().map(weight).collect::<Vec<_>>(), gradient)
    };
    let all: Vec<(Var, Vec<Tensor>, Tensor)> = merge.tensors.iter().map(read).collect();

    let found = merge.weights(DType::F32).unwrap();
    for (tensor, (coefficients, weights, _)) in merge.tensors.iter().zip(&all) {
        let expected = composed(coefficients, weights).unwrap();
        let difference = (&found[&tensor.spec.name] - expected)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6, "the two sides compute the same");
    }

    let bytes: usize =
        merge.tensors.iter().map(|t| SOURCES * t.spec.shape.iter().product::<usize>() * 2).sum();
    let mut group = c.benchmark_group("forward");
    group.throughput(Throughput::Bytes(bytes as u64));
    let layers = merge.architecture.layers;
    let fused = || {
        (0..layers)
            .map(Some)
            .chain([None])
            .for_each(|layer| drop(merge.part(layer, DType::F32, true).unwrap()))
    };
    group.bench_function("fused", |b| b.iter(fused));
    group.bench_function("candle", |b| {
        b.iter(|| {
            all.iter().map(|(c, weights, _)| composed(c, weights).unwrap()).collect::<Vec<_>>()
        });
    });
    group.finish();

    let mut group = c.benchmark_group("forward and backward");
    group.throughput(Throughput::Bytes(2 * bytes as u64));
    group.bench_function("fused", |b| {
        b.iter(|| {
            fused();
            for (tensor, (_, _, gradient)) in merge.tensors.iter().zip(&all) {
                let by_scales = merge.scale_gradient(tensor, gradient).unwrap();
                black_box(merge.pull_back(tensor, &by_scales).unwrap());
            }
        });
    });
    group.bench_function("candle", |b| {
        b.iter(|| {
            for (c, weights, gradient) in &all {
                let merged = composed(c, weights).unwrap();
                black_box((merged * gradient).unwrap().sum_all().unwrap().backward().unwrap());
            }
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(10); targets = column_merge }
criterion_main!(benches);
