//! UPGrad: the mean of the gradients, each projected on the cone of directions that hurt no task.
//!
//! Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024 (arXiv:2406.16232): with `C` the cone of
//! directions with `<g_t, d> >= 0` for all tasks, `d = 1/T sum_t proj_C(g_t)`. In coefficients, the projection of `g_t` is
//! `Jᵀ v` with `v` least in `vᵀ G v` over `v >= e_t`, one small problem per task (see [`Nnqp`]).
//!
//! The problems are solved for `G / tr(G) + reg I`. The paper has no `reg`, and 0 is the default. The authors' code adds
//! 1e-4, which makes coefficients unique where gradients are dependent (the direction is unique anyway), but leaves
//! conflicts of up to `reg tr(G)` times a coefficient: all of a conflict, where one gradient is a hundred times longer than
//! another. Without any conflict the coefficients are exactly `1/T`.
//!
//! Departures: none from the paper. The code returns the plain mean as soon as `tr(G)` is below 1e-4, which any run
//! reaches; here the scale of the gradients does not matter.

use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::balance::solver::Nnqp;
use crate::config;
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone)]
pub struct UpGrad {
    reg: f64,
    solver: Nnqp,
}

impl UpGrad {
    /// The method with these options.
    pub fn new(config: &config::UpGrad) -> Self {
        UpGrad { reg: config.reg, solver: Nnqp::default() }
    }
}

impl GramSurgery for UpGrad {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let n = at.gram.n_tasks();
        let regular = Regular::new(at.gram, self.reg);
        let mut total = vec![1.0; n];
        if n == 2 {
            // With one other task there is one number to find.
            for (i, j) in [(0, 1), (1, 0)] {
                let overlap = regular.entry(i, j);
                total[j] -= if overlap < 0.0 { overlap / regular.entry(j, j) } else { 0.0 };
            }
        } else if n > 2 {
            self.solver.set(n, |i, j| regular.entry(i, j));
            for i in 0..n {
                if (0..n).any(|j| regular.entry(i, j) < 0.0) {
                    self.solver.forget();
                    self.solver.solve(|j| regular.entry(j, i));
                    total.iter_mut().enumerate().for_each(|(j, total)| *total += self.solver.x(j));
                }
            }
        }
        total.iter_mut().for_each(|total| *total /= n as f64);
        total
    }
}

/// `G / tr(G) + reg I`.
#[derive(Debug)]
pub(super) struct Regular<'a> {
    gram: &'a Gram,
    /// The largest square, and its share of the trace: the trace itself may overflow.
    size: f64,
    share: f64,
    reg: f64,
}

impl<'a> Regular<'a> {
    pub fn new(gram: &'a Gram, reg: f64) -> Self {
        let squares = (0..gram.n_tasks()).map(|i| gram.row(i)[i]);
        let size = squares.clone().fold(0.0, f64::max);
        Regular { gram, size, share: 1.0 / squares.map(|x| x / size).sum::<f64>(), reg }
    }

    pub fn entry(&self, i: usize, j: usize) -> f64 {
        let regular = if i == j { self.reg } else { 0.0 };
        if self.size > 0.0 { self.gram.row(i)[j] / self.size * self.share + regular } else { regular }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pcgrad;
    use super::super::testing::{combine, gram_of, jacobian, relative, run};
    use super::*;
    use crate::balance::gram::dot;
    use crate::balance::solver::testing::{forty, hard_jacobian, norms};
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;

    fn upgrad(reg: f64) -> UpGrad {
        UpGrad::new(&config::UpGrad { reg })
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, UPGrad()(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = run(&mut upgrad(1e-4), &j);
        assert!(relative(&c, &[1.1109, 0.7894]) < 1e-4, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.2929, 1.9004, 1.9004]) < 1e-4);
    }

    #[test]
    fn zero_gradients_and_one_task_are_no_conflict() {
        assert_eq!(run(&mut upgrad(0.0), &[vec![3.0]]), [1.0]);
        for reg in [0.0, 1e-4] {
            assert_eq!(run(&mut upgrad(reg), &[vec![0.0, 0.0], vec![1.0, -1.0]]), [0.5, 0.5]);
            assert_eq!(run(&mut upgrad(reg), &vec![vec![0.0; 2]; 4]), [0.25; 4]);
            // A zero gradient changes nothing for the others but their number.
            let three = run(&mut upgrad(reg), &[vec![-4.0, 1.0], vec![0.0, 0.0], vec![6.0, 1.0]]);
            let two = run(&mut upgrad(reg), &[vec![-4.0, 1.0], vec![6.0, 1.0]]);
            assert!(relative(&[three[0] * 1.5, three[2] * 1.5], &two) < 1e-14, "{three:?} {two:?}");
        }
    }

    #[test]
    fn opposite_gradients_stop() {
        let j = vec![vec![1.0, 1.0], vec![-3.0, -3.0], vec![0.0, 0.0]];
        let d = combine(&j, &run(&mut upgrad(0.0), &j));
        assert!(d.iter().all(|d| d.abs() < 1e-14), "{d:?}");
    }

    #[test]
    fn tiny_gradients_are_projected_like_any_others() {
        // Far below 1e-4 of tr(G), where the plain mean is returned by others.
        let j = |s: f64| vec![vec![-4.0 * s, s, s], vec![6.0 * s, s, s], vec![s, -2.0 * s, s]];
        assert_eq!(run(&mut upgrad(1e-4), &j(2f64.powi(-40))), run(&mut upgrad(1e-4), &j(1.0)));
    }

    #[test]
    fn forty_tasks() {
        let j = forty(60);
        let d = combine(&j, &run(&mut upgrad(0.0), &j));
        let scale = dot(&d, &d).sqrt();
        assert!(scale > 0.0);
        for (g, n) in j.iter().zip(norms(&j)) {
            assert!(dot(g, &d) >= -1e-12 * n * scale, "{}", dot(g, &d));
        }
    }

    proptest! {
        #[test]
        fn two_tasks_as_by_pcgrad(j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 3), 2)) {
            let sum = pcgrad(&gram_of(&j), &mut rng(0, Stream::Surgery, 0, 0));
            let c = run(&mut upgrad(0.0), &j);
            prop_assert!(relative(&c, &[sum[0] / 2.0, sum[1] / 2.0]) < 1e-13, "{:?} {:?}", c, sum);
            // The general method, with a third task that has nothing to say.
            let third = run(&mut upgrad(0.0), &[j[0].clone(), j[1].clone(), vec![0.0; 3]]);
            prop_assert!(relative(&[third[0] * 1.5, third[1] * 1.5], &c) < 1e-13, "{:?} {:?}", c, third);
        }

        #[test]
        fn no_task_gets_worse(j in hard_jacobian()) {
            let c = run(&mut upgrad(0.0), &j);
            prop_assert!(c.iter().all(|c| c.is_finite() && *c >= 0.0), "{:?}", c);
            let (d, norms) = (combine(&j, &c), norms(&j));
            let size: f64 = c.iter().zip(&norms).map(|(c, n)| c * n).sum();
            let largest = norms.iter().copied().fold(0.0, f64::max);
            for (g, n) in j.iter().zip(&norms) {
                // Gradients that are opposite to four digits are taken to be opposite.
                prop_assert!(dot(g, &d) >= -(1e-11 * size + 1e-4 * largest) * n, "{} {:?} {:?}", dot(g, &d), c, d);
            }
        }

        #[test]
        fn what_is_left_of_a_conflict_is_bounded_by_reg(j in hard_jacobian()) {
            let c = run(&mut upgrad(1e-4), &j);
            let (d, norms) = (combine(&j, &c), norms(&j));
            let size: f64 = c.iter().zip(&norms).map(|(c, n)| c * n).sum();
            let trace: f64 = norms.iter().map(|n| n * n).sum();
            for ((g, n), c) in j.iter().zip(&norms).zip(&c) {
                prop_assert!(dot(g, &d) >= -1e-4 * trace * c * (1.0 + 1e-9) - 1e-11 * n * size);
            }
        }

        #[test]
        fn without_conflict_it_is_the_mean(j in prop::collection::vec(prop::collection::vec(0.0f64..1.0, 4), 1..6)) {
            prop_assert_eq!(run(&mut upgrad(1e-4), &j), vec![1.0 / j.len() as f64; j.len()]);
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in jacobian()) {
            let reversed: Vec<Vec<f64>> = j.iter().rev().cloned().collect();
            let mut c = run(&mut upgrad(1e-4), &reversed);
            c.reverse();
            prop_assert!(relative(&c, &run(&mut upgrad(1e-4), &j)) < 1e-9);
        }
    }
}
