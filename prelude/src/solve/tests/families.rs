//! Every family can be solved: norms before and after, norms of queries and keys, fused
//! projections, biases, scales and caps.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, safetensors};

use super::{Case, SolveSettings, arbitrary, data, scheme};
use crate::checkpoint::Source;
use crate::data::Batch;
use crate::model::{Decoder, SourceWeights, Weights};

const FAMILIES: [&str; 17] = [
    "mistral-window",
    "qwen2-bias-tied",
    "llama-biases",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "smollm3-window",
    "olmo2",
    "olmo3",
    "granite",
    "glm",
    "glm4",
    "exaone4",
    "ernie4_5",
];

/// Two sources that differ from the model in `family` at random in every weight.
fn two(family: &str, directory: &std::path::Path) -> Vec<Source> {
    let original = Source::open(&data("families").join(family).display().to_string()).unwrap();
    let read = SourceWeights { source: &original, device: &Device::Cpu, dtype: DType::F32 };
    let weights = read.collect().unwrap();
    let one = |name: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let differ = |(key, w): (&String, &Tensor)| {
            let size = w.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let noise = Tensor::randn(0f32, 0.3 * size.max(0.01), w.dims(), &Device::Cpu).unwrap();
            (key.clone(), (w + noise).unwrap())
        };
        let differ: std::collections::HashMap<String, Tensor> =
            weights.iter().map(differ).collect();
        safetensors::save(&differ, path.join("model.safetensors")).unwrap();
        let config = data("families").join(family).join("config.json");
        std::fs::copy(config, path.join("config.json")).unwrap();
        Source::open(&format!("{name}={}", path.display())).unwrap()
    };
    vec![one("a"), one("b")]
}

#[test]
fn every_family_comes_closer_to_its_sources() {
    let directory = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let sources = two(family, &directory.path().join(family));
        let vocabulary = sources[0].architecture().unwrap().vocabulary as u32;
        let sets = vec![arbitrary(vocabulary, 1), arbitrary(vocabulary, 2)];
        let case = Case::new(sources, sets, scheme("columns"));
        let before = apart(&case);
        let parts = case.solve(SolveSettings::default(), DType::F32, None).unwrap();
        let names: BTreeMap<&str, f64> = parts
            .iter()
            .flat_map(|part| &part.tensors)
            .map(|t| (t.name.as_str(), t.solved / t.average))
            .collect();
        let solved = case.merge.tensors.iter().filter(|t| !t.spec.name.ends_with("bias"));
        for tensor in solved {
            let share = names.get(tensor.spec.name.as_str());
            assert!(share.is_some_and(|x| *x < 1.0), "{family}: {} {share:?}", tensor.spec.name);
        }
        let after = apart(&case);
        assert!(after < before, "{family}: {before} to {after}");
    }
}

/// The mean square of the difference of final hidden states of the merge and of every source on its
/// own data.
fn apart(case: &Case) -> f64 {
    let a = &case.merge.architecture;
    let hidden =
        |weights: &dyn Weights, batch: &Batch| Decoder::new(a, weights).hidden(batch).unwrap();
    let mut sum = 0.0;
    for (source, data) in case.sources.iter().zip(&case.data) {
        let ids = data.examples.iter().map(|e| e.ids.as_slice());
        let batch = Batch::new(ids, &Device::Cpu).unwrap();
        let own = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
        let apart = hidden(&own, &batch) - hidden(&case.merge.as_weights(DType::F32), &batch);
        sum += f64::from(
            apart.unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap(),
        );
    }
    sum
}
