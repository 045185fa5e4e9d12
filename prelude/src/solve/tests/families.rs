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

/// A weight of source `source`, as `tests/data/solve/families.py` makes it: noise of up to 0.6
/// times the weight's root mean square.
fn noised(name: &str, w: &Tensor, source: u64) -> Tensor {
    let values: Vec<f32> = w.flatten_all().unwrap().to_vec1().unwrap();
    let squares = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let size = (squares / values.len() as f64).sqrt().max(0.01);
    let one = |(i, x): (u64, &f32)| {
        let noise = (i * i * 31 + i * 37 + name.len() as u64 * 13 + source * 71) % 101;
        (f64::from(*x) + 0.6 * size * (noise as f64 / 50.0 - 1.0)) as f32
    };
    let noised: Vec<f32> = (0..).zip(&values).map(one).collect();
    Tensor::from_vec(noised, w.dims(), &Device::Cpu).unwrap()
}

/// Two sources that differ from the model in `family` in every weight.
fn two(family: &str, directory: &std::path::Path) -> Vec<Source> {
    let original = Source::open(&data("families").join(family).display().to_string()).unwrap();
    let read = SourceWeights { source: &original, device: &Device::Cpu, dtype: DType::F32 };
    let weights = read.collect().unwrap();
    let one = |(i, name): (u64, &str)| {
        let path = directory.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let noised = |(key, w): (&String, &Tensor)| (key.clone(), noised(key, w, i));
        let noised: std::collections::HashMap<String, Tensor> =
            weights.iter().map(noised).collect();
        safetensors::save(&noised, path.join("model.safetensors")).unwrap();
        let config = data("families").join(family).join("config.json");
        std::fs::copy(config, path.join("config.json")).unwrap();
        Source::open(&format!("{name}={}", path.display())).unwrap()
    };
    vec![one((0, "a")), one((1, "b"))]
}

/// `families.safetensors` has the solutions of systems that were made with transformers' states.
#[test]
fn every_family_has_the_coefficients_of_dense_systems() {
    let directory = tempfile::tempdir().unwrap();
    let expected = safetensors::load(data("solve/families.safetensors"), &Device::Cpu).unwrap();
    for family in FAMILIES {
        let sources = two(family, &directory.path().join(family));
        let vocabulary = sources[0].architecture().unwrap().vocabulary as u32;
        let sets = vec![arbitrary(vocabulary, 1), arbitrary(vocabulary, 2)];
        let case = Case::new(sources, sets, scheme("columns"));
        let before = apart(&case);
        let parts = case.solve(SolveSettings::default(), DType::F64, None).unwrap();
        let names: BTreeMap<&str, f64> = parts
            .iter()
            .flat_map(|part| &part.tensors)
            .map(|t| (t.name.as_str(), t.solved / t.average))
            .collect();
        for tensor in &case.merge.tensors {
            let name = &tensor.spec.name;
            let x = expected.get(&format!("{family}/{name}")).unwrap_or_else(|| panic!("{name}"));
            let x: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
            let found = case.merge.coefficients(tensor).unwrap();
            let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(found.len(), x.len(), "{family}: {name}");
            for (i, (found, x)) in found.iter().zip(&x).enumerate() {
                assert!(
                    (found - x).abs() <= 1e-5 * (1.0 + x.abs()),
                    "{family}: {name} at {i}: {found} and {x}"
                );
            }
            let share = names.get(name.as_str());
            assert!(
                name.ends_with("bias") || share.is_some_and(|x| *x < 1.0),
                "{family}: {name} {share:?}"
            );
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
