use super::*;
use crate::checkpoint::encoded;
use crate::ops::check::{agrees, random, values};

/// Two sources of `shape` in `dtype`, summed by both implementations.
fn both(shape: &[usize], columns: usize, dtype: DType) -> [ScaledSum; 2] {
    let tensors: Vec<Tensor> =
        (0..2).map(|i| random(shape, 10 + i).to_dtype(dtype).unwrap()).collect();
    let view = |t: &Tensor| {
        let values: Vec<f32> = values(t).into_iter().map(|x| x as f32).collect();
        View::of(encoded(&values, dtype), dtype, shape)
    };
    let views = tensors.iter().map(view).collect();
    [ScaledSum::mapped(views, columns).unwrap(), ScaledSum::resident(tensors, columns).unwrap()]
}

/// A weight with more columns than a tile and more rows than a block, a norm, a bias.
const CASES: [(&[usize], usize); 4] = [(&[150, 700], 700), (&[3, 5], 5), (&[7], 7), (&[6], 1)];

/// Every form of scales for a weight of `shape`.
fn forms(shape: &[usize], columns: usize) -> Vec<Form> {
    let rows = shape.iter().product::<usize>() / columns;
    let all = [(1, columns), (rows, 1), (1, 1), (rows, columns)];
    all.into_iter().map(|(rows, columns)| Form { rows, columns }).collect()
}

fn scales(form: Form, seed: u64) -> Tensor {
    random(&[2, form.rows, form.columns], seed)
}

#[test]
fn kernels_agree_with_candle_in_every_form_and_dtype() {
    for (shape, columns) in CASES {
        for (dtype, form) in [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .flat_map(|d| forms(shape, columns).into_iter().map(move |f| (d, f)))
        {
            let [fused, composed] = both(shape, columns, dtype);
            let c = scales(form, 1);
            let merged = composed.forward(&c).unwrap();
            agrees(fused.forward(&c).unwrap().as_tensor(), merged.as_tensor());
            for merge in [&fused, &composed] {
                let into = merge.forward(&scales(form, 5)).unwrap();
                merge.forward_into(&c, &into).unwrap();
                agrees(into.as_tensor(), merged.as_tensor());
            }
            // In pieces with boundaries inside rows, the same result as in one piece.
            let narrow = c.to_dtype(DType::F32).unwrap();
            for merge in [&fused, &composed] {
                let whole: Vec<f32> =
                    merge.forward(&narrow).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let mut pieces = vec![0.0; whole.len()];
                let piece = merge.values(&narrow).unwrap();
                pieces.chunks_mut(997).enumerate().for_each(|(i, out)| piece(i * 997, out));
                assert_eq!(pieces, whole);
            }
            let rows = shape.iter().product::<usize>() / columns;
            let ids = Tensor::new(&[rows as u32 - 1, 0, rows as u32 - 1], &Device::Cpu).unwrap();
            let selected =
                merged.as_tensor().reshape((rows, columns)).unwrap().index_select(&ids, 0).unwrap();
            let g = random(&[3, columns], 3);
            for merge in [&fused, &composed] {
                agrees(&merge.forward_rows(&c, &ids).unwrap(), &selected);
                agrees(
                    &merge.backward_rows(&g, &ids, form).unwrap(),
                    &fused.backward_rows(&g, &ids, form).unwrap(),
                );
            }
            // The gradient of a row counts once per request.
            let mut whole = vec![0f64; rows * columns];
            for (id, g) in [rows - 1, 0, rows - 1].into_iter().zip(values(&g).chunks(columns)) {
                whole[id * columns..].iter_mut().zip(g).for_each(|(w, g)| *w += g);
            }
            let whole = Tensor::from_vec(whole, shape, &Device::Cpu).unwrap();
            agrees(
                &fused.backward_rows(&g, &ids, form).unwrap(),
                &fused.backward(&whole, form).unwrap(),
            );
            let g = random(shape, 2);
            agrees(&fused.backward(&g, form).unwrap(), &composed.backward(&g, form).unwrap());
            // In f32, to its precision.
            let narrow = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
            let (wide, short) =
                (fused.backward(&g, form).unwrap(), fused.backward(&narrow(&g), form).unwrap());
            assert!(values(&(narrow(&wide) - short).unwrap()).iter().all(|d| d.abs() < 1e-3));
        }
    }
}

#[test]
fn a_sum_by_hand() {
    let views = [[1f32, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]
        .map(|w| View::of(encoded(&w, DType::F32), DType::F32, &[2, 2]));
    let sum = ScaledSum::mapped(views.to_vec(), 2).unwrap();
    let gradient = Tensor::new(&[[1f32, 0.0], [0.0, 2.0]], &Device::Cpu).unwrap();
    // Rows and columns of scales, the scales, the sum, the gradient of the scales.
    let cases = [
        (1, 2, &[1f32, 2.0, 0.1, 0.2][..], [2f32, 8.0, 6.0, 16.0], &[1f32, 8.0, 10.0, 80.0][..]),
        (2, 1, &[1.0, 2.0, 0.1, 0.2], [2.0, 4.0, 12.0, 16.0], &[1.0, 8.0, 10.0, 80.0]),
        (1, 1, &[1.0, 0.1], [2.0, 4.0, 6.0, 8.0], &[9.0, 90.0]),
        (
            2,
            2,
            &[1.0, 0.0, 0.0, 1.0, 0.0, 0.1, 0.1, 0.0],
            [1.0, 2.0, 3.0, 4.0],
            &[1.0, 0.0, 0.0, 8.0, 10.0, 0.0, 0.0, 80.0],
        ),
    ];
    for (rows, columns, scales, merged, by_scales) in cases {
        let scales = Tensor::from_slice(scales, (2, rows, columns), &Device::Cpu).unwrap();
        let found: Vec<f32> =
            sum.forward(&scales).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found, merged);
        let found = sum.backward(&gradient, Form { rows, columns }).unwrap();
        assert_eq!(found.flatten_all().unwrap().to_vec1::<f32>().unwrap(), by_scales);
    }
}

#[test]
fn gradients_pass_finite_differences() {
    for (shape, columns) in [(&[4, 6][..], 6), (&[5], 5), (&[5], 1)] {
        for (merge, form) in both(shape, columns, DType::F32)
            .iter()
            .flat_map(|m| forms(shape, columns).into_iter().map(move |f| (m, f)))
        {
            let (c, g) = (scales(form, 1), random(shape, 2));
            let loss = |values_of_c: &[f64]| -> f64 {
                let c = Tensor::from_slice(values_of_c, c.dims(), &Device::Cpu).unwrap();
                values(&(merge.forward(&c).unwrap().as_tensor() * &g).unwrap()).iter().sum()
            };
            let gradient = values(&merge.backward(&g, form).unwrap());
            for (i, analytic) in gradient.into_iter().enumerate() {
                let at = |h: f64| {
                    let mut c = values(&c);
                    c[i] += h;
                    loss(&c)
                };
                let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (analytic - numeric).abs() < 1e-6 * (1.0 + numeric.abs()),
                    "{analytic} and {numeric}"
                );
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(ScaledSum::mapped(Vec::new(), 1).is_err());
    for sum in both(&[3, 5], 5, DType::F32) {
        let columns = Form { rows: 1, columns: 5 };
        for wrong in [&[2, 1, 4][..], &[3, 1, 5], &[2, 2, 5], &[2, 3, 2], &[2, 5]] {
            assert!(sum.forward(&random(wrong, 1)).is_err(), "{wrong:?}");
        }
        assert!(sum.forward(&scales(columns, 1).to_dtype(DType::BF16).unwrap()).is_err());
        assert!(sum.backward(&random(&[3, 4], 1), columns).is_err());
        assert!(sum.backward(&random(&[3, 5], 1), Form { rows: 2, columns: 5 }).is_err());
        let beyond = Tensor::new(&[3u32], &Device::Cpu).unwrap();
        assert!(sum.forward_rows(&scales(columns, 1), &beyond).is_err());
        assert!(sum.backward_rows(&random(&[1, 5], 1), &beyond, columns).is_err());
        assert!(sum.backward_rows(&random(&[2, 5], 1), &beyond, columns).is_err());
        assert!(
            sum.forward_into(
                &scales(columns, 1),
                &Var::zeros((3, 4), DType::F64, &Device::Cpu).unwrap()
            )
            .is_err()
        );
    }
    let [fused, _] = both(&[3, 5], 5, DType::F32);
    let narrow = Var::zeros((3, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(fused.forward_into(&scales(Form { rows: 1, columns: 5 }, 1), &narrow).is_err());
}
