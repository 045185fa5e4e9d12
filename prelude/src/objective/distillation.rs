//! The data terms of one source: how far the merge's logits are from the source's own on its data.
//!
//! ```text
//! KL      = T^2 / (B n) * sum of KL(softmax(z_i / T) || softmax(z / T))     reduction=reference
//! KL      = T^2 / n     * the same                                        reduction=token_mean
//! MSE     = 1 / n       * sum over tokens of the mean over the vocabulary of (z - z_i)^2
//! entropy = T^2 / n     * sum over tokens of H(softmax(z / T))
//! ```
//!
//! with B the batch size and n its unmasked tokens. Masked positions, whose logits the published
//! code multiplies by zero on both sides, add nothing and are never computed.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::ops;

/// How the KL term is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// As the published code: by tokens and once more by the batch size.
    #[default]
    Reference,
    /// By tokens.
    TokenMean,
}

/// A source's own logits on a batch.
pub enum TeacherLogits {
    /// tokens x vocabulary.
    Whole(Tensor),
    /// Each token's largest: `values` and `indices` (u32) are tokens x k.
    TopK {
        /// The logits.
        values: Tensor,
        /// Where in the vocabulary they stand.
        indices: Tensor,
    },
}

/// Compares `student` (rows x vocabulary) with a teacher on some of the tokens of a batch; over the whole
/// batch, the terms of its parts add up.
pub struct Distillation<'a> {
    /// The merge's logits.
    pub student: &'a Tensor,
    /// The source's logits on the same tokens.
    pub teacher: &'a TeacherLogits,
    /// `T`.
    pub temperature: f64,
    /// `B`, the number of sequences of the batch.
    pub size: usize,
    /// `n`, the number of its tokens.
    pub tokens: usize,
}

impl Distillation<'_> {
    /// `KL`, a scalar. Over the teacher's top-k entries, both sides are normalised on those alone.
    ///
    /// # Errors
    /// Logits that do not fit each other.
    pub fn kl(&self, reduction: Reduction) -> Result<Tensor> {
        let (student, teacher) = self.compared()?;
        let batch = if reduction == Reduction::Reference { self.size as f64 } else { 1.0 };
        ops::kl_divergence(&student, teacher, self.temperature)? * (self.temperature.powi(2) / (batch * self.tokens as f64))
    }

    /// `MSE`, a scalar.
    ///
    /// # Errors
    /// Logits that do not fit each other.
    pub fn mse(&self) -> Result<Tensor> {
        let (student, teacher) = self.compared()?;
        ops::squared_error(&student, teacher)? / self.tokens as f64
    }

    /// `entropy` of the merge alone over the whole vocabulary, a scalar.
    ///
    /// # Errors
    /// Logits that are not tokens x vocabulary.
    pub fn entropy(&self) -> Result<Tensor> {
        ops::entropy(self.student, self.temperature)? * (self.temperature.powi(2) / self.tokens as f64)
    }

    /// Both sides on the entries that are compared.
    fn compared(&self) -> Result<(Tensor, &Tensor)> {
        match self.teacher {
            TeacherLogits::Whole(logits) => Ok((self.student.clone(), logits)),
            TeacherLogits::TopK { values, indices } => Ok((self.student.gather(indices, 1)?, values)),
        }
    }
}
