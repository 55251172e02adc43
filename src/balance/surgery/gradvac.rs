//! Gradient Vaccine: every pair of gradients is brought at least to the cosine that it usually has.
//!
//! Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual Models",
//! 2021 (arXiv:2010.05874), Algorithm 1. For each task `i` and the others `j` in random order, with `c` the cosine
//! between `g_i'` (what became of `g_i` so far) and `g_j`, and `rho_ij` the running mean of `c`: where `c < rho_ij`,
//!
//! ```text
//! g_i' += |g_i'| (rho sqrt(1 - c^2) - c sqrt(1 - rho^2)) / (|g_j| sqrt(1 - rho^2)) g_j
//! ```
//!
//! which makes the cosine `rho_ij`; then `rho_ij <- (1 - beta) rho_ij + beta c`. The targets start at 0, so the first step
//! is that of PCGrad. The update is the sum of all `g_i'`. Everything happens on the coefficients `C` of `g' = C J`, with
//! `g_i' · g_j = (C G)_ij` and `|g_i'|^2 = (C G Cᵀ)_ii`.
//!
//! Departures:
//! - Targets are used up to `1 - 1e-6`: at 1 the rule divides by 0 (two tasks that were always the same).
//! - A gradient that is zero, or that earlier additions cancelled (less than `1e-7` of its parts is left), has no cosine:
//!   it is left alone, and so is its running mean.
//!
//! Remembers the targets `rho` `[T, T]`; saved in checkpoints. With groups of layers, each group has its own.

use super::{GramSurgery, View};
use crate::balance::gram::dot;
use crate::config;
use crate::rng::ChaCha8Rng;
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::Value;

const MOST: f64 = 1.0 - 1e-6;
/// Squared norm of a vector, relative to that of its parts, that counts as cancelled: below, rounding decides.
const CANCELLED: f64 = 1e-14;

/// Targets by pairs of tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct GradVac {
    beta: f64,
    n_tasks: usize,
    /// `[T, T]`; row `i` belongs to the gradient that is changed.
    rho: Vec<f64>,
}

impl GradVac {
    /// Targets 0.
    pub fn new(config: &config::Gradvac, n_tasks: usize) -> Self {
        GradVac { beta: config.beta, n_tasks, rho: vec![0.0; n_tasks * n_tasks] }
    }

    /// What to add of `g_j`, in units of `|g_i'| / |g_j|`, to bring the cosine `c` of tasks `i` and `j` to its target.
    fn vaccinate(&mut self, i: usize, j: usize, c: f64) -> f64 {
        let rho = &mut self.rho[i * self.n_tasks + j];
        let target = rho.min(MOST);
        *rho = (1.0 - self.beta) * *rho + self.beta * c;
        if c < target { target * (1.0 - c * c).sqrt() / (1.0 - target * target).sqrt() - c } else { 0.0 }
    }
}

impl GramSurgery for GradVac {
    fn coefficients(&mut self, at: &View<'_>, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let (gram, n) = (at.gram, at.tasks.len());
        let norms = gram.norms();
        let mut total = vec![0.0; n];
        let mut order: Vec<usize> = (0..n).collect();
        let mut coef = vec![0.0; n];
        let mut products = vec![0.0; n];
        for i in 0..n {
            // g_i' in the basis of the original gradients, and its inner products with them.
            coef.fill(0.0);
            coef[i] = 1.0;
            products.copy_from_slice(gram.row(i));
            order.shuffle(rng);
            for &j in order.iter().filter(|&&j| j != i) {
                let square = dot(&coef, &products);
                let parts: f64 = coef.iter().zip(&norms).map(|(c, n)| c.abs() * n).sum();
                if norms[j] == 0.0 || square <= CANCELLED * parts * parts {
                    continue;
                }
                let norm = square.sqrt();
                let cosine = (products[j] / norms[j] / norm).clamp(-1.0, 1.0);
                let share = self.vaccinate(at.tasks[i], at.tasks[j], cosine);
                if share != 0.0 {
                    let add = share * (norm / norms[j]);
                    coef[j] += add;
                    products.iter_mut().zip(gram.row(j)).for_each(|(p, g)| *p += add * g);
                }
            }
            total.iter_mut().zip(&coef).for_each(|(sum, c)| *sum += c);
        }
        total
    }

    fn save(&self) -> Value {
        serde_json::json!(self.rho)
    }

    fn load(&mut self, state: &Value) -> Result<(), String> {
        let rho: Vec<f64> = Deserialize::deserialize(state).map_err(|e| format!("gradvac: {e}"))?;
        if rho.len() != self.rho.len() {
            return Err(format!("gradvac: {} tasks in the checkpoint, {} here", rho.len().isqrt(), self.n_tasks));
        }
        self.rho = rho;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pcgrad;
    use super::super::testing::{combine, gram_of, jacobian, relative, run, steps_with};
    use super::*;
    use crate::rng::{Stream, rng};
    use proptest::prelude::*;

    fn gradvac(beta: f64, n_tasks: usize) -> GradVac {
        GradVac::new(&config::Gradvac { beta }, n_tasks)
    }

    fn norm(g: &[f64]) -> f64 {
        dot(g, g).sqrt()
    }

    /// Algorithm 1 on the gradients themselves, with the same departures.
    fn explicit(beta: f64, rho: &mut [f64], j: &[Vec<f64>], rng: &mut ChaCha8Rng) -> Vec<f64> {
        let n = j.len();
        let mut sum = vec![0.0; j[0].len()];
        let mut order: Vec<usize> = (0..n).collect();
        for i in 0..n {
            let (mut g, mut parts) = (j[i].clone(), norm(&j[i]));
            order.shuffle(rng);
            for &k in order.iter().filter(|&&k| k != i) {
                if norm(&j[k]) == 0.0 || norm(&g) <= 1e-7 * parts {
                    continue;
                }
                let c = (dot(&g, &j[k]) / norm(&g) / norm(&j[k])).clamp(-1.0, 1.0);
                let target = rho[i * n + k].min(1.0 - 1e-6);
                if c < target {
                    let numerator = target * (1.0 - c * c).sqrt() - c * (1.0 - target * target).sqrt();
                    let a = norm(&g) * numerator / (norm(&j[k]) * (1.0 - target * target).sqrt());
                    g.iter_mut().zip(&j[k]).for_each(|(x, y)| *x += a * y);
                    parts += a.abs() * norm(&j[k]);
                }
                rho[i * n + k] = (1.0 - beta) * rho[i * n + k] + beta * c;
            }
            sum.iter_mut().zip(&g).for_each(|(s, x)| *s += x);
        }
        sum
    }

    #[test]
    fn gives_the_reference_values() {
        // torchjd 0.18, GradVac()(tensor([[-4, 1, 1], [6, 1, 1]])), its first call.
        let j = vec![vec![-4.0, 1.0, 1.0], vec![6.0, 1.0, 1.0]];
        let mut method = gradvac(0.5, 2);
        let c = run(&mut method, &j);
        assert!((c[0] - 2.2222).abs() < 1e-4 && (c[1] - 1.5789).abs() < 1e-4, "{c:?}");
        assert!(relative(&combine(&j, &c), &[0.5848, 3.8012, 3.8012]) < 1e-4);
        // Both targets moved half the way from 0 to the cosine.
        let cosine = -22.0 / (18f64 * 38.0).sqrt();
        assert!(relative(&method.rho, &[0.0, cosine / 2.0, cosine / 2.0, 0.0]) < 1e-15, "{:?}", method.rho);
    }

    #[test]
    fn the_cosine_is_raised_to_the_target() {
        let mut method = gradvac(0.0, 2);
        method.rho = vec![0.0, 0.8, -0.5, 0.0];
        let j = vec![vec![1.0, 0.0], vec![-1.0, 1.0]];
        let mut one = method.clone();
        // What became of each gradient: the coefficients with the other's own share taken away.
        let c = run(&mut one, &j);
        let first = combine(&j, &[1.0, c[1] - 1.0]);
        let second = combine(&j, &[c[0] - 1.0, 1.0]);
        assert!((dot(&first, &j[1]) / norm(&first) / norm(&j[1]) - 0.8).abs() < 1e-12);
        assert!((dot(&second, &j[0]) / norm(&second) / norm(&j[0]) + 0.5).abs() < 1e-12);
        assert_eq!(one, method, "beta 0 keeps the targets");
    }

    #[test]
    fn targets_belong_to_tasks_that_are_there() {
        let mut method = gradvac(0.5, 4);
        let gram = gram_of(&[vec![1.0, 0.0], vec![1.0, 1.0]]);
        let view = View { gram: &gram, losses: &[1.0; 2], tasks: &[1, 3], step: 0 };
        method.coefficients(&view, &mut rng(1, Stream::Surgery, 0, 0));
        let moved: Vec<usize> = (0..16).filter(|&k| method.rho[k] != 0.0).collect();
        assert_eq!(moved, [4 + 3, 12 + 1]);
    }

    #[test]
    fn special_gradients() {
        let of = |j: &[&[f64]]| {
            let j: Vec<Vec<f64>> = j.iter().map(|g| g.to_vec()).collect();
            let mut method = gradvac(1.0, j.len());
            (0..3).map(|_| run(&mut method, &j)).last().unwrap()
        };
        assert_eq!(of(&[&[3.0, 4.0]]), [1.0]);
        assert_eq!(of(&[&[0.0], &[0.0]]), [1.0, 1.0]);
        assert_eq!(of(&[&[0.0, 0.0], &[1.0, 2.0]]), [1.0, 1.0]);
        assert_eq!(of(&[&[1.0, 2.0], &[1.0, 2.0]]), [1.0, 1.0], "with a target of 1");
        assert_eq!(run(&mut gradvac(0.5, 2), &[vec![1.0, 0.0], vec![-4.0, 0.0]]), [5.0, 1.25], "opposite: both vanish");
    }

    #[test]
    fn a_target_of_one_is_bounded() {
        let mut method = gradvac(1.0, 2);
        run(&mut method, &[vec![1.0, 2.0], vec![1.0, 2.0]]);
        assert!(method.rho[1] > 1.0 - 1e-12);
        let c = run(&mut method, &[vec![1.0, 0.0], vec![0.0, 1.0]]);
        assert!(c.iter().all(|c| c.is_finite() && *c < 1e3), "{c:?}");
    }

    #[test]
    fn state_survives_a_checkpoint_exactly() {
        steps_with(&|| Box::new(gradvac(0.3, 3)), 3);
        assert!(
            gradvac(0.5, 2).load(&gradvac(0.5, 3).save()).unwrap_err().contains("3 tasks in the checkpoint, 2 here")
        );
        assert!(gradvac(0.5, 2).load(&Value::Null).is_err());
    }

    proptest! {
        #[test]
        fn equals_explicit_vectors_over_three_steps(
            all in (2usize..6, 2usize..7)
                .prop_flat_map(|(t, p)| prop::collection::vec(prop::collection::vec(prop::collection::vec(-1.0f64..1.0, p), t), 3)),
            beta in 0.0f64..1.0,
            seed in 0u64..100,
        ) {
            let n = all[0].len();
            let mut method = gradvac(beta, n);
            let mut rho = vec![0.0; n * n];
            let tasks: Vec<usize> = (0..n).collect();
            for (step, j) in all.iter().enumerate() {
                let rng = || rng(seed, Stream::Surgery, step as u64, 0);
                let view = View { gram: &gram_of(j), losses: &vec![1.0; n], tasks: &tasks, step: step as u64 };
                let c = method.coefficients(&view, &mut rng());
                let (got, want) = (combine(j, &c), explicit(beta, &mut rho, j, &mut rng()));
                let scale = 1.0 + c.iter().map(|c| c.abs()).sum::<f64>();
                for (a, b) in got.iter().zip(&want) {
                    prop_assert!((a - b).abs() <= 1e-6 * scale, "{a} {b}");
                }
            }
            prop_assert!(method.rho.iter().all(|rho| (-1.0..=1.0).contains(rho)));
        }

        #[test]
        fn the_first_step_is_pcgrad(j in jacobian(), seed in 0u64..100) {
            let tasks: Vec<usize> = (0..j.len()).collect();
            let gram = gram_of(&j);
            let view = View { gram: &gram, losses: &vec![1.0; j.len()], tasks: &tasks, step: 0 };
            let c = gradvac(0.5, j.len()).coefficients(&view, &mut rng(seed, Stream::Surgery, 0, 0));
            let want = combine(&j, &pcgrad(&gram, &mut rng(seed, Stream::Surgery, 0, 0)));
            let scale = 1.0 + c.iter().map(|c| c.abs()).sum::<f64>();
            for (a, b) in combine(&j, &c).iter().zip(&want) {
                prop_assert!((a - b).abs() <= 1e-6 * scale, "{a} {b}");
            }
        }

        #[test]
        fn the_scale_of_all_gradients_does_not_matter(j in jacobian(), exponent in -150i32..150) {
            let s = 2f64.powi(exponent);
            let scaled: Vec<Vec<f64>> = j.iter().map(|g| g.iter().map(|x| x * s).collect()).collect();
            let at = |j: &[Vec<f64>]| run(&mut gradvac(0.5, j.len()), j);
            prop_assert_eq!(at(&scaled), at(&j));
        }
    }
}
