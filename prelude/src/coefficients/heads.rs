//! One coefficient per source and attention head: for its rows of the query, key and value
//! projections, and for its columns of the output projection.
//!
//! ```text
//! q, k, v:  W[h d + o, :] = sum_i f(c[i, h]) W_i[h d + o, :]      d: the dimension of a head
//! o:        W[:, h d + j] = sum_i f(c[i, h]) W_i[:, h d + j]
//! ```
//!
//! Everything else is as in columns, so that the effect of head coefficients can be isolated.

use candle_core::{Result, Tensor};

use super::columns::by_column;
use super::{Parameter, Scheme, Site};

/// One coefficient per source and attention head; columns outside attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heads;

/// The dimension of a matrix that is divided into heads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum HeadAxis {
    Rows,
    Columns,
}

/// Returns the dimension that is divided into heads, if there is one.
fn head_axis(site: &Site<'_>) -> Option<HeadAxis> {
    if !site.is_projection() {
        return None;
    }
    let (_, name) = site.name().split_once("self_attn.")?;
    match name.strip_suffix(".weight")? {
        "q_proj" | "k_proj" | "v_proj" | "qkv_proj" => Some(HeadAxis::Rows),
        "o_proj" => Some(HeadAxis::Columns),
        _ => None,
    }
}

impl Scheme for Heads {
    fn name(&self) -> String {
        "heads".into()
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let dimension = site.architecture.head_dim;
        vec![match head_axis(site) {
            Some(HeadAxis::Rows) => site.parameter(site.name(), site.rows() / dimension, 1),
            Some(HeadAxis::Columns) => site.parameter(site.name(), 1, site.columns() / dimension),
            None => by_column(site),
        }]
    }

    fn coefficients(&self, site: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor> {
        let n = site.sources;
        let dimension = site.architecture.head_dim;
        let each = || parameters[0].reshape((n, (), 1))?.repeat((1, 1, dimension));
        match head_axis(site) {
            Some(HeadAxis::Rows) => each()?.reshape((n, site.rows(), 1)),
            Some(HeadAxis::Columns) => each()?.reshape((n, 1, site.columns())),
            None => Ok(parameters[0].clone()),
        }
    }
}
