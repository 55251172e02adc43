//! Weights on the simplex that are remembered by task.

use serde::Deserialize;
use serde_json::Value;

/// Weights `[T]`: not negative, and they sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shares(Vec<f64>);

impl Shares {
    /// Equal weights.
    pub fn new(n_tasks: usize) -> Self {
        Shares(vec![1.0 / n_tasks as f64; n_tasks])
    }

    /// Those of these tasks, scaled to sum to 1; equal ones if all are 0.
    pub fn of(&self, tasks: &[usize]) -> Vec<f64> {
        let sum = self.sum(tasks);
        let equal = 1.0 / tasks.len() as f64;
        tasks.iter().map(|&t| if sum > 0.0 { self.0[t] / sum } else { equal }).collect()
    }

    /// Takes over weights of these tasks that sum to 1. The other tasks keep theirs, so these share what they had.
    /// Weights that are not finite change nothing.
    pub fn set(&mut self, tasks: &[usize], weights: &[f64]) {
        if weights.iter().all(|w| w.is_finite()) {
            let sum = self.sum(tasks);
            tasks.iter().zip(weights).for_each(|(&t, w)| self.0[t] = sum * w);
        }
    }

    fn sum(&self, tasks: &[usize]) -> f64 {
        if tasks.len() == self.0.len() { 1.0 } else { tasks.iter().map(|&t| self.0[t]).sum() }
    }

    pub fn save(&self) -> Value {
        serde_json::json!(self.0)
    }

    /// Takes over the state of [`Self::save`]; `name` is that of the method.
    pub fn load(&mut self, state: &Value, name: &str) -> Result<(), String> {
        let loaded: Vec<f64> = Deserialize::deserialize(state).map_err(|e| format!("{name}: {e}"))?;
        if loaded.len() != self.0.len() {
            return Err(format!("{name}: {} tasks in the checkpoint, {} here", loaded.len(), self.0.len()));
        }
        self.0 = loaded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_are_not_there_keep_their_weights() {
        let mut shares = Shares::new(4);
        shares.set(&[0, 1, 2, 3], &[0.5, 0.25, 0.25, 0.0]);
        assert_eq!(shares.of(&[1, 2]), [0.5, 0.5]);
        shares.set(&[1, 2], &[0.25, 0.75]);
        assert_eq!(shares.0, [0.5, 0.125, 0.375, 0.0]);
        assert_eq!(shares.of(&[3]), [1.0], "of weights 0, equal ones");
        shares.set(&[3], &[1.0]);
        shares.set(&[0, 1, 2, 3], &[f64::NAN, 0.0, 0.0, 1.0]);
        assert_eq!(shares.0, [0.5, 0.125, 0.375, 0.0]);
        assert!(Shares::new(3).load(&shares.save(), "x").unwrap_err().contains("x: 4 tasks in the checkpoint, 3 here"));
        assert!(Shares::new(3).load(&Value::Null, "x").is_err());
    }
}
