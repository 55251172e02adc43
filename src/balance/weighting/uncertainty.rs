//! Uncertainty weighting: learned log-variances `s_t = log sigma_t^2`.
//!
//! - `kendall`: Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry
//!   and Semantics", 2018 (arXiv:1705.07115): `sum_t L_t / (2 exp(s_t)) + s_t / 2`. It is lowest at `exp(s_t) = L_t`,
//!   where the weight is `1 / (2 L_t)`.
//! - `revised`: Liebel and Körner, "Auxiliary Tasks in Multi-task Learning", 2018 (arXiv:1805.06334):
//!   `sum_t L_t / (2 exp(s_t)) + log(1 + exp(s_t))`. The second term is never negative, so neither is the objective.
//!
//! The weight is `w_t = exp(-s_t) / 2` in both; `s_t` follows its own gradient.
//!
//! The 2018 paper derives the form above for regression (a Gaussian likelihood) and `L_t / sigma_t^2 + log sigma_t` for
//! classification (a scaled softmax, approximately), without the factor 1/2. Its public implementations use the first
//! form for all tasks, and so does this one. Little hangs on it: the classification form is lowest at
//! `exp(s_t) = 2 L_t`, where its weight `exp(-s_t)` is `1 / (2 L_t)` too; the two differ by `log 2` in `s_t` and in
//! how they get there.
//!
//! Departures: the log-variances have an optimizer of their own (Adam, without decay), so that their learning rate
//! does not depend on the network's, and stay within ±100. They learn from the **global** losses, so they are the same
//! on every rank; under data-parallel wrappers that keep them outside the wrapped module they drift apart.
//!
//! Remembers `s` and Adam's moments; saved in checkpoints. A task without a label in a step keeps its `s` and
//! moments in that step.

use super::learned::Learned;
use super::{Moment, Weighting, load_tasks};
use crate::config::{self, UncertaintyForm};
use serde_json::Value;

/// Learned log-variances and their optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Uncertainty {
    lr: f64,
    form: UncertaintyForm,
    state: Vec<Learned>,
}

impl Uncertainty {
    /// Log-variances at their configured start.
    pub fn new(config: &config::Uncertainty, n_tasks: usize) -> Self {
        Uncertainty { lr: config.lr, form: config.form, state: vec![Learned::new(config.init); n_tasks] }
    }
}

impl Weighting for Uncertainty {
    fn weights(&self, _: &Moment<'_>) -> Vec<f64> {
        self.state.iter().map(|s| 0.5 * (-s.value).exp()).collect()
    }

    fn observe(&mut self, at: &Moment<'_>) {
        for (s, loss) in self.state.iter_mut().zip(at.losses) {
            if let Some(loss) = loss {
                s.learn(slope(self.form, s.value, *loss), self.lr);
            }
        }
    }

    fn save(&self) -> Value {
        serde_json::json!(self.state)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.state = load_tasks("uncertainty", state, self.state.len())?;
        Ok(())
    }
}

/// The slope of the objective in `s`.
fn slope(form: UncertaintyForm, s: f64, loss: f64) -> f64 {
    match form {
        UncertaintyForm::Kendall => 0.5 * (1.0 - loss * (-s).exp()),
        UncertaintyForm::Revised => 1.0 / (1.0 + (-s).exp()) - 0.5 * loss * (-s).exp(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{at, testing};
    use super::*;

    fn uncertainty(lr: f64, form: UncertaintyForm) -> Uncertainty {
        Uncertainty::new(&config::Uncertainty { lr, init: 0.0, form }, 3)
    }

    #[test]
    fn settles_where_the_variance_is_the_loss() {
        let mut u = uncertainty(0.025, UncertaintyForm::Kendall);
        for _ in 0..4000 {
            u.observe(&at(&[Some(0.5), Some(2.0), None]));
        }
        // The optimum of L / (2 e^s) + s / 2 is e^s = L, so w = 1 / (2 L).
        let w = u.weights(&at(&[None; 3]));
        assert!((w[0] - 1.0).abs() < 1e-3 && (w[1] - 0.25).abs() < 1e-3, "{w:?}");
        assert_eq!(w[2], 0.5, "a task without labels keeps its weight");
    }

    #[test]
    fn the_revised_form_settles_where_its_slope_is_zero() {
        let mut u = uncertainty(0.025, UncertaintyForm::Revised);
        for _ in 0..6000 {
            u.observe(&at(&[Some(0.5), Some(2.0), None]));
        }
        // v / (1 + v) = L / (2 v) at v = e^s, so v = (L + sqrt(L^2 + 8 L)) / 4.
        let variance = |l: f64| (l + (l * l + 8.0 * l).sqrt()) / 4.0;
        testing::close(&u.weights(&at(&[None; 3])), &[0.5 / variance(0.5), 0.5 / variance(2.0), 0.5], 1e-3);
    }

    #[test]
    fn follows_the_slopes_of_the_objectives() {
        let kendall = |s: &[f64]| 0.7 / (2.0 * s[0].exp()) + s[0] / 2.0;
        let revised = |s: &[f64]| 0.7 / (2.0 * s[0].exp()) + (1.0 + s[0].exp()).ln();
        for s in [-3.0, 0.1, 2.0] {
            testing::close(&[slope(UncertaintyForm::Kendall, s, 0.7)], &testing::slope(kendall, &[s]), 1e-8);
            testing::close(&[slope(UncertaintyForm::Revised, s, 0.7)], &testing::slope(revised, &[s]), 1e-8);
        }
    }

    #[test]
    fn first_step_is_that_of_pytorch() {
        // torch 2.11, f64: s = zeros(3, requires_grad); Adam([s], lr=0.1);
        // (L / (2 * s.exp()) + s / 2).sum().backward(); step(), twice, L = [0.5, 2, 1e-3]
        let mut u = uncertainty(0.1, UncertaintyForm::Kendall);
        let losses = [Some(0.5), Some(2.0), Some(1e-3)];
        u.observe(&at(&losses));
        u.observe(&at(&losses));
        let s: Vec<f64> = u.state.iter().map(|s| s.value).collect();
        let expected = [-0.199_557_388_752, 0.198_906_147_581, -0.199_999_721_434];
        assert!(s.iter().zip(expected).all(|(s, e)| (s - e).abs() < 1e-11), "{s:?}");
    }
}
