//! The training history: the loss of every step, term by term.

use serde::{Deserialize, Serialize};

/// The loss before every step, with step numbers from 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The sum of all terms.
    pub total: Vec<(usize, f64)>,
    /// Every term with its weight applied, by name, in order of first use; only the steps in which
    /// it was active.
    pub terms: Vec<(String, Vec<(usize, f64)>)>,
}

impl History {
    /// Records step `step`.
    pub fn push(&mut self, step: usize, total: f64, terms: &[(String, f64)]) {
        self.total.push((step, total));
        for (name, value) in terms {
            match self.terms.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push((step, *value)),
                None => self.terms.push((name.clone(), vec![(step, *value)])),
            }
        }
    }
}
