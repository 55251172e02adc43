//! Squared, absolute and Huber losses on standardised targets.

use super::TaskLoss;
use crate::config::RegressionLoss;
use crate::data::Target;
use crate::ffi::send;
use tch::{Reduction, Tensor};

/// A regression loss, summed over the values that are there.
#[derive(Debug)]
pub struct Regression {
    loss: RegressionLoss,
    delta: f64,
}

impl Regression {
    /// `delta` is where `huber` turns linear.
    pub fn new(loss: RegressionLoss, delta: f64) -> Self {
        Regression { loss, delta }
    }
}

impl TaskLoss for Regression {
    fn sum(&self, output: &Tensor, target: &Target) -> Tensor {
        let like = |t: &Tensor| send(t, output.device()).to_kind(output.kind()).view_as(output);
        let values = like(&target.values);
        // A missing value is 0 in `values`: with the output masked too, its difference and gradient are exactly 0.
        let output = target.mask.as_ref().map_or_else(|| output.shallow_clone(), |mask| output * like(mask));
        match self.loss {
            RegressionLoss::Mse => output.mse_loss(&values, Reduction::Sum),
            RegressionLoss::L1 => output.l1_loss(&values, Reduction::Sum),
            RegressionLoss::Huber => output.huber_loss(&values, Reduction::Sum, self.delta),
        }
    }

    fn predict(&self, output: &Tensor) -> Tensor {
        output.shallow_clone()
    }
}
