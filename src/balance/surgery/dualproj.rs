//! DualProj: the mean gradient, projected on the cone of directions that hurt no task.
//!
//! The projection of gradient episodic memory, Lopez-Paz and Ranzato, 2017 (arXiv:1706.08840), with the mean of all
//! task gradients in the place of the newest one, as TorchJD defines it: `Jᵀ v` with `v` least in `vᵀ G v` over `v >= 1/T`
//! (see [`Nnqp`]). It differs from UPGrad, which projects every gradient before the mean is taken.
//!
//! The problem is solved for `G / tr(G) + reg I`. The definition has no `reg`, and 0 is the default. TorchJD adds 1e-4, which
//! leaves conflicts of up to `reg tr(G)` times a coefficient: see UPGrad.
//!
//! Departures: TorchJD returns the plain mean as soon as `tr(G)` is below 1e-4; here the scale of the gradients does not
//! matter.

use super::upgrad::Regular;
use super::{GramSurgery, View};
use crate::balance::solver::Nnqp;
use crate::config;
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone)]
pub struct DualProj {
    reg: f64,
    solver: Nnqp,
}

impl DualProj {
    /// The method with these options.
    pub fn new(config: &config::DualProj) -> Self {
        DualProj { reg: config.reg, solver: Nnqp::default() }
    }
}

impl GramSurgery for DualProj {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let n = at.gram.n_tasks();
        let mean = 1.0 / n as f64;
        let regular = Regular::new(at.gram, self.reg);
        let toward: Vec<f64> = (0..n).map(|i| (0..n).map(|j| regular.entry(i, j)).sum::<f64>() * mean).collect();
        if toward.iter().all(|x| *x >= 0.0) {
            return vec![mean; n];
        }
        self.solver.set(n, |i, j| regular.entry(i, j));
        self.solver.solve(|i| toward[i]);
        (0..n).map(|i| mean + self.solver.x(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, jacobian, relative, run};
    use super::*;
    use crate::balance::gram::dot;
    use crate::balance::solver::testing::{hard_jacobian, norms};
    use proptest::prelude::*;

    fn dualproj(reg: f64) -> DualProj {
        DualProj::new(&config::DualProj { reg })
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, DualProj()(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = run(&mut dualproj(1e-4), &j);
        assert!(relative(&c, &[0.6109, 0.5]) < 1e-4, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.5563, 1.1109, 1.1109]) < 1e-4);
    }

    #[test]
    fn zero_gradients_one_task_and_opposite_ones() {
        assert_eq!(run(&mut dualproj(0.0), &[vec![3.0]]), [1.0]);
        assert_eq!(run(&mut dualproj(1e-4), &vec![vec![0.0; 2]; 4]), [0.25; 4]);
        let d = combine(&[vec![2.0], vec![-1.0]], &run(&mut dualproj(0.0), &[vec![2.0], vec![-1.0]]));
        assert!(d[0].abs() < 1e-15, "{d:?}");
    }

    proptest! {
        #[test]
        fn is_the_projection_of_the_mean(j in hard_jacobian()) {
            let c = run(&mut dualproj(0.0), &j);
            let mean = combine(&j, &vec![1.0 / j.len() as f64; j.len()]);
            let (d, norms) = (combine(&j, &c), norms(&j));
            let size: f64 = c.iter().zip(&norms).map(|(c, n)| c * n).sum();
            let largest = norms.iter().copied().fold(0.0, f64::max);
            for (g, n) in j.iter().zip(&norms) {
                // Gradients that are opposite to four digits are taken to be opposite.
                prop_assert!(dot(g, &d) >= -(1e-11 * size + 1e-4 * largest) * n, "{} {:?} {:?}", dot(g, &d), c, d);
            }
            // What was taken away is orthogonal to what is left.
            let moved: Vec<f64> = d.iter().zip(&mean).map(|(d, m)| d - m).collect();
            prop_assert!(dot(&moved, &d).abs() <= 1e-11 * size * size);
        }

        #[test]
        fn the_scale_of_all_gradients_does_not_matter(j in hard_jacobian(), exponent in -30i32..30) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            prop_assert_eq!(run(&mut dualproj(1e-4), &scaled), run(&mut dualproj(1e-4), &j));
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in jacobian()) {
            let at = |j: &[Vec<f64>]| combine(j, &run(&mut dualproj(1e-4), j));
            let reversed: Vec<Vec<f64>> = j.iter().rev().cloned().collect();
            let (a, b) = (at(&reversed), at(&j));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {:?}", a, b);
        }
    }
}
