//! Task weights from the global losses, a file per method.

mod fixed;
mod uncertainty;

pub use fixed::Fixed;
pub use uncertainty::Uncertainty;

use crate::config;
use serde_json::Value;

/// A method that weighs tasks by their losses.
pub trait Weighting {
    /// Weights `[T]` for this step. A loss is `None` where the step holds no label of the task on any rank.
    ///
    /// Unless [`Self::needs_losses`] says so, only whether a loss is there is looked at, not its value.
    fn weights(&self, losses: &[Option<f64>]) -> Vec<f64>;

    /// Whether [`Self::weights`] depends on the losses of the same step. With gradient accumulation this costs one
    /// more forward pass.
    fn needs_losses(&self) -> bool {
        false
    }

    /// Learns from the losses of a step that was taken. Called once per step, after [`Self::weights`].
    fn observe(&mut self, _losses: &[Option<f64>]) {}

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
        config::Weighting::Uncertainty(c) => Box::new(Uncertainty::new(c, tasks.len())),
    }
}
