//! The positive solution of `(G w)_i = w_i^(-1/alpha)`: the bargaining equation of Nash-MTL (`alpha` 1) and FairGrad.
//!
//! It is where the gradient of the convex `wᵀ G w / 2 - sum_i psi(w_i)`, `psi'(w) = w^(-1/alpha)`, vanishes. In
//! `w_i = G_ii^(-alpha / (1 + alpha)) z_i`, where `z = 1` solves it for orthogonal gradients, only cosines `C` and
//! `k_i = G_ii^((1 - alpha) / (1 + alpha))` are left, of which the largest is set to 1: least
//! `sum_ij s_i s_j C_ij z_i z_j / 2 - sum_i k_i psi(z_i)` with `s^2 = k`. Newton's step for the relative change of `z` then
//! needs `diag(z) C diag(z) + diag(z^(1 - 1/alpha)) / alpha`, which is positive definite by construction. Steps by more
//! than half of `z` downwards are bent so that `z` stays positive, and no task shortens the step of the others; smaller
//! ones are straight, for a curve would leave the narrow valley of gradients that nearly cancel. A step is halved until
//! the objective falls.
//!
//! No finite solution exists where a combination of gradients with positive coefficients vanishes (two opposite ones,
//! for example). So the diagonal of `C` counts more than 1, by `1e-12`, or by
//! `1e-7^(1 + 1/alpha)` where that is more: `z` stays below `1e6` to `1e7`, what it multiplies cancels, and other problems
//! do not notice. Should rounding have left `C` so far from semidefinite that a
//! step does not exist, the floor is raised tenfold.
//!
//! Tasks with a zero gradient have no part in the equation; their `w` is 0.
//!
//! Tolerance: stops after a full step that changes no `z` by more than `1e-8` of it (the next would be at rounding), or
//! when steps of less than `1e-3` no longer shrink, which is rounding; at most 100.

use super::{add_scaled, largest};
use crate::balance::Gram;
use crate::balance::gram::dot;

/// Added to the diagonal of the cosines: far above rounding, which it has to drown, and far below what matters.
fn floor(alpha: f64) -> f64 {
    if alpha == 1.0 { 1e-12 } else { 1e-7f64.powf(1.0 + 1.0 / alpha).max(1e-12) }
}

/// The problem and its storage, which is used again from call to call.
#[derive(Debug, Clone, Default)]
pub struct Fair {
    /// Tasks with a gradient.
    tasks: Vec<usize>,
    cosines: Vec<f64>,
    /// `s`.
    scale: Vec<f64>,
    z: Vec<f64>,
    trial: Vec<f64>,
    product: Vec<f64>,
    matrix: Vec<f64>,
    step: Vec<f64>,
}

impl Fair {
    /// Solves for `w` `[n]`. `relative` `[n]` holds `z`: the start if its entries are positive, and the solution.
    pub fn solve(&mut self, gram: &Gram, alpha: f64, relative: &mut [f64]) -> Vec<f64> {
        let square = |i: usize| gram.row(i)[i];
        self.tasks.clear();
        self.tasks.extend((0..gram.n_tasks()).filter(|&i| square(i) > 0.0));
        match self.tasks[..] {
            [] => {}
            [only] => relative[only] = 1.0,
            [a, b] if alpha == 1.0 => {
                let cosine = (gram.row(a)[b] / (square(a).sqrt() * square(b).sqrt())).clamp(-1.0, 1.0);
                let z = 1.0 / (1.0 + floor(alpha) + cosine).sqrt();
                (relative[a], relative[b]) = (z, z);
            }
            _ => {
                self.set(gram, alpha);
                self.start(alpha, relative);
                self.iterate(alpha);
                self.tasks.iter().zip(&self.z).for_each(|(&i, &z)| relative[i] = z);
            }
        }
        let unit =
            |i: usize| if alpha == 1.0 { 1.0 / square(i).sqrt() } else { square(i).powf(-alpha / (1.0 + alpha)) };
        relative.iter().enumerate().map(|(i, z)| if square(i) > 0.0 { unit(i) * z } else { 0.0 }).collect()
    }

    fn set(&mut self, gram: &Gram, alpha: f64) {
        let diagonal = 1.0 + floor(alpha);
        let power = 0.5 * (1.0 - alpha) / (1.0 + alpha);
        self.scale.clear();
        self.scale.extend(self.tasks.iter().map(|&i| gram.row(i)[i].ln() * power));
        let top = self.scale.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.scale.iter_mut().for_each(|s| *s = if alpha == 1.0 { 1.0 } else { (*s - top).exp() });
        self.step.clear();
        self.step.extend(self.tasks.iter().map(|&i| 1.0 / gram.row(i)[i].sqrt()));
        self.cosines.clear();
        for (a, &i) in self.tasks.iter().enumerate() {
            let row = gram.row(i);
            let cosine = |(b, &j): (usize, &usize)| {
                if a == b { diagonal } else { (row[j] * self.step[a] * self.step[b]).clamp(-1.0, 1.0) }
            };
            self.cosines.extend(self.tasks.iter().enumerate().map(cosine));
        }
    }

    /// The better of the last solution and all tasks alike, each at its best length.
    fn start(&mut self, alpha: f64, relative: &[f64]) {
        self.z.clear();
        self.z.resize(self.tasks.len(), 1.0);
        self.lengthen(alpha);
        let last = |i: &usize| relative[*i];
        if self.tasks.iter().all(|i| last(i) > 0.0 && last(i).is_finite()) {
            let alike = self.objective(alpha);
            self.trial.clear();
            self.trial.extend(self.tasks.iter().map(last));
            std::mem::swap(&mut self.z, &mut self.trial);
            if self.objective(alpha) >= alike {
                std::mem::swap(&mut self.z, &mut self.trial);
            }
        }
    }

    /// Multiplies `z` by the best number: `t^2 A = t^(1 - 1/alpha) B`.
    fn lengthen(&mut self, alpha: f64) {
        let weight: f64 = self.scale.iter().map(|s| s * s).sum();
        let square = self.quadratic().max(floor(alpha) * weight);
        let t = (weight / square).powf(alpha / (1.0 + alpha));
        self.z.iter_mut().for_each(|z| *z *= t);
    }

    /// `product = C (s z)`; returns `(s z)ᵀ C (s z)`.
    fn quadratic(&mut self) -> f64 {
        let n = self.z.len();
        self.product.clear();
        self.product.resize(n, 0.0);
        for k in 0..n {
            add_scaled(&mut self.product, self.scale[k] * self.z[k], &self.cosines[k * n..(k + 1) * n]);
        }
        (0..n).map(|k| self.scale[k] * self.z[k] * self.product[k]).sum()
    }

    fn objective(&mut self, alpha: f64) -> f64 {
        let exponent = 1.0 - 1.0 / alpha;
        // Up to a constant, (z^e - 1) / e.
        let psi = |z: f64| if exponent == 0.0 { z.ln() } else { (exponent * z.ln()).exp_m1() / exponent };
        let utility: f64 = self.scale.iter().zip(&self.z).map(|(s, z)| s * s * psi(*z)).sum();
        0.5 * self.quadratic() - utility
    }

    fn iterate(&mut self, alpha: f64) {
        let n = self.z.len();
        let mut last = f64::INFINITY;
        let mut floor = floor(alpha);
        for _ in 0..100 {
            self.quadratic();
            let power: Vec<f64> =
                self.z.iter().map(|z| if alpha == 1.0 { 1.0 } else { z.powf(1.0 - 1.0 / alpha) }).collect();
            self.matrix.clear();
            for i in 0..n {
                let (z, row) = (&self.z, &self.cosines[i * n..(i + 1) * n]);
                self.matrix.extend(row.iter().zip(z).map(|(c, zj)| z[i] * c * zj));
                self.matrix[i * n + i] += power[i] / alpha;
            }
            self.step.clear();
            self.step.extend((0..n).map(|i| self.scale[i] * power[i] - self.z[i] * self.product[i]));
            let force = self.step.clone();
            if !solve_positive(&mut self.matrix, &mut self.step) {
                (0..n).for_each(|i| self.cosines[i * n + i] += 9.0 * floor);
                floor *= 10.0;
                continue;
            }
            let decrement = dot(&force, &self.step);
            self.step.iter_mut().zip(&self.scale).for_each(|(step, s)| *step /= s);
            let change = largest(self.step.iter().map(|step| step.abs()));
            let weight: f64 = self.scale.iter().zip(&power).map(|(s, p)| s * s * p).sum();
            let full = self.take_step(alpha, decrement, weight);
            if (full && change <= 1e-8) || (change <= 1e-3 && change >= 0.5 * last) {
                return;
            }
            last = change;
        }
    }

    /// Moves `z`; whether by a full step.
    fn take_step(&mut self, alpha: f64, decrement: f64, weight: f64) -> bool {
        self.trial.clone_from(&self.z);
        // So near, the objective is flat to rounding, and Newton's steps are safe.
        let near = decrement <= 1e-4 * weight;
        let before = if near { 0.0 } else { self.objective(alpha) };
        // Beyond what any solution needs, and short of where a power overflows.
        let lowest = 10f64.powf(-250.0 / (1.0 / alpha).max(1.25));
        let mut t = 1.0;
        for _ in 0..40 {
            for ((z, from), step) in self.z.iter_mut().zip(&self.trial).zip(&self.step) {
                let step = t * step;
                let factor = if step >= -0.5 { 1.0 + step } else { -0.25 / step };
                *z = (from * factor).clamp(lowest, 1e30);
            }
            if near || self.objective(alpha) <= before - 1e-4 * t * decrement {
                return t == 1.0;
            }
            t *= 0.5;
        }
        false
    }
}

/// Solves `A x = b` in place for `A` symmetric positive definite, by Cholesky's factors in the upper half; `false` if it
/// is not.
fn solve_positive(a: &mut [f64], b: &mut [f64]) -> bool {
    let n = b.len();
    for k in 0..n {
        let (done, rest) = a.split_at_mut((k + 1) * n);
        let row = &mut done[k * n..];
        if row[k].is_nan() || row[k] <= 0.0 {
            return false;
        }
        let root = row[k].sqrt();
        row[k..].iter_mut().for_each(|x| *x /= root);
        for (i, below) in (k + 1..n).zip(rest.chunks_exact_mut(n)) {
            add_scaled(&mut below[i..], -row[i], &row[i..]);
        }
        b[k] /= root;
        let (head, tail) = b.split_at_mut(k + 1);
        add_scaled(tail, -head[k], &row[k + 1..]);
    }
    for k in (0..n).rev() {
        let row = &a[k * n..(k + 1) * n];
        b[k] = (b[k] - dot(&row[k + 1..], &b[k + 1..])) / row[k];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::testing::{forty, hard_jacobian, norms};
    use super::*;
    use proptest::prelude::*;

    fn gram_of(j: &[Vec<f64>]) -> Gram {
        Gram::new(j.iter().flat_map(|a| j.iter().map(|b| dot(a, b))).collect()).unwrap()
    }

    fn of(j: &[Vec<f64>], alpha: f64) -> Vec<f64> {
        Fair::default().solve(&gram_of(j), alpha, &mut vec![0.0; j.len()])
    }

    #[test]
    fn a_positive_system() {
        let (mut a, mut b) = (vec![4.0, 2.0, 0.0, 2.0, 5.0, 3.0, 0.0, 3.0, 6.0], vec![8.0, 21.0, 24.0]);
        assert!(solve_positive(&mut a, &mut b));
        assert!(b.iter().zip([1.0, 2.0, 3.0]).all(|(x, y)| (x - y).abs() < 1e-14), "{b:?}");
        assert!(!solve_positive(&mut [1.0, 2.0, 2.0, 1.0], &mut [1.0, 1.0]));
    }

    #[test]
    fn orthogonal_gradients_are_alone_in_their_equation() {
        let j = vec![vec![2.0, 0.0, 0.0], vec![0.0, 0.1, 0.0], vec![0.0, 0.0, 30.0]];
        for alpha in [0.1, 0.5, 1.0, 2.0, 10.0] {
            for (w, n) in of(&j, alpha).iter().zip([2.0f64, 0.1, 30.0]) {
                assert!((w / n.powf(-2.0 * alpha / (1.0 + alpha)) - 1.0).abs() < 1e-7, "{alpha} {w}");
            }
        }
    }

    #[test]
    fn opposite_gradients_have_large_coefficients_that_cancel() {
        for j in [vec![vec![1.0, 2.0], vec![-3.0, -6.0]], vec![vec![1.0, 2.0], vec![-3.0, -6.0], vec![0.5, -0.25]]] {
            let w = of(&j, 1.0);
            assert!((w[0] * 5f64.sqrt() / 1e6 - 1.0).abs() < 1e-2, "{w:?}");
            assert!((w[0] - 3.0 * w[1]).abs() < 1e-5 * w[0], "{w:?}");
        }
    }

    #[test]
    fn starts_from_the_last_solution() {
        let j: Vec<Vec<f64>> = (0..5).map(|i| (0..7).map(|k| ((7 * i + 3 * k) as f64).sin()).collect()).collect();
        let gram = gram_of(&j);
        let mut relative = vec![0.0; 5];
        let mut solver = Fair::default();
        let cold = solver.solve(&gram, 1.0, &mut relative);
        let warm = solver.solve(&gram, 1.0, &mut relative);
        assert!(cold.iter().zip(&warm).all(|(a, b)| (a - b).abs() < 1e-14 * a), "{cold:?} {warm:?}");
        // A start from elsewhere, near or far, leads to the same place.
        for start in [[1e-6; 5], [1e6; 5], [1e-3, 1.0, 1e3, 1.0, 2.0]] {
            let other = solver.solve(&gram, 1.0, &mut start.clone());
            assert!(cold.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-13 * a), "{cold:?} {other:?}");
        }
    }

    #[test]
    fn forty_gradients() {
        for alpha in [0.5, 1.0, 2.0] {
            let gram = gram_of(&forty(60));
            let w = Fair::default().solve(&gram, alpha, &mut [0.0; 40]);
            for (i, left) in gram.times(&w).iter().enumerate() {
                let left = left + floor(alpha) * gram.row(i)[i] * w[i];
                assert!((left * w[i].powf(1.0 / alpha) - 1.0).abs() < 1e-9, "{alpha} {i} {left} {}", w[i]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn solves_its_equation(j in hard_jacobian(), alpha in prop::sample::select(vec![0.2, 0.5, 1.0, 1.5, 2.0, 5.0])) {
            let w = of(&j, alpha);
            let norms = norms(&j);
            let gram = gram_of(&j);
            for i in 0..j.len() {
                if norms[i] == 0.0 {
                    prop_assert_eq!(w[i], 0.0);
                    continue;
                }
                prop_assert!(w[i].is_finite() && w[i] > 0.0, "{:?}", w);
                // Next to gradients that cancel, those that are 1e5 times shorter are rounding.
                if alpha != 1.0 && norms.iter().any(|n| *n > 0.0 && !(1e-4..1e4).contains(&(n / norms[i]))) {
                    continue;
                }
                let left: f64 = dot(gram.row(i), &w);
                let right = w[i].powf(-1.0 / alpha);
                // The floor, and rounding of what cancels.
                let size: f64 = w.iter().zip(&norms).map(|(w, n)| w * n).sum::<f64>() * norms[i];
                let slack = 1e-11 * size + 2.0 * floor(alpha) * norms[i] * norms[i] * w[i];
                prop_assert!((left - right).abs() <= 1e-5 * right + slack, "{} {} {} {:?}", i, left, right, w);
            }
        }

        #[test]
        fn gradients_in_general_position_to_nine_digits(
            j in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 12), 2..7),
            alpha in prop::sample::select(vec![0.5, 1.0, 2.0, 10.0]),
        ) {
            let w = of(&j, alpha);
            let gram = gram_of(&j);
            for (i, w_i) in w.iter().enumerate() {
                let left = dot(gram.row(i), &w) + floor(alpha) * gram.row(i)[i] * w_i;
                prop_assert!((left * w_i.powf(1.0 / alpha) - 1.0).abs() < 1e-9, "{} {}", left, w_i);
            }
        }
    }
}
