//! SDMGrad: minimal norm in the neighbourhood of the mean gradient, by double sampling.
//!
//! Xiao, Ban and Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms", 2023
//! (arXiv:2305.18409), Algorithm 1: weights `w` of the simplex minimise `|Jᵀ (w + lambda w_0)|^2 / 2` with `w_0 = 1 / T`, by
//! projected gradient steps whose slope `J_1 J_2ᵀ (w + lambda w_0)` has no bias, starting from the last step's `w`. The
//! shared parameters move along `J_3ᵀ (w + lambda w_0) / (1 + lambda)`. `lambda = 0` is minimal norm (MGDA); a large
//! `lambda` is the mean.
//!
//! Departures, all from the authors' code:
//! - One pair of batches serves all iterations of a step.
//! - The iterations have momentum, and products are divided by the square of the gradients' mean norm, so `lr` does not
//!   depend on the scale of the losses. That norm is the mean of `sqrt |(J_1 J_2ᵀ)_tt|` here (a diagonal entry may be
//!   negative), and at least a thousandth of the root of the largest product.
//!
//! The default `lr` of 10 is the authors'. Iterations settle for `lr` times the largest eigenvalue of the scaled products
//! below `2 (1 + momentum)`; beyond, as for 10 and gradients in conflict, they jump between the borders of the simplex.
//!
//! Remembers `w`, by task; saved in checkpoints. A task that a step lacks keeps its weight.

use super::shares::Shares;
use super::{CrossSurgery, CrossView};
use crate::balance::gram::dot;
use crate::balance::solver::simplex::project;
use crate::config;
use crate::rng::ChaCha8Rng;
use serde_json::Value;

/// Options and weights.
#[derive(Debug, Clone, PartialEq)]
pub struct SdmGrad {
    options: config::Sdmgrad,
    shares: Shares,
}

impl SdmGrad {
    /// Equal weights.
    pub fn new(config: &config::Sdmgrad, n_tasks: usize) -> Self {
        SdmGrad { options: config.clone(), shares: Shares::new(n_tasks) }
    }
}

impl CrossSurgery for SdmGrad {
    fn coefficients(&mut self, at: &CrossView<'_>, _: &mut ChaCha8Rng) -> Vec<f64> {
        let lambda = self.options.lambda;
        let n = at.tasks.len();
        let mut w = self.shares.of(at.tasks);
        let pull = lambda / n as f64;
        let products = scaled(at.cross, n);
        match (&products[..], &mut w[..]) {
            (&[a, b, c, d], [first, second]) => {
                *first = two(&self.options, [a, b, c, d], *first);
                *second = 1.0 - *first;
            }
            (products, w) => general(&self.options, products, w),
        }
        self.shares.set(at.tasks, &w);
        w.iter_mut().for_each(|w| *w = (*w + pull) / (1.0 + lambda));
        w
    }

    fn save(&self) -> Value {
        self.shares.save()
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        self.shares.load(state, "sdmgrad")
    }
}

/// The iterations of a step, on the weights `[n]`.
fn general(options: &config::Sdmgrad, products: &[f64], w: &mut [f64]) {
    let n = w.len();
    let pull = options.lambda / n as f64;
    let (mut pulled, mut velocity) = (vec![0.0; n], vec![0.0; n]);
    for _ in 0..options.iterations {
        pulled.iter_mut().zip(&*w).for_each(|(p, w)| *p = w + pull);
        for ((v, row), w) in velocity.iter_mut().zip(products.chunks(n)).zip(&mut *w) {
            *v = options.momentum * *v + dot(row, &pulled);
            *w -= options.lr * *v;
        }
        project(w);
    }
}

/// The same for two tasks, on the weight of the first.
fn two(options: &config::Sdmgrad, [a, b, c, d]: [f64; 4], mut w: f64) -> f64 {
    let pull = 0.5 * options.lambda;
    // Only the difference of the two velocities matters.
    let mut velocity = 0.0;
    for _ in 0..options.iterations {
        let (first, second) = (w + pull, 1.0 - w + pull);
        velocity = options.momentum * velocity + (a - c) * first + (b - d) * second;
        w = (w - 0.5 * options.lr * velocity).clamp(0.0, 1.0);
    }
    w
}

/// Products of gradients whose mean norm is 1; zeros stay zeros.
fn scaled(cross: &[f64], n: usize) -> Vec<f64> {
    let largest = cross.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 {
        return cross.to_vec();
    }
    let mean = (0..n).map(|t| (cross[t * n + t] / largest).abs().sqrt()).sum::<f64>() / n as f64;
    let square = mean.max(1e-3) * mean.max(1e-3);
    cross.iter().map(|x| x / largest / square).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{brute_force, jacobians, run, run_on, steps_with};
    use super::*;

    fn sdmgrad(lambda: f64, lr: f64, n_tasks: usize) -> SdmGrad {
        SdmGrad::new(&config::Sdmgrad { lambda, lr, ..config::Sdmgrad::default() }, n_tasks)
    }

    fn near(a: &[f64], b: &[f64], tolerance: f64) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    #[test]
    fn two_iterations_by_hand() {
        // Products [[4, 0], [0, 1]]: norms 2 and 1, mean 1.5, scaled [[16, 0], [0, 4]] / 9. Two iterations with lr 0.1,
        // momentum 0.5 and lambda 0.3 from (0.5, 0.5).
        let options = config::Sdmgrad { lambda: 0.3, lr: 0.1, momentum: 0.5, iterations: 2 };
        let mut method = SdmGrad::new(&options, 2);
        let c = run_on(&mut method, &[4.0, 0.0, 0.0, 1.0], &[0, 1]);
        let onto = |v: [f64; 2]| 0.5 * (1.0 + v[0] - v[1]);
        let v = [16.0 / 9.0 * 0.65, 4.0 / 9.0 * 0.65];
        let w = onto([0.5 - 0.1 * v[0], 0.5 - 0.1 * v[1]]);
        let v = [0.5 * v[0] + 16.0 / 9.0 * (w + 0.15), 0.5 * v[1] + 4.0 / 9.0 * (1.15 - w)];
        let w = onto([w - 0.1 * v[0], 1.0 - w - 0.1 * v[1]]);
        assert!(near(&c, &[(w + 0.15) / 1.3, (1.15 - w) / 1.3], 1e-15), "{c:?} {w}");
        assert!(near(&method.shares.of(&[0, 1]), &[w, 1.0 - w], 1e-15));
    }

    #[test]
    fn equal_batches_lead_to_the_minimal_norm() {
        for j in jacobians() {
            for lambda in [0.0, 0.3] {
                let mut method = sdmgrad(lambda, 0.3, j.len());
                let c = (0..100).map(|_| run(&mut method, &j, &j)).last().unwrap();
                let (w, want) = (method.shares.of(&[0, 1, 2][..j.len()]), brute_force(&j, lambda));
                assert!(near(&w, &want, 2.0 / 400.0), "{w:?} {want:?}");
                let n = j.len() as f64;
                let combined: Vec<f64> = w.iter().map(|w| (w + lambda / n) / (1.0 + lambda)).collect();
                assert!(near(&c, &combined, 1e-15));
            }
        }
    }

    #[test]
    fn one_step_is_enough_for_two_tasks() {
        let j = &jacobians()[0];
        let c = run(&mut sdmgrad(0.0, 1.0, 2), j, j);
        assert!(near(&c, &brute_force(j, 0.0), 0.01), "{c:?}");
    }

    #[test]
    fn two_tasks_are_no_special_case() {
        for cross in [[4.0, 0.5, -1.0, 1.0], [1.0, -0.9, -0.9, 2.0], [-1.0, 2.0, 0.5, 3.0]] {
            for lr in [0.1, 1.0, 10.0] {
                let options = config::Sdmgrad { lr, ..config::Sdmgrad::default() };
                let (products, mut w) = (scaled(&cross, 2), [0.3, 0.7]);
                general(&options, &products, &mut w);
                let first = two(&options, [products[0], products[1], products[2], products[3]], 0.3);
                assert!(near(&[first, 1.0 - first], &w, 1e-9), "{cross:?} {lr} {first} {w:?}");
            }
        }
    }

    #[test]
    fn a_large_lambda_is_the_mean() {
        for j in jacobians() {
            let c = run(&mut sdmgrad(1e6, 0.3, j.len()), &j, &j);
            assert!(near(&c, &vec![1.0 / j.len() as f64; j.len()], 1e-5), "{c:?}");
        }
    }

    #[test]
    fn the_scale_of_all_gradients_does_not_matter() {
        for j in jacobians() {
            let at = |s: f64| {
                let j: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
                run(&mut sdmgrad(0.3, 10.0, j.len()), &j, &j)
            };
            assert_eq!(at(2f64.powi(50)), at(1.0));
            assert_eq!(at(2f64.powi(-50)), at(1.0));
        }
    }

    #[test]
    fn special_products() {
        let default = |n| SdmGrad::new(&config::Sdmgrad::default(), n);
        assert_eq!(run_on(&mut default(1), &[5.0], &[0]), [1.0]);
        assert_eq!(run_on(&mut default(1), &[-5.0], &[0]), [1.0]);
        assert_eq!(run_on(&mut default(2), &[0.0; 4], &[0, 1]), [0.5, 0.5]);
        // Twins share; the sum of coefficients is 1.
        assert_eq!(run_on(&mut default(2), &[3.0; 4], &[0, 1]), [0.5, 0.5]);
        for cross in [
            [1e30, 0.0, 0.0, 1.0],
            [1.0, -1.0, -1.0, 1.0],
            [-1.0, 2.0, 0.5, -3.0],
            [0.0, 1.0, -1.0, 0.0],
            [1e-300, 1e-300, -1e-300, 1e-300],
            [1e300, 1e300, -1e300, 1e300],
        ] {
            let c = run_on(&mut default(2), &cross, &[0, 1]);
            assert!(c.iter().all(|c| *c > 0.1) && (c.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{cross:?} {c:?}");
        }
        // A gradient far longer than the other: all that lambda leaves goes to the short one.
        let c = run_on(&mut default(2), &[1e30, 0.0, 0.0, 1.0], &[0, 1]);
        assert!(near(&c, &[0.15 / 1.3, 1.15 / 1.3], 1e-12), "{c:?}");
    }

    #[test]
    fn absent_tasks_keep_their_weights() {
        let mut method = sdmgrad(0.0, 0.3, 3);
        let c = run_on(&mut method, &[3.0, 0.0, 0.0, 1.0], &[0, 2]);
        let all = method.shares.of(&[0, 1, 2]);
        let third = 1.0 / 3.0;
        assert!(near(&all, &[2.0 * third * c[0], third, 2.0 * third * c[1]], 1e-15), "{all:?} {c:?}");
    }

    #[test]
    fn a_bad_product_leaves_the_state_alone() {
        let mut method = sdmgrad(0.3, 0.3, 3);
        let w = run_on(&mut method, &[f64::NAN; 9], &[0, 1, 2]);
        assert!(w.iter().any(|w| !w.is_finite()) && method == sdmgrad(0.3, 0.3, 3), "{w:?}");
        let w = run_on(&mut sdmgrad(0.3, 0.3, 2), &[f64::NAN; 4], &[0, 1]);
        assert!(w.iter().any(|w| !w.is_finite()), "{w:?}");
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        // Fewer iterations than it takes to forget where they began.
        let few = config::Sdmgrad { lr: 0.05, iterations: 2, ..config::Sdmgrad::default() };
        steps_with(&|| Box::new(SdmGrad::new(&few, 3)));
        let message = sdmgrad(0.3, 1.0, 2).load(&sdmgrad(0.3, 1.0, 3).save()).unwrap_err();
        assert!(message.contains("sdmgrad: 3 tasks in the checkpoint, 2 here"), "{message}");
    }
}
