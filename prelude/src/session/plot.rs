//! plot: figures of sources, a session or a merge.

use candle_core::{DType, Tensor};

use crate::checkpoint::{Kind, TensorSpec};
use crate::coefficients::{MergedTensor, Nonlinearity};
use crate::error::{Error, Result};
use crate::show::{Distances, Figure, short_name};

use super::matching::single;
use super::merged::Merged;
use super::models::Models;
use super::{Dam, Session};

/// The available figures; a merge without coefficients has the last two.
const FIGURES: [&str; 5] = ["loss", "coefficients", "histogram", "distances", "lean"];

/// The maximum number of cells per row; more columns are averaged in groups.
const CELLS: usize = 512;

/// Splits `what` into the name of a figure and the rest.
fn parse(what: &str) -> Result<(&'static str, &str)> {
    let what = what.trim();
    let (word, rest) = what.split_once(char::is_whitespace).unwrap_or((what, ""));
    let found = FIGURES.into_iter().find(|known| *known == word);
    let word = found.ok_or_else(|| Error::unknown("figure", word, FIGURES))?;
    let rest = rest.trim();
    if !rest.is_empty() && !["coefficients", "histogram"].contains(&word) {
        return Err(Error::bad_value(
            &format!("plot {word}"),
            rest,
            "a path that ends in .svg or .png, or nothing; only coefficients and histogram accept a tensor",
        ));
    }
    Ok((word, rest))
}

impl Models {
    /// Plots `distances`, the only figure available before `wrap`: the distance of each source from
    /// the average (or from the base model, if there is one) and the fraction of elements whose
    /// signs conflict, tensor by tensor.
    ///
    /// # Errors
    /// Another figure, or fewer than two sources.
    pub fn plot(&self, what: &str) -> Result<Figure> {
        match parse(what)?.0 {
            "distances" => self.distances(),
            other => Err(Error::Sources {
                what: format!("the plot `{other}` needs a wrapped merge"),
                hint: "run `wrap` first; available now: plot distances",
            }),
        }
    }
}

impl Dam {
    /// Plots `what`: `loss` (every term over steps), `coefficients` (means by layer and source),
    /// `coefficients TENSOR` (by column and source), `histogram` (of all coefficients), `histogram
    /// TENSOR`, `distances` (as [`Models::plot`]), or `lean` (each source's share of the effective
    /// coefficients `f(c)`, layer by layer).
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// dam.train(2)?;
    /// assert!(dam.plot("loss")?.to_string().contains("kl.math"));
    /// assert!(dam.plot("coefficients layers.0.mlp.up_proj")?.svg().contains("japanese"));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// An unknown figure (the error names the nearest) or an unknown tensor.
    pub fn plot(&self, what: &str) -> Result<Figure> {
        match parse(what)? {
            ("loss", _) => Ok(Figure::losses(&self.history())),
            ("distances", _) => self.models().plot("distances"),
            ("coefficients", "") => self.with_session(|session| session.layers("coefficients")),
            ("coefficients", tensor) => {
                self.with_session(|session| session.columns(session.one(tensor)?))
            }
            ("histogram", "") => self.with_session(|session| {
                session.histogram(session.merge.tensors.iter().collect(), "all tensors")
            }),
            ("histogram", tensor) => self.with_session(|session| {
                let tensor = session.one(tensor)?;
                session.histogram(vec![tensor], short_name(&tensor.spec.name))
            }),
            _ => self.with_session(|session| session.layers("lean")),
        }
    }
}

impl Merged {
    /// Plots `what`: `distances` (between the sources, as [`Models::plot`]), or `lean`, the
    /// closeness of the merge to each source, layer by layer: the share `(1 / d_i) / sum_j (1 /
    /// d_j)`, where `d_i` is the mean of `|M - W_i| /
    /// |W_i|` over the tensors of the layer.
    ///
    /// # Errors
    /// Another figure, or a tensor that the method cannot merge.
    pub fn plot(&self, what: &str) -> Result<Figure> {
        match parse(what)?.0 {
            "distances" => self.models().plot("distances"),
            "lean" => Ok(closeness(&self.inspect("")?)),
            other => Err(Error::Sources {
                what: format!(
                    "the plot `{other}` needs trained coefficients, and this merge has none"
                ),
                hint: "run `wrap` and `train`; available now: plot distances, plot lean",
            }),
        }
    }
}

impl Session {
    fn names(&self) -> Vec<String> {
        self.sources.iter().map(|s| s.name().to_owned()).collect()
    }

    /// Returns each source's coefficient in a uniform merge.
    fn neutral(&self) -> f64 {
        1.0 / self.sources.len() as f64
    }

    /// Returns the tensor that `name` selects.
    fn one(&self, name: &str) -> Result<&MergedTensor> {
        single(name, self.merge.tensors.iter(), |t| &t.spec.name)
    }

    /// Returns the coefficients of a tensor, sources x (rows x columns), f64.
    fn values(&self, tensor: &MergedTensor) -> Result<Vec<Vec<f64>>> {
        Ok(self
            .merge
            .coefficients(tensor)?
            .detach()
            .flatten_from(1)?
            .to_dtype(DType::F64)?
            .to_vec2()?)
    }

    /// Plots layer by source: the mean coefficient over the weights of a layer, or each source's
    /// share.
    fn layers(&self, what: &str) -> Result<Figure> {
        let mut layers: Vec<(String, Vec<f64>, usize)> = Vec::new();
        let weights = self.merge.tensors.iter().filter(|t| t.spec.kind != Kind::Bias);
        for tensor in weights {
            let c = self.merge.coefficients(tensor)?.detach();
            let c = if what == "lean" { self.merge.wrap.options.f.apply(&c)?.abs()? } else { c };
            let means = means(&c)?;
            let name = layer_name(&tensor.spec);
            match layers.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, sums, count)) => {
                    sums.iter_mut().zip(means).for_each(|(sum, mean)| *sum += mean);
                    *count += 1;
                }
                None => layers.push((name, means, 1)),
            }
        }
        let row = |(_, sums, count): &(String, Vec<f64>, usize)| {
            let whole = if what == "lean" { sums.iter().sum::<f64>() } else { *count as f64 };
            sums.iter().map(|sum| sum / whole).collect()
        };
        let values = layers.iter().map(row).collect();
        let rows = layers.iter().map(|(name, ..)| name.clone()).collect();
        let f = self.merge.wrap.options.f;
        let effective = if f == Nonlinearity::None {
            "coefficients".to_owned()
        } else {
            format!("{}(c)", f.name())
        };
        let (title, cells) = match what {
            "lean" => (format!("each source's share of the {effective}"), "share"),
            _ => ("mean coefficient, layer by layer".into(), "mean coefficient"),
        };
        let figure =
            Figure::heatmap(title, "source", cells, rows, self.names(), values, self.neutral());
        Ok(if what == "lean" { figure.percent() } else { figure })
    }

    /// Plots the coefficients of one tensor, source by column; by row if the scheme has one
    /// coefficient per row; averaged over rows if every element has its own.
    pub(super) fn columns(&self, tensor: &MergedTensor) -> Result<Figure> {
        let c = self.merge.coefficients(tensor)?.detach();
        let c = c.to_dtype(DType::F64)?;
        let (_, rows, columns) = c.dims3()?;
        let (along, c) = match (rows, columns) {
            (1, 1) => ("the whole tensor", c.squeeze(1)?),
            (1, _) => ("column", c.squeeze(1)?),
            (_, 1) => ("row", c.squeeze(2)?),
            _ => ("column", c.mean(1)?),
        };
        let values: Vec<Vec<f64>> = c.to_vec2()?;
        let count = values.first().map_or(0, Vec::len);
        let per = count.div_ceil(CELLS).max(1);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let binned = values.iter().map(|row| row.chunks(per).map(mean).collect()).collect();
        let names = (0..count)
            .step_by(per)
            .map(|j| if along == "the whole tensor" { "all".into() } else { j.to_string() });
        let title = format!("coefficients of {}", short_name(&tensor.spec.name));
        let mut figure = Figure::heatmap(
            title,
            along,
            "coefficient",
            self.names(),
            names.collect(),
            binned,
            self.neutral(),
        );
        if per > 1 {
            figure = figure.note(format!("{count} {along}s: a cell is the mean of {per}"));
        }
        let each = rows > 1 && columns > 1;
        Ok(if each {
            figure.note(format!("every element has a coefficient: the mean over {rows} rows"))
        } else {
            figure
        })
    }

    /// Plots the distribution of the coefficients of `tensors`, one series per source. Tensors are
    /// read one by one.
    fn histogram(&self, tensors: Vec<&MergedTensor>, of: &str) -> Result<Figure> {
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        let mut count = 0;
        for tensor in &tensors {
            for c in self.values(tensor)?.iter().flatten().filter(|c| c.is_finite()) {
                low = low.min(*c);
                high = high.max(*c);
                count += 1;
            }
        }
        // Few values get few bins, to limit noise.
        let bins = ((count as f64 / self.sources.len() as f64).sqrt() as usize).clamp(8, 40);
        if high - low < 1e-9 {
            low -= 0.5;
            high += 0.5;
        }
        let mut counts = vec![vec![0u64; bins]; self.sources.len()];
        for tensor in &tensors {
            for (counts, row) in counts.iter_mut().zip(self.values(tensor)?) {
                for c in row.iter().filter(|c| c.is_finite()) {
                    counts[(((c - low) / (high - low) * bins as f64) as usize).min(bins - 1)] += 1;
                }
            }
        }
        let series = self.names().into_iter().zip(counts).collect();
        Ok(Figure::histogram(format!("coefficients of {of}"), "coefficient", low, high, series))
    }
}

/// Returns the mean of each source's coefficients.
fn means(c: &Tensor) -> Result<Vec<f64>> {
    Ok(c.flatten_from(1)?.to_dtype(DType::F64)?.mean(1)?.to_vec1()?)
}

/// Returns the name of the layer of a tensor, or its role outside the layers.
fn layer_name(spec: &TensorSpec) -> String {
    match (spec.layer(), spec.kind) {
        (Some(layer), _) => format!("layer {layer}"),
        (None, Kind::Embedding) if spec.name == TensorSpec::EMBEDDING => "embedding".into(),
        (None, Kind::Norm) => "final norm".into(),
        _ => short_name(&spec.name).to_owned(),
    }
}

/// Plots the closeness of a merge to each source, layer by layer, as shares.
fn closeness(distances: &Distances) -> Figure {
    let mut sources: Vec<String> = Vec::new();
    for (name, _) in distances.tensors.iter().flat_map(|t| &t.sources) {
        if !sources.contains(name) {
            sources.push(name.clone());
        }
    }
    let mut layers: Vec<(String, Vec<(f64, usize)>)> = Vec::new();
    for tensor in &distances.tensors {
        let spec =
            TensorSpec { name: tensor.name.clone(), kind: kind_of(tensor.kind), shape: Vec::new() };
        let name = layer_name(&spec);
        if !layers.iter().any(|(known, _)| *known == name) {
            layers.push((name.clone(), vec![(0.0, 0); sources.len()]));
        }
        let Some((_, sums)) = layers.iter_mut().find(|(known, _)| *known == name) else { continue };
        for (source, distance) in &tensor.sources {
            let at = sources.iter().position(|known| known == source);
            if let Some((sum, count)) = at.and_then(|i| sums.get_mut(i)) {
                *sum += distance.relative;
                *count += 1;
            }
        }
    }
    let values = layers.iter().map(|(_, sums)| shares(sums)).collect();
    let rows = layers.into_iter().map(|(name, _)| name).collect();
    let title = format!("closeness of the {} merge to each source", distances.method);
    let neutral = 1.0 / sources.len().max(1) as f64;
    Figure::heatmap(title, "source", "share of closeness", rows, sources, values, neutral).percent()
}

/// Returns `(1 / d_i) / sum_j (1 / d_j)` for the mean `d` of each source. Sources equal to the
/// merge divide the whole.
fn shares(sums: &[(f64, usize)]) -> Vec<f64> {
    // Smaller distances count as 0.
    const SAME: f64 = 1e-9;
    let near = |(sum, count): &(f64, usize)| {
        if *count > 0 { 1.0 / (sum / *count as f64).max(SAME) } else { f64::NAN }
    };
    let near: Vec<f64> = sums.iter().map(near).collect();
    let total: f64 = near.iter().filter(|x| x.is_finite()).sum();
    near.into_iter().map(|x| x / total).collect()
}

fn kind_of(name: &str) -> Kind {
    [Kind::Linear, Kind::Embedding, Kind::Norm, Kind::Bias]
        .into_iter()
        .find(|k| k.name() == name)
        .unwrap_or(Kind::Linear)
}
