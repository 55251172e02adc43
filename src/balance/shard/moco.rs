//! MoCo: tracked gradients, and weights that follow those of their shortest combination.
//!
//! Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach", 2023
//! (arXiv:2210.12624), Algorithm 1. Averages over steps take the noise out of the gradients, and with it the bias out of
//! the weights of MGDA:
//!
//! ```text
//! y_t <- y_t - beta_k (y_t - g_t)        lambda <- simplex(lambda - gamma_k (Y Y^T + rho I) lambda)
//! d = sum_t lambda_t y_t                  beta_k = beta / k^beta_sigma, gamma_k = gamma / k^gamma_sigma
//! ```
//!
//! from `y = 0` and equal weights, where `simplex` is the projection. The authors' code (and LibMTL) differs: it brings
//! each gradient to the length of its loss first and uses softmax in the place of the projection, whose fixed point is
//! no longer the shortest combination. Options `normalize` and `simplex` ask for that; the defaults are the paper's.
//!
//! Departures: the direction is made of this step's `Y` and `lambda`, as in the authors' code; the paper takes those of
//! the step before, which are zero at first. Tracked gradients are not projected onto a ball: the bound is not known. `k`
//! of `beta` counts the steps in which the task was there. Only tasks of a step move, and share the weight that they
//! shared before. With `normalize` a loss counts by its absolute value.
//!
//! Remembers `Y` (`tracked.t`), `lambda` and the numbers of steps; saved in checkpoints.

use super::{
    CommError, Part, ShardSurgery, ShardView, Sums, blend, combine_state, named, named_mut, restore, stretches,
};
use crate::balance::solver::simplex::{project, softmax};
use crate::config::{self, Simplex};
use crate::kernel::{Block, Pass, Real, add_block_gram, sweep};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tracked gradients and their weights.
#[derive(Debug, Clone, PartialEq)]
pub struct MoCo<F> {
    options: config::MoCo,
    tracked: Vec<Vec<F>>,
    small: Small,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Small {
    lambda: Vec<f64>,
    /// Steps in which a task was there.
    seen: Vec<u64>,
    /// Steps in which any was.
    steps: u64,
}

impl<F: Real> MoCo<F> {
    /// Equal weights, for a shard of `n` coordinates.
    pub fn new(config: &config::MoCo, n_tasks: usize, n: usize) -> Self {
        MoCo {
            options: config.clone(),
            tracked: vec![vec![F::default(); n]; n_tasks],
            small: Small { lambda: vec![1.0 / n_tasks as f64; n_tasks], seen: vec![0; n_tasks], steps: 0 },
        }
    }

    /// What makes the tracked gradient of task `t` follow this step's: `y <- keep * y + add * row`.
    fn follow(&mut self, at: &ShardView<'_, F>, t: usize) -> (F, F) {
        self.small.seen[t] += 1;
        let beta = self.options.beta / (self.small.seen[t] as f64).powf(self.options.beta_sigma);
        let length = if self.options.normalize {
            let norm = at.gram.row(t)[t].sqrt();
            if norm > 0.0 { at.losses[t].unwrap_or(0.0).abs() / norm } else { 0.0 }
        } else {
            1.0
        };
        (F::from_f64(1.0 - beta), F::from_f64(beta * length * at.scale[t]))
    }

    /// Moves the weights of the tasks of a step. `products` is `Y Y^T` `[T, T]`, lower triangle.
    fn learn(&mut self, present: &[usize], products: &[f64]) {
        let n_tasks = self.small.lambda.len();
        self.small.steps += u64::from(!present.is_empty());
        let share: f64 = present.iter().map(|&t| self.small.lambda[t]).sum();
        if share <= 0.0 {
            return;
        }
        let gamma = self.options.gamma / (self.small.steps as f64).powf(self.options.gamma_sigma);
        let product = |i: usize, j: usize| products[i.max(j) * n_tasks + i.min(j)];
        let lambda: Vec<f64> = present.iter().map(|&t| self.small.lambda[t] / share).collect();
        let slope = |(k, &i): (usize, &usize)| {
            let along: f64 = present.iter().zip(&lambda).map(|(&j, l)| product(i, j) * l).sum();
            along + self.options.rho * lambda[k]
        };
        let mut next: Vec<f64> =
            present.iter().enumerate().map(slope).zip(&lambda).map(|(slope, l)| l - gamma * slope).collect();
        match self.options.simplex {
            Simplex::Projection => project(&mut next),
            Simplex::Softmax => next = softmax(&next),
        }
        present.iter().zip(next).for_each(|(&t, l)| self.small.lambda[t] = share * l);
    }
}

impl<F: Real> ShardSurgery<F> for MoCo<F> {
    fn direction(
        &mut self,
        at: &ShardView<'_, F>,
        sums: &Sums<'_>,
        out: &mut [F],
    ) -> Result<Option<Vec<f64>>, CommError> {
        let present = at.present();
        let mut track = Track { parts: at.parts, follow: vec![None; at.scale.len()] };
        for &t in &present {
            track.follow[t] = Some(self.follow(at, t));
        }
        let mut products = sweep(&track, &stretches(at.parts), &mut self.tracked, &mut []);
        sums.add_up(&mut products)?;
        self.learn(&present, &products);
        let mut coef = vec![0.0; at.scale.len()];
        present.iter().for_each(|&t| coef[t] = self.small.lambda[t]);
        combine_state(at.parts, &self.tracked, &coef, out);
        Ok(None)
    }

    fn state(&self) -> Vec<(String, &[F])> {
        named("tracked", &self.tracked)
    }

    fn state_mut(&mut self) -> Vec<(String, &mut Vec<F>)> {
        named_mut("tracked", &mut self.tracked)
    }

    fn save(&self) -> Value {
        serde_json::json!(self.small)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let n_tasks = self.small.lambda.len();
        self.small = restore("moco", state, n_tasks, |small: &Small| vec![small.lambda.len(), small.seen.len()])?;
        Ok(())
    }
}

/// Moves the tracked gradients and sums up their inner products.
struct Track<'a, F> {
    parts: &'a [Part<'a, F>],
    /// Of each task that is there: `keep` and `add`.
    follow: Vec<Option<(F, F)>>,
}

impl<F: Real> Pass<F> for Track<'_, F> {
    fn n_sums(&self) -> usize {
        self.follow.len() * self.follow.len()
    }

    #[inline(always)]
    fn block(&self, block: &mut Block<'_, '_, F>, sums: &mut [f64]) {
        let scope = self.parts[block.stretch].scope;
        for (k, &t) in scope.iter().enumerate() {
            if let Some((keep, add)) = self.follow[t] {
                let row = block.row(k);
                blend(&mut block.state[t][block.columns.clone()], keep, row, add);
            }
        }
        let mut rows: Vec<&[F]> = vec![&[]; self.follow.len()];
        for &t in scope.iter().filter(|&&t| self.follow[t].is_some()) {
            rows[t] = &block.state[t][block.columns.clone()];
        }
        add_block_gram(&rows, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Step, by_explicit, close, in_scope, run, some_steps};
    use super::*;
    use crate::balance::gram::dot;

    fn options(beta: f64, gamma: f64, sigma: f64) -> config::MoCo {
        config::MoCo { beta, gamma, beta_sigma: sigma, gamma_sigma: sigma, ..config::MoCo::default() }
    }

    /// The nearest point of the simplex, by bisection on the threshold.
    fn bisected(x: &[f64]) -> Vec<f64> {
        let at = |threshold: f64| -> Vec<f64> { x.iter().map(|x| (x - threshold).max(0.0)).collect() };
        let (mut low, mut high) =
            x.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x - 1.0), high.max(x)));
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if at(middle).iter().sum::<f64>() > 1.0 { low = middle } else { high = middle }
        }
        at(low)
    }

    /// The equations on whole matrices.
    fn reference(steps: &[Step], o: &config::MoCo) -> Vec<Vec<f64>> {
        let (n_tasks, n) = (steps[0].j.len(), steps[0].j[0].len());
        let (mut y, mut lambda) = (vec![vec![0.0; n]; n_tasks], vec![1.0 / n_tasks as f64; n_tasks]);
        let mut seen = vec![0; n_tasks];
        let mut found = Vec::new();
        for (k, step) in steps.iter().enumerate() {
            let present = step.present();
            for &t in &present {
                seen[t] += 1;
                let mut g = step.weighted()[t].clone();
                let norm = dot(&g, &g).sqrt();
                if o.normalize && norm > 0.0 {
                    let loss = step.losses[t].unwrap().abs();
                    g.iter_mut().for_each(|x| *x *= loss / norm);
                }
                let beta = o.beta / f64::from(seen[t]).powf(o.beta_sigma);
                y[t].iter_mut().zip(&g).for_each(|(y, g)| *y -= beta * (*y - g));
            }
            let share: f64 = present.iter().map(|&t| lambda[t]).sum();
            let gamma = o.gamma / ((k + 1) as f64).powf(o.gamma_sigma);
            let along = |i: usize| present.iter().map(|&j| dot(&y[i], &y[j]) * lambda[j] / share).sum::<f64>();
            let moved: Vec<f64> =
                present.iter().map(|&i| lambda[i] / share - gamma * (along(i) + o.rho * lambda[i] / share)).collect();
            let next = match o.simplex {
                _ if share == 0.0 => vec![0.0; present.len()],
                Simplex::Projection => bisected(&moved),
                Simplex::Softmax => {
                    let all: f64 = moved.iter().map(|x| x.exp()).sum();
                    moved.iter().map(|x| x.exp() / all).collect()
                }
            };
            present.iter().zip(next).for_each(|(&t, l)| lambda[t] = share * l);
            found.push((0..n).map(|c| present.iter().map(|&t| lambda[t] * y[t][c]).sum()).collect());
        }
        found
    }

    #[test]
    fn equals_the_formula() {
        let author = config::MoCo { normalize: true, simplex: Simplex::Softmax, ..config::MoCo::default() };
        let all = [
            config::MoCo::default(),
            config::MoCo { rho: 0.3, ..author.clone() },
            config::MoCo { rho: 0.3, ..options(0.9, 1e-4, 0.3) },
        ];
        for o in all {
            let (steps, surgery) = (some_steps(4, 6), config::Surgery::Moco(o.clone()));
            let found = run::<f64>(&surgery, &steps, 1);
            for (direction, expected) in found.directions.iter().zip(reference(&steps, &o)) {
                close(direction, &expected, 1e-11);
            }
            let plain: Vec<Step> = steps.iter().map(Step::plain).collect();
            for (direction, expected) in by_explicit(&surgery, &plain).iter().zip(reference(&plain, &o)) {
                close(direction, &expected, 1e-11);
            }
        }
    }

    #[test]
    fn follows_a_constant_jacobian_to_the_shortest_combination() {
        for (a, b) in [([3.0, 1.0, 0.0], [-1.0, 1.0, 0.5]), ([1.0, 0.0, 0.0], [4.0, 1.0, 0.0])] {
            let step =
                Step { j: vec![a.to_vec(), b.to_vec()], scale: vec![1.0; 2], losses: vec![Some(1.0); 2], step: 0 };
            let steps: Vec<Step> = (0..400).map(|k| Step { step: k, ..step.clone() }).collect();
            let o = options(1.0, 0.05, 0.0);
            let mut directions = by_explicit(&config::Surgery::Moco(o.clone()), &steps);
            let lambda =
                ((dot(&b, &b) - dot(&a, &b)) / (dot(&a, &a) - 2.0 * dot(&a, &b) + dot(&b, &b))).clamp(0.0, 1.0);
            let shortest: Vec<f64> = a.iter().zip(b).map(|(a, b)| lambda * a + (1.0 - lambda) * b).collect();
            close(&directions.pop().unwrap(), &shortest, 1e-9);
            let wide = Step { j: vec![step.j[0].repeat(50), step.j[1].repeat(50)], ..step.clone() };
            let found = run::<f64>(&config::Surgery::Moco(o), &[wide.clone(), wide.clone()], 1);
            for (t, (_, y)) in found.state.iter().enumerate() {
                let shared = |c: usize| in_scope(2, y.len(), t, c);
                assert!((0..y.len()).all(|c| y[c] == if shared(c) { wide.j[t][c] } else { 0.0 }), "tracked exactly");
            }
        }
    }

    #[test]
    fn projection_is_onto_the_simplex() {
        for x in [vec![0.2, 0.3], vec![5.0], vec![-3.0, 0.1, 0.2, 0.15], vec![1.0, 1.0, 1.0], vec![2.0, 0.0, 1.5]] {
            let mut found = x.clone();
            project(&mut found);
            close(&found, &bisected(&x), 1e-12);
        }
        for mut x in [vec![-1e30, -1e29, 3.0], vec![1e30, 1e30], vec![-1e300, -1e300, -1e290]] {
            project(&mut x);
            assert!((x.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{x:?}");
        }
    }
}
