//! MoDo: weights that follow the minimal norm of the combined gradient, by double sampling.
//!
//! Chen et al., "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and Conflict-Avoidance", 2023
//! (arXiv:2305.20057): one projected gradient step on `|Jᵀ w|^2 / 2` per update, estimated without bias from two
//! independent batches, `w <- simplex(w - gamma (J_1 J_2ᵀ w + rho w))`; the shared parameters move along `J_3ᵀ w`.
//! The term in `rho` pulls towards equal weights.
//!
//! Departures: none. The rule depends on the scale of the gradients: `gamma` is in units of 1 / (their squared norm). With
//! gradients that are far shorter than 1, weights stay nearly equal; with far longer ones they jump between tasks.
//!
//! Remembers `w`, by task; saved in checkpoints. A task that a step lacks keeps its weight.

use super::shares::Shares;
use super::{CrossSurgery, CrossView};
use crate::balance::gram::dot;
use crate::balance::solver::simplex::project;
use crate::config;
use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// The weights.
#[derive(Debug, Clone, PartialEq)]
pub struct MoDo {
    gamma: f64,
    rho: f64,
    shares: Shares,
}

impl MoDo {
    /// Equal weights.
    pub fn new(config: &config::Modo, n_tasks: usize) -> Self {
        MoDo { gamma: config.gamma, rho: config.rho, shares: Shares::new(n_tasks) }
    }
}

impl CrossSurgery for MoDo {
    fn coefficients(&mut self, at: &CrossView<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let before = self.shares.of(at.tasks);
        let slope = |(row, w): (&[f64], &f64)| dot(row, &before) + self.rho * w;
        let mut w: Vec<f64> = at.cross.chunks(before.len()).zip(&before).map(slope).collect();
        w.iter_mut().zip(&before).for_each(|(x, w)| *x = w - self.gamma * *x);
        project(&mut w);
        self.shares.set(at.tasks, &w);
        w
    }

    fn save(&self) -> Value {
        self.shares.save()
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.shares.load(state, "modo")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{brute_force, jacobians, run, run_on, steps_with};
    use super::*;

    fn modo(gamma: f64, rho: f64, n_tasks: usize) -> MoDo {
        MoDo::new(&config::Modo { gamma, rho }, n_tasks)
    }

    fn near(a: &[f64], b: &[f64], tolerance: f64) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    #[test]
    fn one_step_by_hand() {
        // J_1 J_2^T = [[3, 1], [-1, 2]], w = (0.5, 0.5): slopes (2 + 0.05, 0.5 + 0.05); w - 0.1 slopes = (0.295,
        // 0.445), and 0.13 more for each sums to 1.
        let mut method = modo(0.1, 0.1, 2);
        let w = run_on(&mut method, &[3.0, 1.0, -1.0, 2.0], &[0, 1]);
        assert!(near(&w, &[0.425, 0.575], 1e-15), "{w:?}");
        // With the weights just found: slopes (1.85 + 0.0425, 0.725 + 0.0575).
        let w = run_on(&mut method, &[3.0, 1.0, -1.0, 2.0], &[0, 1]);
        let half = 0.5 * (0.425 - 0.18925 - (0.575 - 0.07825) + 1.0);
        assert!(near(&w, &[half, 1.0 - half], 1e-15), "{w:?}");
    }

    #[test]
    fn equal_batches_lead_to_the_minimal_norm() {
        for j in jacobians() {
            let mut method = modo(0.05, 0.0, j.len());
            let w = (0..3000).map(|_| run(&mut method, &j, &j)).last().unwrap();
            assert!(near(&w, &brute_force(&j, 0.0), 2.0 / 400.0), "{w:?} {:?}", brute_force(&j, 0.0));
        }
    }

    #[test]
    fn noise_averages_out() {
        // Batches whose gradients differ: J_1 J_2^T has the right mean, and small steps average over it. The Gram matrix
        // of one noisy batch would add the variance, here 4 to the first task, to the diagonal.
        let j = &jacobians()[0];
        let mut method = modo(0.002, 0.0, 2);
        let mut sum = [0.0; 2];
        for k in 0..20_000 {
            let noisy = |sign: f64| vec![vec![j[0][0], j[0][1] + 2.0 * sign], j[1].clone()];
            // Every pair of signs once in four steps.
            let signs = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)][k % 4];
            let w = run(&mut method, &noisy(signs.0), &noisy(signs.1));
            if k >= 10_000 {
                (0..2).for_each(|t| sum[t] += w[t] / 10_000.0);
            }
        }
        assert!(near(&sum, &brute_force(j, 0.0), 0.01), "{sum:?} {:?}", brute_force(j, 0.0));
    }

    #[test]
    fn special_products() {
        assert_eq!(run_on(&mut modo(0.1, 0.1, 1), &[5.0], &[0]), [1.0]);
        assert_eq!(run_on(&mut modo(0.1, 0.1, 2), &[0.0; 4], &[0, 1]), [0.5, 0.5]);
        assert_eq!(run_on(&mut modo(0.1, 0.1, 2), &[1e30, 0.0, 0.0, 1.0], &[0, 1]), [0.0, 1.0]);
        assert_eq!(run_on(&mut modo(0.1, 0.1, 2), &[1.0, -1.0, -1.0, 1.0], &[0, 1]), [0.5, 0.5]);
        let tiny = run_on(&mut modo(0.1, 0.1, 3), &[1e-30; 9], &[0, 1, 2]);
        assert!(near(&tiny, &[1.0 / 3.0; 3], 1e-15), "{tiny:?}");
        // Only tasks 0 and 2 of three: they share what they had.
        let mut method = modo(0.1, 0.0, 3);
        let w = run_on(&mut method, &[3.0, 0.0, 0.0, 1.0], &[0, 2]);
        assert!(near(&w, &[0.45, 0.55], 1e-15));
        let all = method.shares.of(&[0, 1, 2]);
        assert!(near(&all, &[0.3, 1.0 / 3.0, 0.55 * 2.0 / 3.0], 1e-15), "{all:?}");
    }

    #[test]
    fn a_bad_product_leaves_the_state_alone() {
        let mut method = modo(0.1, 0.1, 3);
        let w = run_on(&mut method, &[f64::NAN; 9], &[0, 1, 2]);
        assert!(w.iter().any(|w| !w.is_finite()) && method == modo(0.1, 0.1, 3), "{w:?}");
        let w = run_on(&mut modo(0.1, 0.1, 2), &[f64::NAN; 4], &[0, 1]);
        assert!(w.iter().any(|w| !w.is_finite()), "{w:?}");
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        steps_with(&|| Box::new(modo(0.1, 0.1, 3)));
        let message = modo(0.1, 0.1, 2).load(&modo(0.1, 0.1, 3).save()).unwrap_err();
        assert!(message.contains("modo: 3 tasks in the checkpoint, 2 here"), "{message}");
    }
}
