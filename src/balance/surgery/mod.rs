//! Gradient surgery on the Gram matrix, a file per method: what is done about conflicting task gradients.

mod cagrad;
mod dualproj;
mod fairgrad;
mod mgda;
mod nash_mtl;
mod pcgrad;
mod upgrad;

pub use cagrad::Cagrad;
pub use dualproj::DualProj;
pub use fairgrad::FairGrad;
pub use mgda::Mgda;
pub use nash_mtl::NashMtl;
pub use pcgrad::{PcGrad, pcgrad};
pub use upgrad::UpGrad;

use super::{Gram, cross};
use crate::config;
use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// What a method needs to see, told apart by type.
pub enum Surgery {
    /// Nothing: the update is the gradient of the weighted loss, one backward.
    None,
    /// The inner products of the task gradients; the update is a combination of them. One instance per group of layers.
    Gram(Vec<Box<dyn GramSurgery>>),
    /// Inner products of gradients of independent batches.
    Cross(Box<dyn cross::CrossSurgery>),
    /// The gradients themselves: see [`super::shard`].
    Shard,
}

/// The tasks of a step as a Gram method sees them: only those with a label in this step and a weight other than 0.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Inner products of the weighted gradients, `[n, n]`.
    pub gram: &'a Gram,
    /// Weighted global mean losses `[n]`.
    pub losses: &'a [f64],
    /// Which of all tasks these are `[n]`, ascending: where a method keeps state by task.
    pub tasks: &'a [usize],
    /// The step; counts from 0.
    pub step: u64,
}

/// A method that is a function of the Gram matrix (and of small state).
pub trait GramSurgery {
    /// Coefficients `[n]` of the task gradients whose Gram matrix this is; `n >= 1`.
    ///
    /// `rng` is that of the step, the same on every rank.
    fn coefficients(&mut self, at: &View<'_>, rng: &mut ChaCha8Rng) -> Vec<f64>;

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

/// The configured surgery for `n_tasks` tasks and `n_groups` groups of layers.
pub fn build(config: &config::Surgery, n_tasks: usize, n_groups: usize) -> Surgery {
    let gram = |make: &dyn Fn() -> Box<dyn GramSurgery>| Surgery::Gram((0..n_groups).map(|_| make()).collect());
    match config {
        config::Surgery::None => Surgery::None,
        config::Surgery::Pcgrad => gram(&|| Box::new(PcGrad)),
        config::Surgery::Mgda(c) => gram(&|| Box::new(Mgda::new(c))),
        config::Surgery::Cagrad(c) => gram(&|| Box::new(Cagrad::new(c))),
        config::Surgery::NashMtl(c) => gram(&|| Box::new(NashMtl::new(c, n_tasks))),
        config::Surgery::Fairgrad(c) => gram(&|| Box::new(FairGrad::new(c))),
        config::Surgery::Upgrad(c) => gram(&|| Box::new(UpGrad::new(c))),
        config::Surgery::Dualproj(c) => gram(&|| Box::new(DualProj::new(c))),
    }
}

/// What the tests of the methods share.
#[cfg(test)]
#[allow(dead_code, reason = "a shelf for the methods' tests")]
pub(crate) mod testing {
    use super::*;
    use crate::balance::gram::dot;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;

    /// The Gram matrix of the rows of `j`.
    pub fn gram_of(j: &[Vec<f64>]) -> Gram {
        Gram::new(j.iter().flat_map(|a| j.iter().map(|b| dot(a, b))).collect()).unwrap()
    }

    /// `sum_t c[t] * j[t]`.
    pub fn combine(j: &[Vec<f64>], c: &[f64]) -> Vec<f64> {
        (0..j[0].len()).map(|k| j.iter().zip(c).map(|(g, c)| c * g[k]).sum()).collect()
    }

    /// Coefficients at step 0, all losses 1.
    pub fn run(method: &mut dyn GramSurgery, j: &[Vec<f64>]) -> Vec<f64> {
        run_with(method, j, &vec![1.0; j.len()])
    }

    /// Coefficients at step 0.
    pub fn run_with(method: &mut dyn GramSurgery, j: &[Vec<f64>], losses: &[f64]) -> Vec<f64> {
        let tasks: Vec<usize> = (0..j.len()).collect();
        let view = View { gram: &gram_of(j), losses, tasks: &tasks, step: 0 };
        method.coefficients(&view, &mut rng(1, Stream::Surgery, 0, 0))
    }

    /// Largest difference relative to the largest entry of `want`.
    pub fn relative(got: &[f64], want: &[f64]) -> f64 {
        let scale = want.iter().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
        got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
    }

    /// Matrices of 1 to 5 tasks and 1 to 6 parameters.
    pub fn jacobian() -> impl Strategy<Value = Vec<Vec<f64>>> {
        (1usize..6, 1usize..7).prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t))
    }
}
