//! Uncertainty weighting: learned log-variances.
//!
//! Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
//! Semantics", 2018 (arXiv:1705.07115), in the form `sum_t L_t / (2 exp(s_t)) + s_t / 2` with `s_t = log sigma_t^2`.
//! The weight is `w_t = exp(-s_t) / 2`; `s_t` follows its own gradient `(1 - L_t exp(-s_t)) / 2`.
//!
//! Departures: the log-variances have an optimizer of their own (Adam, without decay), so that their learning rate
//! does not depend on the network's. They learn from the **global** losses, so they are the same on every rank;
//! under data-parallel wrappers that keep them outside the wrapped module they drift apart.
//!
//! Remembers `s` and Adam's moments; saved in checkpoints. A task without a label in a step keeps its `s` and
//! moments in that step.

use super::{Moment, Weighting};
use crate::config;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// Learned log-variances and their optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Uncertainty {
    lr: f64,
    state: Vec<LogVariance>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct LogVariance {
    s: f64,
    first: f64,
    second: f64,
    steps: i32,
}

impl Uncertainty {
    /// Log-variances at their configured start.
    pub fn new(config: &config::Uncertainty, n_tasks: usize) -> Self {
        let start = LogVariance { s: config.init, first: 0.0, second: 0.0, steps: 0 };
        Uncertainty { lr: config.lr, state: vec![start; n_tasks] }
    }
}

impl LogVariance {
    fn learn(&mut self, loss: f64, lr: f64) {
        let gradient = 0.5 * (1.0 - loss * (-self.s).exp());
        self.steps = self.steps.saturating_add(1);
        self.first = BETA1 * self.first + (1.0 - BETA1) * gradient;
        self.second = BETA2 * self.second + (1.0 - BETA2) * gradient * gradient;
        let first = self.first / (1.0 - BETA1.powi(self.steps));
        let second = self.second / (1.0 - BETA2.powi(self.steps));
        self.s -= lr * first / (second.sqrt() + EPS);
    }
}

impl Weighting for Uncertainty {
    fn weights(&self, _: &Moment<'_>) -> Vec<f64> {
        self.state.iter().map(|v| 0.5 * (-v.s).exp()).collect()
    }

    fn observe(&mut self, at: &Moment<'_>) {
        for (variance, loss) in self.state.iter_mut().zip(at.losses) {
            if let Some(loss) = loss {
                variance.learn(*loss, self.lr);
            }
        }
    }

    fn save(&self) -> Value {
        serde_json::json!(self.state)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let loaded: Vec<LogVariance> = Deserialize::deserialize(state).map_err(|e| format!("uncertainty: {e}"))?;
        if loaded.len() != self.state.len() {
            return Err(format!("uncertainty: {} tasks in the checkpoint, {} here", loaded.len(), self.state.len()));
        }
        self.state = loaded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    fn uncertainty(lr: f64) -> Uncertainty {
        Uncertainty::new(&config::Uncertainty { lr, init: 0.0 }, 3)
    }

    #[test]
    fn settles_where_the_variance_is_the_loss() {
        let mut u = uncertainty(0.025);
        for _ in 0..4000 {
            u.observe(&at(&[Some(0.5), Some(2.0), None]));
        }
        // The optimum of L / (2 e^s) + s / 2 is e^s = L, so w = 1 / (2 L).
        let w = u.weights(&at(&[None; 3]));
        assert!((w[0] - 1.0).abs() < 1e-3 && (w[1] - 0.25).abs() < 1e-3, "{w:?}");
        assert_eq!(w[2], 0.5, "a task without labels keeps its weight");
    }

    #[test]
    fn first_step_is_that_of_pytorch() {
        // torch 2.11, f64: s = zeros(3, requires_grad); Adam([s], lr=0.1);
        // (L / (2 * s.exp()) + s / 2).sum().backward(); step(), twice, L = [0.5, 2, 1e-3]
        let mut u = uncertainty(0.1);
        let losses = [Some(0.5), Some(2.0), Some(1e-3)];
        u.observe(&at(&losses));
        u.observe(&at(&losses));
        let s: Vec<f64> = u.state.iter().map(|v| v.s).collect();
        let expected = [-0.199_557_388_752, 0.198_906_147_581, -0.199_999_721_434];
        assert!(s.iter().zip(expected).all(|(s, e)| (s - e).abs() < 1e-11), "{s:?}");
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        let mut u = uncertainty(0.1);
        u.observe(&at(&[Some(0.3), Some(1e-9), Some(1e9)]));
        let text = serde_json::to_string(&u.save()).unwrap();
        let mut restored = uncertainty(0.1);
        restored.load(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(restored, u);
        assert!(Uncertainty::new(&config::Uncertainty::default(), 2).load(&u.save()).is_err());
    }
}
