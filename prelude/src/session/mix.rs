//! mix: sets or scales coefficients by hand.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Device, Tensor};

use super::matching::matching;
use super::{Dam, Session};
use crate::checkpoint::Source;
use crate::coefficients::MergedTensor;
use crate::error::{Error, Result, refuse};
use crate::show::{MixReport, MixedSource};

/// What the coefficients of a source become.
///
/// ```
/// use dam_prelude::Amount;
///
/// assert_eq!("0.7".parse::<Amount>()?, Amount::To(0.7));
/// assert_eq!("1.2x".parse::<Amount>()?, Amount::Times(1.2));
/// # Ok::<(), dam_prelude::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// This value.
    To(f64),
    /// Their value times this.
    Times(f64),
}

impl FromStr for Amount {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, make): (_, fn(f64) -> Self) = match text.strip_suffix('x') {
            Some(factor) => (factor, Self::Times),
            None => (text, Self::To),
        };
        make(number.parse().unwrap_or(f64::NAN)).checked(text)
    }
}

impl Amount {
    /// This amount, written `text`, if a coefficient in f32 can hold it.
    fn checked(self, text: &str) -> Result<Self> {
        let (Self::To(x) | Self::Times(x)) = self;
        let expected = "a value such as 0.7, or a factor such as 1.2x";
        let bad = || Error::bad_value("coefficients", text, expected);
        Some(self).filter(|_| (x as f32).is_finite()).ok_or_else(bad)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(value) => write!(f, "{value}"),
            Self::Times(factor) => write!(f, "{factor}x"),
        }
    }
}

impl Dam {
    /// Sets or scales the coefficients of some sources in all tensors that `tensors` selects: a
    /// name, a part of a name or a glob, where `layers.0-11` stands for each of these layers. The
    /// other coefficients stay. Training may follow.
    ///
    /// ```
    /// use dam_prelude::{Amount, Columns, load};
    ///
    /// let dam = load(["builtin:japanese", "builtin:math"])?.wrap(Columns::default())?;
    /// dam.mix("layers.0-1.mlp", &[("math", Amount::Times(1.5)), ("japanese", Amount::To(0.4))])?;
    /// let c = dam.coefficients("model.layers.1.mlp.up_proj.weight")?.to_vec2::<f32>()?;
    /// assert_eq!((c[0][0], c[1][0]), (0.4, 0.75));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// No tensor or no source of that name, a value that f32 cannot hold, or a scheme that computes
    /// its coefficients from other parameters. The coefficients are unchanged.
    pub fn mix<S: AsRef<str>>(&self, tensors: &str, amounts: &[(S, Amount)]) -> Result<MixReport> {
        let mut session = self.session();
        let mut by_source = vec![None; session.sources.len()];
        for (name, amount) in amounts {
            by_source[session.index_of(name.as_ref())?] = Some(*amount);
        }
        session.mix(tensors, &by_source)
    }

    /// Returns the names of all merged tensors.
    pub(crate) fn tensor_names(&self) -> Vec<String> {
        self.session().merge.tensors.iter().map(|tensor| tensor.spec.name.clone()).collect()
    }

    /// Returns the merged sources, each with its mean coefficient in the tensors that `tensors`
    /// selects.
    ///
    /// # Errors
    /// No tensor of that name.
    pub(crate) fn mean_coefficients(&self, tensors: &str) -> Result<Vec<(String, f64)>> {
        let session = self.session();
        let found = matching(tensors, session.merge.tensors.iter(), |t| &t.spec.name)?;
        let values = found.iter().map(|t| session.merge.coefficients(t));
        let values = values.collect::<Result<Vec<Tensor>>>()?;
        let one = |(i, source): (usize, &Source)| Ok((source.name().into(), mean(&values, i)?));
        session.sources.iter().enumerate().map(one).collect()
    }

    /// Makes the tensors that `tensors` selects equal to those of `source`: its coefficients become
    /// 1 and those of the other sources 0.
    ///
    /// # Errors
    /// As for [`Dam::mix`], or an `f` of the coefficients that does not reach 1.
    pub fn mix_like(&self, tensors: &str, source: &str) -> Result<MixReport> {
        let mut session = self.session();
        let at = session.index_of(source)?;
        let f = session.merge.wrap.options.f;
        let ends = Tensor::new(&[0f32, 1.0], &Device::Cpu)?;
        if f.apply(&ends)?.to_vec1::<f32>()? != [0.0, 1.0] {
            return refuse(
                format!(
                    "coefficients under f={} do not reach 1, so no tensor is like `{source}`",
                    f.name()
                ),
                "wrap without f, or set values: mix TENSORS SOURCE=VALUE",
            );
        }
        let amount = |i| Some(Amount::To(if i == at { 1.0 } else { 0.0 }));
        let amounts: Vec<_> = (0..session.sources.len()).map(amount).collect();
        session.mix(tensors, &amounts)
    }
}

impl Session {
    /// Returns the index of the merged source `name`.
    fn index_of(&self, name: &str) -> Result<usize> {
        let names = || self.sources.iter().map(|source| source.name());
        let found = names().position(|known| known == name);
        found.ok_or_else(|| Error::unknown("source", name, names()))
    }

    /// Changes the coefficients of each source as `amounts` says, in the tensors that `pattern`
    /// selects.
    fn mix(&mut self, pattern: &str, amounts: &[Option<Amount>]) -> Result<MixReport> {
        for amount in amounts.iter().flatten() {
            amount.checked(&amount.to_string())?;
        }
        let found = matching(pattern, self.merge.tensors.iter(), |t| &t.spec.name)?;
        let mut report = MixReport {
            tensors: found.iter().map(|t| t.spec.name.clone()).collect(),
            sources: Vec::new(),
        };
        // Tensors that share a variable change once.
        let mut changed = BTreeSet::new();
        let own: Vec<&MergedTensor> =
            found.into_iter().filter(|t| changed.insert(t.variables.clone())).collect();
        let before = own.iter().map(|t| Ok(self.merge.coefficients(t)?.detach().copy()?));
        let before = before.collect::<Result<Vec<Tensor>>>()?;
        let after = before.iter().map(|c| mixed(c, amounts)).collect::<Result<Vec<Tensor>>>()?;
        for (i, (tensor, values)) in own.iter().zip(&after).enumerate() {
            if let Err(error) = self.merge.set_coefficients(tensor, values) {
                for (tensor, values) in own.iter().zip(&before).take(i) {
                    self.merge.set_coefficients(tensor, values)?;
                }
                return Err(error);
            }
        }
        for (i, source) in self.sources.iter().enumerate() {
            let (before, after) = (mean(&before, i)?, mean(&after, i)?);
            report.sources.push(MixedSource { name: source.name().into(), before, after });
        }
        // The direction belongs to coefficients that are gone; the scale remains.
        for variable in changed.iter().flatten() {
            self.moments[*variable].m.fill(0.0);
        }
        self.changed();
        Ok(report)
    }
}

/// Returns the coefficients `c` (sources x R x C) after the changes in `amounts`.
fn mixed(c: &Tensor, amounts: &[Option<Amount>]) -> Result<Tensor> {
    let one = |(i, amount): (usize, &Option<Amount>)| {
        let own = c.narrow(0, i, 1)?;
        match amount {
            None => Ok(own),
            Some(Amount::To(value)) => Tensor::full(*value as f32, own.shape(), own.device()),
            Some(Amount::Times(factor)) => own.affine(*factor, 0.0),
        }
    };
    let parts = amounts.iter().enumerate().map(one).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}

/// Returns the mean coefficient of source `i` in all of `tensors`.
fn mean(tensors: &[Tensor], i: usize) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for c in tensors {
        let own = c.narrow(0, i, 1)?;
        sum += own.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        count += own.elem_count();
    }
    Ok(sum / count.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Columns, Nonlinearity, Options, Softmax, load};

    fn dam() -> Dam {
        load(["builtin:japanese", "builtin:math"]).unwrap().wrap(Columns::default()).unwrap()
    }

    fn first(dam: &Dam, tensor: &str) -> [f32; 2] {
        let c = dam.coefficients(tensor).unwrap().to_vec2::<f32>().unwrap();
        [c[0][0], c[1][0]]
    }

    const UP: &str = "model.layers.1.mlp.up_proj.weight";
    const Q: &str = "model.layers.1.self_attn.q_proj.weight";

    #[test]
    fn only_the_selected_coefficients_change() {
        let dam = dam();
        let before = dam.snapshot().unwrap();
        let report = dam.mix("*.mlp", &[("math", Amount::Times(1.5))]).unwrap();
        assert!(report.tensors.len() > 3 && report.tensors.iter().all(|t| t.contains(".mlp.")));
        assert_eq!((report.sources[1].before, report.sources[1].after), (0.5, 0.75));
        assert_eq!((first(&dam, UP), first(&dam, Q)), ([0.5, 0.75], [0.5, 0.5]));
        dam.restore(&before).unwrap();
        assert_eq!(first(&dam, UP), [0.5, 0.5]);
    }

    /// A merge that is like a source everywhere has that source's loss.
    #[test]
    fn mixing_like_a_source_gives_its_outputs() {
        let dam = dam();
        dam.mix_like("*", "math").unwrap();
        assert_eq!(first(&dam, Q), [0.0, 1.0]);
        let scores = dam.scoreboard(&[]).unwrap();
        let row = |name: &str| {
            let row = scores.rows.iter().find(|(known, _)| known == name).unwrap();
            row.1.data["math"].loss
        };
        assert!((row("math") - scores.rows.last().unwrap().1.data["math"].loss).abs() < 1e-6);
    }

    #[test]
    fn training_goes_on_from_it() {
        let dam = dam();
        dam.train(2).unwrap();
        dam.mix(UP, &[("math", Amount::To(0.9))]).unwrap();
        let loss = dam.loss().unwrap().total;
        dam.train(2).unwrap();
        assert!(loss.is_finite() && dam.steps() == 4);
    }

    #[test]
    fn what_cannot_be_mixed_changes_nothing() {
        let dam = dam();
        let error = dam.mix("layers.1", &[("sql", Amount::To(1.0))]).unwrap_err();
        assert!(error.to_string().contains("`sql`"), "{error}");
        assert!(matches!(
            dam.mix("nothing", &[("math", Amount::To(1.0))]),
            Err(Error::NoMatch { .. })
        ));
        assert!(dam.mix(UP, &[("math", Amount::To(f64::NAN))]).is_err());
        assert!(dam.mix(UP, &[("math", Amount::To(1e300))]).is_err());
        assert_eq!(first(&dam, UP), [0.5, 0.5]);

        let models = load(["builtin:japanese", "builtin:math"]).unwrap();
        let tanh = Options { f: Nonlinearity::Tanh, ..Options::default() };
        let dam = models.wrap(crate::Wrap { options: tanh, ..Columns::default().into() }).unwrap();
        let error = dam.mix_like(UP, "math").unwrap_err();
        assert!(error.to_string().contains("f=tanh"), "{error}");
        let dam = models.wrap(Softmax).unwrap();
        let loss = dam.loss().unwrap().total;
        let error = dam.mix("*", &[("math", Amount::To(1.0))]).unwrap_err();
        assert!(matches!(error, Error::ComputedCoefficients { .. }), "{error:?}");
        assert_eq!(dam.loss().unwrap().total, loss);
    }

    #[test]
    fn amounts_are_values_or_factors() {
        for (text, amount) in
            [("1", Amount::To(1.0)), ("-0.5", Amount::To(-0.5)), ("0x", Amount::Times(0.0))]
        {
            assert_eq!(text.parse::<Amount>().unwrap(), amount);
            assert_eq!(amount.to_string(), text);
        }
        for text in ["", "x", "ja", "nan", "inf", "1e39", "1.2X", "1 x"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }
}
