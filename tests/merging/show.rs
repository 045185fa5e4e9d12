//! Figures: every kind draws as SVG, PNG and text for any data, and shows the right values.

use std::fs;

use crate::common::{golden, json, resaved};
use dam_prelude::show::{Figure, Mark, Series};
use dam_prelude::{Columns, Dam, Error, Init, Models, load};
use unicode_width::UnicodeWidthStr;

const NAME: &str = "<a&b> \"q\" 日本 'x'";

/// A figure of every kind, of `values`.
fn kinds(values: &[f64]) -> Vec<Figure> {
    let n = values.len();
    let names =
        |what: &str| -> Vec<String> { (0..n).map(|i| format!("{what}{i}{NAME}")).collect() };
    let points =
        |f: f64| values.iter().enumerate().map(move |(i, x)| (i as f64, f * x)).collect::<Vec<_>>();
    let main = Series { is_main: true, ..Series::new(NAME, points(1.0)) };
    let many = (0..9).map(|i| Series::new(format!("{i}{NAME}"), points(f64::from(i)))).collect();
    let grid: Vec<Vec<f64>> =
        values.iter().map(|x| values.iter().map(|y| x + y).collect()).collect();
    let wide =
        vec![(0..700).map(|i| values.get(i % n.max(1)).copied().unwrap_or(0.0)).collect(); 2];
    let columns = (0..700).map(|i| i.to_string()).collect();
    let counts = |k: u64| values.iter().map(|x| x.abs().min(1e15) as u64 * k).collect();
    let series =
        vec![(NAME.to_owned(), values.to_vec()), ("second".to_owned(), values[..n / 2].to_vec())];
    vec![
        Figure::curve(NAME, "step", "loss", vec![main.clone(), Series::new("other", points(0.5))]),
        Figure::curve(NAME, NAME, NAME, many),
        Figure::curve("", "", "", vec![main]),
        Figure::curve("none", "x", "y", Vec::new()),
        Figure::heatmap(NAME, "source", "value", names("row"), names("column"), grid, 0.3),
        Figure::heatmap(
            "wide",
            "column",
            "value",
            vec![NAME.into(), "b".into()],
            columns,
            wide,
            0.0,
        )
        .percent(),
        Figure::heatmap("ragged", "", NAME, names("r"), names("c"), vec![vec![1.0]], 0.0),
        Figure::histogram(
            NAME,
            "x",
            values.first().copied().unwrap_or(0.0),
            5.0,
            vec![(NAME.into(), counts(1)), ("b".into(), counts(2))],
        ),
        Figure::bars(NAME, "nats", names("group"), series).note(NAME),
        Figure::bars("one", "", names("group"), vec![("a".into(), values.to_vec())]).percent(),
    ]
}

fn all() -> Vec<Figure> {
    let nan = f64::NAN;
    let data: [&[f64]; 9] = [
        &[],
        &[0.0],
        &[3.0],
        &[0.2, 0.1, 0.05, 0.001],
        &[-2.0, 5.0, 1.0],
        &[nan, f64::INFINITY, f64::NEG_INFINITY],
        &[nan, 1.0, f64::INFINITY, 0.5],
        &[1e308, -1e308, 5e-324, 1e-300],
        &[7.0; 60],
    ];
    data.iter().flat_map(|values| kinds(values)).collect()
}

/// A light check that `text` is well-formed: tags nest, attributes are quoted, special characters
/// are escaped.
fn check_xml(text: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut rest = text;
    let escaped = |text: &str| {
        text.split('&').skip(1).all(|part| {
            ["amp;", "lt;", "gt;", "quot;", "apos;"].iter().any(|e| part.starts_with(e))
        })
    };
    while let Some(start) = rest.find('<') {
        assert!(escaped(&rest[..start]) && !rest[..start].contains('>'), "{}", &rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && escaped(tag), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split_whitespace().next().unwrap().to_owned()),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
}

#[test]
fn every_kind_of_figure_is_drawn_for_any_data() {
    for figure in all() {
        for svg in [figure.svg(), figure.inline()] {
            check_xml(&svg);
            assert!(
                !svg.contains("NaN") && !svg.contains("script") && !svg.contains("#010203"),
                "{svg}"
            );
        }
        assert!(
            figure.inline().contains("currentColor")
                && !figure.inline().contains("<rect width=\"100%\"")
        );
        check_xml(&format!("{}</img>", figure.html()));
        assert!(
            figure.html().starts_with("<img src=\"data:image/svg+xml;base64,"),
            "{}",
            figure.html()
        );
        assert!(!figure.svg().contains("currentColor"));
        let height: u32 = figure
            .svg()
            .split("height=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let bytes = figure.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((frame.width, frame.height), (1280, 2 * height));
        assert!(pixels.iter().any(|x| *x < 100), "something dark is drawn");
    }
}

#[test]
fn text_respects_width_and_ascii() {
    for figure in all() {
        for width in [1, 10, 24, 40, 80, 130] {
            for ascii in [false, true] {
                let text = figure.text(width, ascii);
                assert!(text.lines().all(|line| line.width() <= width), "{width}\n{text}");
                assert!(!ascii || text.is_ascii(), "{text}");
                assert!(!text.contains('\u{1b}'));
            }
        }
        assert_eq!(figure.to_string(), figure.text(80, false));
    }
}

#[test]
fn values_are_at_the_right_positions() {
    let grid = vec![vec![0.25, 0.5], vec![0.75, 1.0]];
    let names = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
    let figure = Figure::heatmap(
        "t",
        "source",
        "c",
        names("layer 0", "layer 1"),
        names("ja", "math"),
        grid,
        0.5,
    );
    let text = figure.text(60, true);
    let row = text.lines().find(|line| line.starts_with("layer 1")).unwrap();
    assert!(row.contains("0.750") && row.contains("1.00"), "{text}");
    assert!(figure.svg().contains("\n0.750\n"));
    let figure =
        Figure::bars("t", "", names("a", "b"), vec![("s".into(), vec![1.0, 0.5])]).percent();
    let bars: Vec<usize> =
        figure.text(60, true).lines().skip(1).map(|line| line.matches('#').count()).collect();
    assert_eq!(bars[0], 2 * bars[1]);
    assert!(figure.text(60, true).contains("50.0%"));
}

#[test]
fn more_than_a_decade_is_logarithmic() {
    let curve = |values: &[f64]| {
        let points = values.iter().enumerate().map(|(i, x)| (i as f64, *x));
        match Figure::curve("", "", "", vec![Series::new("a", points)]).mark {
            Mark::Curves(curves) => curves.spacing == dam_prelude::show::Spacing::Log,
            _ => false,
        }
    };
    assert!(curve(&[1.0, 0.05, 0.0, f64::NAN]));
    assert!(!curve(&[1.0, 0.5]) && !curve(&[1.0, -0.01]) && !curve(&[]));
}

#[test]
fn saved_figures_replace_only_figures() {
    let dir = tempfile::tempdir().unwrap();
    let figure = Figure::bars("t", "", vec!["a".into()], vec![("s".into(), vec![1.0])]);
    let (svg, png) = (dir.path().join("a.svg"), dir.path().join("new/a.PNG"));
    assert_eq!(figure.save(&svg).unwrap().bytes, fs::metadata(&svg).unwrap().len());
    figure.save(&png).unwrap();
    assert_eq!(
        (fs::read_to_string(&svg).unwrap(), fs::read(&png).unwrap()),
        (figure.svg(), figure.png().unwrap())
    );
    figure.save(&svg).unwrap();
    let error = figure.save(dir.path().join("a.pdf")).unwrap_err();
    assert!(error.hint().unwrap().contains(".svg or .png"), "{error:?}");
    fs::write(&svg, "my notes").unwrap();
    assert!(matches!(figure.save(&svg), Err(Error::NotReplaced { .. })));
    assert_eq!(fs::read_to_string(&svg).unwrap(), "my notes");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
}

/// Three golden sources and their base, with data.
fn models() -> Models {
    let place = |name: &str| golden(name).display().to_string();
    let names =
        ["base=base", "m0=model0", "m1=model1", "m2=model2"].map(|n| n.split_once('=').unwrap());
    let mut models = load(names.map(|(name, dir)| format!("{name}={}", place(dir)))).unwrap();
    for i in 0..3 {
        models.data(&format!("m{i}"), &place(&format!("data{i}.jsonl"))).unwrap();
    }
    models
}

fn wrapped() -> Dam {
    models().wrap(Columns { init: Init::Random, seed: 3, ..Columns::default() }).unwrap()
}

/// Returns rows, columns and values of a heatmap.
fn grid(figure: &Figure) -> (Vec<String>, Vec<String>, Vec<Vec<f64>>) {
    match &figure.mark {
        Mark::Heatmap(map) => (map.rows.clone(), map.columns.clone(), map.values.clone()),
        other => panic!("{other:?}"),
    }
}

fn near(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-6, "{a} {b}");
}

/// The mean coefficient of each source in a tensor.
fn means(dam: &Dam, tensor: &str) -> Vec<f64> {
    let c: Vec<Vec<f32>> = dam.coefficients(tensor).unwrap().to_vec2().unwrap();
    c.iter().map(|row| row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64).collect()
}

#[test]
fn figures_of_a_session_show_its_values() {
    let dam = wrapped();
    dam.train(3).unwrap();
    let (rows, columns, values) = grid(&dam.plot("coefficients").unwrap());
    assert_eq!(columns, ["m0", "m1", "m2"]);
    assert_eq!(
        (rows[0].as_str(), rows[1].as_str(), rows.last().unwrap().starts_with("layer")),
        ("embedding", "layer 0", false)
    );
    let tensors = dam.inspect("layers.0.").unwrap().tensors;
    let weights: Vec<_> =
        tensors.iter().filter(|t| t.kind != "bias").map(|t| means(&dam, &t.name)).collect();
    for i in 0..3 {
        near(values[1][i], weights.iter().map(|m| m[i]).sum::<f64>() / weights.len() as f64);
    }

    let (_, _, values) = grid(&dam.plot("lean").unwrap());
    values.iter().for_each(|row| near(row.iter().sum(), 1.0));

    let name = "model.layers.1.mlp.up_proj.weight";
    let c: Vec<Vec<f32>> = dam.coefficients(name).unwrap().to_vec2().unwrap();
    let figure = dam.plot("coefficients layers.1.mlp.up_proj").unwrap();
    let (rows, columns, values) = grid(&figure);
    assert_eq!((rows.len(), columns.len(), columns[0].as_str()), (3, c[0].len(), "0"));
    near(values[2][1], f64::from(c[2][1]));
    assert_eq!(dam.inspect(name).unwrap().plot(), figure);
    let (rows, _, values) = grid(&dam.inspect("layers.1.mlp").unwrap().plot());
    near(
        values[rows.iter().position(|row| row.ends_with("up_proj")).unwrap()][0],
        means(&dam, name)[0],
    );

    match dam.plot(&format!("histogram {name}")).unwrap().mark {
        Mark::Histogram(histogram) => {
            for ((_, counts), row) in histogram.series.iter().zip(&c) {
                assert_eq!(counts.iter().sum::<u64>(), row.len() as u64);
                let width = (histogram.to - histogram.from) / counts.len() as f64;
                let first =
                    row.iter().filter(|x| f64::from(**x) < histogram.from + width).count() as u64;
                assert!(counts[0].abs_diff(first) <= 1);
            }
        }
        other => panic!("{other:?}"),
    }

    let (rows, columns, values) = grid(&dam.plot("distances").unwrap());
    assert_eq!(columns, ["m0", "m1", "m2", "conflicts"]);
    assert_eq!(rows.len(), dam.inspect("").unwrap().tensors.len());
    assert!(values.iter().flatten().all(|x| x.is_finite() && *x >= 0.0));
    assert!(values.iter().all(|row| row[3] <= 1.0));
    assert_eq!(models().plot("distances").unwrap(), dam.plot("distances").unwrap());
}

#[test]
fn losses_are_kept_term_by_term_and_saved() {
    let dam = wrapped();
    let report = dam.train(4).unwrap();
    let step = dam.step().unwrap();
    let history = dam.history();
    assert_eq!(history.total.len(), 5);
    assert_eq!(history.total[4], (5, step.total));
    for (name, value) in &step.terms {
        let (_, values) = history.terms.iter().find(|(known, _)| known == name).unwrap();
        assert_eq!(values[4], (5, *value));
    }
    let Mark::Curves(curves) = dam.plot("loss").unwrap().mark else { panic!() };
    assert_eq!(
        (curves.series[0].name.as_str(), curves.series.len()),
        ("total", 1 + step.terms.len())
    );
    assert_eq!(curves.series[0].points[4], (5.0, step.total));
    let Mark::Curves(curves) = report.plot().mark else { panic!() };
    assert_eq!(curves.series[1].points.len(), 4);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("session");
    dam.save(&file).unwrap();
    // JSON preserves numbers exactly.
    let same = |a: &[(usize, f64)], b: &[(usize, f64)]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-12)
    };
    let opened = Dam::open(&file).unwrap().history();
    assert!(same(&opened.total, &history.total) && opened.terms.len() == history.terms.len());
    assert!(opened.terms.iter().zip(&history.terms).all(|(a, b)| a.0 == b.0 && same(&a.1, &b.1)));

    // A file from before terms were saved has totals only.
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, resaved(&bytes, |saved| drop(saved.remove("terms").unwrap()))).unwrap();
    let opened = Dam::open(&file).unwrap();
    assert!(same(&opened.history().total, &history.total) && opened.history().terms.is_empty());
    opened.step().unwrap();
    assert_eq!(opened.history().total.last().unwrap().0, 6);
}

#[test]
fn static_merges_show_their_closeness_to_sources() {
    let merged = models().merge_named("linear", &[]).unwrap();
    let (rows, columns, values) = grid(&merged.plot("lean").unwrap());
    assert_eq!((rows[0].as_str(), columns.len()), ("embedding", 3));
    let distances = merged.inspect("embed_tokens").unwrap();
    let near_to: Vec<f64> =
        distances.tensors[0].sources.iter().map(|(_, d)| 1.0 / d.relative).collect();
    near(values[0][1], near_to[1] / near_to.iter().sum::<f64>());
    assert_eq!(merged.plot("distances").unwrap(), models().plot("distances").unwrap());
    assert!(merged.plot("loss").unwrap_err().hint().unwrap().contains("plot lean"));
    assert_eq!(grid(&merged.inspect("").unwrap().plot()).1, columns);
}

#[test]
fn unknown_figures_suggest_the_nearest() {
    let dam = wrapped();
    assert_eq!(dam.plot("los").unwrap_err().hint().unwrap(), "did you mean `loss`?");
    assert_eq!(
        dam.plot("coefficients layers.0.mlp.up_prj").unwrap_err().hint().unwrap(),
        "did you mean `layers.0.mlp.up_proj`?"
    );
    assert!(dam.plot("loss x").is_err() && dam.plot("").is_err());
    assert!(models().plot("loss").unwrap_err().hint().unwrap().contains("wrap"));
    assert!(dam.plot("loss").unwrap().to_string().contains("nothing to draw yet"));
}

#[test]
fn plot_draws_in_the_terminal_or_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let verbs = "load builtin:japanese builtin:math; plot distances; wrap; train 2; plot loss; plot coefficients layers.0.mlp.up_proj a.png; plot lean a.svg";
    let (lines, succeeded) = json(dir.path(), verbs);
    assert!(succeeded, "{lines:?}");
    assert!(lines[1]["text"].as_str().unwrap().contains("conflicts"));
    assert!(lines[4]["text"].as_str().unwrap().contains("kl.math"));
    for (line, name) in [(&lines[5], "a.png"), (&lines[6], "a.svg")] {
        assert!(line["path"].as_str().unwrap().ends_with(name));
        assert_eq!(
            (line["files"].as_u64(), line["bytes"].as_u64()),
            (Some(1), Some(fs::metadata(dir.path().join(name)).unwrap().len()))
        );
    }
    let (lines, succeeded) =
        json(dir.path(), "load builtin:japanese builtin:math; wrap; plot loss a.pdf");
    assert!(!succeeded && lines[2]["hint"].as_str().unwrap().contains(".svg"), "{lines:?}");
}
