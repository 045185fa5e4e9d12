//! The data terms of one source: compares the merge's logits with the source's on the source's
//! data.
//!
//! ```text
//! KL      = T^2 / (B n) * sum of KL(softmax(z_i / T) || softmax(z / T))     reduction=reference
//! KL      = T^2 / n     * the same                                        reduction=token_mean
//! MSE     = 1 / n       * sum over tokens of the mean over the vocabulary of (z - z_i)^2
//! entropy = T^2 / n     * sum over tokens of H(softmax(z / T))
//! ```
//!
//! where B is the batch size and n the number of unmasked tokens. Masked positions, whose logits
//! the published code multiplies by zero on both sides, contribute nothing and are not computed.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops;

/// How the KL term is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Over tokens, and divided by the batch size again, as in the published code.
    #[default]
    Reference,
    /// Over tokens.
    TokenMean,
}

/// A teacher's logits on a batch.
pub enum TeacherLogits {
    /// All logits: tokens x vocabulary.
    Whole(Tensor),
    /// The largest logits of each token: `values` and `indices` (u32) are tokens x k.
    TopK {
        /// The logits.
        values: Tensor,
        /// Their indices in the vocabulary.
        indices: Tensor,
    },
}

/// Compares `student` (rows x vocabulary) with a teacher on some tokens of a batch. The terms of
/// all parts sum to those of the batch.
pub struct Distillation<'a> {
    /// The merge's logits.
    pub student: &'a Tensor,
    /// The source's logits on the same tokens.
    pub teacher: &'a TeacherLogits,
    /// `T`.
    pub temperature: f64,
    /// `B`, the number of sequences in the batch.
    pub size: usize,
    /// `n`, the number of tokens in the batch.
    pub tokens: usize,
}

impl Distillation<'_> {
    /// Computes `KL`, a scalar. With top-k logits, both sides are normalised over these entries
    /// only.
    ///
    /// # Errors
    /// The shapes of the logits do not match.
    pub fn kl(&self, reduction: Reduction) -> Result<Tensor> {
        let (student, teacher) = self.compared()?;
        let batch = if reduction == Reduction::Reference { self.size as f64 } else { 1.0 };
        ops::kl_divergence(&student, teacher, self.temperature)?
            * (self.temperature.powi(2) / (batch * self.tokens as f64))
    }

    /// Computes `MSE`, a scalar.
    ///
    /// # Errors
    /// The shapes of the logits do not match.
    pub fn mse(&self) -> Result<Tensor> {
        let (student, teacher) = self.compared()?;
        ops::squared_error(&student, teacher)? / self.tokens as f64
    }

    /// Computes the `entropy` of the merge over the whole vocabulary, a scalar.
    ///
    /// # Errors
    /// The logits are not tokens x vocabulary.
    pub fn entropy(&self) -> Result<Tensor> {
        ops::entropy(self.student, self.temperature)?
            * (self.temperature.powi(2) / self.tokens as f64)
    }

    /// Returns both sides restricted to the compared entries.
    fn compared(&self) -> Result<(Tensor, &Tensor)> {
        match self.teacher {
            TeacherLogits::Whole(logits) => Ok((self.student.clone(), logits)),
            TeacherLogits::TopK { values, indices } => {
                Ok((self.student.gather(indices, 1)?, values))
            }
        }
    }
}
