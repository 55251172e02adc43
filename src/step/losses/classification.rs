//! Cross-entropies.

use super::TaskLoss;
use crate::data::Target;
use crate::ffi::send;
use tch::{Kind, Reduction, Tensor};

/// Index that marks a missing class.
const MISSING: i64 = -100;

/// Binary cross-entropy on logits, for one label or several. Equal to PyTorch's `BCEWithLogitsLoss` with `pos_weight`,
/// summed over the labels that are there.
#[derive(Debug)]
pub struct Binary {
    pos_weight: Option<Tensor>,
    smoothing: f64,
}

impl Binary {
    /// `pos_weight`: factor of positive labels, one per output, or none.
    pub fn new(pos_weight: &[f64], smoothing: f64) -> Self {
        Binary { pos_weight: (!pos_weight.is_empty()).then(|| Tensor::from_slice(pos_weight)), smoothing }
    }
}

impl TaskLoss for Binary {
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor {
        let like = |t: &Tensor| send(t, output.device()).to_kind(output.kind());
        let labels = like(&target.values).view_as(output);
        let labels = if self.smoothing > 0.0 { labels * (1.0 - self.smoothing) + 0.5 * self.smoothing } else { labels };
        output.binary_cross_entropy_with_logits(
            &labels,
            target.mask.as_ref().map(|mask| like(mask).view_as(output)),
            self.pos_weight.as_ref().map(like),
            Reduction::Sum,
        )
    }

    fn predict(&self, output: &Tensor) -> Tensor {
        output.sigmoid()
    }
}

/// Cross-entropy on logits. Equal to PyTorch's `CrossEntropyLoss` with class weights and label smoothing: the count
/// is the sum of the weights of the samples' classes.
#[derive(Debug)]
pub struct Multiclass {
    class_weights: Option<Tensor>,
    smoothing: f64,
}

impl Multiclass {
    /// `class_weights`: one per class, or none.
    pub fn new(class_weights: &[f64], smoothing: f64) -> Self {
        Multiclass { class_weights: (!class_weights.is_empty()).then(|| Tensor::from_slice(class_weights)), smoothing }
    }
}

impl TaskLoss for Multiclass {
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor {
        let weights = self.class_weights.as_ref().map(|w| send(w, output.device()).to_kind(output.kind()));
        let classes = send(&target.values, output.device());
        output.cross_entropy_loss(&classes, weights, Reduction::Sum, MISSING, self.smoothing)
    }

    fn count(&self, target: &Target) -> f64 {
        let there = target.values.not_equal(MISSING);
        match &self.class_weights {
            None => there.sum(Kind::Int64).int64_value(&[]) as f64,
            Some(weights) => {
                weights.index_select(0, &target.values.masked_select(&there)).sum(Kind::Double).double_value(&[])
            }
        }
    }

    fn predict(&self, output: &Tensor) -> Tensor {
        output.softmax(-1, None)
    }
}
