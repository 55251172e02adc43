//! ExcessMTL: larger weights for tasks that are farther from convergence.
//!
//! He et al., "Robust Multi-Task Learning with Excess Risks", 2024 (arXiv:2402.02009), Algorithm 1. The excess risk of
//! task `t`, its distance from its own optimum, is estimated with a diagonal Hessian from the gradients so far:
//!
//! ```text
//! S_t <- S_t + g_t^2        e_t = sum_p g_tp^2 / sqrt(S_tp)
//! w_t <- w_t exp(eta e_t / e_t0) / Z        d = sum_t w_t g_t
//! ```
//!
//! where `e_t0` is the first estimate. Weights start equal and sum to 1: the paper's objective is a convex combination;
//! the authors' code and LibMTL let them sum to `T`.
//!
//! Departures: no epsilon under the root, a coordinate that never had a gradient adds nothing. The first estimate is a
//! task's first one that is not zero. A task that is not in a step keeps its weight, and the others share what they
//! shared before. `S_t` is kept in units of the task's first gradient norm (rounded to a power of two, so nothing else
//! is), which cancels in `e_t / e_t0` and lets squares neither overflow nor vanish in single precision. Weights are kept
//! as logarithms: one that was tiny for a while can come back.
//!
//! Remembers `S` (`sum_of_squares.t`), the logarithms of the weights, first estimates and units; saved in checkpoints.

use super::{CommError, Part, ShardSurgery, ShardView, Sums, combine_rows, named, named_mut, restore, stretches};
use crate::config;
use crate::kernel::{Block, Pass, Real, sweep};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const LANES: usize = 16;

/// Weights by excess risk, and what they learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct ExcessMtl<F> {
    eta: f64,
    sum_of_squares: Vec<Vec<F>>,
    tasks: Vec<Task>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Task {
    log_weight: f64,
    /// First estimate, in units.
    first: Option<f64>,
    /// A power of two near the first gradient norm.
    unit: Option<f64>,
}

impl<F: Real> ExcessMtl<F> {
    /// Equal weights, for a shard of `n` coordinates.
    pub fn new(config: &config::ExcessMtl, n_tasks: usize, n: usize) -> Self {
        let task = Task { log_weight: -(n_tasks as f64).ln(), first: None, unit: None };
        ExcessMtl { eta: config.eta, sum_of_squares: vec![vec![F::default(); n]; n_tasks], tasks: vec![task; n_tasks] }
    }

    /// Multiplies the weights of the tasks of a step and brings them back to their old sum.
    fn learn(&mut self, present: &[usize], excess: &[f64]) {
        let before = log_sum_exp(present.iter().map(|&t| self.tasks[t].log_weight));
        for &t in present {
            let (task, excess) = (&mut self.tasks[t], excess[t]);
            if excess > 0.0 {
                task.log_weight += self.eta * excess / *task.first.get_or_insert(excess);
            }
        }
        let after = log_sum_exp(present.iter().map(|&t| self.tasks[t].log_weight));
        for &t in present {
            // In this order a weight that outgrew all others does not lose the small numbers.
            self.tasks[t].log_weight = (self.tasks[t].log_weight - after) + before;
        }
    }
}

impl<F: Real> ShardSurgery<F> for ExcessMtl<F> {
    fn direction(
        &mut self,
        at: &ShardView<'_, F>,
        sums: &Sums<'_>,
        out: &mut [F],
    ) -> Result<Option<Vec<f64>>, CommError> {
        let present = at.present();
        let mut factor = vec![F::default(); at.scale.len()];
        for &t in &present {
            let norm = at.gram.row(t)[t].sqrt();
            if norm > 0.0 {
                let unit = *self.tasks[t].unit.get_or_insert_with(|| 2f64.powi(norm.log2().round() as i32));
                factor[t] = F::from_f64(at.scale[t] / unit);
            }
        }
        let estimate = Estimate { parts: at.parts, factor };
        let mut excess = sweep(&estimate, &stretches(at.parts), &mut self.sum_of_squares, &mut []);
        sums.add_up(&mut excess)?;
        self.learn(&present, &excess);
        let mut weights = vec![0.0; at.scale.len()];
        present.iter().for_each(|&t| weights[t] = self.tasks[t].log_weight.exp());
        let coef: Vec<f64> = weights.iter().zip(at.scale).map(|(w, scale)| w * scale).collect();
        combine_rows(at.parts, &coef, out);
        Ok(Some(weights))
    }

    fn state(&self) -> Vec<(String, &[F])> {
        named("sum_of_squares", &self.sum_of_squares)
    }

    fn state_mut(&mut self) -> Vec<(String, &mut Vec<F>)> {
        named_mut("sum_of_squares", &mut self.sum_of_squares)
    }

    fn save(&self) -> Value {
        serde_json::json!(self.tasks)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.tasks = restore("excess_mtl", state, self.tasks.len(), |tasks: &Vec<Task>| vec![tasks.len()])?;
        Ok(())
    }
}

struct Estimate<'a, F> {
    parts: &'a [Part<'a, F>],
    /// What turns a row into the gradient in units; 0 for tasks that are not there.
    factor: Vec<F>,
}

impl<F: Real> Pass<F> for Estimate<'_, F> {
    fn n_sums(&self) -> usize {
        self.factor.len()
    }

    #[inline(always)]
    fn block(&self, block: &mut Block<'_, '_, F>, sums: &mut [f64]) {
        for (k, &t) in self.parts[block.stretch].scope.iter().enumerate() {
            let factor = self.factor[t];
            if let Some(row) = block.row(k).filter(|_| factor != F::default()) {
                block.scratch.resize(row.len(), F::default());
                sums[t] += accumulate(row, factor, &mut block.state[t][block.columns.clone()], block.scratch);
            }
        }
    }
}

/// Adds the squares of `c * row` to `s`; returns the sum of squares over roots. `terms` is scratch memory.
#[inline(always)]
fn accumulate<F: Real>(row: &[F], c: F, s: &mut [F], terms: &mut [F]) -> f64 {
    // Keeps 0 / 0 away; next to any other root it is lost in rounding.
    let tiny = F::from_f64(f64::from(f32::MIN_POSITIVE));
    // Two loops, because compilers make wide instructions of each but not of both in one.
    for ((term, &g), s) in terms.iter_mut().zip(row).zip(s) {
        let square = (c * g) * (c * g);
        *s += square;
        *term = square / ((*s).sqrt() + tiny);
    }
    let mut lanes = [F::default(); LANES];
    let (whole, tail) = terms.as_chunks::<LANES>();
    for block in whole {
        lanes.iter_mut().zip(block).for_each(|(sum, &x)| *sum += x);
    }
    lanes.iter_mut().zip(tail).for_each(|(sum, &x)| *sum += x);
    lanes.iter().map(|x| x.to_f64()).sum()
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY { largest } else { largest + values.map(|x| (x - largest).exp()).sum::<f64>().ln() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Step, by_explicit, close, run, some_steps};
    use super::*;

    fn surgery(eta: f64) -> config::Surgery {
        config::Surgery::ExcessMtl(config::ExcessMtl { eta })
    }

    /// The equations, without units or logarithms: weights and directions.
    fn reference(steps: &[Step], eta: f64) -> Vec<(Vec<f64>, Vec<f64>)> {
        let (n_tasks, n) = (steps[0].j.len(), steps[0].j[0].len());
        let (mut s, mut w) = (vec![vec![0.0; n]; n_tasks], vec![1.0 / n_tasks as f64; n_tasks]);
        let mut first = vec![0.0; n_tasks];
        let mut found = Vec::new();
        for step in steps {
            let (g, present) = (step.weighted(), step.present());
            let before: f64 = present.iter().map(|&t| w[t]).sum();
            for &t in &present {
                let mut e = 0.0;
                for (s, g) in s[t].iter_mut().zip(&g[t]) {
                    *s += g * g;
                    e += if *s > 0.0 { g * g / s.sqrt() } else { 0.0 };
                }
                if first[t] == 0.0 {
                    first[t] = e;
                }
                w[t] *= if e > 0.0 { (eta * e / first[t]).exp() } else { 1.0 };
            }
            let after: f64 = present.iter().map(|&t| w[t]).sum();
            present.iter().for_each(|&t| w[t] *= before / after);
            let coef: Vec<f64> = (0..n_tasks).map(|t| if present.contains(&t) { w[t] } else { 0.0 }).collect();
            let direction = (0..n).map(|c| g.iter().zip(&coef).map(|(g, w)| w * g[c]).sum()).collect();
            found.push((coef, direction));
        }
        found
    }

    #[test]
    fn equals_the_formula() {
        for eta in [0.01, 1.0] {
            let steps = some_steps(4, 6);
            let found = run::<f64>(&surgery(eta), &steps, 1);
            for (k, (coef, direction)) in reference(&steps, eta).iter().enumerate() {
                close(found.coefficients[k].as_ref().unwrap(), coef, 1e-12);
                close(&found.directions[k], direction, 1e-12);
            }
            let plain: Vec<Step> = steps.iter().map(Step::plain).collect();
            for (direction, expected) in by_explicit(&surgery(eta), &plain).iter().zip(reference(&plain, eta)) {
                close(direction, &expected.1, 1e-12);
            }
        }
    }

    #[test]
    fn weights_sum_to_one_and_a_task_that_is_away_keeps_its_own() {
        let mut method = ExcessMtl::<f64>::new(&config::ExcessMtl { eta: 1.0 }, 3, 0);
        let sum = |method: &ExcessMtl<f64>| method.tasks.iter().map(|t| t.log_weight.exp()).sum::<f64>();
        for k in 0..200 {
            let away = method.tasks[k % 3].log_weight;
            let present: Vec<usize> = (0..3).filter(|&t| t != k % 3 || k % 2 == 0).collect();
            method.learn(&present, &[1.0, 0.5 + (k % 7) as f64, 1e3]);
            assert!((sum(&method) - 1.0).abs() < 1e-12, "{}", sum(&method));
            assert!(k % 2 == 0 || method.tasks[k % 3].log_weight == away);
        }
        method.learn(&[], &[0.0; 3]);
        method.learn(&[0, 1], &[1e30, 0.0, 0.0]);
        assert!((sum(&method) - 1.0).abs() < 1e-12 && method.tasks.iter().all(|t| t.log_weight.is_finite()));
    }

    #[test]
    fn the_task_that_converges_loses_weight() {
        let first = some_steps(2, 1)[0].plain();
        let shrink = |k: i32| -> Vec<Vec<f64>> {
            vec![first.j[0].clone(), first.j[1].iter().map(|x| x * 0.5f64.powi(k)).collect()]
        };
        let steps: Vec<Step> = (0..10).map(|k| Step { j: shrink(k), step: k as u64, ..first.clone() }).collect();
        let found = run::<f64>(&surgery(0.5), &steps, 1);
        let weights: Vec<f64> = found.coefficients.iter().map(|c| c.as_ref().unwrap()[1]).collect();
        assert!((weights[0] - 0.5).abs() < 1e-14, "{weights:?}");
        assert!(weights.windows(2).all(|w| w[1] < w[0]) && weights[9] < 0.3, "{weights:?}");
    }
}
