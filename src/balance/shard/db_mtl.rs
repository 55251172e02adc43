//! DB-MTL: gradients of log losses, averaged over steps, made equally long.
//!
//! Lin et al., "Dual-Balancing for Multi-Task Learning", 2023 (arXiv:2308.12029), Algorithm 1. Losses are balanced by
//! their logarithm, gradients by their length:
//!
//! ```text
//! a_t <- b_k a_t + (1 - b_k) grad log L_t        d = max_s |a_s| * sum_t a_t / |a_t|
//! ```
//!
//! with `grad log L_t = g_t / L_t`, `a = 0` at first and `b_k = beta / k^beta_sigma`, `k` the steps in which the task was
//! there.
//!
//! Departures: no epsilon, neither in the logarithm nor under the norm. A loss counts by its absolute value, so that a
//! negative one is descended too; a loss of exactly 0 is as small as it gets, so its gradient counts as 0. A task that is
//! not in a step takes no part in it, nor in the maximum, and its average stays. In the paper the heads follow the log
//! losses as well: that is `weighting: scale_invariant` with `scale_heads: true`, with which the weighted losses are 1
//! and nothing is divided twice.
//!
//! Remembers `a` (`average.t`) and the numbers of steps; saved in checkpoints.

use super::{
    CommError, Part, ShardSurgery, ShardView, Sums, blend, combine_state, named, named_mut, restore, stretches,
};
use crate::config;
use crate::kernel::{Block, Pass, Real, sweep};
use serde_json::Value;

const LANES: usize = 8;

/// Averages of the gradients of log losses.
#[derive(Debug, Clone, PartialEq)]
pub struct DbMtl<F> {
    options: config::DbMtl,
    average: Vec<Vec<F>>,
    /// Steps in which a task was there.
    seen: Vec<u64>,
}

impl<F: Real> DbMtl<F> {
    /// Averages at 0, for a shard of `n` coordinates.
    pub fn new(config: &config::DbMtl, n_tasks: usize, n: usize) -> Self {
        DbMtl { options: config.clone(), average: vec![vec![F::default(); n]; n_tasks], seen: vec![0; n_tasks] }
    }
}

impl<F: Real> ShardSurgery<F> for DbMtl<F> {
    fn direction(
        &mut self,
        at: &ShardView<'_, F>,
        sums: &Sums<'_>,
        out: &mut [F],
    ) -> Result<Option<Vec<f64>>, CommError> {
        let present = at.present();
        let mut follow = vec![None; at.scale.len()];
        for &t in &present {
            self.seen[t] += 1;
            let keep = self.options.beta / (self.seen[t] as f64).powf(self.options.beta_sigma);
            let loss = at.losses[t].unwrap_or(0.0).abs();
            let add = if loss > 0.0 { (1.0 - keep) * at.scale[t] / loss } else { 0.0 };
            follow[t] = Some((F::from_f64(keep), F::from_f64(add)));
        }
        let pass = Average { parts: at.parts, follow };
        let mut squares = sweep(&pass, &stretches(at.parts), &mut self.average, &mut []);
        sums.add_up(&mut squares)?;
        let longest = present.iter().map(|&t| squares[t].sqrt()).fold(0.0, f64::max);
        let mut coef = vec![0.0; at.scale.len()];
        for &t in present.iter().filter(|&&t| squares[t] > 0.0) {
            coef[t] = longest / squares[t].sqrt();
        }
        combine_state(at.parts, &self.average, &coef, out);
        Ok(None)
    }

    fn state(&self) -> Vec<(String, &[F])> {
        named("average", &self.average)
    }

    fn state_mut(&mut self) -> Vec<(String, &mut Vec<F>)> {
        named_mut("average", &mut self.average)
    }

    fn save(&self) -> Value {
        serde_json::json!(self.seen)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.seen = restore("db_mtl", state, self.seen.len(), |seen: &Vec<u64>| vec![seen.len()])?;
        Ok(())
    }
}

/// Moves the averages and sums up their squares.
struct Average<'a, F> {
    parts: &'a [Part<'a, F>],
    /// Of each task that is there: `keep` and `add`.
    follow: Vec<Option<(F, F)>>,
}

impl<F: Real> Pass<F> for Average<'_, F> {
    fn n_sums(&self) -> usize {
        self.follow.len()
    }

    #[inline(always)]
    fn block(&self, block: &mut Block<'_, '_, F>, sums: &mut [f64]) {
        for (k, &t) in self.parts[block.stretch].scope.iter().enumerate() {
            if let Some((keep, add)) = self.follow[t] {
                let row = block.row(k);
                let average = &mut block.state[t][block.columns.clone()];
                blend(average, keep, row, add);
                sums[t] += squared_norm(average);
            }
        }
    }
}

/// In double precision: squares of single precision could vanish, and this waits for memory anyway.
#[inline(always)]
fn squared_norm<F: Real>(x: &[F]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for block in whole {
        lanes.iter_mut().zip(block).for_each(|(sum, x)| *sum += x.to_f64() * x.to_f64());
    }
    lanes.iter_mut().zip(tail).for_each(|(sum, x)| *sum += x.to_f64() * x.to_f64());
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Step, by_explicit, close, run, some_steps, sum};
    use super::*;
    use crate::balance::gram::dot;

    fn surgery(beta: f64, beta_sigma: f64) -> config::Surgery {
        config::Surgery::DbMtl(config::DbMtl { beta, beta_sigma })
    }

    fn reference(steps: &[Step], beta: f64, beta_sigma: f64) -> Vec<Vec<f64>> {
        let (n_tasks, n) = (steps[0].j.len(), steps[0].j[0].len());
        let (mut average, mut seen) = (vec![vec![0.0; n]; n_tasks], vec![0; n_tasks]);
        let mut found = Vec::new();
        for step in steps {
            let present = step.present();
            for &t in &present {
                seen[t] += 1;
                let (b, loss) = (beta / f64::from(seen[t]).powf(beta_sigma), step.losses[t].unwrap());
                let log: Vec<f64> = step.weighted()[t].iter().map(|g| g / loss).collect();
                average[t].iter_mut().zip(&log).for_each(|(a, g)| *a = g + b * (*a - g));
            }
            let norms: Vec<f64> = average.iter().map(|a| dot(a, a).sqrt()).collect();
            let longest = present.iter().map(|&t| norms[t]).fold(0.0, f64::max);
            let term = |t: usize, c: usize| if norms[t] > 0.0 { longest * average[t][c] / norms[t] } else { 0.0 };
            found.push((0..n).map(|c| present.iter().map(|&t| term(t, c)).sum()).collect());
        }
        found
    }

    #[test]
    fn equals_the_formula() {
        for (beta, sigma) in [(0.9, 0.0), (0.5, 0.5), (0.0, 0.0)] {
            let steps = some_steps(4, 6);
            let found = run::<f64>(&surgery(beta, sigma), &steps, 1);
            for (direction, expected) in found.directions.iter().zip(reference(&steps, beta, sigma)) {
                close(direction, &expected, 1e-12);
            }
            let plain: Vec<Step> = steps.iter().map(Step::plain).collect();
            let expected = reference(&plain, beta, sigma);
            for (direction, expected) in by_explicit(&surgery(beta, sigma), &plain).iter().zip(expected) {
                close(direction, &expected, 1e-12);
            }
        }
    }

    #[test]
    fn all_tasks_pull_equally_at_the_first_step() {
        let mut step = some_steps(3, 1)[0].plain();
        for (t, scale) in [1e-6, 1.0, 1e6].into_iter().enumerate() {
            step.j[t].iter_mut().for_each(|x| *x *= scale);
        }
        let unit = |row: &Vec<f64>| -> Vec<f64> { row.iter().map(|x| x / dot(row, row).sqrt()).collect() };
        let logs = step.j.iter().zip(&step.losses).map(|(row, l)| dot(row, row).sqrt() / l.unwrap());
        let longest = logs.fold(0.0, f64::max);
        let expected: Vec<f64> =
            sum(&step.j.iter().map(unit).collect::<Vec<_>>()).iter().map(|x| 0.1 * longest * x).collect();
        let found = run::<f64>(&surgery(0.9, 0.0), std::slice::from_ref(&step), 1);
        close(&found.directions[0], &expected, 1e-12);
    }

    #[test]
    fn losses_of_any_sign_are_descended() {
        let mut step = some_steps(2, 1)[0].plain();
        step.losses = vec![Some(-2.0), Some(0.0)];
        let found = run::<f64>(&surgery(0.0, 0.0), std::slice::from_ref(&step), 1);
        let expected: Vec<f64> = step.j[0].iter().map(|x| x / 2.0).collect();
        close(&found.directions[0], &expected, 1e-15);
    }
}
