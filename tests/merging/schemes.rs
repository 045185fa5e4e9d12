//! The contract of every scheme: it starts like columns, its gradients are correct, it trains,
//! saves, opens, displays and bakes; errors of a scheme are reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{data, golden};
use dam_prelude::candle_core::{self, DType, Device, Tensor};
use dam_prelude::checkpoint::Source;
use dam_prelude::coefficients::{Merge, SCHEMES, find};
use dam_prelude::model::{SourceWeights, Weights};
use dam_prelude::*;

/// Three golden sources and the base, with their data.
fn models(settings: Settings) -> Models {
    let names = [("base", "base"), ("m0", "model0"), ("m1", "model1"), ("m2", "model2")];
    let mut models =
        load(names.map(|(name, dir)| format!("{name}={}", golden(dir).display()))).unwrap();
    for i in 0..3 {
        models
            .data(&format!("m{i}"), &golden(&format!("data{i}.jsonl")).display().to_string())
            .unwrap();
    }
    models.settings = settings;
    models
}

fn fast() -> Settings {
    Settings { lr: 1e-2, batch_size: 2, shuffle: false, ..Settings::default() }
}

fn builtin(name: &str, options: Options) -> Wrap {
    Wrap { scheme: (find(name).unwrap().build)(&[]).unwrap(), options }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn parameters(dam: &Dam) -> BTreeMap<String, Vec<f32>> {
    dam.parameters().unwrap().into_iter().map(|(key, x)| (key, values(&x))).collect()
}

#[track_caller]
fn says(error: &Error, words: &[&str]) {
    let text = format!("{error:?}");
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

#[test]
fn every_scheme_passes_its_check() {
    let models = models(fast());
    let biased = format!("{}", data("families/qwen2-bias-tied").display());
    let fused = format!("{}", data("families/phi3").display());
    for builtin in SCHEMES {
        let scheme = (builtin.build)(&[]).unwrap();
        let checked = check_scheme(&*scheme, &models).unwrap();
        assert!(checked.to_string().contains("agree with finite differences"), "{checked}");
        for family in [&biased, &fused] {
            let models = load(["a", "b", "base"].map(|name| format!("{name}={family}"))).unwrap();
            check_scheme(&*scheme, &models).unwrap();
        }
    }
}

#[test]
fn every_scheme_starts_like_columns_and_trains() {
    let columns = models(fast()).wrap(Columns::default()).unwrap().loss().unwrap();
    for known in SCHEMES {
        for optimizer in [Optimizer::AdamW, Optimizer::Mofo] {
            let dam = models(Settings { optimizer, ..fast() })
                .wrap(builtin(known.name, Options::default()))
                .unwrap();
            let start = dam.loss().unwrap();
            for (name, value) in columns.terms.iter().filter(|(name, _)| name.starts_with("kl.")) {
                let found = start.terms.iter().find(|(term, _)| term == name).unwrap().1;
                assert!(
                    (found - value).abs() < 1e-5 * value,
                    "{}: {name} is {found}, not {value}",
                    known.name
                );
            }
            let report = dam.train(8).unwrap();
            assert!(
                report.last < report.first,
                "{}: {} to {}",
                known.name,
                report.first,
                report.last
            );
        }
    }
}

/// Values spread over -`most` to `most`, the same at every call.
fn spread(dims: &[usize], most: f32) -> Tensor {
    let count: usize = dims.iter().product();
    // Multiples of the golden ratio, whose fractional parts are spread evenly.
    let one = |i: usize| most * (2.0 * (i as f64 * 0.618_033_988_749_895).fract() as f32 - 1.0);
    Tensor::from_vec((1..=count).map(one).collect(), dims, &Device::Cpu).unwrap()
}

/// The gradient of `sum(W * G)` with respect to every parameter, with `W` composed of candle's own
/// operations.
#[test]
fn gradients_by_parameters_agree_with_candle() {
    let sources: Vec<Source> = ["m0=model0", "base=base", "m1=model1"]
        .map(|s| s.split_once('=').unwrap())
        .into_iter()
        .map(|(name, dir)| Source::open(&format!("{name}={}", golden(dir).display())).unwrap())
        .collect();
    for known in SCHEMES {
        for f in Nonlinearity::ALL {
            let merge = Merge::new(
                &sources,
                builtin(known.name, Options { f, ..Options::default() }),
                Device::Cpu,
            )
            .unwrap();
            for variable in &merge.variables {
                let noise = spread(variable.value.dims(), 0.2);
                variable.value.set(&(variable.value.as_tensor() + noise).unwrap()).unwrap();
            }
            for tensor in &merge.tensors {
                let gradient = spread(&tensor.spec.shape, 1.5);
                let by_scales = merge.scale_gradient(tensor, &gradient).unwrap();
                let found: BTreeMap<usize, Tensor> =
                    merge.pull_back(tensor, &by_scales).unwrap().into_iter().collect();
                let scales = f.apply(&merge.coefficients(tensor).unwrap()).unwrap();
                let mut loss = Tensor::new(0f32, &Device::Cpu).unwrap();
                let mut merged = gradient.zeros_like().unwrap();
                for (i, source) in sources.iter().enumerate() {
                    let weights = SourceWeights { source, device: &Device::Cpu, dtype: DType::F32 };
                    let w = weights.weight(&tensor.spec.name).unwrap();
                    let scaled = match w.rank() {
                        2 => w.broadcast_mul(&scales.get(i).unwrap()).unwrap(),
                        _ => {
                            w.broadcast_mul(&scales.get(i).unwrap().flatten_all().unwrap()).unwrap()
                        }
                    };
                    merged = (merged + &scaled).unwrap();
                    loss = (loss + (scaled * &gradient).unwrap().sum_all().unwrap()).unwrap();
                }
                let expected = loss.backward().unwrap();
                for i in &tensor.variables {
                    let expected =
                        values(expected.get(merge.variables[*i].value.as_tensor()).unwrap());
                    // Sums of many terms that nearly cancel have the rounding of the terms.
                    let scale = expected.iter().fold(2e-2f32, |most, x| most.max(x.abs()));
                    for (a, b) in values(&found[i]).iter().zip(&expected) {
                        assert!(
                            (a - b).abs() < 1e-4 * scale,
                            "{} {f:?} {}: {a} and {b}",
                            known.name,
                            tensor.spec.name
                        );
                    }
                }
                let weight = values(merge.weight(tensor).unwrap().as_tensor());
                assert!(
                    weight.iter().zip(values(&merged)).all(|(a, b)| (a - b).abs() < 1e-5),
                    "{}",
                    tensor.spec.name
                );
            }
        }
    }
}

#[test]
fn every_scheme_resumes_exactly_and_bakes_correctly() {
    let dir = tempfile::tempdir().unwrap();
    for (i, known) in SCHEMES.iter().enumerate() {
        let options = Options {
            f: Nonlinearity::ALL[i % 4],
            init: Init::Random,
            seed: 3,
            ..Options::default()
        };
        let mut settings = fast();
        (settings.weights.l1, settings.weights.l2, settings.weights.overlap) = (1e-3, 1e-3, 1e-3);
        settings.weights.weighted_overlap = 1e-3;
        let dam = models(settings).wrap(builtin(known.name, options)).unwrap();
        dam.train(2).unwrap();
        let file = dir.path().join(known.name);
        dam.save(&file).unwrap();
        let opened = Dam::open(&file).unwrap();
        assert_eq!(opened.report().scheme, dam.report().scheme);
        assert_eq!(opened.train(3).unwrap().losses, dam.train(3).unwrap().losses, "{}", known.name);
        assert_eq!(parameters(&opened), parameters(&dam));

        let baked = dam.bake(dir.path().join(format!("{}-baked", known.name))).unwrap();
        let card = std::fs::read_to_string(baked.path.join("README.md")).unwrap();
        assert!(card.contains(&format!("\"scheme\": \"{}\"", known.name)), "{card}");
        let written =
            candle_core::safetensors::load(baked.path.join("model.safetensors"), &Device::Cpu)
                .unwrap();
        let name = "model.layers.1.self_attn.o_proj.weight";
        let c = dam.coefficients(name).unwrap();
        let c = if c.rank() == 2 { c.unsqueeze(1).unwrap() } else { c };
        let scales = Nonlinearity::ALL[i % 4].apply(&c).unwrap();
        let names = if known.name == "task" {
            &["base", "model0", "model1", "model2"][..]
        } else {
            &["model0", "model1", "model2"]
        };
        let mut expected = written[name].zeros_like().unwrap();
        for (i, source) in names.iter().enumerate() {
            let w = candle_core::safetensors::load(
                golden(source).join("model.safetensors"),
                &Device::Cpu,
            )
            .unwrap()[name]
                .clone();
            expected = (expected + w.broadcast_mul(&scales.get(i).unwrap()).unwrap()).unwrap();
        }
        let differ = (&written[name] - expected).unwrap().abs().unwrap();
        assert!(values(&differ).iter().all(|d| *d < 1e-5), "{}", known.name);
    }
}

#[test]
fn every_scheme_displays_itself() {
    for known in SCHEMES {
        let dam = models(fast()).wrap(builtin(known.name, Options::default())).unwrap();
        dam.train(1).unwrap();
        let is_columns = known.name == "columns";
        assert_eq!(dam.to_string().contains(&format!("scheme: {}", known.name)), !is_columns);
        let name = "model.layers.0.mlp.up_proj.weight";
        let text = dam.inspect(name).unwrap().to_string();
        let word = match known.name {
            "rows" => "shows the rows in which sources differ most",
            "rows_columns" | "low_rank" => "every element",
            "tensor" | "layer" | "task" => "the whole tensor",
            _ => "shows the columns in which sources differ most",
        };
        assert!(text.contains(word), "{text}");
        assert_eq!(
            dam.inspect("").unwrap().to_string().contains("over columns"),
            ["columns", "softmax"].contains(&known.name)
        );
        let c = dam.coefficients(name).unwrap();
        let stats = &dam.inspect(name).unwrap().tensors[0].sources[1].1;
        let one = values(&c.get(1).unwrap());
        assert!(
            (stats.mean - one.iter().map(|x| f64::from(*x)).sum::<f64>() / one.len() as f64).abs()
                < 1e-6
        );
    }
}

/// Parameters and their coefficients, by hand: 2 sources, 4 heads of size 8, 2 key-value heads.
#[test]
fn coefficients_by_hand() {
    let place = |name: &str| golden(name).display().to_string();
    let two = load([format!("a={}", place("model0")), format!("b={}", place("model1"))]).unwrap();
    let (key, query) =
        ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.o_proj.weight");
    let from =
        |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();

    let dam = two.wrap(Heads).unwrap();
    dam.set_parameter(key, &from(&[1.0, 2.0, 3.0, 4.0], &[2, 2, 1])).unwrap();
    let c = dam.coefficients(key).unwrap();
    assert_eq!(c.dims(), [2, 16, 1]);
    assert_eq!(values(&c), [[1.0; 8], [2.0; 8], [3.0; 8], [4.0; 8]].concat());
    assert_eq!(dam.coefficients(query).unwrap().dims(), [2, 32]);

    let dam = two.wrap(Softmax).unwrap();
    let logits: Vec<f32> = [[0f32; 32], [3f32.ln(); 32]].concat();
    dam.set_parameter(key, &from(&logits, &[2, 1, 32])).unwrap();
    let c = dam.coefficients(key).unwrap().to_vec2::<f32>().unwrap();
    assert!((c[0][5] - 0.25).abs() < 1e-6 && (c[1][5] - 0.75).abs() < 1e-6);

    let dam = two.wrap(RowsColumns).unwrap();
    let rows: Vec<f32> = (0..32).map(|i| i as f32).collect();
    dam.set_parameter(&format!("{key} rows"), &from(&rows, &[2, 16, 1])).unwrap();
    let c = dam.coefficients(key).unwrap();
    assert_eq!(c.dims(), [2, 16, 32]);
    assert_eq!(c.get(1).unwrap().to_vec2::<f32>().unwrap()[3], [19.5; 32]);

    let dam = two.wrap(LowRank { rank: 1 }).unwrap();
    dam.set_parameter(&format!("{key} A"), &from(&rows, &[2, 16, 1])).unwrap();
    dam.set_parameter(&format!("{key} B"), &from(&[[1f32; 32], [2.0; 32]].concat(), &[2, 1, 32]))
        .unwrap();
    assert_eq!(
        dam.coefficients(key).unwrap().get(1).unwrap().to_vec2::<f32>().unwrap()[3],
        [38.5; 32]
    );

    // The base is in the middle: 1 - (0.5 + 0.75).
    let three = load([
        format!("a={}", place("model0")),
        format!("base={}", place("base")),
        format!("b={}", place("model1")),
    ])
    .unwrap();
    let dam = three.wrap(Task).unwrap();
    assert_eq!(values(&dam.coefficients(key).unwrap()), [0.5, 0.0, 0.5]);
    dam.set_parameter(key, &from(&[0.5, 0.75], &[2, 1, 1])).unwrap();
    assert_eq!(values(&dam.coefficients(key).unwrap()), [0.5, -0.25, 0.75]);

    let dam = two.wrap(PerLayer).unwrap();
    dam.set_parameter("layers.0", &from(&[0.25, 0.5], &[2, 1, 1])).unwrap();
    assert_eq!(values(&dam.coefficients(key).unwrap()), [0.25, 0.5]);
    assert_eq!(
        values(&dam.coefficients("model.layers.0.input_layernorm.weight").unwrap()),
        [0.25, 0.5]
    );
    assert_eq!(
        values(&dam.coefficients("model.layers.1.input_layernorm.weight").unwrap()),
        [0.5, 0.5]
    );
    says(
        &dam.set_parameter("layers.9", &from(&[1.0], &[1])).unwrap_err(),
        &["parameter `layers.9`", "layers.0"],
    );
}

#[test]
fn coefficients_can_be_set_if_they_are_parameters() {
    let name = "model.layers.0.mlp.up_proj.weight";
    for known in SCHEMES {
        let dam = models(fast()).wrap(builtin(known.name, Options::default())).unwrap();
        let (before, c) = (parameters(&dam), dam.coefficients(name).unwrap());
        let new = (&c * 2.0).unwrap();
        let settable = ["columns", "rows", "tensor", "layer", "heads"].contains(&known.name);
        match dam.set_coefficients(name, &new) {
            Ok(()) => assert!(settable && values(&dam.coefficients(name).unwrap()) == values(&new)),
            Err(error) => {
                assert!(!settable);
                says(&error, &[known.name, name, "set_parameter"]);
                assert_eq!(parameters(&dam), before);
            }
        }
        let error = dam
            .set_coefficients(name, &Tensor::zeros((3, 7), DType::F32, &Device::Cpu).unwrap())
            .unwrap_err();
        says(&error, &[name, "[3, 1, 7]"]);
    }
}

/// Sessions saved by versions with columns only still open.
#[test]
fn a_session_of_the_first_version_opens() {
    let dir = tempfile::tempdir().unwrap();
    let (file, old) = (dir.path().join("new"), dir.path().join("old"));
    let dam = models(fast()).wrap(Columns { f: Nonlinearity::Tanh, ..Columns::default() }).unwrap();
    dam.train(2).unwrap();
    dam.save(&file).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    // That version had no checksum.
    let sum = header.find(r#"\"checksum\":"#).unwrap();
    header.replace_range(sum..sum + r#"\"checksum\":\"0123456789abcdef\","#.len(), "");
    for (new, old) in [
        (r#"\"version\":2"#, r#"\"version\":1"#),
        (r#"\"options\":"#, r#"\"columns\":"#),
        (r#"\"scheme\":{\"name\":\"columns\",\"settings\":[]},"#, ""),
    ] {
        assert!(header.contains(new), "{header:.3000}");
        header = header.replace(new, old);
    }
    std::fs::write(
        &old,
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat(),
    )
    .unwrap();
    let opened = Dam::open(&old).unwrap();
    assert_eq!(opened.step().unwrap(), dam.step().unwrap());
}

#[test]
fn frozen_tensors_share_no_variable_with_trained_ones() {
    let options = Options { train: vec![Kind::Norm], ..Options::default() };
    let dam = models(fast()).wrap(PerLayer.with(options)).unwrap();
    dam.train(3).unwrap();
    for t in dam.inspect("").unwrap().tensors {
        let moved = values(&dam.coefficients(&t.name).unwrap())
            .iter()
            .any(|c| (c - 1.0 / 3.0).abs() > 1e-6);
        assert_eq!(moved, t.name.contains("norm"), "{}", t.name);
    }
    // Two layers and the final norm train; two layers, the embedding and the output layer do not.
    assert_eq!((dam.report().trainable, dam.report().coefficients), (3 * 3, 7 * 3));
    let dir = tempfile::tempdir().unwrap();
    dam.save(dir.path().join("s")).unwrap();
    assert_eq!(parameters(&Dam::open(dir.path().join("s")).unwrap()), parameters(&dam));
}

#[test]
fn biases_train_in_every_scheme() {
    let place = data("families/qwen2-bias-tied").display().to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"input_ids\": [1, 2, 3, 4]}\n").unwrap();
    for known in SCHEMES {
        let mut models = load(["a", "b", "base"].map(|name| format!("{name}={place}"))).unwrap();
        for name in ["a", "b"] {
            models.data(name, &file.path().display().to_string()).unwrap();
        }
        let dam = models.wrap(builtin(known.name, Options::default())).unwrap();
        assert_eq!(
            dam.to_string().contains("bias coefficients start at 1"),
            !["softmax", "task"].contains(&known.name)
        );
        let name = "model.layers.0.self_attn.q_proj.bias";
        let before = values(&dam.coefficients(name).unwrap());
        dam.train(2).unwrap();
        // The two sources are the same model: softmax and task vectors cannot distinguish them.
        let moved = values(&dam.coefficients(name).unwrap()) != before;
        assert!(moved || ["softmax", "task"].contains(&known.name), "{}", known.name);
    }
}

#[test]
fn task_vectors_need_the_base() {
    let place = |name: &str| golden(name).display().to_string();
    let models = load([place("model0"), place("model1")]).unwrap();
    says(&models.wrap(Task).unwrap_err(), &["`task`", "base model", "load base=SOURCE"]);
    says(&check_scheme(&Task, &models).unwrap_err(), &["`task`", "load base=SOURCE"]);
}

/// A scheme with an error at layer 1.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Detached,
    Unused,
    Shape,
    Half,
    Fails,
    NotFinite,
    NoValues,
    Count,
    Shared,
    Backward,
    Dead,
    Infinite,
    Drawn,
}

impl Scheme for Wrong {
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let mut parameter = site.parameter(site.name(), 1, 1);
        if site.layer() != Some(1) {
            return vec![parameter];
        }
        match self {
            Wrong::NotFinite => parameter.start[0] = f32::NAN,
            Wrong::NoValues => parameter = Parameter::filled(site.name(), &[3, 0, 1], 0.0),
            Wrong::Count => parameter.start.pop().map(drop).unwrap(),
            Wrong::Shared => parameter.key = "model.norm.weight".into(),
            Wrong::Unused => {
                return vec![
                    parameter,
                    Parameter::filled(format!("{} more", site.name()), &[1], 1.0),
                ];
            }
            _ => {}
        }
        vec![parameter]
    }

    fn coefficients(&self, site: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
        let c = &parameters[0];
        if site.layer() != Some(1) {
            return Ok(c.clone());
        }
        match self {
            Wrong::Detached => Ok(c.detach()),
            Wrong::Shape => c.broadcast_as((3, 1, 5)),
            Wrong::Half => c.to_dtype(DType::F16),
            Wrong::Fails => c.matmul(&Tensor::zeros((3, 7, 1), DType::F32, c.device())?),
            // The gradient of one half only.
            Wrong::Backward => c.detach() * 0.5 + (c * 0.5)?,
            Wrong::Dead => c.zeros_like()?.mul(c),
            Wrong::Infinite => c.zeros_like()?.recip(),
            Wrong::Drawn => c + c.rand_like(0.0, 0.1)?,
            _ => Ok(c.clone()),
        }
    }
}

#[test]
fn errors_of_schemes_are_reported() {
    let models = models(fast());
    let first = "model.layers.1.input_layernorm.weight";
    for (wrong, words) in [
        (Wrong::Detached, &["received no gradient", first, "detach"][..]),
        (Wrong::Unused, &["received no gradient", "input_layernorm.weight more`"]),
        (Wrong::Shape, &["`Wrong`", "[3, 1, 5]", first, "3 x 1 x (1 or 32)"]),
        (Wrong::Half, &["dtype `f16`", "return f32"]),
        (Wrong::Fails, &["`Wrong` failed", first, "shape mismatch"]),
        (Wrong::NotFinite, &["initial value is `NaN`", first]),
        (Wrong::NoValues, &["no values", first]),
        (Wrong::Count, &["`2` initial values", "[3, 1, 1]", first]),
        (
            Wrong::Backward,
            &["the gradient of value", first, "finite differences give", "no detach"],
        ),
        (Wrong::Dead, &["every gradient is 0", first]),
        (Wrong::Infinite, &["coefficients start at", first]),
        (Wrong::Drawn, &["change from call to call", first]),
    ] {
        says(&check_scheme(&wrong, &models).unwrap_err(), words);
    }
    check_scheme(&Wrong::Shared, &models).unwrap();
    says(&models.wrap(Wrong::NotFinite).unwrap_err(), &["initial value is `NaN`", first]);
    says(&models.wrap(Wrong::Shape).unwrap_err(), &["[3, 1, 5]", "return f32 of"]);
}

/// Two tensors that disagree about a shared key.
struct Disagree;

impl Scheme for Disagree {
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        vec![site.parameter("one for all", 1, site.columns())]
    }

    fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
        Ok(parameters[0].clone())
    }
}

#[test]
fn a_shared_parameter_has_one_shape_and_start() {
    let error = models(fast()).wrap(Disagree).unwrap_err();
    says(
        &error,
        &[
            "`one for all`",
            "`Disagree`",
            "at `model.layers.0.mlp.down_proj.weight`",
            "those at `model.embed_tokens.weight`",
        ],
    );
}

#[test]
fn a_parameter_without_a_gradient_stops_the_step_and_changes_nothing() {
    for wrong in [Wrong::Detached, Wrong::Unused] {
        let dam = models(fast()).wrap(wrong).unwrap();
        let before = parameters(&dam);
        let error = dam.step().unwrap_err();
        assert!(matches!(error, Error::NoGradient { .. }), "{error:?}");
        says(&error, &["model.layers.1."]);
        assert_eq!((parameters(&dam), dam.steps()), (before, 0));
    }
}

/// A custom scheme: strengths of columns, shared by the corresponding tensors of all layers.
struct Strengths {
    of_sources: bool,
}

impl Scheme for Strengths {
    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let strength =
            Parameter::filled(site.spec.role() + " strength", &[1, 1, site.columns()], 1.0);
        vec![
            strength,
            site.parameter(site.name(), 1, if self.of_sources { 1 } else { site.columns() }),
        ]
    }

    fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
        parameters[0].broadcast_mul(&parameters[1])
    }
}

#[test]
fn custom_schemes_train_save_and_open() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session");
    let own = || Strengths { of_sources: true };
    check_scheme(&own(), &models(fast())).unwrap();
    let dam = models(fast()).wrap(own()).unwrap();
    let report = dam.train(6).unwrap();
    assert!(report.last < report.first);
    assert_eq!(dam.report().scheme, "Strengths");
    dam.save(&file).unwrap();
    let error = Dam::open(&file).unwrap_err();
    assert!(matches!(error, Error::UnknownScheme { .. }));
    says(&error, &["`Strengths`", "Dam::open_with(FILE, Strengths)"]);
    says(
        &Dam::open_with(&file, PerLayer).unwrap_err(),
        &["its scheme is `Strengths`, not `layer`"],
    );
    says(
        &Dam::open_with(&file, Strengths { of_sources: false }).unwrap_err(),
        &["wrong number of"],
    );
    let opened = Dam::open_with(&file, own()).unwrap();
    assert_eq!(opened.train(3).unwrap().losses, dam.train(3).unwrap().losses);
    assert_eq!(parameters(&opened), parameters(&dam));
    // Built-in schemes open with either function.
    models(fast()).wrap(PerLayer).unwrap().save(&file).unwrap();
    Dam::open_with(&file, PerLayer).unwrap();
    Dam::open(&file).unwrap();
}

#[test]
fn verbs_wrap_with_any_scheme_and_suggest_names() {
    let dir = tempfile::tempdir().unwrap();
    let load = format!("load a={} b={}", golden("model0").display(), golden("model1").display());
    let (replies, good) = crate::common::json(
        dir.path(),
        &format!(
            "{load}; wrap low_rank rank=2 f=tanh train=linear; inspect layers.0.mlp.up_proj; wrap rows; inspect layers.0.mlp.up_proj"
        ),
    );
    assert!(good, "{replies:?}");
    // Two layers, two sources: A and B of rank 2 for seven matrices, and columns for the output
    // layer.
    let linear: usize = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)]
        .map(|(r, c)| (r + c) * 2)
        .iter()
        .sum();
    assert_eq!(
        (&replies[1]["scheme"], &replies[1]["trainable"]),
        (&"low_rank rank=2".into(), &(2 * (2 * linear + 32)).into())
    );
    assert_eq!(replies[2]["tensors"][0]["along"], "element");
    assert_eq!(replies[3]["scheme"], "rows");
    assert!(replies[4]["tensors"][0]["rows"].is_array());
    for (verb, words) in [
        ("wrap low_rang", ["unknown scheme `low_rang`", "did you mean `low_rank`?"]),
        ("wrap rows rank=2", ["unknown key `rank`", "known: f, train, init, bias, base"]),
        ("wrap low_rank rank=0", ["invalid value `0` for `rank`", "an integer from 1 to 1024"]),
        ("wrap low_rank rang=2", ["unknown key `rang`", "did you mean `rank`?"]),
        ("wrap task", ["`task`", "load base=SOURCE"]),
    ] {
        let (replies, good) = crate::common::json(dir.path(), &format!("{load}; {verb}"));
        assert!(!good);
        let error = format!("{} {}", replies[1]["error"], replies[1]["hint"]);
        for word in words {
            assert!(error.contains(word), "{verb}: {error} does not say {word:?}");
        }
    }
}

#[test]
fn schemes_convert_to_wraps() {
    let how: Wrap =
        LowRank { rank: 2 }.with(Options { f: Nonlinearity::Tanh, ..Options::default() });
    let dam = models(fast()).wrap(how.clone()).unwrap();
    assert_eq!(dam.report().scheme, "low_rank rank=2");
    assert!(Arc::strong_count(&how.scheme) >= 2);
    let own = Columns { f: Nonlinearity::Relu, seed: 4, ..Columns::default() };
    assert_eq!(Wrap::from(own.clone()).options, own.options());
    assert!(format!("{how:?}").starts_with("Wrap(low_rank rank=2, Options { f: Tanh"));
}
