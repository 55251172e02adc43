//! The Gram matrix of the global task gradients: all that most methods need to know of them.

/// Inner products of the global task gradients, `[T, T]`, symmetric and finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    n_tasks: usize,
    values: Vec<f64>,
}

/// Tasks (by index) whose gradients are not finite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFinite(pub Vec<usize>);

impl NotFinite {
    /// The same tasks, whose places were among `tasks`, by their own indices.
    #[must_use]
    pub fn among(self, tasks: &[usize]) -> Self {
        NotFinite(self.0.into_iter().map(|k| tasks[k]).collect())
    }
}

impl Gram {
    /// A Gram matrix from `T * T` values, row-major.
    ///
    /// # Errors
    /// [`NotFinite`] names the tasks whose own inner product is NaN or infinite (all tasks of a bad pair, if only
    /// an off-diagonal entry is).
    ///
    /// # Panics
    /// If the number of values is not a square.
    pub fn new(values: Vec<f64>) -> Result<Gram, NotFinite> {
        let n_tasks = values.len().isqrt();
        assert_eq!(n_tasks * n_tasks, values.len(), "a Gram matrix is square");
        let bad = |i: usize, j: usize| !values[i * n_tasks + j].is_finite();
        let diagonal: Vec<usize> = (0..n_tasks).filter(|&i| bad(i, i)).collect();
        if !diagonal.is_empty() {
            return Err(NotFinite(diagonal));
        }
        let pairs: Vec<usize> = (0..n_tasks).filter(|&i| (0..n_tasks).any(|j| bad(i, j))).collect();
        if pairs.is_empty() { Ok(Gram { n_tasks, values }) } else { Err(NotFinite(pairs)) }
    }

    /// Number of tasks `T`.
    pub fn n_tasks(&self) -> usize {
        self.n_tasks
    }

    /// Inner products of task `i` with all tasks, `[T]`.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.n_tasks..(i + 1) * self.n_tasks]
    }

    /// `diag(w) G diag(w)`: the Gram matrix of the gradients scaled by `w`.
    ///
    /// # Errors
    /// If a product overflows.
    pub fn scaled(&self, w: &[f64]) -> Result<Gram, NotFinite> {
        let n = self.n_tasks;
        Gram::new((0..n * n).map(|k| w[k / n] * self.values[k] * w[k % n]).collect())
    }

    /// The Gram matrix of these tasks' gradients alone, `[n, n]`.
    #[must_use]
    pub fn of(&self, tasks: &[usize]) -> Gram {
        let values = tasks.iter().flat_map(|&i| tasks.iter().map(move |&j| self.row(i)[j])).collect();
        Gram { n_tasks: tasks.len(), values }
    }

    /// All inner products, `[T, T]` row-major.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// `G c`, `[T]`: the inner product of each gradient with a combination of them.
    pub fn times(&self, c: &[f64]) -> Vec<f64> {
        (0..self.n_tasks).map(|i| dot(self.row(i), c)).collect()
    }

    /// The sum of the squared norms.
    pub fn trace(&self) -> f64 {
        (0..self.n_tasks).map(|i| self.row(i)[i]).sum()
    }

    /// Norms of the gradients, `[T]`.
    pub fn norms(&self) -> Vec<f64> {
        (0..self.n_tasks).map(|i| self.row(i)[i].max(0.0).sqrt()).collect()
    }

    /// Cosines between the gradients, `[T * T]`; 0 where a gradient is zero, 1 on the diagonal.
    pub fn cosines(&self) -> Vec<f64> {
        let norms = self.norms();
        let n = self.n_tasks;
        let cosine = |i: usize, j: usize| match norms[i] * norms[j] {
            _ if i == j => 1.0,
            0.0 => 0.0,
            product => (self.row(i)[j] / product).clamp(-1.0, 1.0),
        };
        (0..n * n).map(|k| cosine(k / n, k % n)).collect()
    }

    /// Share of pairs of tasks with a negative inner product; `None` for one task.
    pub fn conflict_rate(&self) -> Option<f64> {
        let n = self.n_tasks;
        let pairs = n * n.saturating_sub(1) / 2;
        let conflicts = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|&(i, j)| self.row(i)[j] < 0.0).count();
        (pairs > 0).then(|| conflicts as f64 / pairs as f64)
    }

    /// `cᵀ G c`: the squared norm of the combination of the gradients.
    pub fn quadratic(&self, c: &[f64]) -> f64 {
        let square: f64 = (0..self.n_tasks).map(|i| c[i] * dot(self.row(i), c)).sum();
        // Rounding may leave a tiny negative number; NaN must stay NaN.
        if square < 0.0 { 0.0 } else { square }
    }
}

/// Inner product.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_tasks_that_are_not_finite() {
        assert_eq!(Gram::new(vec![1.0, f64::NAN, f64::NAN, f64::INFINITY]), Err(NotFinite(vec![1])));
        assert_eq!(Gram::new(vec![1.0, f64::NAN, f64::NAN, 1.0]), Err(NotFinite(vec![0, 1])));
        assert!(Gram::new(vec![1e200, 0.0, 0.0, 1.0]).unwrap().scaled(&[1e100, 1.0]).is_err());
    }

    #[test]
    fn summaries() {
        // Gradients (3, 0), (0, 2), (-1, 0), 0.
        let g = [[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]];
        let values = g.iter().flat_map(|a| g.iter().map(|b| dot(a, b))).collect();
        let gram = Gram::new(values).unwrap();
        assert_eq!(gram.norms(), [3.0, 2.0, 1.0, 0.0]);
        assert_eq!(gram.cosines()[..4], [1.0, 0.0, -1.0, 0.0]);
        assert_eq!(gram.conflict_rate(), Some(1.0 / 6.0));
        assert_eq!(gram.quadratic(&[1.0, 1.0, 1.0, 5.0]), 8.0);
        assert_eq!(gram.scaled(&[2.0, 0.0, 1.0, 1.0]).unwrap().row(0), [36.0, 0.0, -6.0, 0.0]);
    }
}
