//! The Gram matrix of the **global** gradients, from the shards of all ranks.
//!
//! `G = J Jᵀ` adds up over columns, so each rank multiplies its own shard of the reduced `J` and one all-reduce of
//! `T * T` numbers finishes it. Averaging the Gram matrices of unreduced local gradients would be something else: it
//! lacks the products between ranks, which is exactly where hidden conflicts sit.

pub use crate::comm::CommError;
use crate::comm::{Collective, Solo, agree_on_sum};
use crate::kernel::{Fragment, Real, add_gram};

/// Sums over coordinates that are spread over ranks.
#[derive(Clone, Copy)]
pub struct Sums<'a> {
    comm: &'a dyn Collective,
    sharded: bool,
}

impl<'a> Sums<'a> {
    /// `sharded`: each rank has other coordinates; otherwise every rank has all of them.
    pub fn new(comm: &'a dyn Collective, sharded: bool) -> Self {
        Sums { comm, sharded }
    }

    /// Of one rank, which has all coordinates.
    pub fn alone() -> Sums<'static> {
        Sums { comm: &Solo, sharded: false }
    }

    /// Turns each rank's partial sums into those over all coordinates, the same bits on every rank.
    ///
    /// # Collective
    /// All ranks.
    ///
    /// # Errors
    /// If the collective fails.
    pub fn add_up(&self, values: &mut [f64]) -> Result<(), CommError> {
        if !self.sharded && !self.comm.world().is_main() {
            // Every rank has the whole sum already: take rank 0's bits.
            values.fill(0.0);
        }
        agree_on_sum(self.comm, values)
    }
}

impl std::fmt::Debug for Sums<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sums").field("sharded", &self.sharded).finish_non_exhaustive()
    }
}

/// Adds up, over a rank's shard, the inner products of rows of gradients: one matrix per group of layers.
#[derive(Debug, Clone)]
pub struct GramSum {
    n_groups: usize,
    n_rows: usize,
    /// By group `[R * R]` products over shared segments, then `[T]` squared norms over private ranges.
    sums: Vec<f64>,
}

/// Inner products of the global gradients of mean losses, the same bits on every rank. They may be NaN or infinite.
#[derive(Debug, Clone, PartialEq)]
pub struct GramSums {
    /// By group of layers, `[R * R]` products of rows over the shared parameters.
    pub shared: Vec<Vec<f64>>,
    /// `[T]` squared norms over the tasks' own parameters.
    pub private: Vec<f64>,
}

impl GramSum {
    /// Nothing yet, for some groups of layers, `R` rows of `J` and `T` tasks.
    pub fn new(n_groups: usize, n_rows: usize, n_tasks: usize) -> Self {
        GramSum { n_groups, n_rows, sums: vec![0.0; n_groups * n_rows * n_rows + n_tasks] }
    }

    /// Adds fragments of a group of layers, whose row `k` is row `rows[k]` of `J`.
    pub fn add_shared<F: Real>(&mut self, group: usize, rows: &[usize], fragments: &[Fragment<'_, F>]) {
        let mut local = vec![0.0; rows.len() * rows.len()];
        add_gram(fragments, &mut local);
        self.add_products(group, rows, &local);
    }

    /// Adds products `[n, n]` of the rows `rows` of `J`.
    pub fn add_products(&mut self, group: usize, rows: &[usize], products: &[f64]) {
        let start = group * self.n_rows * self.n_rows;
        for (a, &i) in rows.iter().enumerate() {
            for (b, &j) in rows.iter().enumerate() {
                self.sums[start + i * self.n_rows + j] += products[a * rows.len() + b];
            }
        }
    }

    /// Adds a range of gradients that belongs to one task alone.
    pub fn add_private<F: Real>(&mut self, task: usize, grads: &[F]) {
        self.add_private_square(task, crate::kernel::dot(grads, grads));
    }

    /// Adds the squared norm of a range of gradients that belongs to one task alone.
    pub fn add_private_square(&mut self, task: usize, square: f64) {
        self.sums[self.n_groups * self.n_rows * self.n_rows + task] += square;
    }

    /// Sums over ranks and divides by counts, which turns sums over samples into means: row `r` by `row_counts[r]`, the
    /// private gradients of task `t` by `counts[t]`. Rows without a sample are zero.
    ///
    /// # Collective
    /// All ranks, once per step.
    ///
    /// # Errors
    /// If the collective fails.
    pub fn finish(mut self, row_counts: &[f64], counts: &[f64], sums: &Sums<'_>) -> Result<GramSums, CommError> {
        sums.add_up(&mut self.sums)?;
        let per = |n: f64, x: f64| if n > 0.0 { x / n } else { 0.0 };
        let n = self.n_rows;
        let private = self.sums.split_off(self.n_groups * n * n);
        let pair = |(k, &x): (usize, &f64)| per(row_counts[k / n], per(row_counts[k % n], x));
        Ok(GramSums {
            shared: self.sums.chunks(n * n).map(|g| g.iter().enumerate().map(pair).collect()).collect(),
            private: private.iter().zip(counts).map(|(&x, &n)| per(n, per(n, x))).collect(),
        })
    }
}
