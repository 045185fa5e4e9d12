//! Coefficients per row, and per row and column.
//!
//! ```text
//! rows:          W[o, :] = sum_i f(r[i, o]) W_i[o, :]
//! rows_columns:  W[o, j] = sum_i f(r[i, o] + k[i, j]) W_i[o, j]
//! ```
//!
//! The coefficient is the sum of two vectors rather than their product, so that both have gradients
//! of similar size at every start. Both schemes apply to the matrices of layers; the embedding, the
//! output layer, norms and biases are as in columns.

use candle_core::{Result, Tensor};

use super::columns::by_column;
use super::{Parameter, Scheme, Site};

/// One coefficient per source and output feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows;

impl Scheme for Rows {
    fn name(&self) -> String {
        "rows".into()
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        if !site.is_projection() {
            return vec![by_column(site)];
        }
        vec![site.parameter(site.name(), site.rows(), 1)]
    }
}

/// One coefficient per source and element: the sum of a row term, which starts at 0, and a column
/// term, which starts at the initial coefficient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsColumns;

impl Scheme for RowsColumns {
    fn name(&self) -> String {
        "rows_columns".into()
    }

    fn parameters(&self, site: &Site<'_>) -> Vec<Parameter> {
        let mut parameters = vec![by_column(site)];
        if site.is_projection() {
            parameters.push(Parameter::filled(
                format!("{} rows", site.name()),
                &[site.sources, site.rows(), 1],
                0.0,
            ));
        }
        parameters
    }

    fn coefficients(&self, _: &Site<'_>, parameters: &[Tensor]) -> Result<Tensor> {
        match parameters {
            [columns, rows] => rows.broadcast_add(columns),
            _ => Ok(parameters[0].clone()),
        }
    }
}
