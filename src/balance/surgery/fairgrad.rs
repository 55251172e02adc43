//! FairGrad: alpha-fair shares of the improvement.
//!
//! Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", 2024 (arXiv:2402.15638): the direction `d` of a ball
//! that maximises `sum_t <g_t, d>^(1 - alpha) / (1 - alpha)` is a multiple of `sum_t w_t g_t` with `G w = w^(-1/alpha)`. For
//! `alpha` 1 it is Nash-MTL's bargain, near 0 the plain sum, and large values look at the task that gains least.
//!
//! Departures: the equation is solved to rounding (see [`Fair`]), not by a least-squares routine; the solution is
//! unique. Tasks with a zero gradient do not take part: their coefficient is 0. Where a combination of gradients with
//! positive coefficients vanishes there is no bounded solution; the diagonal of the cosines then counts a little
//! more than 1 (`1e-12` for `alpha` 1, `3e-11` for 2), and large coefficients cancel in the direction.

use super::{GramSurgery, View};
use crate::balance::solver::Fair;
use crate::config;
use crate::rng::ChaCha8Rng;

/// The method; it has no state.
#[derive(Debug, Clone)]
pub struct FairGrad {
    alpha: f64,
    solver: Fair,
}

impl FairGrad {
    /// The method with these options.
    pub fn new(config: &config::FairGrad) -> Self {
        FairGrad { alpha: config.alpha, solver: Fair::default() }
    }
}

impl GramSurgery for FairGrad {
    fn coefficients(&mut self, at: &View<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        self.solver.solve(at.gram, self.alpha, &mut vec![0.0; at.gram.n_tasks()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::NashMtl;
    use super::super::testing::{combine, relative, run};
    use super::*;
    use crate::balance::solver::testing::hard_jacobian;
    use proptest::prelude::*;

    fn fairgrad(alpha: f64) -> FairGrad {
        FairGrad::new(&config::FairGrad { alpha })
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, FairGrad(alpha=1.0)(tensor([[-4, 1, 1], [6, 1, 1]])).
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let w = run(&mut FairGrad::new(&config::FairGrad::default()), &j);
        assert!(relative(&w, &[0.5915, 0.4071]) < 1e-4, "{w:?}");
        assert!(relative(&combine(&j, &w), &[0.0766, 0.9985, 0.9985]) < 1e-4);
    }

    #[test]
    fn small_alpha_is_the_sum_and_large_alpha_equal_gains() {
        let j = vec![vec![1.0, 0.2, 0.0], vec![0.3, 2.0, 0.1], vec![0.1, 0.0, 1.5]];
        assert!(relative(&run(&mut fairgrad(1e-3), &j), &[1.0; 3]) < 1e-2);
        // For large alpha, G w = w^(-1/alpha) is nearly 1 for all tasks.
        let d = combine(&j, &run(&mut fairgrad(100.0), &j));
        let gains: Vec<f64> = j.iter().map(|g| crate::balance::gram::dot(g, &d)).collect();
        assert!(relative(&gains, &[1.0; 3]) < 5e-2, "{gains:?}");
    }

    #[test]
    fn a_zero_gradient_does_not_take_part() {
        let w = run(&mut fairgrad(2.0), &[vec![3.0, 0.0], vec![0.0, 0.0], vec![0.0, 4.0]]);
        let alone = |square: f64| square.powf(-2.0 / 3.0);
        assert!(relative(&w, &[alone(9.0), 0.0, alone(16.0)]) < 1e-9 && w[1] == 0.0, "{w:?}");
    }

    proptest! {
        #[test]
        fn for_alpha_1_it_is_the_nash_bargain(j in hard_jacobian()) {
            let mut nash = NashMtl::new(&config::NashMtl { max_norm: None }, j.len());
            prop_assert_eq!(run(&mut fairgrad(1.0), &j), run(&mut nash, &j));
        }

        #[test]
        fn the_scale_of_all_gradients_is_a_power_of_the_coefficients(
            j in (1usize..7).prop_flat_map(|t| prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 12), t)),
            exponent in -40i32..40, alpha in prop::sample::select(vec![0.5, 1.0, 2.0]),
        ) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let factor = s.powf(-2.0 * alpha / (1.0 + alpha));
            let want: Vec<f64> = run(&mut fairgrad(alpha), &j).iter().map(|w| w * factor).collect();
            let got = run(&mut fairgrad(alpha), &scaled);
            prop_assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-9 * b), "{:?} {:?}", got, want);
        }

        #[test]
        fn is_finite_and_not_negative(j in hard_jacobian(), alpha in prop::sample::select(vec![0.01, 0.5, 2.0, 100.0])) {
            let w = run(&mut fairgrad(alpha), &j);
            prop_assert!(w.iter().all(|w| w.is_finite() && *w >= 0.0), "{:?}", w);
        }
    }
}
