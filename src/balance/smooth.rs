//! Coefficients that follow those of a method slowly.
//!
//! Zhou et al., "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond", 2022 (CR-MOGM):
//! `lambda_k = alpha * lambda_{k-1} + (1 - alpha) * lambda_hat_k` over the coefficients `lambda_hat` of any method,
//! weighting or surgery.
//!
//! Departures: none; a task's first coefficient is taken as it is, and a task that a step lacks keeps its last one.
//!
//! Remembers the last coefficients; saved in checkpoints.

use serde::Deserialize;
use serde_json::Value;

/// The last coefficients by task; `None` before the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Smooth {
    alpha: f64,
    last: Vec<Option<f64>>,
}

impl Smooth {
    /// Keeps the share `alpha` of the last coefficients; 0 smooths nothing.
    pub fn new(alpha: f64, n_tasks: usize) -> Self {
        Smooth { alpha, last: vec![None; n_tasks] }
    }

    /// Smooths the coefficients of these tasks in place.
    pub fn apply(&mut self, tasks: &[usize], coef: &mut [f64]) {
        if self.alpha == 0.0 {
            return;
        }
        for (&t, c) in tasks.iter().zip(coef) {
            if let Some(last) = self.last[t] {
                *c = self.alpha * last + (1.0 - self.alpha) * *c;
            }
            self.last[t] = Some(*c);
        }
    }

    /// State for a checkpoint.
    pub fn save(&self) -> Value {
        serde_json::json!(self.last)
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// Another number of tasks.
    pub fn load(&mut self, state: &Value) -> Result<(), String> {
        let last: Vec<Option<f64>> = Deserialize::deserialize(state).map_err(|e| format!("smoothing: {e}"))?;
        if last.len() != self.last.len() {
            return Err(format!("smoothing: {} tasks in the checkpoint, {} here", last.len(), self.last.len()));
        }
        self.last = last;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_paper_and_skips_absent_tasks() {
        let mut smooth = Smooth::new(0.75, 3);
        let mut c = [1.0, 4.0];
        smooth.apply(&[0, 2], &mut c);
        assert_eq!(c, [1.0, 4.0]);
        let mut c = [5.0, 8.0];
        smooth.apply(&[0, 1], &mut c);
        assert_eq!(c, [2.0, 8.0]);
        let mut restored = Smooth::new(0.75, 3);
        restored.load(&smooth.save()).unwrap();
        assert_eq!(restored, smooth);
        assert!(Smooth::new(0.5, 2).load(&smooth.save()).is_err());
    }

    #[test]
    fn zero_changes_nothing_and_remembers_nothing() {
        let mut smooth = Smooth::new(0.0, 1);
        let mut c = [3.0];
        smooth.apply(&[0], &mut c);
        smooth.apply(&[0], &mut c);
        assert_eq!((c, smooth.last[0]), ([3.0], None));
    }
}
