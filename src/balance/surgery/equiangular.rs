//! The direction with equal cosines to all gradients: what IMTL-G and ConFIG share.
//!
//! With the unit gradients `u_t = g_t / |g_t|` and their cosines `U Uᵀ`, the shortest solution `v` of `U Uᵀ v = 1` gives
//! the combination `Uᵀ v` whose projection on every unit gradient is 1. Where there is none, because gradients are
//! linearly dependent, `v` makes the projections as nearly 1 as possible in the least squares sense.

use crate::balance::Gram;
use crate::balance::gram::dot;
use crate::balance::solver::eigen::Eigen;

/// A task whose gradient is shorter than this share of the longest counts as one with a zero gradient: quotients of
/// norms must not overflow.
const NOTHING: f64 = 1e-100;

/// The combination of unit gradients whose projections on them are equal.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Equiangular {
    /// Tasks with a gradient other than zero.
    pub tasks: Vec<usize>,
    /// Norms of their gradients, relative to the longest.
    pub norms: Vec<f64>,
    /// Coefficients of their unit gradients.
    pub v: Vec<f64>,
    /// Projections on their unit gradients.
    pub projections: Vec<f64>,
}

impl Equiangular {
    pub fn of(gram: &Gram) -> Self {
        let norms = gram.norms();
        let longest = norms.iter().copied().fold(0.0, f64::max);
        let tasks: Vec<usize> = (0..norms.len()).filter(|&t| norms[t] > NOTHING * longest).collect();
        let cosines: Vec<f64> = tasks
            .iter()
            .flat_map(|&i| tasks.iter().map(move |&j| (i, j)))
            .map(|(i, j)| if i == j { 1.0 } else { (gram.row(i)[j] / norms[i] / norms[j]).clamp(-1.0, 1.0) })
            .collect();
        let ones = vec![1.0; tasks.len()];
        let v = Eigen::of(&cosines).pseudo_inverse_times(&ones);
        let projections = cosines.chunks(tasks.len().max(1)).map(|row| dot(row, &v)).collect();
        Equiangular { norms: tasks.iter().map(|&t| norms[t] / longest).collect(), tasks, v, projections }
    }
}

/// The norms of two gradients, if there are exactly two and none is zero: the common case has closed forms.
pub(super) fn pair(gram: &Gram) -> Option<[f64; 2]> {
    if gram.n_tasks() != 2 {
        return None;
    }
    let [a, b] = [gram.row(0)[0].max(0.0).sqrt(), gram.row(1)[1].max(0.0).sqrt()];
    (a.min(b) > NOTHING * a.max(b)).then_some([a, b])
}
