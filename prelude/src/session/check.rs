//! check_scheme: whether a scheme of one's own is right, before it is trained.

use super::{BASE, Models};
use crate::coefficients::{Checked, Scheme, check};
use crate::error::Result;

/// Checks `scheme` on every tensor of a merge of `models`: the shape of its coefficients, the start of its
/// parameters, and their gradients beside finite differences. The sources themselves are not read.
///
/// ```
/// use dam_prelude::{Parameter, Scheme, Site, Tensor, candle_core, check_scheme, load};
///
/// struct Cut;
///
/// impl Scheme for Cut {
///     fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
///         vec![site.parameter(site.name(), 1, 1)]
///     }
///     fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> candle_core::Result<Tensor> {
///         Ok(parameters[0].detach()) // no gradient gets past this
///     }
/// }
///
/// let error = check_scheme(&Cut, &load(["builtin:japanese", "builtin:math"])?).unwrap_err();
/// assert!(error.to_string().contains("no gradient reached"));
/// # Ok::<(), dam_prelude::Error>(())
/// ```
///
/// # Errors
/// The first thing that is wrong, with the tensor and the parameter, as [`check`] says; fewer than two
/// sources, or no base model where the scheme needs one.
pub fn check_scheme(scheme: &dyn Scheme, models: &Models) -> Result<Checked> {
    let sources = models.merged_by(scheme, scheme.options().with_base)?;
    let base = sources.iter().position(|s| s.name() == BASE);
    check(scheme, sources[0].architecture()?, sources.len(), base)
}
