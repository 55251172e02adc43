//! Gradient surgery, a file per method: what is done about conflicting task gradients.

mod pcgrad;

pub use pcgrad::PcGrad;

use super::Gram;
use crate::config;
use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// What a method needs to see, told apart by type.
pub enum Surgery {
    /// Nothing: the update is the gradient of the weighted loss, one backward.
    None,
    /// The inner products of the task gradients; the update is a combination of them.
    Gram(Box<dyn GramSurgery>),
}

/// A method that is a function of the Gram matrix (and of small state).
pub trait GramSurgery {
    /// Coefficients `[T]` of the task gradients whose Gram matrix this is.
    ///
    /// `rng` is that of the step, the same on every rank.
    fn coefficients(&mut self, gram: &Gram, rng: &mut ChaCha8Rng) -> Vec<f64>;

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

/// The configured surgery.
pub fn build(config: &config::Surgery) -> Surgery {
    match config {
        config::Surgery::None => Surgery::None,
        config::Surgery::Pcgrad => Surgery::Gram(Box::new(PcGrad)),
    }
}
