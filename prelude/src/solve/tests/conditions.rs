//! Conditions that every solution meets: the gradient vanishes, two ways to one solution agree, an
//! error changes nothing.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::super::block::Unit;
use super::super::gauss_newton::Problem;
use super::super::pass::FullWeights;
use super::super::quadratic::{Gram, Quadratic};
use super::super::{columns, scheme as by_scheme};
use super::{Case, SolveSettings, golden, golden_data, own, scheme, sources};
use crate::checkpoint::Source;
use crate::coefficients::{Merge, SCHEMES};
use crate::data::Dataset;
use crate::model::{Decoder, Half, SourceWeights, Weights};
use crate::ops::check::random;
use crate::{Error, Nonlinearity, Options, Parameter, Scheme, Site};

/// A unit of the weight `name` with an arbitrary objective.
fn unit<'a>(merge: &'a Merge, name: &str) -> Unit<'a> {
    let weight = merge.tensor(name).unwrap();
    let (rows, columns) = (weight.spec.shape[0], weight.spec.shape[1]);
    let x = random(&[100, columns], 3);
    let gram = (x.t().unwrap().matmul(&x).unwrap() / 100.0).unwrap();
    let right = (random(&[rows, columns], 4) * 0.3).unwrap();
    let quadratic = Quadratic { gram: Gram::Dense(gram), right, at_average: 50.0 };
    Unit { tensors: vec![weight], ids: None, quadratic }
}

const WEIGHT: &str = "model.layers.0.mlp.down_proj.weight";

#[test]
fn the_gradient_vanishes_at_the_solution_of_every_scheme() {
    for builtin in SCHEMES {
        let names: &[(&str, &str)] = &[("m0", "golden/model0"), ("base", "golden/base")];
        let case = Case::new(sources(names), Vec::new(), scheme(builtin.name));
        let units = [unit(&case.merge, WEIGHT)];
        let size = || {
            let blocks = units[0].blocks(&case.merge).unwrap();
            Problem::new(&case.merge, vec![(&units[0], blocks)], 0.1).unwrap().gradient_norm()
        };
        let before = size().unwrap();
        let left = by_scheme::solve(&case.merge, &units, 0.1).unwrap();
        let after = size().unwrap();
        let tolerance = match builtin.name {
            // Not linear in its parameters: the rounds converge to the solution.
            "softmax" => 1e-4,
            // Not convex: a few rounds only lower the objective.
            "low_rank" => {
                assert!(left[0] < 0.5 * units[0].quadratic.at_average, "{left:?}");
                continue;
            }
            _ => 1e-6,
        };
        assert!(after < tolerance * before, "{}: {before} to {after}", builtin.name);
    }
}

/// Of all scales that a function can make, none is closer than the solution: moving any of them to
/// either side raises the objective with its ridge, unless a bound is in the way.
#[test]
fn a_function_of_coefficients_bounds_the_scales() {
    for f in Nonlinearity::ALL {
        let mut wrap = scheme("columns");
        wrap.options = Options { f, ..wrap.options };
        let three = golden();
        let case = Case::new(three.clone(), golden_data(&three), wrap);
        let parts = case.solve(SolveSettings::default(), DType::F32, None).unwrap();
        for part in &parts {
            for tensor in &part.tensors {
                assert!(tensor.solved <= tensor.average, "{f:?}: {}", tensor.name);
            }
        }
        for tensor in &case.merge.tensors {
            let c = case.merge.coefficients(tensor).unwrap();
            let scales: Vec<f32> = f.apply(&c).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let [low, high] = f.range();
            let within = |s: &f32| (low - 1e-4..high + 1e-4).contains(&f64::from(*s));
            assert!(scales.iter().all(within), "{f:?}: {}", tensor.spec.name);
        }
    }
}

#[test]
fn conjugate_gradients_find_what_a_factorisation_finds() {
    let case = Case::new(golden(), Vec::new(), scheme("columns"));
    let unit = unit(&case.merge, WEIGHT);
    let blocks = unit.blocks(&case.merge).unwrap();
    assert!(columns::solve(&case.merge, &unit, &blocks, 0.1).unwrap());
    let values = || -> Vec<f32> {
        let c = case.merge.coefficients(unit.tensors[0]).unwrap();
        c.flatten_all().unwrap().to_vec1().unwrap()
    };
    let direct = values();
    let variable = &case.merge.variables[unit.tensors[0].variables[0]].value;
    variable.set(&variable.ones_like().unwrap()).unwrap();
    Problem::new(&case.merge, vec![(&unit, blocks)], 0.1).unwrap().solve().unwrap();
    for (a, b) in direct.iter().zip(values()) {
        assert!((a - b).abs() < 1e-5 * (1.0 + a.abs()), "{a} and {b}");
    }
}

/// One coefficient per source, shared by all weights of a layer, times one per column.
struct Shared(&'static str);

impl Scheme for Shared {
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let key = match self.0 {
            "layer" => {
                format!("{:?}", site.layer().map_or(site.name().to_owned(), |l| l.to_string()))
            }
            all => all.to_owned(),
        };
        let columns = Parameter::filled(site.name(), &[1, 1, site.columns()], 1.0);
        vec![Parameter::new(key, &[site.sources, 1, 1], vec![0.3; site.sources]), columns]
    }

    fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
        parameters[0].broadcast_mul(&parameters[1])
    }
}

#[test]
fn a_scheme_of_your_own_is_solved_through_its_derivative() {
    let three = golden();
    let data = golden_data(&three);
    for how in [own(Shared("layer")), scheme("layer"), scheme("softmax"), scheme("low_rank")] {
        let name = how.scheme.name();
        let case = Case::new(three.clone(), data.clone(), how);
        let parts = case.solve(SolveSettings::default(), DType::F32, None).unwrap();
        assert_eq!(parts.iter().filter_map(|p| p.layer).collect::<Vec<_>>(), [0, 1], "{name}");
        for part in &parts {
            let (share, best) = (part.share().unwrap(), part.unrestricted_share().unwrap());
            assert!(share < 1.01 && best < share, "{name}: {share} and {best} in {part}");
        }
    }
}

#[test]
fn parameters_of_several_layers_are_refused() {
    let case = Case::new(golden(), Vec::new(), own(Shared("all")));
    let error = case.sweep(SolveSettings::default(), DType::F32).err().unwrap();
    let text = format!("{error:?}");
    for word in ["`Shared`", "`all`", "layer by layer", "hint: learn its coefficients with train"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_system_without_a_unique_solution_is_an_error_and_changes_nothing() {
    let twice = sources(&[("a", "golden/model0"), ("b", "golden/model0")]);
    let data = golden_data(&twice)[..2].to_vec();
    let case = Case::new(twice, data, scheme("columns"));
    let before: Vec<Vec<f32>> = values(&case.merge);
    let none = SolveSettings { ridge: 0.0, unrestricted: false, ..SolveSettings::default() };
    let error = case.solve(none, DType::F32, None).unwrap_err();
    let text = format!("{error:?}");
    assert!(
        text.contains("not positive definite") && text.contains("hint: use a larger ridge"),
        "{text}"
    );
    assert_eq!(values(&case.merge), before);
    // With a ridge, equal sources get equal coefficients.
    case.solve(SolveSettings::default(), DType::F32, None).unwrap();
    for tensor in &case.merge.tensors {
        let c = case.merge.coefficients(tensor).unwrap();
        let apart = (c.get(0).unwrap() - c.get(1).unwrap()).unwrap().abs().unwrap();
        assert!(
            apart.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5,
            "{}",
            tensor.spec.name
        );
    }
}

fn values(merge: &Merge) -> Vec<Vec<f32>> {
    merge.variables.iter().map(|v| v.value.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn missing_data_and_a_missing_base_are_errors() {
    let case = Case::new(golden(), Vec::new(), scheme("columns"));
    let error = case.sweep(SolveSettings::default(), DType::F32).err().unwrap();
    assert!(matches!(&error, Error::NoData { source_name } if source_name == "m0"), "{error:?}");
    let error = case.solve(SolveSettings::wudi(), DType::F32, None).unwrap_err();
    assert!(format!("{error:?}").contains("load base=SOURCE"), "{error:?}");
    for wrong in [
        SolveSettings { ridge: -1.0, ..SolveSettings::wudi() },
        SolveSettings { examples: 0, ..SolveSettings::wudi() },
    ] {
        assert!(matches!(case.sweep(wrong, DType::F32), Err(Error::BadValue { .. })));
    }
}

#[test]
fn kinds_that_do_not_train_keep_their_coefficients() {
    let three = golden();
    let data = golden_data(&three);
    let mut wrap = scheme("columns");
    wrap.options.train = vec![crate::Kind::Norm];
    let case = Case::new(three, data, wrap);
    let before = values(&case.merge);
    let parts = case.solve(SolveSettings::default(), DType::F32, None).unwrap();
    assert!(parts.iter().flat_map(|p| &p.tensors).all(|t| t.name.contains("norm")));
    for (variable, (before, after)) in
        case.merge.variables.iter().zip(before.iter().zip(values(&case.merge)))
    {
        assert_eq!(*before != after, variable.trains, "{}", variable.key);
    }
}

/// The whole weights of the merge by `settings`, without a scheme.
fn whole(case: &Case, settings: SolveSettings, base: Option<&Source>) -> FullWeights {
    let settings = SolveSettings { ridge: 1e-9, ..settings };
    let mut sweep = case.sweep(settings, DType::F64).unwrap();
    let mut whole = FullWeights::default();
    while sweep.next(&case.merge, &case.sources, base, Some(&mut whole)).unwrap().is_some() {}
    assert_eq!(whole.0.len(), 14);
    whole
}

/// Checks `W (sum_i G_i) = sum_i W_i G_i` for the weight `name`, equation 2 of RegMean.
#[track_caller]
fn is_regression_mean(case: &Case, found: &FullWeights, name: &str, grams: Vec<Tensor>) {
    let (mut left, mut right) = (None::<Tensor>, None::<Tensor>);
    for (source, gram) in case.sources.iter().zip(grams) {
        let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F64 };
        let product = weights.weight(name).unwrap().matmul(&gram).unwrap();
        left = Some(left.map_or(product.clone(), |left| (left + product).unwrap()));
        right = Some(right.map_or(gram.clone(), |right| (right + gram).unwrap()));
    }
    let found = found.0[name].to_dtype(DType::F64).unwrap().matmul(&right.unwrap()).unwrap();
    let apart = (found - left.unwrap()).unwrap().abs().unwrap().max_all().unwrap();
    assert!(apart.to_scalar::<f64>().unwrap() < 1e-5, "{name}: {apart}");
}

const FIRST: &str = "model.layers.0.self_attn.q_proj.weight";

/// The inputs of the first layer for each source's data, by the weights that `of` returns.
fn first_inputs(case: &Case, of: impl Fn(&Source) -> BTreeMap<String, Tensor>) -> Vec<Tensor> {
    let one = |(source, data): (&Source, &Dataset)| {
        let weights = of(source);
        let decoder = Decoder::new(source.architecture().unwrap(), &weights);
        let ids: Vec<u32> = data.examples.iter().flat_map(|e| e.ids.clone()).collect();
        let (count, ids) = (ids.len(), Tensor::new(ids, &Device::Cpu).unwrap());
        let x = decoder.before(Half::Attention, 0, &decoder.embed(&ids).unwrap()).unwrap();
        (x.t().unwrap().matmul(&x).unwrap() / count as f64).unwrap()
    };
    case.sources.iter().zip(&case.data).map(one).collect()
}

#[test]
fn without_a_scheme_the_merge_is_regmean() {
    let three = golden();
    let case = Case::new(three.clone(), golden_data(&three), scheme("columns"));
    let found = whole(&case, SolveSettings::regmean(), None);
    let own = |source: &Source| {
        SourceWeights { source, device: &Device::Cpu, dtype: DType::F64 }.collect().unwrap()
    };
    is_regression_mean(&case, &found, FIRST, first_inputs(&case, own));
}

/// RegMean++ (arXiv 2508.03121): the same with the inputs of the merge so far.
#[test]
fn with_the_inputs_of_the_merge_it_is_regmean_plus_plus() {
    let three = golden();
    let case = Case::new(three.clone(), golden_data(&three), scheme("columns"));
    let found = whole(&case, SolveSettings::regmean_plus_plus(), None);
    // Before the first layer, the merge is the average.
    let average = case.merge.weights(DType::F64).unwrap();
    is_regression_mean(&case, &found, FIRST, first_inputs(&case, |_| average.clone()));
}

/// WUDI (arXiv 2503.08099): at the minimum of `sum_i |(W - W_i) t_i^T|^2 / |t_i|^2`, the same with
/// `t_i^T t_i / |t_i|^2` as moments, for every projection.
#[test]
fn without_data_it_is_wudi() {
    let case = Case::new(golden(), Vec::new(), scheme("columns"));
    let base = Source::open(&format!("base={}", super::data("golden/base").display())).unwrap();
    let found = whole(&case, SolveSettings::wudi(), Some(&base));
    for name in found.0.keys() {
        let of = |source| {
            let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F64 };
            weights.weight(name).unwrap()
        };
        let gram = |source| {
            let t = (of(source) - of(&base)).unwrap();
            let size = t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
            (t.t().unwrap().matmul(&t).unwrap() / size).unwrap()
        };
        is_regression_mean(&case, &found, name, case.sources.iter().map(gram).collect());
    }
}
