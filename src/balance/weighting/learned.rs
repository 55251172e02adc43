//! A number that a weighting learns from the global losses by Adam.
//!
//! Each has moments of its own, so a task without a label in a step keeps all of its state.

use serde::{Deserialize, Serialize};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// Largest absolute value: its exponential, and that times any loss, stays finite.
const LARGEST: f64 = 100.0;
/// Largest absolute gradient: its square stays finite.
const STEEPEST: f64 = 1e150;

/// The number with Adam's moments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Learned {
    #[serde(rename = "s")]
    pub value: f64,
    first: f64,
    second: f64,
    steps: i32,
}

impl Learned {
    /// A number that has learned nothing yet.
    pub fn new(start: f64) -> Self {
        Learned { value: start, first: 0.0, second: 0.0, steps: 0 }
    }

    /// One step down the gradient, as PyTorch's Adam takes it; none down one that is not a number.
    pub fn learn(&mut self, gradient: f64, lr: f64) {
        if gradient.is_nan() {
            return;
        }
        let gradient = gradient.clamp(-STEEPEST, STEEPEST);
        self.steps = self.steps.saturating_add(1);
        self.first = BETA1 * self.first + (1.0 - BETA1) * gradient;
        self.second = BETA2 * self.second + (1.0 - BETA2) * gradient * gradient;
        let first = self.first / (1.0 - BETA1.powi(self.steps));
        let second = self.second / (1.0 - BETA2.powi(self.steps));
        self.value = (self.value - lr * first / (second.sqrt() + EPS)).clamp(-LARGEST, LARGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_finite_under_any_gradient() {
        let mut x = Learned::new(0.5);
        x.learn(f64::NAN, 1.0);
        assert_eq!(x, Learned::new(0.5));
        for gradient in [0.0, f64::MAX, -f64::MAX, f64::INFINITY, 5e-324] {
            let mut x = Learned::new(0.0);
            (0..1000).for_each(|_| x.learn(gradient, 1.0));
            assert!(x.value.abs() <= LARGEST, "{gradient}: {x:?}");
            // Adam's step is the learning rate for any constant gradient well above its epsilon.
            assert!(gradient.abs() < 1.0 || x.value.abs() == LARGEST, "{gradient}: {x:?}");
        }
    }
}
