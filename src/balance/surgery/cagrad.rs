//! Conflict-averse gradient descent: the best worst case near the mean gradient.
//!
//! Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", 2021 (arXiv:2110.14048): with `g_0` the
//! mean of the task gradients, the direction `d` with the largest `min_t <g_t, d>` over `|d - g_0| <= c |g_0|`. By the
//! dual, `d = g_0 + (c |g_0| / |g_w|) g_w` with `g_w` the convex combination of least `<g_w, g_0> + c |g_0| |g_w|`.
//!
//! `d` is multiplied by `1 / (1 + c^2)` (`rescale: square`), as in the authors' code and LibMTL by default; `linear` is
//! their `1 / (1 + c)`, and `none` what the paper's equation says and TorchJD computes.
//!
//! Departures: solved exactly, not by SLSQP or 20 steps of SGD, and without the `1e-4` and `1e-8` that are added to
//! norms there (by which TorchJD's direction becomes 0 for small gradients). Where `|g_w|` is 0, the formula is 0/0 and
//! the solution of the primal problem that is nearest to `g_0` is taken: see [`crate::balance::solver::worst_in_ball`].

use super::{GramSurgery, View};
use crate::balance::solver::{Nnqp, worst_in_ball};
use crate::config::{self, CagradRescale};
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone)]
pub struct Cagrad {
    config: config::Cagrad,
    solver: Nnqp,
}

impl Cagrad {
    /// The method with these options.
    pub fn new(config: &config::Cagrad) -> Self {
        Cagrad { config: config.clone(), solver: Nnqp::default() }
    }
}

impl GramSurgery for Cagrad {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let c = self.config.c;
        let scale = match self.config.rescale {
            CagradRescale::None => 1.0,
            CagradRescale::Linear => 1.0 / (1.0 + c),
            CagradRescale::Square => 1.0 / (1.0 + c * c),
        };
        let mut v = worst_in_ball(&mut self.solver, at.gram, c);
        let mean = 1.0 / v.len() as f64;
        v.iter_mut().for_each(|v| *v = (mean + *v) * scale);
        v
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, jacobian, relative, run};
    use super::*;
    use crate::balance::gram::dot;
    use crate::balance::solver::testing::hard_jacobian;
    use proptest::prelude::*;

    fn cagrad(c: f64, rescale: CagradRescale) -> Cagrad {
        Cagrad::new(&config::Cagrad { c, rescale })
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, CAGrad(c=0.5)(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = run(&mut cagrad(0.5, CagradRescale::None), &j);
        assert!(relative(&c, &[0.7041, 0.5]) < 1e-4, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.1835, 1.2041, 1.2041]) < 1e-4);
        let square = run(&mut Cagrad::new(&config::Cagrad::default()), &j);
        assert!(relative(&square, &[c[0] / 1.25, c[1] / 1.25]) < 1e-15, "{square:?}");
        let linear = run(&mut cagrad(0.5, CagradRescale::Linear), &j);
        assert!(relative(&linear, &[c[0] / 1.5, c[1] / 1.5]) < 1e-15, "{linear:?}");
    }

    #[test]
    fn one_task_is_made_longer_by_c() {
        assert_eq!(run(&mut cagrad(0.5, CagradRescale::None), &[vec![2.0, 1.0]]), [1.5]);
    }

    proptest! {
        #[test]
        fn without_a_ball_it_is_the_mean(j in hard_jacobian()) {
            prop_assert_eq!(run(&mut cagrad(0.0, CagradRescale::Square), &j), vec![1.0 / j.len() as f64; j.len()]);
        }

        #[test]
        fn the_scale_of_all_gradients_does_not_matter(j in hard_jacobian(), exponent in -30i32..30) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let at = |j: &[Vec<f64>]| run(&mut cagrad(0.4, CagradRescale::Square), j);
            prop_assert_eq!(at(&scaled), at(&j));
        }

        #[test]
        fn stays_in_the_ball_and_beats_the_mean(
            j in (2usize..7).prop_flat_map(|t| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 9), t)),
        ) {
            let n = j.len() as f64;
            let mean = combine(&j, &vec![1.0 / n; j.len()]);
            let d = combine(&j, &run(&mut cagrad(0.5, CagradRescale::None), &j));
            let moved: Vec<f64> = d.iter().zip(&mean).map(|(d, m)| d - m).collect();
            let ratio = (dot(&moved, &moved) / dot(&mean, &mean)).sqrt();
            prop_assert!((ratio - 0.5).abs() < 1e-10, "{}", ratio);
            let worst = |d: &[f64]| j.iter().map(|g| dot(g, d)).fold(f64::INFINITY, f64::min);
            prop_assert!(worst(&d) >= worst(&mean) - 1e-12);
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in jacobian()) {
            let at = |j: &[Vec<f64>]| combine(j, &run(&mut cagrad(0.4, CagradRescale::Square), j));
            let reversed: Vec<Vec<f64>> = j.iter().rev().cloned().collect();
            let (a, b) = (at(&reversed), at(&j));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {:?}", a, b);
        }
    }
}
