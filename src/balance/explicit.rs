//! Balancing of a Jacobian that is given as a matrix: for `polytask balance`, examples, tests and benchmarks.
//!
//! The methods are those of training, on one rank. Methods on independent batches are given the same matrix for each of
//! them: their limit for large batches.

use super::global::Sums;
use super::gram::dot;
use super::shard::{Part, ShardSurgery, Unweighted};
use super::{Balancer, Coefficients, Gram, NotFinite, Plan, shard};
use crate::config;
use crate::kernel::Fragment;

/// A balancing with its state, for matrices of `[T, P]`.
#[derive(Debug)]
pub struct Explicit {
    balancer: Balancer,
    shard: Option<Box<dyn ShardSurgery<f64>>>,
    seed: u64,
}

impl std::fmt::Debug for dyn ShardSurgery<f64> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.state()).finish()
    }
}

/// What a balancing makes of a Jacobian.
#[derive(Debug, Clone, PartialEq)]
pub struct Balanced {
    /// Weights `[T]`.
    pub weights: Vec<f64>,
    /// Coefficients `[T]` of the rows; `None` if the direction is no combination of them.
    pub coefficients: Option<Vec<f64>>,
    /// The update direction `[P]`, before the learning rate and its minus sign.
    pub direction: Vec<f64>,
    /// Gram matrix of the rows.
    pub gram: Gram,
}

impl Explicit {
    /// The configured balancing for `n_tasks` rows of `n` numbers.
    pub fn new(config: &config::Balance, n_tasks: usize, n: usize, seed: u64, steps_per_epoch: u64) -> Self {
        let tasks: Vec<String> = (0..n_tasks).map(|t| t.to_string()).collect();
        Explicit::named(config, &tasks, n, seed, steps_per_epoch)
    }

    /// As [`Explicit::new`], for tasks with names, to which options may refer.
    pub fn named(config: &config::Balance, tasks: &[String], n: usize, seed: u64, steps_per_epoch: u64) -> Self {
        Explicit {
            balancer: Balancer::build(config, tasks, 1, seed, steps_per_epoch),
            shard: shard::build(&config.surgery, tasks.len(), n),
            seed,
        }
    }

    /// The direction for the gradients `jacobian` of the mean losses `losses`. `step` counts from 0.
    ///
    /// # Errors
    /// [`NotFinite`] names the tasks whose gradients, or whose coefficients, are not finite.
    ///
    /// # Panics
    /// If the rows have another shape than [`Explicit::new`] was told.
    pub fn direct(&mut self, jacobian: &[Vec<f64>], losses: &[f64], step: u64) -> Result<Balanced, NotFinite> {
        let n_tasks = jacobian.len();
        let active = self.balancer.active(step);
        let losses: Vec<Option<f64>> =
            losses.iter().zip(active).map(|(&loss, active)| active.then_some(loss)).collect();
        let gram =
            Gram::new((0..n_tasks * n_tasks).map(|k| dot(&jacobian[k / n_tasks], &jacobian[k % n_tasks])).collect())?;
        let weights = self.balancer.weights(&losses, step);
        let coefficients = if let Some(method) = &mut self.shard {
            let n = jacobian.first().map_or(0, Vec::len);
            let scope: Vec<usize> = (0..n_tasks).collect();
            let rows = Fragment { len: n, rows: jacobian.iter().map(Vec::as_slice).collect() };
            let unweighted = Unweighted {
                parts: &[Part { scope: &scope, at: 0..n, local: 0..n, rows }],
                counts: &vec![1.0; n_tasks],
                weights: &weights,
                losses: &losses,
                gram: &gram,
                step,
                seed: self.seed,
            };
            let mut direction = vec![0.0; n];
            // A world of one has nobody to lose contact with.
            let direct = unweighted.direct(method.as_mut(), &Sums::alone(), &mut direction);
            let coefficients = direct.unwrap_or(Ok(None))?;
            return Ok(Balanced { weights, coefficients, direction, gram });
        } else {
            match self.balancer.plan(step) {
                Plan::Weighted => self.balancer.of_weights(&weights),
                Plan::Tasks { batches: 1 } | Plan::Representation => {
                    self.balancer.coefficients(std::slice::from_ref(&gram), &losses, &weights, step)?
                }
                Plan::Tasks { .. } => {
                    self.balancer.cross_coefficients(gram.values(), &vec![true; n_tasks], &weights, step)?
                }
            }
        };
        let c = first(&coefficients);
        let mut direction = vec![0.0; jacobian.first().map_or(0, Vec::len)];
        for (row, c) in jacobian.iter().zip(&c) {
            direction.iter_mut().zip(row).for_each(|(d, g)| *d += c * g);
        }
        Ok(Balanced { weights, coefficients: Some(c), direction, gram })
    }

    /// Learns from the losses of a step that was taken, as training does.
    pub fn observe(&mut self, losses: &[f64], step: u64) {
        let losses: Vec<Option<f64>> = losses.iter().copied().map(Some).collect();
        self.balancer.observe(&losses, step);
    }

    /// Whether [`Self::observe_after`] is to be called.
    pub fn needs_losses_after(&self) -> bool {
        self.balancer.needs_losses_after()
    }

    /// Learns from the losses of the same batch before and after the update, as training does.
    pub fn observe_after(&mut self, before: &[f64], after: &[f64], step: u64) {
        let some = |losses: &[f64]| -> Vec<Option<f64>> { losses.iter().copied().map(Some).collect() };
        self.balancer.observe_after(&some(before), &some(after), step);
    }
}

fn first(coefficients: &Coefficients) -> Vec<f64> {
    coefficients.shared.as_ref().and_then(|groups| groups.first().cloned()).unwrap_or_default()
}
