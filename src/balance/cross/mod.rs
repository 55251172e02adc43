//! Surgery on gradients of independent batches, a file per method.
//!
//! Stochastic multi-objective methods need `J_1 J_2ᵀ` of two independent batches, whose expectation is `J Jᵀ` of the
//! whole data; the Gram matrix of one batch has a bias. The rows of a step are divided into as many independent batches
//! as the method needs, **before** they are divided over ranks, so which sample is in which batch does not depend on `W`.

mod modo;
mod sdmgrad;
mod shares;

pub use modo::MoDo;
pub use sdmgrad::SdmGrad;

use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// Independent batches per step. The shared parameters move along the gradients of the last one.
pub const BATCHES: usize = crate::config::INDEPENDENT_BATCHES;

/// The tasks of a step as such a method sees them: only those with labels in every batch, and a weight other than 0.
#[derive(Debug, Clone, Copy)]
pub struct CrossView<'a> {
    /// `J_1 J_2ᵀ` of the first two batches, `[n, n]` row-major; not symmetric.
    pub cross: &'a [f64],
    /// Which of all tasks these are `[n]`, ascending.
    pub tasks: &'a [usize],
    /// The step; counts from 0.
    pub step: u64,
}

/// A method that is a function of such products (and of small state).
pub trait CrossSurgery {
    /// Coefficients `[n]` of the weighted task gradients of the last batch.
    fn coefficients(&mut self, at: &CrossView<'_>, rng: &mut ChaCha8Rng) -> Vec<f64>;

    /// State for a checkpoint; `null` if there is none.
    fn save(&self) -> Value {
        Value::Null
    }

    /// Takes over the state of [`Self::save`].
    ///
    /// # Errors
    /// What does not fit.
    fn load(&mut self, _state: &Value) -> Result<(), String> {
        Ok(())
    }
}

/// What the tests of the methods share.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::balance::gram::dot;
    use crate::rng::{Stream, rng};
    use rand::RngExt;

    /// Coefficients for the first two batches' Jacobians, at step 0.
    pub fn run(method: &mut dyn CrossSurgery, first: &[Vec<f64>], second: &[Vec<f64>]) -> Vec<f64> {
        let cross: Vec<f64> = first.iter().flat_map(|a| second.iter().map(|b| dot(a, b))).collect();
        let tasks: Vec<usize> = (0..first.len()).collect();
        run_on(method, &cross, &tasks)
    }

    /// Coefficients of these tasks for their products, at step 0.
    pub fn run_on(method: &mut dyn CrossSurgery, cross: &[f64], tasks: &[usize]) -> Vec<f64> {
        let view = CrossView { cross, tasks, step: 0 };
        method.coefficients(&view, &mut rng(1, Stream::Surgery, 0, 0))
    }

    /// Gradients of 2 and of 3 tasks, some in conflict and of different lengths, whose minimal norm is not at a corner.
    pub fn jacobians() -> [Vec<Vec<f64>>; 3] {
        [
            vec![vec![1.0, 0.0], vec![-0.5, 1.5]],
            vec![vec![1.0, 0.0, 0.2], vec![0.0, 2.0, 0.1], vec![0.3, -0.2, 1.5]],
            vec![vec![2.0, 0.0], vec![0.0, 1.0], vec![0.1, 1.2]],
        ]
    }

    /// Weights `w` of the simplex, on a grid of step 1/400, with the least `|J^T w + lambda J^T w_0|`.
    pub fn brute_force(j: &[Vec<f64>], lambda: f64) -> Vec<f64> {
        const N: usize = 400;
        let n = j.len();
        let norm = |w: &[f64]| -> f64 {
            let c = |t: usize| w[t] + lambda / n as f64;
            (0..j[0].len()).map(|p| (0..n).map(|t| c(t) * j[t][p]).sum::<f64>().powi(2)).sum()
        };
        let share = |k: usize| k as f64 / N as f64;
        let points: Vec<Vec<f64>> = match n {
            2 => (0..=N).map(|a| vec![share(a), share(N - a)]).collect(),
            _ => (0..=N).flat_map(|a| (0..=N - a).map(move |b| vec![share(a), share(b), share(N - a - b)])).collect(),
        };
        points.into_iter().min_by(|a, b| norm(a).total_cmp(&norm(b))).unwrap()
    }

    /// Steps on changing gradients; a second instance that takes over the state from text midway goes on with the same
    /// bits.
    pub fn steps_with(make: &dyn Fn() -> Box<dyn CrossSurgery>) {
        let step = |method: &mut dyn CrossSurgery, step: u64| {
            let mut draw = rng(7, Stream::Init, step, 0);
            let mut rows = || -> Vec<Vec<f64>> {
                (0..3).map(|_| (0..4).map(|_| draw.random_range(-1.0..1.0)).collect()).collect()
            };
            let (first, second) = (rows(), rows());
            run(method, &first, &second)
        };
        let mut first = make();
        (0..5).for_each(|k| drop(step(first.as_mut(), k)));
        let text = serde_json::to_string(&first.save()).unwrap();
        let (mut second, mut fresh) = (make(), make());
        second.load(&serde_json::from_str(&text).unwrap()).unwrap();
        let after = |method: &mut dyn CrossSurgery| -> Vec<Vec<f64>> { (5..10).map(|k| step(method, k)).collect() };
        let expected = after(first.as_mut());
        assert_eq!(after(second.as_mut()), expected);
        assert_ne!(after(fresh.as_mut()), expected, "the state matters");
    }
}
