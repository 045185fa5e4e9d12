//! wrap from a merge: starts the coefficients at the column merge closest to a static merge.

use candle_core::{Device, Tensor};

use super::merged::Merged;
use super::models::Models;
use super::{Dam, on_threads};
use crate::checkpoint::{Source, views};
use crate::coefficients::{COLUMNS, Nonlinearity, Wrap, nearest};
use crate::error::{Error, Result};
use crate::interrupt;

impl Models {
    /// Wraps these sources with coefficients that start at the column merge closest to `merged`, by
    /// least squares for each tensor and column. The report states how much of the difference
    /// between `merged` and the average is reached: all of it for a weighted average, less for a
    /// merge that is not a column merge.
    ///
    /// ```
    /// use dam_prelude::{Columns, load};
    ///
    /// let models = load(["base=builtin:base", "builtin:japanese", "builtin:math"])?;
    /// let ties = models.merge_named("ties", &[("density", "0.5")])?;
    /// let dam = models.wrap_from(Columns::default(), &ties)?;
    /// assert!(dam.report().notes[0].contains("nearest to ties"));
    /// # Ok::<(), dam_prelude::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Models::wrap`]; another scheme than columns, a non-linear `f`, or a `merged` with
    /// other tensors than these sources.
    pub fn wrap_from(&self, how: impl Into<Wrap>, merged: &Merged) -> Result<Dam> {
        let plan = merged.plan();
        let how = how.into();
        if how.scheme.name() != COLUMNS {
            let expected = "columns: a start at a static merge needs column coefficients";
            return Err(Error::bad_value("scheme", &how.scheme.name(), expected));
        }
        if how.options.f != Nonlinearity::None {
            let expected = "none: a start at a static merge sets the column scales directly";
            return Err(Error::bad_value("f", how.options.f.name(), expected));
        }
        plan.models.iter().try_for_each(Source::check_unchanged)?;
        let dam = self.wrap(how)?;
        let mut session = dam.session();
        let merge = &session.merge;
        let sources = &session.sources;
        let differs = || Error::Sources {
            what: format!(
                "the {} merge and the wrapped sources have different tensors",
                plan.method
            ),
            hint: "start from a merge of these sources with the same layers",
        };
        if plan.tensors.len() != merge.tensors.len() {
            return Err(differs());
        }
        let share = on_threads(self.settings.threads, || {
            let (mut residual, mut difference) = (0.0, 0.0);
            for tensor in &merge.tensors {
                interrupt::check()?;
                let planned = plan.tensor(&tensor.spec.name).map_err(|_| differs())?;
                if planned.operands.spec().shape != tensor.spec.shape {
                    return Err(differs());
                }
                let width = merge.site(&tensor.spec).columns();
                let found = nearest(&views(sources, &tensor.spec)?, width, &planned.values()?);
                let values =
                    Tensor::from_vec(found.coefficients, (sources.len(), 1, width), &Device::Cpu)?;
                merge.set_coefficients(tensor, &values)?;
                residual += found.residual;
                difference += found.difference;
            }
            Ok(if difference > 0.0 { (residual / difference).sqrt() } else { 0.0 })
        })?;
        let reached = 100.0 * (1.0 - share);
        session.start = Some(format!(
            "starts at the column merge nearest to {}: reaches {reached:.1}% of its difference from the average (relative residual {share:.2e})",
            plan.method
        ));
        drop(session);
        Ok(dam)
    }
}
