//! Surgery on gradients of independent batches, a file per method.
//!
//! Stochastic multi-objective methods need `J_1 J_2ᵀ` of two independent batches, whose expectation is `J Jᵀ` of the
//! whole data; the Gram matrix of one batch has a bias. The rows of a step are divided into as many independent batches
//! as the method needs, **before** they are divided over ranks, so which sample is in which batch does not depend on `W`.

use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// Independent batches per step. The shared parameters move along the gradients of the last one.
pub const BATCHES: usize = 3;

/// The tasks of a step as such a method sees them: only those with labels in every batch, and a weight other than 0.
#[derive(Debug, Clone, Copy)]
pub struct CrossView<'a> {
    /// `J_1 J_2ᵀ` of the first two batches, `[n, n]` row-major; not symmetric.
    pub cross: &'a [f64],
    /// Which of all tasks these are `[n]`, ascending.
    pub tasks: &'a [usize],
    /// The step; counts from 0.
    pub step: u64,
}

/// A method that is a function of such products (and of small state).
pub trait CrossSurgery {
    /// Coefficients `[n]` of the weighted task gradients of the last batch.
    fn coefficients(&mut self, at: &CrossView<'_>, rng: &mut ChaCha8Rng) -> Vec<f64>;

    /// State for a checkpoint; `null` if there is none.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// What does not fit.
    fn load(&mut self, _state: &Value) -> Result<(), String> {
        Ok(())
    }
}

/// What the tests of the methods share.
#[cfg(test)]
#[allow(dead_code, reason = "a shelf for the methods' tests")]
pub(crate) mod testing {
    use super::*;
    use crate::balance::gram::dot;
    use crate::rng::{Stream, rng};

    /// Coefficients for the first two batches' Jacobians, at step 0.
    pub fn run(method: &mut dyn CrossSurgery, first: &[Vec<f64>], second: &[Vec<f64>]) -> Vec<f64> {
        let cross: Vec<f64> = first.iter().flat_map(|a| second.iter().map(|b| dot(a, b))).collect();
        let tasks: Vec<usize> = (0..first.len()).collect();
        let view = CrossView { cross: &cross, tasks: &tasks, step: 0 };
        method.coefficients(&view, &mut rng(1, Stream::Surgery, 0, 0))
    }
}
