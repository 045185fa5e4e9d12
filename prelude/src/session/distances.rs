//! Relative distances of the sources, tensor by tensor: `|W_i - R| / |R|`, where `R` is the base
//! model or else the average of the sources; and the fraction of elements whose signs conflict.
//!
//! With a base, signs are those of the task vectors `W_i - R`, as in TIES. Without one they are the
//! signs of the weights, because differences from an average always conflict.

use crate::checkpoint::{BASE, Source, views};
use crate::error::Result;
use crate::methods::Operands;
use crate::show::{Figure, Heatmap, Mark, Scale, Unit, short_name};

use super::models::Models;
use super::on_threads;

/// The result for one tensor.
struct SourceDistances {
    /// One entry per source.
    relative: Vec<f64>,
    /// The fraction of elements, 0 to 1.
    conflicts: f64,
}

/// Partial sums over a chunk of elements.
struct Sums {
    reference: f64,
    squares: Vec<f64>,
    conflicts: u64,
}

impl Models {
    /// Computes the distances of the sources, tensor by tensor and block by block.
    pub(super) fn distances(&self) -> Result<Figure> {
        self.check_unchanged()?;
        let sources: Vec<Source> = self.merged(false)?;
        let base = self.base().cloned();
        let names: Vec<String> = sources.iter().map(|s| s.name().to_owned()).collect();
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        on_threads(self.settings.threads, || {
            for spec in sources[0].tensors() {
                let base = base.as_ref().map(|base| base.view(&spec.name).cloned()).transpose()?;
                let operands =
                    Operands::new(spec.clone(), names.clone(), views(&sources, spec)?, base);
                let SourceDistances { relative, conflicts } = distances(&operands);
                operands.release();
                rows.push(short_name(&spec.name).to_owned());
                values.push([relative, vec![conflicts]].concat());
            }
            Ok(())
        })?;
        Ok(figure(names, base.is_some(), rows, values))
    }
}

fn figure(names: Vec<String>, has_base: bool, rows: Vec<String>, values: Vec<Vec<f64>>) -> Figure {
    let n = names.len();
    let from = if has_base { "the base model" } else { "the average of the sources" };
    let distances = values.iter().flat_map(|row| &row[..n]).copied();
    let conflicts = values.iter().filter_map(|row| row.last()).copied();
    let scales = vec![
        Scale::around("relative distance", n, 0.0, distances),
        Scale {
            unit: Unit::Percent,
            ..Scale::around("share of conflicting signs", 1, 0.0, conflicts)
        },
    ];
    let columns = [names, vec!["conflicts".into()]].concat();
    let signs =
        if has_base { format!("the task vectors of `{BASE}`") } else { "their weights".into() };
    Figure {
        title: format!("distance of each source from {from}, and sign conflicts"),
        x: "source".into(),
        y: String::new(),
        unit: Unit::Number,
        mark: Mark::Heatmap(Heatmap { rows, columns, values, scales }),
        notes: vec![format!(
            "signs of {signs}: an element conflicts if some sources are positive and others negative"
        )],
    }
}

fn distances(operands: &Operands) -> SourceDistances {
    let n = operands.sources();
    let make = || Sums { reference: 0.0, squares: vec![0.0; n], conflicts: 0 };
    let chunks = operands.chunks(make, |sums, block| {
        for k in 0..block.length() {
            let value = |i: usize| f64::from(block.source(i)[k]);
            let base = block.base().map(|base| f64::from(base[k]));
            let reference = base.unwrap_or_else(|| (0..n).map(value).sum::<f64>() / n as f64);
            let (mut above, mut below) = (false, false);
            for i in 0..n {
                sums.squares[i] += (value(i) - reference).powi(2);
                let signed = value(i) - base.unwrap_or(0.0);
                above |= signed > 0.0;
                below |= signed < 0.0;
            }
            sums.reference += reference * reference;
            sums.conflicts += u64::from(above && below);
        }
    });
    // Chunks are summed in order, so the result does not depend on the threads.
    let mut total = make();
    for sums in chunks {
        total.reference += sums.reference;
        total.conflicts += sums.conflicts;
        total.squares.iter_mut().zip(sums.squares).for_each(|(total, x)| *total += x);
    }
    let relative =
        |x: f64| if total.reference > 0.0 { (x / total.reference).sqrt() } else { f64::NAN };
    SourceDistances {
        relative: total
            .squares
            .iter()
            .map(|x| if *x == 0.0 { 0.0 } else { relative(*x) })
            .collect(),
        conflicts: total.conflicts as f64 / operands.elements().max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::checkpoint::{Kind, TensorSpec, View};

    fn operands(sources: &[[f32; 4]], base: Option<[f32; 4]>) -> Operands {
        let view = |values: [f32; 4]| {
            View::of(values.iter().flat_map(|x| x.to_le_bytes()).collect(), DType::F32, &[2, 2])
        };
        let spec = TensorSpec { name: "w".into(), kind: Kind::Linear, shape: vec![2, 2] };
        let names = (0..sources.len()).map(|i| format!("s{i}")).collect();
        Operands::new(spec, names, sources.iter().map(|v| view(*v)).collect(), base.map(view))
    }

    /// By hand: the task vectors are (0, -2, 0, 2) and (2, 2, 0, -2), and the base is (1, 0, 0, 1).
    #[test]
    fn distances_from_the_base_and_conflicts_of_task_vectors() {
        let found = distances(&operands(
            &[[1.0, -2.0, 0.0, 3.0], [3.0, 2.0, 0.0, -1.0]],
            Some([1.0, 0.0, 0.0, 1.0]),
        ));
        let expected = [(8f64 / 2.0).sqrt(), (12f64 / 2.0).sqrt()];
        assert!(
            found.relative.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12),
            "{:?}",
            found.relative
        );
        assert_eq!(found.conflicts, 0.5);
    }

    /// By hand: the average is (2, 0, 0, 1), both sources are (1, 2, 0, 2) away from it, and the
    /// signs of the weights differ twice.
    #[test]
    fn distances_from_the_average_and_conflicts_of_weights() {
        let found = distances(&operands(&[[1.0, -2.0, 0.0, 3.0], [3.0, 2.0, 0.0, -1.0]], None));
        assert!(
            found.relative.iter().all(|x| (x - (9f64 / 5.0).sqrt()).abs() < 1e-12),
            "{:?}",
            found.relative
        );
        assert_eq!(found.conflicts, 0.5);
    }

    #[test]
    fn zero_tensors_have_no_distance() {
        let found = distances(&operands(&[[0.0; 4], [0.0; 4]], Some([0.0; 4])));
        assert_eq!((found.relative, found.conflicts), (vec![0.0, 0.0], 0.0));
    }
}
