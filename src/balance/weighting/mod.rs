//! Task weights from the global losses, a file per method.

mod auto_lambda;
mod fixed;
mod uncertainty;

pub use auto_lambda::AutoLambda;
pub use fixed::Fixed;
pub use uncertainty::Uncertainty;

use crate::config;
use serde_json::Value;

/// A step as a weighting sees it: the same on every rank.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Global mean losses `[T]`; `None` where the step holds no label of the task on any rank.
    pub losses: &'a [Option<f64>],
    /// The step; counts from 0.
    pub step: u64,
    /// Steps per epoch, for methods that are defined by epochs.
    pub steps_per_epoch: u64,
    /// Seed of the run: draws are a pure function of (seed, step).
    pub seed: u64,
}

/// A method that weighs tasks by their losses.
pub trait Weighting {
    /// Weights `[T]` for this step, finite. What is returned for a task without a loss is not looked at.
    ///
    /// Unless [`Self::needs_losses`] says so, only whether a loss is there is looked at, not its value.
    fn weights(&self, at: &Moment<'_>) -> Vec<f64>;

    /// Whether [`Self::weights`] depends on the losses of the same step. With gradient accumulation this costs one
    /// more forward pass.
    fn needs_losses(&self) -> bool {
        false
    }

    /// Learns from the losses of a step that was taken. Called once per step, after [`Self::weights`].
    fn observe(&mut self, _at: &Moment<'_>) {}

    /// Whether [`Self::observe_after`] is to be called: the losses of the same batch under the updated parameters, which
    /// cost one more forward pass.
    fn needs_losses_after(&self) -> bool {
        false
    }

    /// Learns from the losses of the same batch before (`at`) and after the update. Called after [`Self::observe`].
    fn observe_after(&mut self, _at: &Moment<'_>, _after: &[Option<f64>]) {}

    /// The tasks (`[T]`) whose losses on a second batch, one step ahead, the weights are to lower; `None` for methods that
    /// do not look ahead. Such a method needs two independent batches per step.
    fn looks_ahead_for(&self) -> Option<&[bool]> {
        None
    }

    /// Learns from the gradient `[T]` of those losses with respect to the weights; `None` for tasks that the step lacks.
    /// Called before [`Self::weights`] of the step.
    fn learn_ahead(&mut self, _gradient: &[Option<f64>]) {}

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

/// The configured weighting for these tasks.
pub fn build(config: &config::Weighting, tasks: &[String]) -> Box<dyn Weighting> {
    match config {
        config::Weighting::Equal => Box::new(Fixed::equal(tasks.len())),
        config::Weighting::Fixed(by_name) => Box::new(Fixed::named(tasks, by_name)),
        config::Weighting::AutoLambda(c) => Box::new(AutoLambda::new(c, tasks)),
        config::Weighting::Uncertainty(c) => Box::new(Uncertainty::new(c, tasks.len())),
    }
}

/// A moment of a test: these losses at step 0.
#[cfg(test)]
pub(crate) fn at(losses: &[Option<f64>]) -> Moment<'_> {
    Moment { losses, step: 0, steps_per_epoch: 10, seed: 1 }
}
