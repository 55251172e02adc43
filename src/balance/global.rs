//! The Gram matrix of the **global** gradients, from the shards of all ranks.
//!
//! `G = J Jᵀ` adds up over columns, so each rank multiplies its own shard of the reduced `J` and one all-reduce of
//! `T * T` numbers finishes it. Averaging the Gram matrices of unreduced local gradients would be something else: it
//! lacks the products between ranks, which is exactly where hidden conflicts sit.

use crate::comm::{Collective, CommError, agree_on_sum};
use crate::kernel::{Fragment, Real, add_gram};

/// Adds up, over a rank's shard, the inner products of task gradients.
#[derive(Debug, Clone)]
pub struct GramSum {
    n_tasks: usize,
    /// `[T * T]` products over shared segments, then `[T]` squared norms over private ranges.
    sums: Vec<f64>,
}

impl GramSum {
    /// Nothing yet, for `T` tasks.
    pub fn new(n_tasks: usize) -> Self {
        GramSum { n_tasks, sums: vec![0.0; n_tasks * n_tasks + n_tasks] }
    }

    /// Adds fragments whose row `k` belongs to task `scope[k]`.
    pub fn add_shared<F: Real>(&mut self, scope: &[usize], fragments: &[Fragment<'_, F>]) {
        let mut local = vec![0.0; scope.len() * scope.len()];
        add_gram(fragments, &mut local);
        for (a, &i) in scope.iter().enumerate() {
            for (b, &j) in scope.iter().enumerate() {
                self.sums[i * self.n_tasks + j] += local[a * scope.len() + b];
            }
        }
    }

    /// Adds a range of gradients that belongs to one task alone.
    pub fn add_private<F: Real>(&mut self, task: usize, grads: &[F]) {
        self.sums[self.n_tasks * self.n_tasks + task] += crate::kernel::dot(grads, grads);
    }

    /// Sums over ranks (if `sharded`; otherwise every rank has seen all columns) and divides row and column `t` by
    /// `counts[t]`, which turns sums over samples into means. Tasks without a sample have zero gradients.
    ///
    /// Returns the values of `G` `[T * T]` and the squared norms `[T]` of the private gradients, the same bits on
    /// every rank; they may be NaN or infinite.
    ///
    /// # Collective
    /// All ranks, once per step.
    ///
    /// # Errors
    /// If the collective fails.
    pub fn finish(
        mut self,
        counts: &[f64],
        sharded: bool,
        comm: &dyn Collective,
    ) -> Result<(Vec<f64>, Vec<f64>), CommError> {
        if !sharded && !comm.world().is_main() {
            // Every rank has the whole sum already: take rank 0's bits.
            self.sums.fill(0.0);
        }
        agree_on_sum(comm, &mut self.sums)?;
        let per_count = |t: usize, x: f64| if counts[t] > 0.0 { x / counts[t] } else { 0.0 };
        let n = self.n_tasks;
        let private = self.sums.split_off(n * n);
        let gram = self.sums.iter().enumerate().map(|(k, &x)| per_count(k / n, per_count(k % n, x))).collect();
        let private = private.iter().enumerate().map(|(t, &x)| per_count(t, per_count(t, x))).collect();
        Ok((gram, private))
    }
}
