//! Losses, a file each: sums over local samples and the counts they will be divided by, never means.

mod classification;
mod regression;

pub use classification::{Binary, Multiclass};
pub use regression::Regression;

use crate::config;
use crate::data::Target;
use tch::{Kind, Tensor};

/// A task's loss on some samples.
pub trait TaskLoss {
    /// Sum of the loss over the labels that are there; a scalar with the graph alive.
    ///
    /// * `output`: `[n, outputs]` of the head.
    /// * `target`: labels of the same samples.
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor;

    /// What the sum over all ranks is divided by: usually the number of labels. Known without a forward pass.
    fn count(&self, target: &Target) -> f64 {
        match &target.mask {
            Some(mask) => mask.sum(Kind::Double).double_value(&[]),
            None => target.values.numel() as f64,
        }
    }

    /// Output as one predicts and judges with: probabilities, or values in standardised units. `[n, outputs]`.
    fn predict(&self, output: &Tensor) -> Tensor;
}

/// The configured loss of a task.
pub fn build(kind: &config::Kind) -> Box<dyn TaskLoss> {
    match kind {
        config::Kind::Binary(c) => Box::new(Binary::new(c.pos_weight.as_slice(), c.label_smoothing)),
        config::Kind::Multilabel(c) => Box::new(Binary::new(&c.pos_weight, c.label_smoothing)),
        config::Kind::Multiclass(c) => Box::new(Multiclass::new(&c.class_weights, c.label_smoothing)),
        config::Kind::Regression(c) => Box::new(Regression::new(c.loss, c.delta)),
    }
}

#[cfg(test)]
mod tests;
