//! What a sweep reports: how much of the average's disagreement with the sources is left.

use std::fmt;

use crate::checkpoint::TensorSpec;

/// The solution of one part of the model.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SolvedPart {
    /// The decoder layer; `None` for the embedding and the output.
    pub layer: Option<usize>,
    /// Its tensors, in the order of their solution.
    pub tensors: Vec<SolvedTensor>,
}

/// The solution of one tensor: what is left of its disagreement with the sources, in the mean
/// square per token and summed over sources.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct SolvedTensor {
    /// The name of the weight.
    pub name: String,
    /// The disagreement of the average.
    pub average: f64,
    /// That of the solution.
    pub solved: f64,
    /// That of the best weight without a scheme.
    pub unrestricted: Option<f64>,
}

impl SolvedPart {
    /// Returns the name of the part: `embedding`, `layer 3` or `output`.
    pub fn name(&self) -> String {
        let is_embedding = |t: &SolvedTensor| t.name == TensorSpec::EMBEDDING;
        match self.layer {
            Some(layer) => format!("layer {layer}"),
            None if self.tensors.first().is_some_and(is_embedding) => "embedding".into(),
            None => "output".into(),
        }
    }

    /// Returns the share of the average's disagreement that is left: the mean over tensors where
    /// the average disagrees with a source.
    pub fn share(&self) -> Option<f64> {
        self.mean(|t| Some(t.solved))
    }

    /// Returns the share that the best weights without a scheme would leave.
    pub fn unrestricted_share(&self) -> Option<f64> {
        self.mean(|t| t.unrestricted)
    }

    fn mean(&self, left: impl Fn(&SolvedTensor) -> Option<f64>) -> Option<f64> {
        let disagree = self.tensors.iter().filter(|t| t.average > 0.0);
        let shares: Vec<f64> = disagree.filter_map(|t| Some(left(t)? / t.average)).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    }
}

impl fmt::Display for SolvedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(share) = self.share() else {
            return write!(f, "{}: no disagreement", self.name());
        };
        write!(f, "{}: {:.1}% left", self.name(), 100.0 * share)?;
        match self.unrestricted_share() {
            Some(share) => write!(f, " (unrestricted {:.1}%)", 100.0 * share),
            None => Ok(()),
        }
    }
}
