//! Impartial learning of loss scales (IMTL-L).
//!
//! Liu et al., "Towards Impartial Multi-task Learning", 2021 (ICLR), section 3.2: minimise `sum_t exp(s_t) L_t - s_t`
//! over the network and the scales `s_t`. The weight is `w_t = exp(s_t)`; `s_t` follows its gradient
//! `exp(s_t) L_t - 1` and settles where every weighted loss is 1.
//!
//! Departures: the scales have an optimizer of their own (Adam, as for uncertainty weighting), so that their learning
//! rate does not depend on the network's, and stay within ±100. They learn from the global losses.
//!
//! Remembers `s` and Adam's moments; saved in checkpoints. A task without a label in a step keeps both.

use super::learned::Learned;
use super::{Moment, Weighting, load_tasks};
use crate::config;
use serde_json::Value;

/// Learned scales and their optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct ImtlL {
    lr: f64,
    state: Vec<Learned>,
}

impl ImtlL {
    /// Scales at their configured start.
    pub fn new(config: &config::ImtlL, n_tasks: usize) -> Self {
        ImtlL { lr: config.lr, state: vec![Learned::new(config.init); n_tasks] }
    }
}

impl Weighting for ImtlL {
    fn weights(&self, _: &Moment<'_>) -> Vec<f64> {
        self.state.iter().map(|s| s.value.exp()).collect()
    }

    fn observe(&mut self, at: &Moment<'_>) {
        for (s, loss) in self.state.iter_mut().zip(at.losses) {
            if let Some(loss) = loss {
                s.learn(s.value.exp() * loss - 1.0, self.lr);
            }
        }
    }

    fn save(&self) -> Value {
        serde_json::json!(self.state)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.state = load_tasks("imtl_l", state, self.state.len())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    #[test]
    fn settles_where_all_weighted_losses_are_one() {
        let losses = [Some(0.02), Some(3.0), None];
        let mut method = ImtlL::new(&config::ImtlL::default(), 3);
        assert_eq!(method.weights(&at(&losses)), [1.0, 1.0, 1.0]);
        for _ in 0..6000 {
            method.observe(&at(&losses));
        }
        let w = method.weights(&at(&losses));
        assert!((w[0] * 0.02 - 1.0).abs() < 1e-2 && (w[1] * 3.0 - 1.0).abs() < 1e-2 && w[2] == 1.0, "{w:?}");
    }

    #[test]
    fn moves_against_the_slope() {
        // Adam's first step is the learning rate against the sign of e^s L - 1.
        let mut method = ImtlL::new(&config::ImtlL { lr: 0.5, init: 0.0 }, 2);
        method.observe(&at(&[Some(4.0), Some(0.1)]));
        let w = method.weights(&at(&[None; 2]));
        assert!((w[0] - (-0.5f64).exp()).abs() < 1e-7 && (w[1] - 0.5f64.exp()).abs() < 1e-7, "{w:?}");
    }
}
