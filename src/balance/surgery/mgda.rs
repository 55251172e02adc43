//! Multiple-gradient descent: the shortest convex combination of the task gradients.
//!
//! Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", 2018 (arXiv:1810.04650), after Désidéri,
//! 2012: least `|sum_t a_t g_t|` over `a >= 0`, `sum a = 1`. The direction `d` has `<g_t, d> >= |d|^2` for every task, and
//! is 0 only where no direction improves all: at a Pareto-stationary point. A task with a zero gradient makes one, so
//! the update then is 0 whatever the other tasks say.
//!
//! The authors' code may divide the gradients by a normaliser first, "not included in the paper": their norms, their
//! losses, or both (LibMTL's `loss+`). It then uses `a` on the gradients as they were; that is `apply: original`, the
//! default, and no longer promises descent on all tasks. `apply: normalized` (LibMTL's) uses it on the divided
//! gradients, and does.
//!
//! Departures: solved exactly, not by 250 steps of Frank-Wolfe. Losses count by their magnitude, at least rounding's
//! share of the largest, so that negative and zero losses have a meaning; if all are 0, they are not divided by.

use super::{GramSurgery, View};
use crate::balance::Gram;
use crate::balance::solver::{Nnqp, min_norm};
use crate::config::{self, MgdaApply, MgdaNormalize};
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone)]
pub struct Mgda {
    config: config::Mgda,
    solver: Nnqp,
}

impl Mgda {
    /// The method with these options.
    pub fn new(config: &config::Mgda) -> Self {
        Mgda { config: config.clone(), solver: Nnqp::default() }
    }
}

impl GramSurgery for Mgda {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let (n, gram) = (at.gram.n_tasks(), at.gram);
        if self.config.normalize == MgdaNormalize::None {
            return min_norm(&mut self.solver, n, |i, j| gram.row(i)[j]);
        }
        let unit = normalizers(self.config.normalize, gram, at.losses);
        let mut a = min_norm(&mut self.solver, n, |i, j| gram.row(i)[j] / unit[i] / unit[j]);
        if self.config.apply == MgdaApply::Normalized {
            a.iter_mut().zip(&unit).for_each(|(a, unit)| *a /= unit);
        }
        a
    }
}

/// What the gradients are divided by, `[n]`, above 0.
fn normalizers(by: MgdaNormalize, gram: &Gram, losses: &[f64]) -> Vec<f64> {
    let largest = losses.iter().fold(0.0f64, |m, loss| m.max(loss.abs()));
    let loss = |i: usize| if largest > 0.0 { losses[i].abs().max(f64::EPSILON * largest) } else { 1.0 };
    // A zero gradient is zero by any measure.
    let norm = |i: usize| match gram.row(i)[i] {
        square if square > 0.0 => square.sqrt(),
        _ => 1.0,
    };
    let of = |i: usize| match by {
        MgdaNormalize::None => 1.0,
        MgdaNormalize::L2 => norm(i),
        MgdaNormalize::Loss => loss(i),
        MgdaNormalize::LossL2 => loss(i) * norm(i),
    };
    (0..gram.n_tasks()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{combine, jacobian, relative, run, run_with};
    use super::*;
    use crate::balance::gram::dot;
    use crate::balance::solver::testing::{hard_jacobian, norms};
    use proptest::prelude::*;

    fn mgda(normalize: MgdaNormalize, apply: MgdaApply) -> Mgda {
        Mgda::new(&config::Mgda { normalize, apply })
    }

    fn plain() -> Mgda {
        Mgda::new(&config::Mgda::default())
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, MGDA()(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let c = run(&mut plain(), &j);
        assert!(relative(&c, &[0.6, 0.4]) < 1e-15, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.0, 1.0, 1.0]) < 1e-15);
    }

    #[test]
    fn normalizers_move_the_shortest_point() {
        let j = vec![vec![3.0, 0.0], vec![0.0, 4.0]];
        let at = |n, a| run_with(&mut mgda(n, a), &j, &[-0.5, 2.0]);
        // Orthogonal: a_t is proportional to 1 / |g_t / unit_t|^2.
        for (normalize, unit) in [
            (MgdaNormalize::None, [1.0, 1.0]),
            (MgdaNormalize::L2, [3.0, 4.0]),
            (MgdaNormalize::Loss, [0.5, 2.0]),
            (MgdaNormalize::LossL2, [1.5, 8.0]),
        ] {
            let square = [(unit[0] / 3.0f64).powi(2), (unit[1] / 4.0f64).powi(2)];
            let a = [square[0] / (square[0] + square[1]), square[1] / (square[0] + square[1])];
            assert!(relative(&at(normalize, MgdaApply::Original), &a) < 1e-14, "{normalize:?}");
            let divided = [a[0] / unit[0], a[1] / unit[1]];
            assert!(relative(&at(normalize, MgdaApply::Normalized), &divided) < 1e-14, "{normalize:?}");
        }
    }

    #[test]
    fn a_zero_gradient_is_a_stationary_point_and_zero_losses_are_no_division() {
        let j = vec![vec![1.0, 2.0], vec![0.0, 0.0], vec![5.0, -1.0]];
        for normalize in [MgdaNormalize::None, MgdaNormalize::L2, MgdaNormalize::Loss, MgdaNormalize::LossL2] {
            let c = run_with(&mut mgda(normalize, MgdaApply::Normalized), &j, &[1.0, 0.0, 0.0]);
            assert_eq!(combine(&j, &c), [0.0, 0.0], "{normalize:?}");
            let j = vec![vec![1.0, 2.0], vec![5.0, -1.0]];
            let c = run_with(&mut mgda(normalize, MgdaApply::Original), &j, &[0.0, 0.0]);
            assert!((c.iter().sum::<f64>() - 1.0).abs() < 1e-14, "{normalize:?} {c:?}");
        }
        // Divided by nearly nothing, the first gradient is too long to be in the shortest combination.
        let j = vec![vec![1.0, 2.0], vec![5.0, -1.0]];
        let c = run_with(&mut mgda(MgdaNormalize::Loss, MgdaApply::Original), &j, &[0.0, 1.0]);
        assert!(c[0].abs() < 1e-15, "{c:?}");
    }

    proptest! {
        #[test]
        fn improves_every_task_by_its_own_square(j in hard_jacobian()) {
            let c = run(&mut plain(), &j);
            let (d, norms) = (combine(&j, &c), norms(&j));
            let size: f64 = c.iter().zip(&norms).map(|(a, n)| a * n).sum();
            for (g, n) in j.iter().zip(&norms) {
                prop_assert!(dot(g, &d) - dot(&d, &d) >= -1e-4 * (n + size) * size, "{:?}", c);
            }
        }

        #[test]
        fn norms_do_not_matter_once_normalized(j in hard_jacobian(), exponent in -30i32..30) {
            let mut scaled = j.clone();
            scaled[0].iter_mut().for_each(|x| *x *= 2f64.powi(exponent));
            let at = |j: &[Vec<f64>]| combine(j, &run(&mut mgda(MgdaNormalize::L2, MgdaApply::Normalized), j));
            let (a, b) = (at(&scaled), at(&j));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-7), "{:?} {:?}", a, b);
        }

        #[test]
        fn the_order_of_tasks_does_not_matter(j in jacobian()) {
            let at = |j: &[Vec<f64>]| combine(j, &run(&mut plain(), j));
            let reversed: Vec<Vec<f64>> = j.iter().rev().cloned().collect();
            let (a, b) = (at(&reversed), at(&j));
            prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {:?}", a, b);
        }
    }
}
