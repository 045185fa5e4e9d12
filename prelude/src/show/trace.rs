//! The result of `trace`: the residual stream layer by layer, the parts and the tensors that matter
//! to an answer token, and two pictures.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::evcxr::cell;
use super::figure::{Figure, Mark, Series, Spacing};
use super::inspect::short_name;
use super::lines::printable;
use super::numbers::{number, percent, probability};
use super::render::Render;
use super::table::{Table, paragraph};
use crate::error::{Error, Result};
use crate::trace::{Patch, Patched, Reading, Traced, stream_name};

/// The number of parts and of tensors in a table; all are in [`TraceReport::traced`].
const SHOWN: usize = 10;

/// The number of columns of a tensor that are named.
const COLUMNS: usize = 8;

/// The result of `trace`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceReport {
    /// The name of the merge: `DAM`, or its method.
    pub model: String,
    /// The names of the sources, in the order of [`TraceReport::traced`].
    pub sources: Vec<String>,
    /// The text of every token before the answer token: the prompt, and the answer so far.
    pub before: Vec<String>,
    /// The whole answer.
    pub answer: String,
    /// The text of the answer token that is traced.
    pub token: String,
    /// Its id.
    pub token_id: u32,
    /// Where the answer is from.
    pub origin: String,
    /// The texts of all tokens that a model or a patch expects.
    pub texts: BTreeMap<u32, String>,
    /// Whether `mix TENSOR like=SOURCE` does what the first patch of a tensor does.
    pub mends: bool,
    /// The numbers.
    pub traced: Traced,
}

impl TraceReport {
    /// Returns the merge's loss at the answer token, `-ln p`, in nats.
    pub fn loss(&self) -> f64 {
        self.traced.merge.answer().loss()
    }

    /// Returns the name of the source that patches are from.
    pub fn like(&self) -> &str {
        self.sources.get(self.traced.like).map_or("", String::as_str)
    }

    /// Returns the tensor that recovers most of the loss when it is taken from the source; `None`
    /// if none recovers any.
    pub fn tensor(&self) -> Option<&str> {
        let first = self.traced.tensors.first()?;
        match &first.patch {
            Patch::Tensor(name) if self.traced.recovered(first) > 0.0 => Some(name),
            _ => None,
        }
    }

    /// Returns the numbers as tensors, f32 on the CPU, by name; with P places (after the embedding,
    /// then after each layer), T tokens, and hidden size H:
    ///
    /// | name | shape | contents |
    /// | --- | --- | --- |
    /// | `distance.SOURCE` | P x T | the relative distance of the merge's residual stream |
    /// | `cosine.SOURCE` | P x T | the cosine between both |
    /// | `log_prob.MODEL` | P | the answer token's log-probability by the logit lens, nats |
    /// | `residual.MODEL` | P x H | the residual stream of the last token |
    /// | `contribution.MODEL` | parts | the embedding, then attention and MLP of each layer, nats |
    /// | `stream.log_prob` | P | with the source's stream in place of the merge's, nats |
    ///
    /// # Errors
    /// None on the CPU.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        let vector = |values: Vec<f64>| -> Result<Tensor> {
            let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
            Ok(Tensor::new(values, &Device::Cpu)?)
        };
        let matrix = |rows: Vec<Vec<f32>>| Ok::<_, Error>(Tensor::new(rows, &Device::Cpu)?);
        let single = |rows: &[Vec<f64>]| {
            rows.iter()
                .map(|row| row.iter().map(|x| *x as f32).collect())
                .collect::<Vec<Vec<f32>>>()
        };
        let log_prob = |reading: &Reading| -reading.loss();
        for (name, drift) in self.sources.iter().zip(&self.traced.drifts) {
            all.insert(format!("distance.{name}"), matrix(single(&drift.distance))?);
            all.insert(format!("cosine.{name}"), matrix(single(&drift.cosine))?);
        }
        let models = [(&self.model, &self.traced.merge)];
        for (name, model) in models.into_iter().chain(self.sources.iter().zip(&self.traced.sources))
        {
            let log_probs = model.readings.iter().map(log_prob).collect();
            let contributions = model.attribution.contributions.iter().map(|c| c.logit).collect();
            all.insert(format!("log_prob.{name}"), vector(log_probs)?);
            all.insert(format!("residual.{name}"), matrix(model.residual.clone())?);
            all.insert(format!("contribution.{name}"), vector(contributions)?);
        }
        let streams = self.traced.streams.iter().map(|patched| log_prob(&patched.reading));
        all.insert("stream.log_prob".into(), vector(streams.collect())?);
        Ok(all)
    }

    /// Returns the table of the residual stream at every place: the answer token's probability by
    /// the logit lens, the token that the merge expects most, its distance from each source at the
    /// last token, and the probability with the source's stream in place of the merge's.
    pub fn layers(&self) -> Table {
        let Traced { merge, sources, drifts, like, streams, .. } = &self.traced;
        let name = self.like();
        let others = || (0..sources.len()).filter(|i| i != like);
        let mut header = vec![
            "after".into(),
            format!("p {}", self.model),
            format!("p {name}"),
            format!("{} expects", self.model),
            format!("from {name}"),
            "cosine".into(),
            "p patched".into(),
        ];
        header.extend(others().map(|i| format!("from {}", self.sources[i])));
        let title = format!(
            "p of {:?} after {:?}, in the answer {}: {:?}",
            self.token,
            self.before.last().map_or("", String::as_str),
            self.origin,
            self.answer
        );
        let mut table = Table::new(printable(&title), header.iter().map(|h| printable(h)));
        table.text_columns.insert(3);
        let last = |rows: &[Vec<f64>], place: usize| {
            rows.get(place).and_then(|row| row.last()).map_or("-".into(), |x| format!("{x:.3}"))
        };
        let p = |reading: Option<&Reading>| {
            reading.map_or("-".into(), |reading| probability(reading.probability()))
        };
        for (place, reading) in merge.readings.iter().enumerate() {
            let own = sources.get(*like).and_then(|source| source.readings.get(place));
            let drift = drifts.get(*like).cloned().unwrap_or_default();
            let mut row = vec![
                stream_name(place),
                p(Some(reading)),
                p(own),
                self.quoted(reading.likeliest),
                last(&drift.distance, place),
                last(&drift.cosine, place),
                p(streams.get(place).map(|patched| &patched.reading)),
            ];
            row.extend(others().map(|i| last(&drifts[i].distance, place)));
            table.rows.push(row);
        }
        table
    }

    /// Returns the table of parts, the most recovering first: the direct contribution of each to
    /// the answer token's logit, in nats, and what is recovered when the source's is put in its
    /// place.
    pub fn parts(&self) -> Table {
        let Traced { merge, sources, like, parts, .. } = &self.traced;
        let header = [
            "part".to_owned(),
            self.model.clone(),
            self.like().to_owned(),
            "difference".into(),
            "p patched".into(),
            "recovered".into(),
        ];
        let title = "contributions to the logit, and patches of parts, in nats";
        let mut table = Table::new(title, header.iter().map(|h| printable(h)));
        let value = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.3}"));
        table.rows = (parts.iter().take(SHOWN))
            .filter_map(|patched| {
                let Patch::Part(part) = patched.patch else { return None };
                let ours = merge.attribution.of(part);
                let own = sources.get(*like).and_then(|source| source.attribution.of(part));
                Some(vec![
                    part.to_string(),
                    value(ours),
                    value(own),
                    value(ours.zip(own).map(|(ours, own)| own - ours)),
                    probability(patched.reading.probability()),
                    value(Some(self.traced.recovered(patched))),
                ])
            })
            .collect();
        table.notes.extend(more(parts.len(), "parts"));
        table
    }

    /// Returns the table of tensors, the most recovering first: the answer token's probability when
    /// the tensor is the source's, and the loss that this recovers, in nats and of what there is to
    /// recover.
    pub fn tensors_table(&self) -> Table {
        let tensors = &self.traced.tensors;
        let title = format!("patches of tensors, each taken from {}", self.like());
        let header = ["tensor", "p patched", "recovered", "of the gap"];
        let mut table = Table::new(printable(&title), header);
        table.rows = (tensors.iter().take(SHOWN))
            .filter_map(|patched| {
                let Patch::Tensor(name) = &patched.patch else { return None };
                Some(vec![
                    short_name(name).to_owned(),
                    probability(patched.reading.probability()),
                    format!("{:.3}", self.traced.recovered(patched)),
                    self.share(patched),
                ])
            })
            .collect();
        table.notes.extend(more(tensors.len(), "tensors"));
        table
    }

    /// Plots the relative distance of the merge's residual stream from that of source `source`, by
    /// place and token.
    ///
    /// # Errors
    /// An unknown source.
    pub fn plot_distance(&self, source: &str) -> Result<Figure> {
        let found = self.sources.iter().position(|known| known == source);
        let names = || self.sources.iter().map(String::as_str);
        let i = found.ok_or_else(|| Error::unknown("source", source, names()))?;
        let values = self.traced.drifts.get(i).map(|drift| drift.distance.clone());
        let values = values.unwrap_or_default();
        let rows = (0..values.len()).map(stream_name).collect();
        let columns = self.before.iter().map(|text| printable(&text.replace('\n', "⏎"))).collect();
        let title = format!("distance of the residual stream of {} from {source}'s", self.model);
        Ok(Figure::heatmap(printable(&title), "token", "|x - y| / |y|", rows, columns, values, 0.0))
    }

    /// Plots the answer token's probability by the logit lens after each layer, for the merge and
    /// every source.
    pub fn plot_probability(&self) -> Figure {
        let points = |readings: &[Reading]| -> Vec<(f64, f64)> {
            (readings.iter().enumerate())
                .map(|(place, reading)| (place as f64, reading.probability()))
                .collect()
        };
        let merge = Series {
            is_main: true,
            ..Series::new(self.model.clone(), points(&self.traced.merge.readings))
        };
        let own = self.sources.iter().zip(&self.traced.sources);
        let own = own.map(|(name, source)| Series::new(name.clone(), points(&source.readings)));
        let title = format!("probability of {:?} after each layer", self.token);
        let series = [merge].into_iter().chain(own).collect();
        let mut figure = Figure::curve(printable(&title), "layers run", "", series).percent();
        if let Mark::Curves(curves) = &mut figure.mark {
            curves.spacing = Spacing::Linear;
        }
        figure
    }

    fn quoted(&self, token: u32) -> String {
        let text = self.texts.get(&token).map_or("", String::as_str);
        printable(&format!("{text:?}"))
    }

    /// What a patch recovers of the gap.
    fn share(&self, patched: &Patched) -> String {
        let gap = self.traced.gap();
        if gap > 0.0 { percent(self.traced.recovered(patched) / gap) } else { "-".into() }
    }

    fn notes(&self) -> Vec<String> {
        let (traced, name) = (&self.traced, self.like());
        let answer = traced.merge.answer();
        let mut notes = Vec::new();
        if answer.likeliest == self.token_id {
            notes.push(format!(
                "{} agrees with the whole answer; traced is the token that it is least sure of",
                self.model
            ));
        }
        if traced.first_place().is_none() && traced.gap() > 0.0 {
            notes.push(format!(
                "no residual stream of {name} brings half of the probability back: see the final norm and the output layer"
            ));
        }
        if traced.gap() <= 0.0 {
            notes.push(format!(
                "{name} does not give the answer token a higher probability: nothing to recover from it"
            ));
        }
        notes.extend(traced.first_place().map(|place| {
            let p = traced.streams.get(place).map_or(0.0, |s| s.reading.probability());
            format!(
                "first drift that matters: {}; with the residual stream of {name} from there on, p is {}",
                stream_name(place),
                probability(p)
            )
        }));
        if let (Some(tensor), Some(first)) = (self.tensor(), traced.tensors.first()) {
            let mut text = format!(
                "first tensor: {}; taken from {name} it recovers {:.3} of {:.3} nats",
                short_name(tensor),
                traced.recovered(first),
                traced.gap()
            );
            if self.mends {
                text += &format!(": mix {} like={name}", short_name(tensor));
            }
            notes.push(text);
        }
        if let Some((shares, patched)) = &traced.columns {
            let first = shares.iter().take(COLUMNS);
            let share: f64 = first.clone().map(|(_, share)| share).sum();
            let columns: Vec<String> = first.map(|(column, _)| column.to_string()).collect();
            notes.push(format!(
                "its columns {} make {} of its departure from {name}'s output; they alone recover {:.3} nats",
                columns.join(", "),
                percent(share),
                traced.recovered(patched)
            ));
        }
        let attribution = &traced.merge.attribution;
        notes.push(format!(
            "loss -ln p = {} nats = {} - {}: ln of the sum of exp(logit - mean logit), less the sum of all contributions (help trace)",
            number(self.loss()),
            number(attribution.normaliser),
            number(attribution.sum())
        ));
        notes.iter().map(|note| printable(note)).collect()
    }

    fn all_tables(&self) -> [Table; 3] {
        [self.layers(), self.parts(), self.tensors_table()]
    }

    fn figures(&self) -> Vec<Figure> {
        let distance = self.plot_distance(self.like()).ok();
        distance.into_iter().chain([self.plot_probability()]).collect()
    }

    /// Shows it as the result of an evcxr cell, with both pictures.
    pub fn evcxr_display(&self) {
        let pictures: String =
            self.figures().iter().map(|figure| format!("\n\n{figure}")).collect();
        cell(&self.html(), &format!("{self}{pictures}"));
    }
}

/// The note that a table of `count` rows shows only the first.
fn more(count: usize, what: &str) -> Option<String> {
    (count > SHOWN).then(|| format!("the first {SHOWN} of {count} {what}"))
}

impl Render for TraceReport {
    fn html(&self) -> String {
        let tables: String = self.all_tables().iter().map(Table::html).collect();
        let notes: String = self.notes().iter().map(|note| paragraph(note)).collect();
        let figures: String = self.figures().iter().map(Figure::html).collect();
        tables + &notes + &figures
    }

    fn lines(&self, columns: Option<usize>) -> String {
        let tables = self.all_tables().map(|table| table.lines(columns)).join("\n\n");
        format!("{tables}\n\n{}", self.notes().join("\n"))
    }
}

impl fmt::Display for TraceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines(None))
    }
}
