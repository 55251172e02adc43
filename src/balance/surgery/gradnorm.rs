//! GradNorm: weights learned so that the weighted gradients have balanced norms.
//!
//! Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", 2018
//! (arXiv:1711.02257), Algorithm 1. With `d_t = |g_t|`, tasks that train slower than others are given longer gradients:
//! target `mean_s(w_s d_s) r_t^alpha` with the relative rate `r_t = (L_t / L_t(0)) / mean`. The weights minimise
//! `sum_t |w_t d_t - target_t|` with the targets held fixed, so `dw_t = sign(w_t d_t - target_t) d_t`; then they are scaled
//! to sum to `T`. An update uses the weights from before it was seen; they start at 1.
//!
//! The norms are all it needs, so no second derivative is taken.
//!
//! Departures:
//! - Norms are those of all shared parameters, not of the last shared layer alone.
//! - `dw` is divided by the mean of the norms, so `lr` does not depend on the scale of the losses.
//! - A weight is at least 0.001 before it is scaled: zero or negative weights would give up on a task.
//! - A task that a step lacks keeps its weight, and the others keep their sum. Where `L_t(0)` is not positive or
//!   `L_t` is negative, there is no rate: such tasks count as average.
//!
//! Losses are those that `balance.weighting` has weighted. Remembers the weights and the first losses; saved in checkpoints.

use super::{GramSurgery, View};
use crate::config;
use crate::rng::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const LEAST: f64 = 1e-3;
/// Rates beyond this are as good as infinite, but can be averaged.
const MOST: f64 = 1e100;

/// Learned weights.
#[derive(Debug, Clone, PartialEq)]
pub struct GradNorm {
    alpha: f64,
    lr: f64,
    state: Vec<Learned>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Learned {
    weight: f64,
    /// The first loss seen.
    first: Option<f64>,
}

impl GradNorm {
    /// Weights 1.
    pub fn new(config: &config::Gradnorm, n_tasks: usize) -> Self {
        let start = Learned { weight: 1.0, first: None };
        GradNorm { alpha: config.alpha, lr: config.lr, state: vec![start; n_tasks] }
    }

    /// Relative rates `r_t ^ alpha` of these tasks.
    fn rates(&mut self, at: &View<'_>) -> Vec<f64> {
        let progress = at.tasks.iter().zip(at.losses).map(|(&t, &loss)| {
            let first = &mut self.state[t].first;
            *first = first.or(Some(loss).filter(|loss| loss.is_finite()));
            first.filter(|&first| first > 0.0 && loss >= 0.0).map(|first| (loss / first).min(MOST))
        });
        let progress: Vec<Option<f64>> = progress.collect();
        let known = progress.iter().flatten();
        let mean = known.clone().sum::<f64>() / known.count().max(1) as f64;
        let rate = |p: &Option<f64>| p.map_or(1.0, |p| if mean > 0.0 { p / mean } else { 1.0 });
        progress.iter().map(|p| rate(p).powf(self.alpha)).collect()
    }

    fn learn(&mut self, at: &View<'_>) {
        let rates = self.rates(at);
        let norms = at.gram.norms();
        let mean = norms.iter().sum::<f64>() / norms.len() as f64;
        if mean == 0.0 {
            return;
        }
        let norms: Vec<f64> = norms.iter().map(|d| d / mean).collect();
        let weighted: Vec<f64> = at.tasks.iter().zip(&norms).map(|(&t, d)| self.state[t].weight * d).collect();
        let common = weighted.iter().sum::<f64>() / weighted.len() as f64;
        let (mut before, mut after) = (0.0, 0.0);
        for (k, &t) in at.tasks.iter().enumerate() {
            let weight = &mut self.state[t].weight;
            before += *weight;
            let excess = weighted[k] - common * rates[k];
            let sign = if excess == 0.0 { 0.0 } else { excess.signum() };
            *weight = (*weight - self.lr * sign * norms[k]).max(LEAST);
            after += *weight;
        }
        for &t in at.tasks {
            self.state[t].weight *= before / after;
        }
    }
}

impl GramSurgery for GradNorm {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let coef = at.tasks.iter().map(|&t| self.state[t].weight).collect();
        self.learn(at);
        coef
    }

    fn save(&self) -> Value {
        serde_json::json!(self.state)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let loaded: Vec<Learned> = Deserialize::deserialize(state).map_err(|e| format!("gradnorm: {e}"))?;
        if loaded.len() != self.state.len() {
            return Err(format!("gradnorm: {} tasks in the checkpoint, {} here", loaded.len(), self.state.len()));
        }
        self.state = loaded;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gram_of, jacobian, relative, run, run_with, steps_with};
    use super::*;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;

    fn gradnorm(alpha: f64, lr: f64, n_tasks: usize) -> GradNorm {
        GradNorm::new(&config::Gradnorm { alpha, lr }, n_tasks)
    }

    fn weights(method: &GradNorm) -> Vec<f64> {
        method.state.iter().map(|s| s.weight).collect()
    }

    #[test]
    fn the_first_step_by_hand() {
        // Norms 3 and 1, equal rates: mean norm 2, targets 2. The first weight falls by lr * 3 / 2, the second rises
        // by lr * 1 / 2; then they are scaled to sum to 2.
        let mut method = gradnorm(1.5, 0.1, 2);
        assert_eq!(run(&mut method, &[vec![3.0, 0.0], vec![0.0, 1.0]]), [1.0, 1.0]);
        assert!(relative(&weights(&method), &[0.85 * 2.0 / 1.9, 1.05 * 2.0 / 1.9]) < 1e-15, "{:?}", weights(&method));
    }

    #[test]
    fn norms_become_equal() {
        let mut method = gradnorm(1.5, 0.002, 3);
        let j = [vec![4.0, 0.0], vec![-1.0, 0.0], vec![0.0, 2.0]];
        (0..3000).for_each(|_| {
            run(&mut method, &j);
        });
        // 4 w_1 = w_2 = 2 w_3 and a sum of 3.
        let want = [3.0 / 7.0, 12.0 / 7.0, 6.0 / 7.0];
        assert!(relative(&weights(&method), &want) < 0.01, "{:?}", weights(&method));
    }

    #[test]
    fn slow_tasks_get_longer_gradients() {
        // Losses start at (2, 3); now the first has fallen to a quarter, the second has not moved. With alpha 1, the
        // weighted norms settle at rates 0.25 : 1.
        let mut method = gradnorm(1.0, 0.001, 2);
        let j = [vec![1.0, 0.0], vec![0.0, 1.0]];
        run_with(&mut method, &j, &[2.0, 3.0]);
        (0..3000).for_each(|_| {
            run_with(&mut method, &j, &[0.5, 3.0]);
        });
        assert!(relative(&weights(&method), &[0.4, 1.6]) < 0.01, "{:?}", weights(&method));
    }

    #[test]
    fn a_small_regression_is_balanced() {
        // L_1 = 50 (x - 1)^2 and L_2 = (y - 1)^2 from (3, 3). Summed plainly, task 1 is done before task 2 has begun.
        let descend = |mut method: Option<GradNorm>| {
            let (mut at, mut norms) = ([3.0, 3.0], [0.0; 2]);
            for _ in 0..10_000 {
                let j = [vec![100.0 * (at[0] - 1.0), 0.0], vec![0.0, 2.0 * (at[1] - 1.0)]];
                let losses = [50.0 * (at[0] - 1.0f64).powi(2), (at[1] - 1.0f64).powi(2)];
                let c = method.as_mut().map_or(vec![1.0, 1.0], |method| run_with(method, &j, &losses));
                for k in 0..2 {
                    norms[k] = c[k] * j[k][k];
                    at[k] -= 1e-5 * norms[k];
                }
            }
            (at, norms)
        };
        let (at, _) = descend(None);
        assert!(at[0] - 1.0 < 1e-3 && at[1] - 1.0 > 1.5, "{at:?}");
        let (at, norms) = descend(Some(gradnorm(0.0, 0.001, 2)));
        assert!(at.iter().all(|x| x - 1.0 > 0.5 && x - 1.0 < 1.5), "{at:?}");
        assert!((norms[0] / norms[1] - 1.0).abs() < 0.2, "{norms:?}");
    }

    #[test]
    fn absent_tasks_keep_their_weights() {
        let mut method = gradnorm(1.5, 0.1, 4);
        method.state[2].weight = 0.5;
        method.state[3].weight = 1.5;
        let gram = gram_of(&[vec![5.0], vec![1.0]]);
        let view = View { gram: &gram, losses: &[1.0, 1.0], tasks: &[0, 2], step: 0 };
        assert_eq!(method.coefficients(&view, &mut rng(1, Stream::Surgery, 0, 0)), [1.0, 0.5]);
        let w = weights(&method);
        assert_eq!((w[1], w[3]), (1.0, 1.5));
        assert!((w.iter().sum::<f64>() - 4.0).abs() < 1e-15 && w[0] < 1.0, "{w:?}");
        assert_eq!((method.state[1].first, method.state[2].first), (None, Some(1.0)));
    }

    #[test]
    fn special_gradients_and_losses() {
        for (j, losses) in [
            (vec![vec![0.0], vec![0.0]], [1.0, 1.0]),
            (vec![vec![0.0], vec![1.0]], [1.0, 1.0]),
            (vec![vec![1e15], vec![1e-15]], [1.0, 1.0]),
            (vec![vec![1.0], vec![-1.0]], [0.0, 0.0]),
            (vec![vec![1.0], vec![1.0]], [-1.0, 2.0]),
            (vec![vec![1.0], vec![1.0]], [1e-300, 1e300]),
        ] {
            let mut method = gradnorm(1.5, 0.025, 2);
            for scale in [1.0, 1e-300, 1e5, 0.0] {
                run_with(&mut method, &j, &losses.map(|l| l * scale));
                let w = weights(&method);
                assert!(w.iter().all(|w| *w > 0.0) && (w.iter().sum::<f64>() - 2.0).abs() < 1e-12, "{j:?} {w:?}");
            }
        }
        let mut method = gradnorm(1.5, 0.025, 2);
        run_with(&mut method, &[vec![1.0], vec![2.0]], &[f64::NAN, f64::INFINITY]);
        assert!(method.state.iter().all(|s| s.first.is_none() && s.weight > 0.0), "{method:?}");
        let mut alone = gradnorm(1.5, 0.025, 1);
        (0..9).for_each(|_| {
            run(&mut alone, &[vec![7.0]]);
        });
        assert_eq!(weights(&alone), [1.0]);
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        steps_with(&|| Box::new(gradnorm(1.5, 0.025, 3)), 3);
        let message = gradnorm(1.5, 0.1, 2).load(&gradnorm(1.5, 0.1, 3).save()).unwrap_err();
        assert!(message.contains("3 tasks in the checkpoint, 2 here"), "{message}");
        assert!(gradnorm(1.5, 0.1, 2).load(&Value::Null).is_err());
    }

    proptest! {
        #[test]
        fn the_scale_of_all_gradients_does_not_matter(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let after = |j: &[Vec<f64>]| {
                let mut method = gradnorm(1.5, 0.025, j.len());
                (0..5).for_each(|_| {
                    run(&mut method, j);
                });
                weights(&method)
            };
            prop_assert_eq!(after(&scaled), after(&j));
        }
    }
}
