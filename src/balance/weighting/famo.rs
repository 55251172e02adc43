//! Fast adaptive multitask optimization: the task that improves least, relative to its loss, gains weight.
//!
//! Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", 2023 (arXiv:2306.03792), Algorithm 1. With
//! `z = softmax(xi)` and `D_t = L_t - min_t` the objective of a step is `c sum_t z_t log D_t`, where
//! `c = 1 / sum_t z_t / D_t` is held fixed; so `w_t = c z_t / D_t`, and the weights sum to 1. After the step the losses
//! `D'` of the **same batch** under the updated parameters give `delta_t = log D_t - log D'_t`, and `xi` takes a step
//! of Adam along `(diag(z) - z zᵀ) delta` with weight decay `gamma`: it minimises the least improvement.
//!
//! The paper sets `gamma` by data set; without noise 0 is right: with 0.001, two of the five starts of its toy problem
//! fail that reach the front with 0.
//!
//! Departures: the constant 1e-8 that the paper adds to `D` would drown small losses. Here a `D` that is not positive
//! counts as a 10^-8th of the least positive one. Gradients are clipped by `optim`, not here.
//!
//! Remembers `xi` and Adam's moments; saved in checkpoints. A task without a label in a step keeps both.

use super::learned::Learned;
use super::{Moment, Weighting, by_task, load_tasks, of_present, positive, softmax};
use crate::config;
use serde_json::Value;

/// Learned logits and their optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct Famo {
    lr: f64,
    gamma: f64,
    min_losses: Vec<f64>,
    xi: Vec<Learned>,
}

impl Famo {
    /// All tasks alike.
    pub fn new(config: &config::Famo, tasks: &[String]) -> Self {
        let min_losses = by_task(tasks, &config.min_losses, 0.0);
        Famo { lr: config.lr, gamma: config.gamma, min_losses, xi: vec![Learned::new(0.0); tasks.len()] }
    }

    fn above_min(&self, task: usize, loss: f64) -> f64 {
        loss - self.min_losses[task]
    }
}

impl Weighting for Famo {
    fn weights(&self, at: &Moment<'_>) -> Vec<f64> {
        of_present(at, |tasks, losses| {
            let above: Vec<f64> = tasks.iter().zip(losses).map(|(&t, &loss)| self.above_min(t, loss)).collect();
            let logits = tasks.iter().zip(positive(&above)).map(|(&t, d)| self.xi[t].value - d.ln());
            // z / D over its sum.
            softmax(&logits.collect::<Vec<f64>>())
        })
    }

    fn needs_losses(&self) -> bool {
        true
    }

    fn needs_losses_after(&self) -> bool {
        true
    }

    fn observe_after(&mut self, at: &Moment<'_>, after: &[Option<f64>]) {
        // A loss that the step has made infinite is refused when it comes again; here it would make all weights NaN for good.
        let known = |loss: Option<f64>| loss.filter(|loss| loss.is_finite());
        let both = |t: usize| Some((t, self.above_min(t, known(at.losses[t])?), self.above_min(t, known(after[t])?)));
        let (tasks, pairs): (Vec<usize>, Vec<[f64; 2]>) =
            (0..self.xi.len()).filter_map(both).map(|(t, before, after)| (t, [before, after])).unzip();
        let logs: Vec<f64> = positive(pairs.as_flattened()).iter().map(|d| d.ln()).collect();
        let delta: Vec<f64> = logs.chunks_exact(2).map(|pair| pair[0] - pair[1]).collect();
        let z = softmax(&tasks.iter().map(|&t| self.xi[t].value).collect::<Vec<f64>>());
        let mean: f64 = z.iter().zip(&delta).map(|(z, d)| z * d).sum();
        for ((&t, z), delta) in tasks.iter().zip(&z).zip(&delta) {
            let decay = self.gamma * self.xi[t].value;
            self.xi[t].learn(z * (delta - mean) + decay, self.lr);
        }
    }

    fn save(&self) -> Value {
        serde_json::json!(self.xi)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.xi = load_tasks("famo", state, self.xi.len())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::super::testing::{close, names, some};
    use super::*;
    use crate::config::Named;

    /// Losses of three tasks that fall at different speeds, as if weights did nothing.
    fn losses(step: i32) -> [f64; 3] {
        [2.0 * 0.9f64.powi(step), 30.0 * 0.97f64.powi(step), 0.1 + 0.01 * f64::from(step % 3)]
    }

    fn famo(gamma: f64) -> Famo {
        Famo::new(&config::Famo { gamma, ..config::Famo::default() }, &names(3))
    }

    /// Algorithm 1 with the full Jacobian of the softmax and Adam as PyTorch has it (L2 decay in the gradient).
    fn reference(gamma: f64, min: [f64; 3], steps: i32) -> Vec<[f64; 3]> {
        let (mut xi, mut m, mut v) = ([0.0f64; 3], [0.0f64; 3], [0.0f64; 3]);
        let mut weights = Vec::new();
        for step in 0..steps {
            let sum: f64 = xi.iter().map(|x| x.exp()).sum();
            let z = xi.map(|x| x.exp() / sum);
            let d: Vec<f64> = (0..3).map(|t| losses(step)[t] - min[t]).collect();
            let next: Vec<f64> = (0..3).map(|t| losses(step + 1)[t] - min[t]).collect();
            let c = 1.0 / (0..3).map(|t| z[t] / d[t]).sum::<f64>();
            weights.push([0, 1, 2].map(|t| c * z[t] / d[t]));
            let old = xi;
            for i in 0..3 {
                let jacobian = |j: usize| z[i] * (f64::from(u8::from(i == j)) - z[j]);
                let gradient = (0..3).map(|j| jacobian(j) * (d[j].ln() - next[j].ln())).sum::<f64>() + gamma * old[i];
                m[i] = 0.9 * m[i] + 0.1 * gradient;
                v[i] = 0.999 * v[i] + 0.001 * gradient * gradient;
                let (first, second) = (m[i] / (1.0 - 0.9f64.powi(step + 1)), v[i] / (1.0 - 0.999f64.powi(step + 1)));
                xi[i] -= 0.025 * first / (second.sqrt() + 1e-8);
            }
        }
        weights
    }

    fn steps(method: &mut Famo, scale: [f64; 3], n: i32) -> Vec<Vec<f64>> {
        let scaled = |step: i32| some(&[0, 1, 2].map(|t| scale[t] * losses(step)[t]));
        let step = |step: i32| {
            let weights = method.weights(&at(&scaled(step)));
            method.observe_after(&at(&scaled(step)), &scaled(step + 1));
            weights
        };
        (0..n).map(step).collect()
    }

    #[test]
    fn follows_algorithm_1_step_by_step() {
        for gamma in [0.0, 1e-3, 0.1] {
            let min = [-0.5, 1.0, 0.0];
            let by_name = Named::from([("a".into(), min[0]), ("b".into(), min[1])]);
            let mut method =
                Famo::new(&config::Famo { gamma, min_losses: by_name, ..config::Famo::default() }, &names(3));
            for (got, want) in steps(&mut method, [1.0; 3], 60).iter().zip(reference(gamma, min, 60)) {
                close(got, &want, 1e-10);
                assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-14, "{got:?}");
            }
        }
    }

    #[test]
    fn the_logits_do_not_see_the_scales_of_the_losses() {
        let (mut plain, mut scaled) = (famo(1e-3), famo(1e-3));
        let (a, b) = (steps(&mut plain, [1.0; 3], 40), steps(&mut scaled, [1e-12, 1e6, 3.0], 40));
        let xi = |method: &Famo| -> Vec<f64> { method.xi.iter().map(|x| x.value).collect() };
        close(&xi(&scaled), &xi(&plain), 1e-8);
        // The weighted losses keep their proportions.
        let ratio =
            |w: &[f64], scale: [f64; 3]| [w[1] * scale[1] / (w[0] * scale[0]), w[2] * scale[2] / (w[0] * scale[0])];
        close(&ratio(&b[39], [1e-12, 1e6, 3.0]), &ratio(&a[39], [1.0; 3]), 1e-8);
        // One scale for all changes nothing.
        let mut all = famo(1e-3);
        close(&steps(&mut all, [1e9; 3], 40)[39], &a[39], 1e-8);
    }

    #[test]
    fn the_task_that_improves_least_gains() {
        let mut method = famo(0.0);
        steps(&mut method, [1.0; 3], 30);
        let [fast, slow, still] = [0, 1, 2].map(|t| method.xi[t].value);
        assert!(still > slow && slow > fast, "{fast} {slow} {still}");
    }

    #[test]
    fn a_loss_that_a_step_made_infinite_teaches_nothing_and_spoils_nothing() {
        for bad in [f64::INFINITY, f64::NAN] {
            let (mut method, before) = (famo(1e-3), some(&losses(0)));
            steps(&mut method, [1.0; 3], 5);
            let old = method.xi[1];
            method.observe_after(&at(&before), &[Some(1.0), Some(bad), Some(0.1)]);
            assert_eq!(method.xi[1], old);
            let saved = method.save();
            method.load(&saved).unwrap();
            assert!(method.weights(&at(&before)).iter().all(|w| w.is_finite()), "{bad}: {saved}");
        }
    }

    #[test]
    fn a_task_without_a_loss_before_or_after_keeps_its_logit() {
        let mut method = famo(0.1);
        steps(&mut method, [1.0; 3], 5);
        let before = method.clone();
        method.observe_after(&at(&[Some(2.0), None, Some(1.0)]), &[Some(1.0), Some(1.0), None]);
        assert_eq!(method.xi[1..], before.xi[1..]);
        assert_ne!(method.xi[0], before.xi[0]);
    }
}
