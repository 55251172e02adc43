//! Auto-Lambda: weights that a second batch learns, one step ahead.
//!
//! Liu et al., "Auto-Lambda: Disentangling Dynamic Task Relationships", 2022 (arXiv:2202.03091). With `theta'` the
//! parameters after one step of plain gradient descent on `sum_t lambda_t L_t`, the weights follow the gradient of the
//! primary tasks' losses at `theta'` on other data:
//! `d/d lambda_t = -xi (L_t(theta + eps v) - L_t(theta - eps v)) / (2 eps)`, with `v` the gradient of those losses at
//! `theta'` and `eps = 0.01 / |v|` (equation 6 and its finite difference).
//!
//! Departures: the second batch is half of the step's rows, divided off before the ranks are, and the update of the
//! parameters uses all rows; the step ahead is plain gradient descent with the learning rate of the run, whatever the
//! optimizer; weights stay at 0 or above. A step costs two more backwards and two more forwards on half the rows,
//! whatever the number of tasks.
//!
//! Remembers the weights and Adam's moments; saved in checkpoints. A task that a step lacks keeps its own.

use super::{Moment, Weighting};
use crate::config;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;

/// Learned weights and their optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoLambda {
    lr: f64,
    primary: Vec<bool>,
    state: Vec<Learned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Learned {
    weight: f64,
    first: f64,
    second: f64,
    steps: i32,
}

impl AutoLambda {
    /// All weights at their configured start.
    pub fn new(config: &config::AutoLambda, tasks: &[String]) -> Self {
        let start = Learned { weight: config.init, first: 0.0, second: 0.0, steps: 0 };
        let primary = |task: &String| config.primary.is_empty() || config.primary.contains(task);
        AutoLambda { lr: config.lr, primary: tasks.iter().map(primary).collect(), state: vec![start; tasks.len()] }
    }
}

impl Weighting for AutoLambda {
    fn weights(&self, _: &Moment<'_>) -> Vec<f64> {
        self.state.iter().map(|v| v.weight).collect()
    }

    fn looks_ahead_for(&self) -> Option<&[bool]> {
        Some(&self.primary)
    }

    fn learn_ahead(&mut self, gradient: &[Option<f64>]) {
        for (v, gradient) in self.state.iter_mut().zip(gradient) {
            let Some(gradient) = gradient.filter(|g| g.is_finite()) else { continue };
            v.steps = v.steps.saturating_add(1);
            v.first = BETA1 * v.first + (1.0 - BETA1) * gradient;
            v.second = BETA2 * v.second + (1.0 - BETA2) * gradient * gradient;
            let first = v.first / (1.0 - BETA1.powi(v.steps));
            let second = v.second / (1.0 - BETA2.powi(v.steps));
            // Without an epsilon: these gradients carry the learning rate as a factor and may be as small as 1e-9.
            let step = if second > 0.0 { self.lr * first / second.sqrt() } else { 0.0 };
            v.weight = (v.weight - step).max(0.0);
        }
    }

    fn save(&self) -> Value {
        serde_json::json!(self.state)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let loaded: Vec<Learned> = Deserialize::deserialize(state).map_err(|e| format!("auto_lambda: {e}"))?;
        if loaded.len() != self.state.len() {
            return Err(format!("auto_lambda: {} tasks in the checkpoint, {} here", loaded.len(), self.state.len()));
        }
        self.state = loaded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    fn tasks() -> Vec<String> {
        ["a", "b", "c"].map(String::from).to_vec()
    }

    fn auto(primary: &[&str]) -> AutoLambda {
        let config =
            config::AutoLambda { lr: 0.01, init: 0.5, primary: primary.iter().map(|s| s.to_string()).collect() };
        AutoLambda::new(&config, &tasks())
    }

    #[test]
    fn weights_grow_for_tasks_that_help_and_never_fall_below_zero() {
        let mut method = auto(&[]);
        for _ in 0..200 {
            method.learn_ahead(&[Some(-0.3), Some(2.0), None]);
        }
        let w = method.weights(&at(&[None; 3]));
        assert!(w[0] > 1.0 && w[1] == 0.0 && w[2] == 0.5, "{w:?}");
    }

    #[test]
    fn the_first_step_is_one_learning_rate_against_the_sign() {
        let mut method = auto(&[]);
        method.learn_ahead(&[Some(1e-9), Some(-1e9), Some(0.0)]);
        let w = method.weights(&at(&[None; 3]));
        assert!((w[0] - 0.49).abs() < 1e-9 && (w[1] - 0.51).abs() < 1e-9 && w[2] == 0.5, "{w:?}");
    }

    #[test]
    fn primary_tasks_are_all_or_those_named() {
        assert_eq!(auto(&[]).looks_ahead_for(), Some(&[true; 3][..]));
        assert_eq!(auto(&["b"]).looks_ahead_for(), Some(&[false, true, false][..]));
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        let mut method = auto(&[]);
        method.learn_ahead(&[Some(0.3), Some(-1e-12), None]);
        let text = serde_json::to_string(&method.save()).unwrap();
        let mut restored = auto(&[]);
        restored.load(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(restored, method);
        let two = AutoLambda::new(&config::AutoLambda::default(), &tasks()[..2]).load(&method.save());
        assert_eq!(two.unwrap_err(), "auto_lambda: 3 tasks in the checkpoint, 2 here");
    }
}
